//! Messages (Anthropic, `POST /v1/messages`) and their events.
//!
//! A tool call is a content block of type `tool_use`, complete with its `content_block_stop`. Of tools that
//! Anthropic runs, `server_tool_use` passes and is reported; `mcp_tool_use` is judged, and a refusal hides it
//! with its result.

use std::collections::BTreeMap;

use bytes::Bytes;
use sideguard_types::refusal::Refusal;
use sideguard_types::units::Tokens;
use sideguard_types::usage::Usage;

use super::calls::{CallIndex, Calls};
use super::rebuild::quoted;
use super::{Dialect, Held, Read, Seen, ToolKind, Unjudgeable, Way, ending, kind_of, member, text_of};
use crate::edit::{self, Edit};
use crate::json::{self, Value};
use crate::usage;

/// What stands in the place of the result of a call that was refused.
const RESULT_HIDDEN: &str = "The result of a refused tool call is not shown.";

/// A message.
#[derive(Default)]
pub(super) struct Messages {
    /// The calls, and the calls whose results they are, by the index of their block.
    blocks: BTreeMap<u64, CallIndex>,
}

impl Messages {
    fn start(&mut self, index: u64, root: Value<'_>, seen: &mut Seen) -> Result<(), Unjudgeable> {
        if self.blocks.contains_key(&index) {
            return Err(Unjudgeable::because("two content blocks have the same index"));
        }
        let Some(block) = member(root, "content_block") else { return Ok(()) };
        seen.tally.wrote(block.get("text"));
        if let Some(call) = read_block(block, seen)? {
            self.blocks.insert(index, call);
        }
        Ok(())
    }

    fn delta(&self, index: u64, root: Value<'_>, seen: &mut Seen) -> Result<(), Unjudgeable> {
        let Some(delta) = member(root, "delta") else { return Ok(()) };
        seen.tally.wrote(delta.get("text"));
        seen.tally.wrote(delta.get("thinking"));
        let Some(json) = member(delta, "partial_json") else { return Ok(()) };
        seen.tally.wrote(Some(json));
        match self.blocks.get(&index) {
            Some(&call) => seen.calls.extend(call, &json.as_str().unwrap_or_default()),
            None => Err(Unjudgeable::because("input for a tool call came that has not begun")),
        }
    }

    fn block_event(
        &mut self,
        kind: &str,
        root: Value<'_>,
        seen: &mut Seen,
    ) -> Result<Vec<CallIndex>, Unjudgeable> {
        let index = root.get("index").and_then(|index| index.as_count());
        let index = index.ok_or_else(|| Unjudgeable(format!("`{kind}` has no `index`")))?;
        match kind {
            "content_block_start" => self.start(index, root, seen)?,
            "content_block_delta" => self.delta(index, root, seen)?,
            _ => {
                if let Some(&call) = self.blocks.get(&index) {
                    seen.calls.complete(call);
                }
            }
        }
        Ok(self.blocks.get(&index).copied().into_iter().collect())
    }
}

impl Dialect for Messages {
    fn read(&mut self, name: Option<&str>, root: Value<'_>, seen: &mut Seen) -> Result<Read, Unjudgeable> {
        let kind = kind_of(name, root)?;
        let mut read = Read::new(Way::InTurn);
        match &*kind {
            "message_start" => {
                if let Some(message) = member(root, "message") {
                    read_head(message, seen)?;
                }
            }
            "content_block_start" | "content_block_delta" | "content_block_stop" => {
                read.pieces = self.block_event(&kind, root, seen)?;
            }
            "message_delta" => {
                if let Some(usage) = member(root, "usage") {
                    seen.tally.usage = merged(seen.tally.usage, usage::messages(usage));
                }
            }
            "message_stop" => {
                seen.tally.complete = true;
                read.way = Way::Last;
            }
            "error" => read.way = Way::Last,
            "ping" => read.way = Way::Overtake,
            _ => {}
        }
        Ok(read)
    }

