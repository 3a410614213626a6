//! How a proxy hands work to other agents, and takes it from them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::delegation::Allowance;
use crate::time::Span;

/// How work is handed to other agents, and taken from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct DelegationSpec {
    /// How long a link holds that this sidecar makes; at most a day.
    pub life: Span,
    /// Most links of a chain, made here or taken.
    pub depth: u32,
    /// The most that work under a link of this sidecar's may use. Without it a link sets no bound of its own, and work that
    /// stands under a bound itself hands on half of what is left.
    pub budget: Allowance,
    /// How long after its answer an agent may go on with work that was handed to it.
    pub grace: Span,
    /// By what it is told under which of several open delegations an agent calls.
    pub correlation: Correlate,
}

impl Default for DelegationSpec {
    fn default() -> Self {
        Self {
            life: Span(Duration::from_secs(600)),
            depth: 4,
            budget: Allowance::default(),
            grace: Span(Duration::from_secs(10)),
            correlation: Correlate::default(),
        }
    }
}

/// By what it is told under which delegation an agent calls that works under several.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correlate {
    /// By the trace of the request, which the agent hands on (`traceparent`); without it all that are open hold.
    #[default]
    Trace,
    /// All that are open hold, whatever the agent says: for agents that are not trusted to keep their callers apart.
    Meet,
}

/// A port in front of an agent, by which others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Inbound {
    /// Where others come in, as `0.0.0.0:8080`.
    pub listen: String,
    /// Where the agent listens, as `127.0.0.1:8081`.
    pub to: String,
    /// The agent's name; the proxy's own agent when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What a request has to bring.
    #[serde(default)]
    pub require: Require,
}

/// What a request to an agent has to bring.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Require {
    /// A chain of delegation.
    #[default]
    Delegation,
    /// Nothing: a request without a chain is passed on, and the agent answers it in its own right. A chain that is brought
    /// must be good all the same.
    None,
}
