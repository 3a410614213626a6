//! Delegation: how an agent's work is handed to another one, and with which rights.
//!
//! Each time that work is handed on, the sidecar of the agent that hands it on makes a [`Link`] and signs it; no agent can.
//! The links so far, root first, are the [`Chain`] that goes along. A link only ever restricts: who works under a chain may
//! do what every agent in it may do, and its own sidecar's policy lets it do besides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;
use crate::units::MicroUsd;

/// The header that carries a chain between two sidecars: its JSON in base64 (URL alphabet, no padding).
pub const CHAIN_HEADER: &str = "x-sideguard-delegation";
/// The header of an answer that tells what was used under the last link: a [`Receipt`], written as the chain is.
pub const RECEIPT_HEADER: &str = "x-sideguard-used";

/// Everything handed on so far, root first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// The links.
    pub links: Vec<Link>,
}

/// One handing on of work, signed by the sidecar of the agent that hands it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Link {
    /// Its id: what revokes it names.
    pub id: String,
    /// Tenant of both agents.
    pub tenant: String,
    /// The agent that hands the work on.
    pub from: String,
    /// Who it is for: an agent's name, or `pool/NAME` for whichever worker of a pool takes it.
    pub to: String,
    /// The sidecar that signs.
    pub issuer: Passport,
    /// What the agent that hands on may do itself.
    #[serde(default)]
    pub rights: Rights,
    /// The most that all work under this link may use, however it is handed on.
    #[serde(default)]
    pub budget: Allowance,
    /// When it was made, by its issuer's clock.
    pub issued: Timestamp,
    /// Until when it holds.
    pub expires: Timestamp,
    /// How many further links may follow.
    pub depth: u32,
    /// Session of the call that hands the work on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Id of that call in its sidecar's record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub call: String,
    /// SHA-256 over the link before, signature and all, in hex; empty for the first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prev: String,
    /// Ed25519 signature of the issuer over [`Link::message`], in hex.
    pub signature: String,
}

/// What one agent may do. What is absent it does not limit; an empty list lets nothing through.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rights {
    /// Rights over topics, as `verb:glob`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Models (globs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Hosts (globs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
}

/// An amount in each unit that a link can limit; what is absent is not limited.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// Tokens, read and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Money, as a decimal string of dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub usd: Option<MicroUsd>,
    /// Calls that leave a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
}

impl Allowance {
    /// Whether it limits nothing.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

/// Who a sidecar is, in control's word: whoever trusts control's key can check a link without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Passport {
    /// Its tenant.
    pub tenant: String,
    /// Its id.
    pub sidecar: String,
    /// The only agent that it speaks for; any of its tenant when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its public key (Ed25519), in hex.
    pub key: String,
    /// Until when it holds. No link outlives its issuer's passport.
    pub expires: Timestamp,
    /// Ed25519 signature of control over [`Passport::message`], in hex.
    pub signature: String,
}

/// `POST /v1/passports`: a sidecar asks for its passport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PassportRequest {
    /// Its public key (Ed25519), in hex: always the same one.
    pub key: String,
}

/// What was used under a link, in the word of the sidecar that the work was handed to. Nothing more can be used under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Id of the link.
    pub link: String,
    /// Tokens.
    pub tokens: u64,
    /// Money.
    #[schemars(with = "String")]
    pub usd: MicroUsd,
    /// Calls.
    pub calls: u64,
    /// The sidecar that signs.
    pub issuer: Passport,
    /// Ed25519 signature of the issuer over [`Receipt::message`], in hex.
    pub signature: String,
}

/// One hop of a chain that was checked, as far as it bears on a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Id of the link.
    pub link: String,
    /// Id of the sidecar that signed it.
    pub issuer: String,
    /// The agent that handed the work on.
    pub agent: String,
    /// What that agent may do.
    pub rights: Rights,
    /// Until when the link holds.
    pub expires: Timestamp,
}

/// By what it is known under which delegation a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correlation {
    /// By the job that the agent works on.
    Job,
    /// By the trace that the call belongs to (`traceparent`).
    Trace,
    /// It is not known which of the agent's open delegations it is: all of them hold.
    Meet,
}

impl Correlation {
    /// The name used in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Trace => "trace",
            Self::Meet => "meet",
        }
    }
}

/// A delegation that is open at a sidecar: an agent works under it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OpenDelegation {
    /// Id of its last link.
    pub id: String,
    /// Agents from the root to the one that works.
    pub agents: Vec<String>,
    /// Ids of all its links, root first.
    pub links: Vec<String>,
    /// Since when.
    pub since: Timestamp,
    /// Until when it holds.
    pub expires: Timestamp,
}

/// `POST /v1/delegations/revoke`: ends a link and all that was handed on under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Id of the link, or of a sidecar: then all links that it has signed.
    pub id: String,
    /// Tenant; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Fields under a title, each with its length before it, so that no two sets of fields look alike.
struct Message(Vec<u8>);

impl Message {
    fn titled(title: &str) -> Self {
        Self(format!("{title}\n").into_bytes())
    }