    fn done(&mut self, _seen: &mut Seen) -> Read {
        Read::new(Way::InTurn)
    }

    fn write(&mut self, held: Held, calls: &mut Calls, out: &mut Vec<Bytes>) {
        let Held { event, read } = held;
        let document = calls.any_refused().then(|| json::read(&event.data).ok()).flatten();
        let Some(root) = document.map(|document| document.root) else { return out.push(event.raw) };
        let name = event.name.as_deref().map(String::from_utf8_lossy);
        let kind = kind_of(name.as_deref(), root).unwrap_or_default();
        let refused = read.pieces.iter().copied().find(|&call| calls.refusal(call).is_some());
        match (refused, &*kind) {
            (Some(call), "content_block_start") => {
                let index = root.get("index").and_then(|index| index.as_count()).unwrap_or_default();
                let text = calls.tell_refusal(call);
                out.extend(text_block(index, text.as_deref().unwrap_or(RESULT_HIDDEN)));
            }
            (Some(_), "content_block_delta") => {}
            (None, "message_delta") => {
                let edits: Vec<Edit> = stop_reason(root.get("delta"), calls).into_iter().collect();
                out.push(if edits.is_empty() {
                    event.raw
                } else {
                    event.with_data(&edit::apply(&event.data, edits))
                });
            }
            _ => out.push(event.raw),
        }
    }

    fn cut(&self, refusal: &Refusal, _seen: &Seen, out: &mut Vec<Bytes>) {
        out.push(ending::messages(refusal));
    }

    fn read_whole(&mut self, root: Value<'_>, seen: &mut Seen) -> Result<Vec<CallIndex>, Unjudgeable> {
        seen.tally.model_is(root.get("model"));
        seen.tally.usage = member(root, "usage").map(usage::messages).unwrap_or_default();
        let mut pieces = Vec::new();
        for block in root.get("content").iter().flat_map(Value::elements) {
            seen.tally.wrote(block.get("text"));
            seen.tally.wrote(block.get("thinking"));
            let is_call = matches!(Block::of(block), Block::Call(_));
            if let Some(call) = read_block(block, seen)?.filter(|_| is_call) {
                seen.calls.complete(call);
                pieces.push(call);
            }
        }
        Ok(pieces)
    }

    fn edit_whole(&mut self, root: Value<'_>, pieces: &[CallIndex], calls: &mut Calls) -> Vec<Edit> {
        let mut pieces = pieces.iter().copied();
        let mut edits: Vec<Edit> = Vec::new();
        for block in root.get("content").iter().flat_map(Value::elements) {
            let call = match Block::of(block) {
                Block::Call(_) => pieces.next(),
                Block::HostedResult => call_of_result(block, calls),
                Block::Hosted | Block::Other => None,
            };
            if let Some(call) = call.filter(|&call| calls.refusal(call).is_some()) {
                let text = calls.tell_refusal(call);
                let text = quoted(text.as_deref().unwrap_or(RESULT_HIDDEN));
                edits.push(Edit::replace(block.span(), format!("{{\"type\":\"text\",\"text\":{text}}}")));
            }
        }
        edits.extend(stop_reason(Some(root), calls));
        edits
    }
}

/// What a content block has to do with tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// A call: the agent's, or one that Anthropic makes to an MCP server.
    Call(ToolKind),
    /// The result of such a call to an MCP server.
    HostedResult,
    /// A call that Anthropic makes to a tool of its own.
    Hosted,
    /// Anything else.
    Other,
}

impl Block {
    fn of(block: Value<'_>) -> Self {
        match &*text_of(block, "type") {
            "tool_use" => Self::Call(ToolKind::Function),
            "mcp_tool_use" => Self::Call(ToolKind::Mcp),
            "mcp_tool_result" => Self::HostedResult,
            "server_tool_use" => Self::Hosted,
            _ => Self::Other,
        }
    }
}

