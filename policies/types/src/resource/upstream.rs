//! Kind `Upstream`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BreakerSpec;

/// A model provider or a tool server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UpstreamSpec {
    /// Where its gateway path `/<name>/…` leads: scheme, host, port and a path to put before the rest.
    pub base_url: String,
    /// What it speaks; worked out from host and path when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// Credential that the sidecar puts in place of the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// When its breaker trips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerSpec>,
    /// Whether it is asked to report usage at the end of a streamed chat; as its kind takes it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_usage: Option<StreamUsage>,
    /// The agent that it is, where it is one behind the inbound port of a sidecar of the same fleet: what is asked of it is
    /// delegated to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// Whether `stream_options.include_usage` is put into streamed chats that do not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamUsage {
    /// It is; the chunk that it brings is hidden from the agent.
    Inject,
    /// It is not: some servers refuse fields that they do not know, or report usage unasked.
    Leave,
}

/// A header that the sidecar sets on the last hop.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Header's name.
    pub header: String,
    /// Header's value; `${env:NAME}` and `${file:PATH}` are filled in when the configuration is read.
    pub value: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("header", &self.header).field("value", &"***").finish()
    }
}

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI's REST interface: chat completions, responses, embeddings, models.
    Openai,
    /// Anthropic's: messages, count_tokens, models.
    Anthropic,
    /// MCP over Streamable HTTP.
    Mcp,
    /// Anything else over HTTP.
    Plain,
}
