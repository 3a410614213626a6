//! A call as policy sees it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::delegation::Hop;
use crate::time::Timestamp;
use crate::units::{MicroUsd, Tokens};

/// Where on its way a call is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Point {
    /// A connection whose content stays closed to the sidecar (TLS passthrough, raw TCP).
    #[serde(rename = "net.connect")]
    NetConnect,
    /// A request to a language model.
    #[serde(rename = "llm.request")]
    LlmRequest,
    /// A language model's answer.
    #[serde(rename = "llm.response")]
    LlmResponse,
    /// A tool call that a model's answer proposes.
    #[serde(rename = "llm.tool_call")]
    LlmToolCall,
    /// A listing of an MCP server's tools; judged once for each tool.
    #[serde(rename = "mcp.list")]
    McpList,
    /// A call to a tool: MCP or plain HTTP.
    #[serde(rename = "tool.call")]
    ToolCall,
    /// A tool's result.
    #[serde(rename = "tool.result")]
    ToolResult,
    /// A call to another agent.
    #[serde(rename = "a2a.call")]
    A2aCall,
    /// A job handed to the control service.
    #[serde(rename = "job.submit")]
    JobSubmit,
    /// A job about to be given to a worker.
    #[serde(rename = "job.dispatch")]
    JobDispatch,
    /// A job's result.
    #[serde(rename = "job.result")]
    JobResult,
}

impl Point {
    /// Every point, in the order of the enum.
    pub const ALL: [Self; 11] = [
        Self::NetConnect,
        Self::LlmRequest,
        Self::LlmResponse,
        Self::LlmToolCall,
        Self::McpList,
        Self::ToolCall,
        Self::ToolResult,
        Self::A2aCall,
        Self::JobSubmit,
        Self::JobDispatch,
        Self::JobResult,
    ];

    /// The name used in rules, records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetConnect => "net.connect",
            Self::LlmRequest => "llm.request",
            Self::LlmResponse => "llm.response",
            Self::LlmToolCall => "llm.tool_call",
            Self::McpList => "mcp.list",
            Self::ToolCall => "tool.call",
            Self::ToolResult => "tool.result",
            Self::A2aCall => "a2a.call",
            Self::JobSubmit => "job.submit",
            Self::JobDispatch => "job.dispatch",
            Self::JobResult => "job.result",
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Risk tag of a model request with tools that run at the provider, out of the sidecar's sight.
pub const HOSTED_TOOLS: &str = "hosted_tools";

/// Risk tag of a connection that is neither HTTP nor TLS. Only a rule that names the point [`Point::NetConnect`] lets one
/// pass: a document's default, or a rule about everything, was not written with bytes in mind that nobody can judge.
pub const RAW_TCP: &str = "raw_tcp";

/// What kind of right a call needs; ordered, each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Changes nothing.
    Read,
    /// Changes data.
    Write,
    /// Destroys data, or changes rights or configuration.
    Admin,
}

impl Verb {
    /// The name used in rules and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a call is about, worked out from the traffic and the catalog, never from what the agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class<'a> {
    /// `job.<service>.<operation>` or `llm.<provider>.<operation>`, lower case.
    pub topic: Cow<'a, str>,
    /// The same operation by its destructive verb alone (`job.db.drop` for `job.db.drop_table`), where
    /// there is one. Only rules that restrict match on it, so that it can tighten but never relax.
    pub alias: Option<Cow<'a, str>>,
    /// The right that the call needs.
    pub verb: Verb,
    /// What could go wrong: `destructive`, `unclassified`, and whatever the catalog says.
    pub risk_tags: Vec<Cow<'a, str>>,
}

/// Who makes the call; known from the connection, a key or the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    /// Tenant's name; `default` where there is only one.
    pub tenant: String,
    /// Agent's name.
    pub agent: String,
    /// Agent's labels.
    pub labels: BTreeMap<String, String>,
    /// Rights of the agent over topics, as `verb:glob`; empty means that policy alone decides.
    pub capabilities: Vec<String>,
    /// Agents from the root of a delegation down to the caller, the caller left out. Where several delegations hold, the
    /// agents of all of them.
    pub chain: Vec<String>,
    /// The delegations that hold, root first each: all of them restrict.
    pub delegations: Vec<Arc<[Hop]>>,
}

/// A call as policy sees it. Borrowed: judging a call allocates nothing that the caller has already.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// Who makes it.
    pub caller: &'a Caller,
    /// Where on its way it is.
    pub point: Point,
    /// Topic, verb and risk tags.
    pub class: Class<'a>,
    /// Name of the tool, as its server calls it.
    pub tool: Option<&'a str>,
    /// The tool's arguments: JSON text, an object; what a rule's `when` sees as `args`.
    pub args: Option<&'a [u8]>,
    /// Name of the model, as sent to the provider.
    pub model: Option<&'a str>,
    /// Host name, lower case, without port.
    pub host: &'a str,
    /// HTTP method, upper case; empty where there is none.
    pub method: &'a str,
    /// Path as it is sent upstream, without query.
    pub path: &'a str,
    /// Query of a plain HTTP call to a host that is no configured upstream, without `?`; content detectors read it too.
    pub query: &'a str,
    /// Upper bound of the tokens that the call may use.
    pub tokens: Tokens,
    /// Upper bound of what it may cost.
    pub cost: MicroUsd,
    /// Session that the agent names, if it does.
    pub session: Option<&'a str>,
    /// The bytes that would leave, decoded; what content detectors read. Empty where there are none.
    pub content: &'a [u8],
}

/// When and against what counters a call is judged.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    /// The time of judgement.
    pub now: Timestamp,
    /// Counters for rules with `velocity`.
    pub velocity: &'a dyn Velocity,
}

/// Counts how often calls came, for rules with `velocity`. The one effect a judgement has.
pub trait Velocity {
    /// Counts one more call under `key` and returns how many there were in the last `window`, this one included.
    fn count(&self, key: u64, window: std::time::Duration, now: Timestamp) -> u64;
}