/// Begins the call that a content block holds, or finds the one that it is the result of.
fn read_block(block: Value<'_>, seen: &mut Seen) -> Result<Option<CallIndex>, Unjudgeable> {
    let name = text_of(block, "name");
    let kind = match Block::of(block) {
        Block::Call(kind) => kind,
        Block::HostedResult => return Ok(call_of_result(block, &seen.calls)),
        Block::Hosted => return seen.calls.note(&name).map(Some),
        Block::Other => return Ok(None),
    };
    let call = seen.calls.open(kind)?;
    seen.calls.identify(call, &text_of(block, "id"), &name)?;
    seen.tally.wrote_text(&name);
    // Usually `{}`, which the deltas replace. What stands there else is all of the input; a delta after it would
    // contradict it, and is refused as one that comes after the call's end.
    let input = member(block, "input").map(|input| input.raw()).filter(|input| !is_empty(input));
    if let Some(input) = input {
        seen.tally.wrote_text(input);
        seen.calls.extend(call, input)?;
        seen.calls.complete(call);
    }
    Ok(Some(call))
}

fn is_empty(input: &str) -> bool {
    let inside = input.strip_prefix('{').and_then(|input| input.strip_suffix('}'));
    input == "\"\"" || inside.is_some_and(|inside| inside.trim_ascii().is_empty())
}

/// The call whose result a block is, where the same answer holds it.
fn call_of_result(block: Value<'_>, calls: &Calls) -> Option<CallIndex> {
    let id = member(block, "tool_use_id")?.as_str()?;
    calls.find(|call| call.kind == ToolKind::Mcp && call.id == id)
}

/// Reads the message that begins a stream; its output count is only a placeholder.
fn read_head(message: Value<'_>, seen: &mut Seen) -> Result<(), Unjudgeable> {
    seen.tally.model_is(message.get("model"));
    if let Some(usage) = member(message, "usage") {
        seen.tally.usage = Usage { output: None, ..usage::messages(usage) };
    }
    let content = message.get("content");
    let mut blocks = content.iter().flat_map(Value::elements);
    if blocks.any(|block| matches!(Block::of(block), Block::Call(_))) {
        return Err(Unjudgeable::because("`message_start` holds a tool call"));
    }
    Ok(())
}

/// Usage as of `later`, which includes what was before; what it does not state stays.
fn merged(before: Usage, later: Usage) -> Usage {
    let cached = later.cached.or(before.cached);
    let cache_write = later.cache_write.or(before.cache_write);
    let input = uncached(later).or_else(|| uncached(before));
    Usage {
        input: input
            .map(|input| input.plus(cached.unwrap_or_default()).plus(cache_write.unwrap_or_default())),
        output: later.output.or(before.output),
        cached,
        cache_write,
        reasoning: later.reasoning.or(before.reasoning),
        estimated: false,
    }
}

fn uncached(usage: Usage) -> Option<Tokens> {
    let cache = usage.cached.unwrap_or_default().plus(usage.cache_write.unwrap_or_default());
    usage.input.map(|input| Tokens(input.0.saturating_sub(cache.0)))
}

/// The change to a `stop_reason` that promises a call when none is left.
fn stop_reason(of: Option<Value<'_>>, calls: &Calls) -> Option<Edit> {
    let reason = of?.get("stop_reason")?;
    let none_left = calls.any_refused() && !calls.any_allowed(ToolKind::Function);
    (none_left && reason.as_str().as_deref() == Some("tool_use"))
        .then(|| Edit::replace(reason.span(), r#""end_turn""#))
}

/// The events that begin and fill a text block; the stop of the block in whose place it stands ends it.
fn text_block(index: u64, text: &str) -> [Bytes; 2] {
    let start = format!(
        "{{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{{\"type\":\"text\",\"text\":\"\"}}}}"
    );
    let text = quoted(text);
    let delta = format!(
        "{{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{{\"type\":\"text_delta\",\"text\":{text}}}}}"
    );
    [("content_block_start", start), ("content_block_delta", delta)]
        .map(|(name, data)| format!("event: {name}\ndata: {data}\n\n").into())
}