    fn field(mut self, value: &str) -> Self {
        self.0.extend_from_slice(format!("{} {value}\n", value.len()).as_bytes());
        self
    }

    fn number(self, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.field(&value.to_string()),
            None => self.none(),
        }
    }

    fn list(mut self, values: Option<&Vec<String>>) -> Self {
        let Some(values) = values else { return self.none() };
        self.0.extend_from_slice(format!("+{}\n", values.len()).as_bytes());
        values.iter().fold(self, |message, value| message.field(value))
    }

    fn optional(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.field(value),
            None => self.none(),
        }
    }

    /// No length begins so.
    fn none(mut self) -> Self {
        self.0.extend_from_slice(b"-\n");
        self
    }

    fn whole(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(format!("{} ", part.len()).as_bytes());
        self.0.extend_from_slice(part);
        self.0.push(b'\n');
        self
    }
}

impl Passport {
    /// What control signs: a title and every field.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let Self { tenant, sidecar, agent, key, expires, signature: _ } = self;
        let message = Message::titled("sideguard passport 1").field(tenant).field(sidecar);
        message.optional(agent.as_deref()).field(key).field(&expires.to_string()).0
    }
}

impl Link {
    /// What its issuer signs: a title and every field, the issuer's passport and control's signature on it too.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let Self { id, tenant, from, to, issuer, rights, budget, issued, expires, .. } = self;
        let Self { depth, session, call, prev, signature: _, .. } = self;
        let message = Message::titled("sideguard delegation 1").field(id).field(tenant).field(from).field(to);
        let message = message.whole(&issuer.message()).field(&issuer.signature);
        let Rights { capabilities, models, egress } = rights;
        let message = message.list(capabilities.as_ref()).list(models.as_ref()).list(egress.as_ref());
        let Allowance { tokens, usd, calls } = *budget;
        let message = message.number(tokens).number(usd.map(|usd| usd.0)).number(calls);
        let message = message.field(&issued.to_string()).field(&expires.to_string());
        message.number(Some((*depth).into())).optional(session.as_deref()).field(call).field(prev).0
    }
}

impl Receipt {
    /// What its issuer signs: a title and every field, the issuer's passport too.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let Self { link, tokens, usd, calls, issuer, signature: _ } = self;
        let message = Message::titled("sideguard used 1").field(link);
        let message = message.number(Some(*tokens)).number(Some(usd.0)).number(Some(*calls));
        message.whole(&issuer.message()).field(&issuer.signature).0
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowance, Link, Passport, Rights};
    use crate::time::Timestamp;
    use crate::units::MicroUsd;

    fn link() -> Link {
        let texts = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect());
        Link {
            id: "l".to_owned(),
            tenant: "acme".to_owned(),
            from: "a".to_owned(),
            to: "b".to_owned(),
            issuer: Passport {
                tenant: "acme".to_owned(),
                sidecar: "s".to_owned(),
                agent: None,
                key: "00".to_owned(),
                expires: Timestamp(9),
                signature: "aa".to_owned(),
            },
            rights: Rights { capabilities: texts(&["read:a", "b"]), models: None, egress: texts(&[]) },
            budget: Allowance { tokens: Some(1), usd: None, calls: Some(2) },
            issued: Timestamp(1),
            expires: Timestamp(2),
            depth: 3,
            session: None,
            call: "c".to_owned(),
            prev: String::new(),
            signature: String::new(),
        }
    }

    #[test]
    fn every_field_of_a_link_is_signed() {
        let changes: [fn(&mut Link); 20] = [
            |link| link.id = "m".to_owned(),
            |link| link.tenant = "x".to_owned(),
            |link| link.from = "x".to_owned(),
            |link| link.to = "x".to_owned(),
            |link| link.issuer.tenant = "x".to_owned(),
            |link| link.issuer.sidecar = "x".to_owned(),
            |link| link.issuer.agent = Some("a".to_owned()),
            |link| link.issuer.key = "01".to_owned(),
            |link| link.issuer.expires = Timestamp(8),
            |link| link.issuer.signature = "ab".to_owned(),
            |link| link.rights.capabilities = None,
            |link| link.rights.capabilities = Some(vec!["read:a\n1 b".to_owned()]),
            |link| link.rights.models = Some(Vec::new()),
            |link| link.rights.egress = None,
            |link| link.budget.usd = Some(MicroUsd(1)),
            |link| (link.issued, link.expires) = (Timestamp(2), Timestamp(2)),
            |link| link.expires = Timestamp(3),
            |link| link.depth = 4,
            |link| link.session = Some(String::new()),
            |link| (link.call, link.prev) = (String::new(), "c".to_owned()),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut other = link();
            change(&mut other);
            assert_ne!(other.message(), link().message(), "{number}");
        }
    }

    #[test]
    fn what_nobody_signs_is_not_read() {
        let mut value = serde_json::to_value(link()).expect("a value");
        assert!(serde_json::from_value::<Link>(value.clone()).is_ok());
        value["admin"] = true.into();
        assert!(serde_json::from_value::<Link>(value).is_err());
    }
}
