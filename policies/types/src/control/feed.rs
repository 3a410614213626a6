//! How a sidecar knows that what it has is what is in force now: control signs that with the sidecar's own nonce.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What is in force at a moment, for one tenant. It is an answer to a question with a nonce, so whoever holds the line
/// between can neither make one nor bring an old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Beat {
    /// Tenant.
    pub tenant: String,
    /// Number of the generation; zero before the first.
    pub generation: u64,
    /// When that generation came into force: another one of the same number has another time.
    pub since: Timestamp,
    /// Number of the last change of kill switches.
    pub kills: u64,
    /// The question's.
    pub nonce: String,
    /// The moment, by control's clock.
    pub time: Timestamp,
    /// Ed25519 signature over [`Beat::message`], in hex.
    pub signature: String,
}

impl Beat {
    /// What is signed: a title and every field, each on a line; the nonce comes last, as only it may hold anything.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let Self { tenant, generation, since, kills, nonce, time, signature: _ } = self;
        format!("sideguard beat 1\n{tenant}\n{generation}\n{since}\n{kills}\n{time}\n{nonce}").into_bytes()
    }
}

/// What a sidecar has, as it tells in a question of the feed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Has {
    /// Number of its generation; zero before the first.
    #[serde(default)]
    pub generation: u64,
    /// Number of the last change of kill switches that it knows.
    #[serde(default)]
    pub kills: u64,
    /// Chance, at most 64 characters: comes back signed.
    #[serde(default)]
    pub nonce: String,
}

/// `POST /v1/leave`: a sidecar that ends for good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Leave {
    /// Whether its key is to end too, as it has nowhere to keep it.
    #[serde(default)]
    pub forget: bool,
}

#[cfg(test)]
mod tests {
    use super::Beat;
    use crate::time::Timestamp;

    #[test]
    fn every_field_of_a_beat_is_signed() {
        let beat = Beat {
            tenant: "acme".to_owned(),
            generation: 7,
            since: Timestamp(1),
            kills: 3,
            nonce: "n".to_owned(),
            time: Timestamp(2),
            signature: String::new(),
        };
        let others = [
            Beat { tenant: "acm".to_owned(), ..beat.clone() },
            Beat { generation: 8, ..beat.clone() },
            Beat { since: Timestamp(9), ..beat.clone() },
            Beat { kills: 4, ..beat.clone() },
            Beat { nonce: "m".to_owned(), ..beat.clone() },
            Beat { time: Timestamp(9), ..beat.clone() },
        ];
        for other in others {
            assert_ne!(other.message(), beat.message(), "{other:?}");
        }
    }
}
