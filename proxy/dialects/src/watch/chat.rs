//! Chat completions (OpenAI, `POST /v1/chat/completions`) and their chunks.
//!
//! The pieces of a tool call are known by the index of their choice and their own; a call is complete when its
//! choice is finished or the stream says `[DONE]`. Not sooner: servers may send the pieces of parallel calls in
//! turns.

use std::collections::BTreeMap;

use bytes::Bytes;
use sideguard_types::refusal::Refusal;

use super::calls::{CallIndex, Calls};
use super::rebuild::{self, Change, quoted};
use super::tally::Tally;
use super::{Dialect, Held, Read, Seen, ToolKind, Unjudgeable, Way, ending, member, text_of};
use crate::edit::{self, Edit};
use crate::json::{self, Kind, Value};
use crate::usage;

/// Most choices of one answer; OpenAI allows 128.
const MOST_CHOICES: usize = 128;

/// A chat completion.
pub(super) struct Chat {
    streamed: bool,
    hide_usage: bool,
    choices: BTreeMap<u64, Choice>,
}

/// One of the answers that the agent can choose from.
#[derive(Default)]
struct Choice {
    finished: bool,
    /// Whether it has text, so that more needs a line of its own.
    spoke: bool,
    calls: Vec<(Slot, CallIndex)>,
}

/// Where the pieces of a call stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    /// In `tool_calls`, with this index.
    Tool(u64),
    /// In `function_call`, the older form.
    Function,
}

/// What a chunk, or a whole completion, told.
struct Chunk {
    /// The calls that its pieces belong to.
    pieces: Vec<CallIndex>,
    /// Whether it has usage and no choice.
    only_usage: bool,
}

impl Chat {
    pub(super) fn new(streamed: bool, hide_usage: bool) -> Self {
        Self { streamed, hide_usage, choices: BTreeMap::new() }
    }

    /// The member of a choice that holds what the model wrote.
    fn part(&self) -> &'static str {
        if self.streamed { "delta" } else { "message" }
    }

    /// Reads a chunk or a completion, which differ only in [`Chat::part`].
    fn read_root(&mut self, root: Value<'_>, seen: &mut Seen) -> Result<Chunk, Unjudgeable> {
        let [model, usage, groq, choices] = root.named(["model", "usage", "x_groq", "choices"]);
        seen.tally.model_is(model);
        let mut chunk = Chunk { pieces: Vec::new(), only_usage: usage.is_some() };
        for choice in choices.iter().flat_map(Value::elements) {
            chunk.only_usage = false;
            self.read_choice(choice, seen, &mut chunk.pieces)?;
        }
        read_usage(usage.or_else(|| groq?.get("usage")), &mut seen.tally);
        Ok(chunk)
    }

    fn read_choice(
        &mut self,
        choice: Value<'_>,
        seen: &mut Seen,
        pieces: &mut Vec<CallIndex>,
    ) -> Result<(), Unjudgeable> {
        let [index, part, message, finish, usage] =
            choice.named(["index", self.part(), "message", "finish_reason", "usage"]);
        // Some servers repeat the whole message in the last chunk; what libraries make of calls in both is open.
        if message.is_some_and(has_calls) {
            return Err(Unjudgeable::because("a chunk holds tool calls outside of its `delta`"));
        }
        let streamed = self.streamed;
        let state = self.choices.entry(whole_number(index)?.unwrap_or_default()).or_default();
        if let Some(part) = part {
            Pieces { streamed, state, seen, pieces }.read(part)?;
        }
        read_usage(usage, &mut seen.tally);
        if finish.is_some() {
            state.finished = true;
            state.complete(&mut seen.calls);
        }
        if self.choices.len() > MOST_CHOICES {
            return Err(Unjudgeable(format!("the answer holds more than {MOST_CHOICES} choices")));
        }
        seen.tally.complete = self.choices.values().all(|choice| choice.finished);
        Ok(())
    }

    /// Changes to a chunk or completion of which calls were refused, and whether they leave nothing to say.
    fn edits(&mut self, root: Value<'_>, pieces: &[CallIndex], calls: &mut Calls) -> (Vec<Edit>, bool) {
        let part = self.part();
        let mut pieces = pieces.iter().copied();
        let mut edits = Vec::new();
        let mut silent = member(root, "usage").is_none();
        for choice in root.get("choices").iter().flat_map(Value::elements) {
            let index = choice.get("index").and_then(|index| index.as_count());
            let Some(state) = self.choices.get_mut(&index.unwrap_or_default()) else { continue };
            let rewritten = member(choice, part).and_then(|part| {
                let rewritten = state.rewrite(part, &mut pieces, calls)?;
                edits.push(Edit::replace(part.span(), rewritten.as_str()));
                Some(rewritten)
            });
            let finish = member(choice, "finish_reason");
            silent &= finish.is_none() && rewritten.is_some_and(|part| part == "{}");
            let for_calls = |reason: &Value<'_>| {
                matches!(reason.as_str().as_deref(), Some("tool_calls" | "function_call"))
            };
            if let Some(reason) = finish.filter(for_calls).filter(|_| state.all_refused(calls)) {
                edits.push(Edit::replace(reason.span(), r#""stop""#));
            }
        }
        (edits, silent)
    }
}

