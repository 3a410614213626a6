//! A call to a model: what it asks for, and how it is changed.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::Value as Json;
use sideguard_types::units::Tokens;

use super::bound::{self, InputBound};
use crate::detect::Operation;
use crate::edit::Edit;

/// A call to a model.
#[derive(Debug, Clone)]
pub struct ModelRequest<'b> {
    /// What is asked of it.
    pub op: Operation,
    /// Model's name, as sent.
    pub model: Cow<'b, str>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Most output tokens of one choice that the request allows; none where it sets no limit. Zero for
    /// operations without output (embeddings, counting), whose cap cannot be changed.
    pub output_cap: Option<Tokens>,
    /// Answers asked for (`n`), each of which may use the whole cap; 1 or more.
    pub choices: u64,
    /// Whether the provider goes on with the answer when nobody listens (responses only).
    pub background: bool,
    /// Whether the client itself asked for usage in the stream (chat only).
    pub include_usage: bool,
    /// Names of the tools that the model may call and the agent then runs.
    pub tools: Vec<Cow<'b, str>>,
    /// Tools that run at the provider, beyond the sidecar: by `type`, hosted MCP servers as `mcp:<url>`.
    pub hosted_tools: Vec<Cow<'b, str>>,
    /// The most input tokens that it can be charged for.
    pub input: InputBound,
    pub(super) places: Places,
}

/// Where in the body things stand that can be changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// Just inside the outermost brace.
    pub(super) inside: usize,
    /// The model's name, quotes included.
    pub(super) model: Range<usize>,
    /// Each output cap: its member's name, its value's place, whether it is a number (else `null`).
    pub(super) caps: Vec<(CapName, Range<usize>, bool)>,
    /// `stream_options`.
    pub(super) stream_options: StreamOptions,
}

/// Where chat's `include_usage` is or would be.
#[derive(Debug, Clone, Default)]
pub(super) enum StreamOptions {
    /// There is no `stream_options`.
    #[default]
    Absent,
    /// `null` stands for them.
    Null(Range<usize>),
    /// There are some, without `include_usage`: the place just inside, and whether they are empty.
    Without { inside: usize, empty: bool },
    /// The value of `include_usage`.
    Flag(Range<usize>),
}

/// Name of the member that caps the output.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum CapName {
    /// `max_tokens`: Anthropic, and the one that every chat server but OpenAI's newer models knows.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`: OpenAI chat, whose reasoning models refuse the other.
    MaxCompletionTokens,
    /// `max_output_tokens`: OpenAI responses.
    MaxOutputTokens,
}

impl CapName {
    /// The cap to put into a chat request that goes to the provider of this name.
    #[must_use]
    pub fn for_chat(provider: Option<&str>) -> Self {
        match provider {
            Some("openai" | "azure") => Self::MaxCompletionTokens,
            _ => Self::MaxTokens,
        }
    }

    /// The member's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
        }
    }
}

/// What is to be changed in a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Output cap to set, whatever the request says.
    pub output_cap: Option<Tokens>,
    /// Name under which a cap is put into a chat request that has none; see [`CapName::for_chat`]. The other
    /// operations have only one.
    pub cap_name: CapName,
    /// Model to ask instead.
    pub model: Option<String>,
    /// Whether a chat stream must end with its usage.
    pub include_usage: bool,
}

/// Where a call can be changed, kept apart from the bytes that it was read from: they need not be read again.
#[derive(Debug, Clone)]
pub struct Changeable {
    op: Operation,
    /// Whether it is a chat stream whose client did not ask for usage.
    lacks_usage: bool,
    model: String,
    places: Places,
}

impl ModelRequest<'_> {
    /// Where it can be changed.
    #[must_use]
    pub fn changeable(&self) -> Changeable {
        Changeable {
            op: self.op,
            lacks_usage: self.op == Operation::Chat && self.stream && !self.include_usage,
            model: self.model.to_string(),
            places: self.places.clone(),
        }
    }

    /// The splices that make `change`; see [`Changeable::edits`].
    #[must_use]
    pub fn edits(&self, change: &Change) -> Vec<Edit> {
        self.changeable().edits(change)
    }

    /// A closer count of the input than its bound, never above it: the o200k count of all text that reaches
    /// the model, each message's and tool's overhead, and a safety factor, 1.1 for OpenAI's dialect and 1.5
    /// for Anthropic's, whose vocabulary is not public. Counts nothing for what an `open` request refers to.
    /// `body` must be the bytes that were read. Takes about half a millisecond for 32 KiB.
    #[must_use]
    pub fn counted(&self, body: &[u8]) -> Tokens {
        bound::counted(self, body).min(self.input.strict)
    }
}

impl Changeable {
    /// The splices that make `change` in the bytes that were read. Everything else stays byte for byte; no change gives
    /// no splice.
    #[must_use]
    pub fn edits(&self, change: &Change) -> Vec<Edit> {
        let mut edits = Vec::new();
        if let Some(model) = change.model.as_deref().filter(|model| *model != self.model) {
            edits.push(Edit::replace(self.places.model.clone(), Json::from(model).to_string()));
        }
        if let Some(cap) = change.output_cap {
            self.cap_edits(cap, change.cap_name, &mut edits);
        }
        if change.include_usage && self.lacks_usage {
            edits.push(self.usage_edit());
        }
        edits
    }

    fn cap_edits(&self, cap: Tokens, chat_name: CapName, edits: &mut Vec<Edit>) {
        let name = match self.op {
            Operation::Chat => chat_name,
            Operation::Messages => CapName::MaxTokens,
            Operation::Responses => CapName::MaxOutputTokens,
            _ => return,
        };
        let caps = &self.places.caps;
        let has_number = caps.iter().any(|(_, _, number)| *number);
        let mut placed = false;
        for (at, place, number) in caps {
            if *number || !has_number && *at == name {
                placed = true;
                edits.push(Edit::replace(place.clone(), cap.to_string()));
            }
        }
        if !placed {
            edits.push(Edit::insert(self.places.inside, format!("\"{}\":{cap},", name.as_str())));
        }
    }

    fn usage_edit(&self) -> Edit {
        match &self.places.stream_options {
            StreamOptions::Absent => {
                Edit::insert(self.places.inside, "\"stream_options\":{\"include_usage\":true},")
            }
            StreamOptions::Null(place) => Edit::replace(place.clone(), "{\"include_usage\":true}"),
            StreamOptions::Without { inside, empty: true } => Edit::insert(*inside, "\"include_usage\":true"),
            StreamOptions::Without { inside, empty: false } => {
                Edit::insert(*inside, "\"include_usage\":true,")
            }
            StreamOptions::Flag(place) => Edit::replace(place.clone(), "true"),
        }
    }
}
