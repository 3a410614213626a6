//! Kind `ToolCatalog`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::call::Verb;

/// What an operator knows of tools; it goes before everything that is derived.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolCatalogSpec {
    /// The tools; the first entry that fits a tool describes it.
    pub tools: Vec<CatalogTool>,
}

/// One tool, or several by glob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogTool {
    /// Name of the MCP server or host that offers it (glob); absent is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Tool's name (glob), or `METHOD /path` (globs) for plain HTTP.
    pub tool: String,
    /// Topic; derived when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Verb; derived when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<Verb>,
    /// Risk tags; derived when absent, none when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk_tags: Option<Vec<String>>,
}
