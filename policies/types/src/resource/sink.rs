//! Kind `Sink`: somewhere that the record is passed on to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Size;
use crate::audit::Phase;
use crate::verdict::Decision;

/// Somewhere that control passes the record on to: each entry at least once, each sidecar's in order, from the moment on
/// that the sink was applied. Exactly one of `ndjson`, `otlp`, `webhook` and `syslog` says where to. Only operators of all
/// tenants may apply one; with a tenant in its metadata it gets that tenant's entries alone.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct SinkSpec {
    /// A file on control's machine, one JSON object a line.
    pub ndjson: Option<NdjsonSink>,
    /// A collector, by OTLP over HTTP, as logs.
    pub otlp: Option<OtlpSink>,
    /// An address that batches are posted to, signed.
    pub webhook: Option<WebhookSink>,
    /// A syslog server (RFC 5424).
    pub syslog: Option<SyslogSink>,
    /// Which entries; all when absent.
    pub filter: SinkFilter,
    /// Form of each entry.
    pub format: SinkFormat,
    /// Whether it begins with the oldest entry that control has, rather than with the next one.
    pub from_start: bool,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NdjsonSink {
    /// The file; a relative path stands below `sinks/` in control's state directory.
    pub file: PathBuf,
    /// At this size it becomes `FILE.1`, and what that was `FILE.2`.
    #[serde(default = "rotate_at")]
    pub rotate_at: Size,
    /// How many of the older ones are kept.
    #[serde(default = "keep")]
    pub keep: u32,
}

const fn rotate_at() -> Size {
    Size(100 << 20)
}

const fn keep() -> u32 {
    5
}

/// A collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OtlpSink {
    /// Base address, such as `https://collector:4318`; `/v1/logs` is added.
    pub endpoint: String,
    /// Headers to send; `${env:NAME}` in a value is a variable of control's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// An address for batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookSink {
    /// The address.
    pub url: String,
    /// What batches are signed with, as all webhooks: `x-sideguard-signature: v1=HEX`, the HMAC-SHA256 of `SECONDS.BODY`, with
    /// `x-sideguard-timestamp: SECONDS`.
    pub secret: SinkSecret,
    /// Form of a batch.
    #[serde(default)]
    pub batch: BatchForm,
}

/// Where a secret is on control's machine; one of the two.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SinkSecret {
    /// File that holds it and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Variable of control's environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

/// How a batch is written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchForm {
    /// One JSON object a line.
    #[default]
    Ndjson,
    /// A JSON array.
    Array,
}

/// A syslog server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SyslogSink {
    /// `tcp://host:port` or `udp://host:port`. UDP tells of no loss.
    pub address: String,
    /// Form of a message.
    #[serde(default)]
    pub format: SyslogForm,
}

/// Form of a syslog message.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyslogForm {
    /// RFC 5424, over TCP with octet counting (RFC 6587).
    #[default]
    Rfc5424,
}

/// Form of an entry.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SinkFormat {
    /// As it stands in the record, with where it comes from.
    #[default]
    Record,
    /// As an event of the Open Cybersecurity Schema Framework: API Activity (6003).
    Ocsf,
}

/// Which entries. Fields that are given must all fit; one of a field's items is enough.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SinkFilter {
    /// Tenants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// Agents (globs).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Decisions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
    /// Phases.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
}
