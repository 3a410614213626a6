//! Kind `Agent`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::InjectionSpec;

/// An agent's rights and how it shows who it is.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// Rights over topics, as `verb:topic-glob` (`read:job.db.*`); absent means that policy alone decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Models that it may use (globs); absent means any that policy allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Hosts that it may reach (globs); absent means any that policy allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<String>,
    /// Who may approve calls that others make for it, when it has handed its work on: names of keys, or labels that they
    /// have as `name=value`. The rule that asks says who when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Keys by which a shared gateway knows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<AgentKey>,
    /// How its pods are made, in Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injection: Option<InjectionSpec>,
}

/// One key of an agent: its SHA-256, never the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentKey {
    /// SHA-256 of the key in hex.
    pub sha256: String,
}
