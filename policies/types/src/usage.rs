//! What a model call used, as its provider reports it.

use serde::{Deserialize, Serialize};

use crate::units::Tokens;

/// Tokens that a call used. Absent is not zero: `None` means that the provider did not say.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All input tokens, cached ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Tokens>,
    /// All output tokens, reasoning included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Tokens>,
    /// Input tokens read from the provider's cache; a part of `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<Tokens>,
    /// Input tokens written to the provider's cache; a part of `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Tokens>,
    /// Output tokens spent on reasoning; a part of `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Tokens>,
    /// Whether some of it was counted here because the provider's own figure never came.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

impl Usage {
    /// Input and output together; `None` when neither is known.
    #[must_use]
    pub fn total(&self) -> Option<Tokens> {
        match (self.input, self.output) {
            (None, None) => None,
            (input, output) => Some(input.unwrap_or_default().plus(output.unwrap_or_default())),
        }
    }
}