impl Dialect for Chat {
    fn read(&mut self, _name: Option<&str>, root: Value<'_>, seen: &mut Seen) -> Result<Read, Unjudgeable> {
        let Chunk { pieces, only_usage } = self.read_root(root, seen)?;
        let way = if only_usage && self.hide_usage { Way::Hide } else { Way::InTurn };
        Ok(Read { pieces, ..Read::new(way) })
    }

    fn done(&mut self, seen: &mut Seen) -> Read {
        self.choices.values().for_each(|choice| choice.complete(&mut seen.calls));
        seen.tally.complete = true;
        Read::new(Way::Last)
    }

    fn write(&mut self, held: Held, calls: &mut Calls, out: &mut Vec<Bytes>) {
        let Held { event, read } = held;
        // `[DONE]` is no JSON, and stays.
        let document = calls.any_refused().then(|| json::read(&event.data).ok()).flatten();
        let (edits, silent) =
            document.map(|document| self.edits(document.root, &read.pieces, calls)).unwrap_or_default();
        if edits.is_empty() {
            out.push(event.raw);
        } else if !silent {
            out.push(event.with_data(&edit::apply(&event.data, edits)));
        }
    }

    fn cut(&self, refusal: &Refusal, _seen: &Seen, out: &mut Vec<Bytes>) {
        out.push(ending::chat(refusal));
    }

    fn read_whole(&mut self, root: Value<'_>, seen: &mut Seen) -> Result<Vec<CallIndex>, Unjudgeable> {
        let chunk = self.read_root(root, seen)?;
        self.done(seen);
        Ok(chunk.pieces)
    }

    fn edit_whole(&mut self, root: Value<'_>, pieces: &[CallIndex], calls: &mut Calls) -> Vec<Edit> {
        self.edits(root, pieces, calls).0
    }
}

impl Choice {
    fn complete(&self, calls: &mut Calls) {
        self.calls.iter().for_each(|&(_, call)| calls.complete(call));
    }

    fn all_refused(&self, calls: &Calls) -> bool {
        !self.calls.is_empty() && self.calls.iter().all(|&(_, call)| calls.refusal(call).is_some())
    }

    /// The index that a call has once those that were refused are gone.
    fn new_index(&self, of: CallIndex, calls: &Calls) -> Option<u64> {
        let slot = self.calls.iter().find(|&&(_, call)| call == of)?.0;
        let mut before: Vec<Slot> = self
            .calls
            .iter()
            .filter(|&&(other, call)| other < slot && calls.refusal(call).is_none())
            .map(|&(other, _)| other)
            .collect();
        before.sort_unstable();
        before.dedup();
        Some(before.len() as u64)
    }

