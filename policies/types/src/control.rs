//! What the control service, its sidecars and its clients say to each other: JSON over HTTP below `/v1`.

pub mod approvals;
pub mod budgets;
pub mod feed;
pub mod jobs;
pub mod keys;
pub mod records;
pub mod sinks;
pub mod webhook;
pub mod workflows;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::call::Caller;
use crate::delegation::OpenDelegation;
use crate::time::Timestamp;

/// A text with the name that findings in it are told by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Name, such as a file's path.
    pub name: String,
    /// One or several YAML documents.
    pub text: String,
}

/// `POST /v1/apply`: desired state that replaces what stands there under the same kinds and names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Apply {
    /// The objects.
    pub documents: Vec<Text>,
    /// Whether only to tell what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Removes objects with these labels that are not among the given ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<BTreeMap<String, String>>,
    /// The generation that this builds on; another one is a conflict. Whichever is there when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<u64>,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is new.
    Created,
    /// It is another one now.
    Updated,
    /// It is gone.
    Deleted,
    /// It stays as it was.
    Unchanged,
}

impl Action {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// Tenant.
    pub tenant: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// One object of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// What became of it.
    pub action: Action,
    /// Which.
    #[serde(flatten)]
    pub name: Name,
    /// Its text before, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Its text now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// The answer to a change of the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The generation that is in force now; without a change the one before.
    pub generation: u64,
    /// Its digest.
    pub digest: String,
    /// What changed.
    pub changes: Vec<Change>,
    /// Warnings about the given texts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An object as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// Which.
    #[serde(flatten)]
    pub name: Name,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The generation that it came with in its present form.
    pub generation: u64,
    /// The object as its author wrote it, one YAML document.
    pub text: String,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PageOf{T}")]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one starts (`?after=`); none at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One generation of the desired state, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Generation {
    /// Its number; they only go up.
    pub number: u64,
    /// Digest over its objects, `sha256:` and hex.
    pub digest: String,
    /// When it came into force.
    pub time: Timestamp,
    /// Name of the key of whoever made it.
    pub by: String,
    /// What it was made by: `apply`, `delete`, `rollback`, or `sync` for objects of a cluster.
    pub verb: String,
    /// How many objects it has.
    pub objects: u64,
    /// What changed in it, one line an object.
    pub summary: Vec<String>,
}

/// A generation as sidecars of one tenant get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Signed {
    /// Tenant.
    pub tenant: String,
    /// Number.
    pub number: u64,
    /// When it came into force.
    pub time: Timestamp,
    /// The tenant's objects and those that hold for every tenant.
    pub documents: Vec<Text>,
    /// Ed25519 signature over [`Signed::message`], in hex.
    pub signature: String,
}

impl Signed {
    /// What is signed: a title, the tenant, the number and the time, each on a line, then every document as the lengths of
    /// its name and text and both.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let head = format!("sideguard generation 1\n{}\n{}\n{}\n", self.tenant, self.number, self.time);
        let mut message = head.into_bytes();
        for Text { name, text } in &self.documents {
            message.extend_from_slice(format!("{} {}\n", name.len(), text.len()).as_bytes());
            message.extend_from_slice(name.as_bytes());
            message.extend_from_slice(text.as_bytes());
        }
        message
    }
}

/// What a kill switch stops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Scope {
    /// Everything.
    Fleet,
    /// A tenant's agents.
    Tenant(String),
    /// One agent.
    Agent {
        /// Its tenant.
        tenant: String,
        /// Its name.
        agent: String,
    },
    /// All work under one link of a delegation, or under any link that one sidecar has signed.
    Delegation {
        /// Its tenant.
        tenant: String,
        /// Id of the link or of the sidecar.
        id: String,
    },
}

