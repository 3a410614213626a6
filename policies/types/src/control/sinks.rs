//! How the sinks of the record stand.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// `GET /v1/sinks`: one sink, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkState {
    /// The sink's name.
    pub name: String,
    /// The tenant whose entries it gets; all tenants' when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Kind of place: `ndjson`, `otlp`, `webhook` or `syslog`.
    pub to: String,
    /// Entries that the place has taken.
    pub delivered: u64,
    /// Entries that the filter left out.
    pub filtered: u64,
    /// Entries that the place can never take, and that were left out for that.
    pub skipped: u64,
    /// Entries that control has and that are still to be passed on.
    pub waiting: u64,
    /// When the place took something last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// Why it does not go on, when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The replica that passes entries on; nobody when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}