    /// A `delta` or `message` without the pieces of refused calls, and with what the agent is told instead; none
    /// when it stays as it is.
    fn rewrite(
        &mut self,
        part: Value<'_>,
        pieces: &mut impl Iterator<Item = CallIndex>,
        calls: &mut Calls,
    ) -> Option<String> {
        let mut told: Vec<String> = Vec::new();
        let mut kept = Vec::new();
        let mut changed = false;
        for (piece, call) in part.get("tool_calls").iter().flat_map(Value::elements).zip(&mut *pieces) {
            if calls.refusal(call).is_some() {
                changed = true;
                told.extend(calls.tell_refusal(call));
            } else {
                let renumbered = self.renumber(piece, call, calls);
                changed |= renumbered.is_some();
                kept.push(renumbered.unwrap_or_else(|| piece.raw().to_owned()));
            }
        }
        let function = member(part, "function_call").and_then(|_| pieces.next());
        let drop_function = function.is_some_and(|call| calls.refusal(call).is_some());
        told.extend(function.and_then(|call| calls.tell_refusal(call)));
        if !changed && !drop_function {
            return None;
        }
        Some(self.rebuild(part, &kept, drop_function, &told.join("\n")))
    }

    fn rebuild(&mut self, part: Value<'_>, kept: &[String], drop_function: bool, told: &str) -> String {
        let here = member(part, "content").is_some_and(says_something);
        let apart = if !told.is_empty() && (self.spoke || here) { "\n\n" } else { "" };
        self.spoke |= !told.is_empty();
        let change = |member: &json::Member<'_>| match &*member.key() {
            "tool_calls" if !kept.is_empty() => Change::Set(format!("[{}]", kept.join(","))),
            "tool_calls" => Change::Drop,
            "function_call" if drop_function => Change::Drop,
            "content" | "refusal" if !told.is_empty() => match member.value.kind() {
                Kind::String => Change::Set(quoted(&format!(
                    "{}{apart}{told}",
                    member.value.as_str().unwrap_or_default()
                ))),
                Kind::Array | Kind::Object => Change::Keep,
                _ => Change::Set(quoted(&format!("{apart}{told}"))),
            },
            _ => Change::Keep,
        };
        let text = quoted(&format!("{apart}{told}"));
        let added = [("content", text.clone()), ("refusal", text)];
        rebuild::object(part, change, if told.is_empty() { &[] } else { &added })
    }

    /// The piece with its call's new index; none when that is the one that it has.
    fn renumber(&self, piece: Value<'_>, call: CallIndex, calls: &Calls) -> Option<String> {
        let index = piece.get("index")?;
        let new = self.new_index(call, calls).filter(|&new| index.as_count() != Some(new))?;
        let change = |member: &json::Member<'_>| {
            if member.is("index") { Change::Set(new.to_string()) } else { Change::Keep }
        };
        self.any_refused(calls).then(|| rebuild::object(piece, change, &[]))
    }

    /// Whether a call was refused, so that the indices of those after it move up.
    fn any_refused(&self, calls: &Calls) -> bool {
        self.calls.iter().any(|&(_, call)| calls.refusal(call).is_some())
    }
}

/// Reads the pieces of calls in one `delta` or `message`.
struct Pieces<'p> {
    streamed: bool,
    state: &'p mut Choice,
    seen: &'p mut Seen,
    pieces: &'p mut Vec<CallIndex>,
}