impl Scope {
    /// Reads `fleet`, `tenant/NAME` or `agent/NAME`, with `agent/TENANT/NAME` for one of another tenant than `default`, and
    /// `delegation/ID` in the same way.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        match *parts.as_slice() {
            ["fleet"] => Some(Self::Fleet),
            ["tenant", tenant] if !tenant.is_empty() => Some(Self::Tenant(tenant.to_owned())),
            ["agent", agent] if !agent.is_empty() => {
                Some(Self::Agent { tenant: "default".to_owned(), agent: agent.to_owned() })
            }
            ["agent", tenant, agent] if !tenant.is_empty() && !agent.is_empty() => {
                Some(Self::Agent { tenant: tenant.to_owned(), agent: agent.to_owned() })
            }
            ["delegation", id] if !id.is_empty() => {
                Some(Self::Delegation { tenant: "default".to_owned(), id: id.to_owned() })
            }
            ["delegation", tenant, id] if !tenant.is_empty() && !id.is_empty() => {
                Some(Self::Delegation { tenant: tenant.to_owned(), id: id.to_owned() })
            }
            _ => None,
        }
    }

    /// Whether it stops an agent.
    #[must_use]
    pub fn holds(&self, tenant: &str, agent: &str) -> bool {
        match self {
            Self::Fleet => true,
            Self::Tenant(own) => own == tenant,
            Self::Agent { tenant: own, agent: name } => own == tenant && name == agent,
            Self::Delegation { .. } => false,
        }
    }

    /// Whether it stops a caller: itself, or an agent or a link above it.
    #[must_use]
    pub fn stops(&self, caller: &Caller) -> bool {
        let tenant = caller.tenant.as_str();
        let own =
            self.holds(tenant, &caller.agent) || caller.chain.iter().any(|agent| self.holds(tenant, agent));
        own || match self {
            Self::Delegation { tenant: own, id } => {
                let mut hops = caller.delegations.iter().flat_map(|hops| hops.iter());
                own == tenant && hops.any(|hop| hop.link == *id || hop.issuer == *id)
            }
            Self::Fleet | Self::Tenant(_) | Self::Agent { .. } => false,
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fleet => f.write_str("fleet"),
            Self::Tenant(tenant) => write!(f, "tenant/{tenant}"),
            Self::Agent { tenant, agent } => write!(f, "agent/{tenant}/{agent}"),
            Self::Delegation { tenant, id } => write!(f, "delegation/{tenant}/{id}"),
        }
    }
}

/// A kill switch that is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kill {
    /// What it stops.
    pub scope: Scope,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Name of the key of whoever switched it on.
    pub by: String,
    /// Whether that was a key of all tenants: a tenant's own cannot switch it off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owner: bool,
    /// When.
    pub time: Timestamp,
}

/// `GET /v1/feed?generation=N&kills=M`: answered when something is newer than what the sidecar has, or when it has waited
/// long enough. What is absent is as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Feed {
    /// A newer generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Signed>,
    /// All kill switches that bear on the sidecar, with the number of their last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kills: Option<Kills>,
    /// What is in force now, where control knows it for sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat: Option<feed::Beat>,
}

/// Kill switches as of one change, as sidecars of one tenant get them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kills {
    /// Tenant.
    #[serde(default)]
    pub tenant: String,
    /// Number of the change; they only go up.
    pub number: u64,
    /// Those that are on.
    pub scopes: Vec<Scope>,
    /// Ed25519 signature over [`Kills::message`], in hex.
    #[serde(default)]
    pub signature: String,
}

impl Kills {
    /// What is signed: a title, the tenant and the number, each on a line, then every scope as its length and itself.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut message = format!("sideguard kills 1\n{}\n{}\n", self.tenant, self.number);
        for scope in &self.scopes {
            let scope = scope.to_string();
            message.push_str(&format!("{} {scope}\n", scope.len()));
        }
        message.into_bytes()
    }
}

/// `POST /v1/enrol`: a sidecar's first word, with a token that is good for one enrolment, or a service account's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// The token.
    pub token: String,
    /// The sidecar's own id.
    pub sidecar: String,
    /// A key of the sidecar's own making, `sgk_` and 64 hex digits: whoever asks again with the same one, having missed the
    /// answer, gets it again. Control makes one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The answer: who the sidecar is from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// Its key for every later request.
    pub key: String,
    /// Its tenant.
    pub tenant: String,
    /// The agent that it is for, where the token says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Public key that generations are signed with (Ed25519), in hex.
    pub signer: String,
    /// When the sidecar has to enrol again, by a token that is good for more than one enrolment; its key ends some time
    /// after that. Never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew: Option<Timestamp>,
}

