//! The record as the control service keeps it: what sidecars ship, what people ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::time::Timestamp;

/// Most bytes that a sidecar sends at once, one record that is longer aside.
pub const BATCH_BYTES: usize = 256 << 10;
/// Largest record that is kept, in bytes.
pub const LARGEST_RECORD: usize = 256 << 10;

/// `POST /v1/records/{sidecar}?from=N&key=HEX`: lines of the sidecar's log from record `from` on, as they stand there. The
/// answer says where to go on; a request without lines only asks for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// Number of the first record that control has not got yet.
    pub next: u64,
    /// Hash of the record before it, in hex; 64 zeros when there is none.
    pub prev: String,
}

/// One record, with where it is kept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// The sidecar that wrote it.
    pub sidecar: String,
    /// The tenant that the sidecar is enrolled for.
    pub tenant: String,
    /// Its number in the sidecar's log: its `seq`.
    pub position: u64,
    /// The record, byte for byte as the sidecar wrote it.
    #[schemars(with = "std::collections::BTreeMap<String, serde_json::Value>")]
    pub record: Box<RawValue>,
}

/// What is wrong with a sidecar's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// It came with another record under a number that was taken: its state directory was copied, or put back.
    Fork,
    /// Records are missing before those that it sent.
    Gap,
    /// A record was changed, or a checkpoint is signed with another key.
    Broken,
    /// A call of another tenant than the one that it is enrolled for.
    Tenant,
}

impl Trouble {
    /// Code of the refusal, in answers and logs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Fork => "record_fork",
            Self::Gap => "record_gap",
            Self::Broken => "record_broken",
            Self::Tenant => "record_tenant",
        }
    }
}

/// A batch of a sidecar's record that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Alarm {
    /// What is wrong.
    pub trouble: Trouble,
    /// The record that shows it.
    pub position: u64,
    /// In words.
    pub detail: String,
    /// When it was seen first.
    pub time: Timestamp,
}

/// How far a sidecar's record has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// Number of the last record that control has.
    pub last: u64,
    /// When that was written.
    pub time: Timestamp,
    /// What was wrong, if anything ever was. It stays until the sidecar's record is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<Alarm>,
}

/// `GET /v1/journals`: one sidecar's record, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Journal {
    /// The sidecar.
    pub sidecar: String,
    /// The tenant that it is enrolled for.
    pub tenant: String,
    /// Public key that its checkpoints are signed with, in hex.
    pub key: String,
    /// Number of the first record that is kept.
    pub first: u64,
    /// How far it has come.
    #[serde(flatten)]
    pub kept: Kept,
}
