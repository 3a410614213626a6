//! Items of a response's output: which of them are tool calls, and what stands in the place of a refused one.

use std::borrow::Cow;

use bytes::Bytes;

use super::super::rebuild::quoted;
use super::super::{ToolKind, member, text_of};
use crate::json::Value;

/// Tools that run at the provider and whose items only tell of it.
const HOSTED: [&str; 5] = [
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "tool_search_call",
];

/// An item that is a tool call.
pub(super) struct ToolItem<'v> {
    pub(super) kind: ToolKind,
    pub(super) call_id: Cow<'v, str>,
    item_id: Cow<'v, str>,
    pub(super) name: Cow<'v, str>,
    pub(super) args: Cow<'v, str>,
}

impl<'v> ToolItem<'v> {
    /// The item as a tool call, where it is one. A type of call that is not known counts as one that the agent
    /// runs, with the whole item as its arguments.
    pub(super) fn read(item: Value<'v>) -> Option<Self> {
        let of = text_of(item, "type");
        let kind = match &*of {
            "function_call" => ToolKind::Function,
            "custom_tool_call" => ToolKind::Custom,
            // A request for approval is a call that runs once the agent says yes.
            "mcp_call" | "mcp_approval_request" => ToolKind::Mcp,
            other if other.ends_with("_call") && !HOSTED.contains(&other) => ToolKind::BuiltIn,
            _ => return None,
        };
        let (name, args) = match kind {
            ToolKind::Function | ToolKind::Mcp => (text_of(item, "name"), text_or_raw(item, "arguments")),
            ToolKind::Custom => (text_of(item, "name"), text_or_raw(item, "input")),
            ToolKind::BuiltIn => {
                let does = member(item, "action").or_else(|| member(item, "operation")).unwrap_or(item);
                (of.strip_suffix("_call").unwrap_or_default().to_owned().into(), does.raw().into())
            }
        };
        Some(Self { kind, call_id: text_of(item, "call_id"), item_id: text_of(item, "id"), name, args })
    }

    /// What the call's result will refer to.
    pub(super) fn id(&self) -> &str {
        if self.call_id.is_empty() { &self.item_id } else { &self.call_id }
    }
}

fn text_or_raw<'v>(item: Value<'v>, key: &str) -> Cow<'v, str> {
    member(item, key).map(|value| value.as_str().unwrap_or_else(|| value.raw().into())).unwrap_or_default()
}

/// The message that stands in the output in the place of a refused `item`: JSON text.
pub(super) fn refused_item(item: Value<'_>, index: u64, text: &str) -> String {
    message(&id(&text_of(item, "id"), index), "completed", &part(text))
}

/// The events that stream that message. `event` is the first one of the refused item; the sequence numbers
/// count from `first` on, where the stream has them.
pub(super) fn refused_events(event: Value<'_>, first: Option<u64>, text: &str) -> Vec<Bytes> {
    let index = event.get("output_index").and_then(|index| index.as_count()).unwrap_or_default();
    let item = member(event, "item").map(|item| text_of(item, "id"));
    let id = id(&item.unwrap_or_else(|| text_of(event, "item_id")), index);
    let of_part = format!("\"item_id\":{id},\"output_index\":{index},\"content_index\":0");
    let of_item = format!("\"output_index\":{index}");
    let quoted_text = quoted(text);
    let events = [
        ("output_item.added", format!("{of_item},\"item\":{}", message(&id, "in_progress", ""))),
        ("content_part.added", format!("{of_part},\"part\":{}", part(""))),
        ("refusal.delta", format!("{of_part},\"delta\":{quoted_text}")),
        ("refusal.done", format!("{of_part},\"refusal\":{quoted_text}")),
        ("content_part.done", format!("{of_part},\"part\":{}", part(text))),
        ("output_item.done", format!("{of_item},\"item\":{}", message(&id, "completed", &part(text)))),
    ];
    let event = |((name, members), nth): ((&str, String), u64)| {
        let sequence = first.map(|first| format!("\"sequence_number\":{},", first.saturating_add(nth)));
        let sequence = sequence.unwrap_or_default();
        format!("event: response.{name}\ndata: {{\"type\":\"response.{name}\",{sequence}{members}}}\n\n")
            .into()
    };
    events.into_iter().zip(0..).map(event).collect()
}

/// An id that no other item has, since it is made of the one that goes: JSON text.
fn id(of: &str, index: u64) -> String {
    let unique = if of.is_empty() { index.to_string() } else { of.to_owned() };
    quoted(&format!("msg_refused_{unique}"))
}

fn message(id: &str, status: &str, content: &str) -> String {
    format!(
        "{{\"id\":{id},\"type\":\"message\",\"status\":\"{status}\",\"role\":\"assistant\",\"content\":[{content}]}}"
    )
}

fn part(text: &str) -> String {
    format!("{{\"type\":\"refusal\",\"refusal\":{}}}", quoted(text))
}