/// How a sidecar stands to the newest generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has it in force.
    Current,
    /// It has an older one in force.
    Stale,
    /// It has refused it; an older one is in force.
    Refused,
    /// It has not been heard of lately.
    Lost,
}

impl Standing {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Stale => "stale",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }
}

/// `POST /v1/report`: what a sidecar tells of itself, every few seconds and at each change of its policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Agents that it speaks for.
    pub agents: Vec<String>,
    /// Its version.
    pub version: String,
    /// The generation in force; zero before the first.
    pub generation: u64,
    /// Digest of the compiled policy in force.
    pub digest: String,
    /// The generation that it has refused last, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// Whether it takes calls.
    pub ready: bool,
    /// Calls so far.
    pub calls: u64,
    /// Refusals so far.
    pub denied: u64,
    /// Tokens that models have read and written so far.
    #[serde(default)]
    pub tokens: u64,
    /// What that has cost, in micro-dollars.
    #[serde(default)]
    pub cost: u64,
    /// What it did in the last few seconds.
    #[serde(default)]
    pub lately: Lately,
    /// Breakers that are not healthy, as `name: state`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakers: Vec<String>,
    /// Delegations that its agents work under now; the newest, where there are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegations: Vec<OpenDelegation>,
    /// Chance: comes back signed, in a [`feed::Beat`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nonce: String,
}

/// What a sidecar did in a short time before its report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lately {
    /// How long that time was, in milliseconds; nothing is known when zero.
    pub millis: u64,
    /// Calls in it.
    pub calls: u64,
    /// Refusals in it.
    pub denied: u64,
    /// Tokens in it.
    pub tokens: u64,
}

/// A generation that a sidecar did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// Its number.
    pub generation: u64,
    /// Why.
    pub reason: String,
}

/// `GET /v1/sidecars`: a sidecar as control knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sidecar {
    /// Its id.
    pub id: String,
    /// Its tenant.
    pub tenant: String,
    /// How it stands.
    pub standing: Standing,
    /// When it was heard of last.
    pub seen: Timestamp,
    /// How far its record has come; none before its first batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<records::Kept>,
    /// What it said then.
    #[serde(flatten)]
    pub report: Report,
}

/// `POST /v1/tokens`: asks for an enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenRequest {
    /// Tenant; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The agent that the sidecar is for; any that its configuration names when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Seconds for which it is good; an hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// An enrolment token. It is told once and kept as a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// The token.
    pub token: String,
    /// Until when it is good.
    pub expires: Timestamp,
}

/// Body of every error (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable code.
    pub code: String,
    /// What is wrong, in one sentence.
    pub detail: String,
    /// Errors in the given texts, each with its place, as they are shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::{Scope, Signed, Text};
    use crate::time::Timestamp;

    #[test]
    fn a_scope_reads_what_it_writes() {
        for text in ["fleet", "tenant/acme", "agent/acme/reader", "delegation/acme/0193"] {
            assert_eq!(Scope::parse(text).map(|scope| scope.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Scope::parse("agent/reader"), Scope::parse("agent/default/reader"));
        for text in ["", "fleet/x", "tenant/", "agent/", "agent/a/", "agent/a/b/c", "other"] {
            assert_eq!(Scope::parse(text), None, "{text}");
        }
        let reader = Scope::parse("agent/acme/reader").expect("a scope");
        assert!(reader.holds("acme", "reader") && !reader.holds("acme", "x") && !reader.holds("x", "reader"));
    }

    #[test]
    fn no_two_generations_have_the_same_message() {
        let text = |name: &str, text: &str| Text { name: name.to_owned(), text: text.to_owned() };
        let signed = |documents: Vec<Text>| Signed {
            tenant: "acme".to_owned(),
            number: 7,
            time: Timestamp(0),
            documents,
            signature: String::new(),
        };
        let one = signed(vec![text("a", "bc")]).message();
        assert_ne!(one, signed(vec![text("ab", "c")]).message());
        assert_ne!(one, signed(vec![text("a", "b"), text("", "c")]).message());
    }
}
