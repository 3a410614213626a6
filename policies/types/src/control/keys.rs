//! Keys of people and sidecars: `/v1/keys` and `/session`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What a key may do; each role includes nothing of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Changes the desired state, makes keys, sees everything of its tenant.
    Operator,
    /// Sees everything of its tenant, and says yes or no to calls that wait for approval.
    Approver,
    /// Sees everything of its tenant.
    Viewer,
    /// Fetches policy and reports; comes from enrolment alone.
    Sidecar,
}

impl Role {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Viewer => "viewer",
            Self::Sidecar => "sidecar",
        }
    }
}

/// `POST /v1/keys`: asks for a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeyRequest {
    /// Whose it is, as records will tell.
    pub name: String,
    /// What it may do; not `sidecar`.
    pub role: Role,
    /// The tenant that it is limited to. When absent: the tenant of whoever asks, or all for an operator of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Labels that rules about approvals know people by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Seconds for which it is good; until it is revoked when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// The answer: a key. It is told once and kept as a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewKey {
    /// The key.
    pub key: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub entry: KeyEntry,
}

/// `GET /v1/keys`: what is known of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyEntry {
    /// Names it, and tells nothing about it.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The tenant that it is limited to; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Labels that rules about approvals know people by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// About when it was used last, to ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Timestamp>,
    /// Until when it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// `POST /session`: a key, in exchange for a cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// A key of a person.
    pub key: String,
}

/// `GET /session`: who is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// Whose key it is.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The tenant that it is limited to; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Version of the service.
    pub version: String,
}