impl Pieces<'_> {
    fn read(&mut self, part: Value<'_>) -> Result<(), Unjudgeable> {
        let [content, refusal, reasoning_content, reasoning, tools, function] = part.named([
            "content",
            "refusal",
            "reasoning_content",
            "reasoning",
            "tool_calls",
            "function_call",
        ]);
        for text in [content, refusal, reasoning_content, reasoning].into_iter().flatten() {
            self.seen.tally.wrote(Some(text));
            text.elements().for_each(|item| self.seen.tally.wrote(item.get("text")));
        }
        self.state.spoke |= content.is_some_and(says_something);
        if tools.is_some_and(|tools| tools.kind() != Kind::Array) {
            return Err(Unjudgeable::because("`tool_calls` is not an array"));
        }
        for (piece, position) in tools.iter().flat_map(Value::elements).zip(0_u64..) {
            let index = whole_number(piece.get("index"))?;
            let index = index.unwrap_or(if self.streamed { 0 } else { position });
            self.read_tool(Slot::Tool(index), piece)?;
        }
        match function {
            Some(function) => self.read_piece(Slot::Function, "", ToolKind::Function, Some(function)),
            None => Ok(()),
        }
    }

    fn read_tool(&mut self, slot: Slot, piece: Value<'_>) -> Result<(), Unjudgeable> {
        let (kind, body) = match (member(piece, "function"), member(piece, "custom")) {
            (Some(_), Some(_)) => {
                return Err(Unjudgeable::because("a tool call is both `function` and `custom`"));
            }
            (None, Some(custom)) => (ToolKind::Custom, Some(custom)),
            (None, None) if text_of(piece, "type") == "custom" => (ToolKind::Custom, None),
            (function, None) => (ToolKind::Function, function),
        };
        self.read_piece(slot, &text_of(piece, "id"), kind, body)
    }

    fn read_piece(
        &mut self,
        slot: Slot,
        id: &str,
        kind: ToolKind,
        body: Option<Value<'_>>,
    ) -> Result<(), Unjudgeable> {
        let calls = &mut self.seen.calls;
        let known = self.state.calls.iter().rev().find(|(of, _)| *of == slot).map(|&(_, call)| call);
        // Some servers give every parallel call the index 0; a new id tells them apart.
        let known = known.filter(|&call| {
            let known_id = calls.get(call).map_or("", |call| call.id.as_str());
            id.is_empty() || known_id.is_empty() || known_id == id
        });
        let call = match known {
            Some(call) => call,
            None => {
                let call = calls.open(kind)?;
                self.state.calls.push((slot, call));
                call
            }
        };
        self.pieces.push(call);
        let name = body.map(|body| text_of(body, "name")).unwrap_or_default();
        calls.identify(call, id, &name)?;
        let Some(body) = body else { return Ok(()) };
        if body.kind() != Kind::Object || calls.get(call).is_some_and(|call| call.kind != kind) {
            return Err(Unjudgeable::because("a piece of a tool call is not of its call's type"));
        }
        let args = member(body, if kind == ToolKind::Custom { "input" } else { "arguments" });
        // Arguments are JSON in a string; a few servers leave the string out.
        let args = args.map(|args| args.as_str().unwrap_or_else(|| args.raw().into())).unwrap_or_default();
        self.seen.tally.wrote_text(&name);
        self.seen.tally.wrote_text(&args);
        self.seen.calls.extend(call, &args)
    }
}

fn read_usage(usage: Option<Value<'_>>, tally: &mut Tally) {
    // Where several chunks have it, each includes the ones before.
    if let Some(usage) = usage.filter(|usage| usage.kind() == Kind::Object) {
        tally.usage = usage::chat(usage);
    }
}

fn has_calls(message: Value<'_>) -> bool {
    let [tools, function] = message.named(["tool_calls", "function_call"]);
    tools.is_some_and(|tools| tools.raw() != "[]") || function.is_some()
}

fn says_something(content: Value<'_>) -> bool {
    content.as_str().is_none_or(|text| !text.is_empty())
}

/// An `index`, where there is one.
fn whole_number(index: Option<Value<'_>>) -> Result<Option<u64>, Unjudgeable> {
    let Some(index) = index.filter(|index| !index.is_null()) else { return Ok(None) };
    match index.as_count() {
        Some(index) => Ok(Some(index)),
        None => Err(Unjudgeable::because("an `index` is not a whole number")),
    }
}
