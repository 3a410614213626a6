//! Responses (OpenAI, `POST /v1/responses`) and their events.
//!
//! An item of the output is one tool call; its events share an `output_index`, and it is complete with
//! `response.output_item.done`. The last event repeats the whole output: what stands there must be what was
//! judged, and what was never streamed is judged there.

mod item;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use sideguard_types::refusal::Refusal;

use super::calls::{CallIndex, Calls};
use super::rebuild::quoted;
use super::{Dialect, Held, Read, Seen, ToolKind, Unjudgeable, Way, ending, kind_of, member, text_of};
use crate::edit::{self, Edit};
use crate::json::{self, Value};
use crate::sse::Event;
use crate::usage;

use item::{ToolItem, refused_events, refused_item};

/// A response.
#[derive(Default)]
pub(super) struct Responses {
    /// The tool calls among the items that are streamed, by `output_index`.
    items: BTreeMap<u64, Streamed>,
    /// `id` and `created_at` as they stand in the first event.
    id: Option<String>,
    created_at: Option<String>,
    /// Events that were added, less those that were left out: what sequence numbers are moved by.
    shift: i64,
    /// Sequence number of the next event that is given out.
    next: u64,
}

struct Streamed {
    call: CallIndex,
    /// Arguments that an event gave whole, ahead of the item's end.
    stated: Option<String>,
}

impl Responses {
    fn added(&mut self, index: u64, item: Option<Value<'_>>, seen: &mut Seen) -> Result<(), Unjudgeable> {
        if self
            .items
            .remove(&index)
            .is_some_and(|item| seen.calls.get(item.call).is_some_and(|call| call.is_open()))
        {
            return Err(Unjudgeable::because(
                "an item of the output begins before the one in its place ended",
            ));
        }
        let Some(item) = item.and_then(ToolItem::read) else { return Ok(()) };
        let call = seen.calls.open(item.kind)?;
        seen.calls.identify(call, &item.call_id, &item.name)?;
        seen.tally.wrote_text(&item.name);
        // What a provider's own tool is to do is not said before the item's end.
        let stated =
            (item.kind != ToolKind::BuiltIn && !item.args.is_empty()).then(|| item.args.into_owned());
        self.items.insert(index, Streamed { call, stated });
        Ok(())
    }

    fn done_item(&mut self, index: u64, item: Option<Value<'_>>, seen: &mut Seen) -> Result<(), Unjudgeable> {
        let Some(item) = item.and_then(ToolItem::read) else {
            return match self.items.get(&index) {
                Some(_) => Err(Unjudgeable::because("a tool call ends as another item")),
                None => Ok(()),
            };
        };
        let streamed = self.streamed(index, item.kind, seen)?;
        settle(streamed.call, streamed.stated.as_deref(), &item, seen)
    }

    /// The call at this place of the output, begun here if no event has.
    fn streamed(
        &mut self,
        index: u64,
        kind: ToolKind,
        seen: &mut Seen,
    ) -> Result<&mut Streamed, Unjudgeable> {
        Ok(match self.items.entry(index) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Streamed { call: seen.calls.open(kind)?, stated: None }),
        })
    }

    /// Reads an event that brings a piece of a call's arguments, or all of them.
    fn arguments(
        &mut self,
        of: Arguments,
        index: u64,
        root: Value<'_>,
        seen: &mut Seen,
    ) -> Result<(), Unjudgeable> {
        let streamed = self.streamed(index, of.kind, seen)?;
        let call = seen.calls.get(streamed.call);
        if call.is_some_and(|call| call.kind != of.kind) {
            return Err(Unjudgeable::because("a tool call changes its type"));
        }
        if call.is_some_and(|call| !call.is_open()) {
            return Err(Unjudgeable::because("a tool call gets arguments after its end"));
        }
        if !of.whole {
            let piece = text_of(root, "delta");
            seen.tally.wrote_text(&piece);
            return seen.calls.extend(streamed.call, &piece);
        }
        let stated = text_of(root, if of.kind == ToolKind::Custom { "input" } else { "arguments" });
        if streamed.stated.as_ref().is_some_and(|before| *before != stated) {
            return Err(Unjudgeable::because("a tool call states its arguments in two ways"));
        }
        streamed.stated = Some(stated.into_owned());
        Ok(())
    }

    /// Reads a response, as events and answers that are not streamed have it. Gives the calls in its output.
    fn response(&mut self, response: Value<'_>, seen: &mut Seen) -> Result<Vec<CallIndex>, Unjudgeable> {
        let raw = |key| member(response, key).map(|value| value.raw().to_owned());
        self.id = self.id.take().or_else(|| raw("id"));
        self.created_at = self.created_at.take().or_else(|| raw("created_at"));
        seen.tally.model_is(response.get("model"));
        if let Some(usage) = member(response, "usage") {
            seen.tally.usage = usage::responses(usage);
        }
        let output = response.get("output");
        let items = output.iter().flat_map(Value::elements).filter_map(ToolItem::read);
        items.map(|item| self.listed(&item, seen)).collect()
    }

    /// A call in a response's output: one that was streamed, or a new one.
    fn listed(&mut self, item: &ToolItem<'_>, seen: &mut Seen) -> Result<CallIndex, Unjudgeable> {
        let id = item.id();
        let known = seen.calls.find(|call| !call.id.is_empty() && call.id == id);
        let Some(known) = known else {
            let call = seen.calls.open(item.kind)?;
            settle(call, None, item, seen)?;
            return Ok(call);
        };
        let Some(call) = seen.calls.get(known) else { return Ok(known) };
        if call.is_open() {
            let stated =
                self.items.values().find(|item| item.call == known).and_then(|item| item.stated.as_deref());
            settle(known, stated, item, seen)?;
        } else if call.name != item.name || call.args != item.args || call.kind != item.kind {
            return Err(Unjudgeable(format!("the call to `{}` is not the one that was streamed", call.name)));
        }
        Ok(known)
    }

    /// Ends the calls whose items were never ended, where all their arguments are known.
    fn end_items(&mut self, seen: &mut Seen) -> Result<(), Unjudgeable> {
        for Streamed { call, stated } in self.items.values() {
            if let Some(stated) =
                stated.as_ref().filter(|_| seen.calls.get(*call).is_some_and(|call| call.is_open()))
            {
                seen.calls.settle_args(*call, stated)?;
                seen.calls.complete(*call);
            }
        }
        Ok(())
    }

    /// Writes the events of an item that was refused: a refusal in its place.
    fn replace(&mut self, event: &Event, read: &Read, calls: &mut Calls, out: &mut Vec<Bytes>) {
        let Some(call) = read.pieces.first() else { return };
        let mut added = 0;
        if let (Some(text), Ok(document)) = (calls.tell_refusal(*call), json::read(&event.data)) {
            let first = read.sequence.map(|sequence| sequence.saturating_add_signed(self.shift));
            let events = refused_events(document.root, first, &text);
            added = events.len() as u64;
            self.next = first.unwrap_or(self.next).saturating_add(added);
            out.extend(events);
        }
        if read.sequence.is_some() {
            self.shift = self.shift.saturating_sub(1).saturating_add_unsigned(added);
        }
    }

    fn edits(&self, root: Value<'_>, read: &Read, calls: &Calls) -> Vec<Edit> {
        let mut edits = Vec::new();
        let moved = read.sequence.filter(|_| self.shift != 0).zip(root.get("sequence_number"));
        if let Some((sequence, place)) = moved {
            let sequence = sequence.saturating_add_signed(self.shift);
            edits.push(Edit::replace(place.span(), sequence.to_string()));
        }
        if let Some(response) = root.get("response") {
            edits.extend(edits_of_output(response, &read.pieces, calls));
        }
        edits
    }
}

impl Dialect for Responses {
    fn read(&mut self, name: Option<&str>, root: Value<'_>, seen: &mut Seen) -> Result<Read, Unjudgeable> {
        let kind = kind_of(name, root)?;
        let mut read = Read::new(Way::InTurn);
        let [sequence, response, index, item] =
            root.named(["sequence_number", "response", "output_index", "item"]);
        read.sequence = sequence.and_then(|number| number.as_count());
        if let Some(response) = response {
            read.pieces = self.response(response, seen)?;
            if let "response.completed" | "response.incomplete" | "response.failed" = &*kind {
                self.end_items(seen)?;
                seen.tally.complete = kind != "response.failed";
                read.way = Way::Last;
            }
            return Ok(read);
        }
        let index = index.and_then(|index| index.as_count());
        let placed = || index.ok_or_else(|| Unjudgeable(format!("`{kind}` has no `output_index`")));
        match &*kind {
            "response.output_item.added" => self.added(placed()?, item, seen)?,
            "response.output_item.done" => self.done_item(placed()?, item, seen)?,
            "error" => read.way = Way::Last,
            other => {
                if let Some(of) = Arguments::read(other) {
                    self.arguments(of, placed()?, root, seen)?;
                } else if other.ends_with("_text.delta") || other.ends_with("refusal.delta") {
                    seen.tally.wrote(root.get("delta"));
                }
            }
        }
        read.pieces.extend(index.and_then(|index| self.items.get(&index)).map(|item| item.call));
        Ok(read)
    }

    fn done(&mut self, _seen: &mut Seen) -> Read {
        Read::new(Way::InTurn)
    }

    fn write(&mut self, held: Held, calls: &mut Calls, out: &mut Vec<Bytes>) {
        let Held { event, read } = held;
        let document = calls.any_refused().then(|| json::read(&event.data).ok()).flatten();
        let root = document.map(|document| document.root);
        let is_piece = root.is_some_and(|root| root.get("response").is_none());
        if is_piece && read.pieces.iter().any(|&call| calls.refusal(call).is_some()) {
            return self.replace(&event, &read, calls, out);
        }
        let edits = root.map(|root| self.edits(root, &read, calls)).unwrap_or_default();
        if let Some(sequence) = read.sequence {
            self.next = sequence.saturating_add_signed(self.shift).saturating_add(1);
        }
        out.push(if edits.is_empty() {
            event.raw
        } else {
            event.with_data(&edit::apply(&event.data, edits))
        });
    }

    fn cut(&self, refusal: &Refusal, seen: &Seen, out: &mut Vec<Bytes>) {
        let begun = ending::Begun {
            id: self.id.as_deref().unwrap_or(r#""""#),
            created_at: self.created_at.as_deref().unwrap_or("0"),
            model: &quoted(seen.tally.model.as_deref().unwrap_or_default()),
            sequence: self.next,
        };
        out.push(ending::responses(refusal, &begun));
    }

    fn read_whole(&mut self, root: Value<'_>, seen: &mut Seen) -> Result<Vec<CallIndex>, Unjudgeable> {
        let texts = root.get("output").into_iter().flat_map(|output| output.elements());
        for part in texts.filter_map(|item| item.get("content")).flat_map(|content| content.elements()) {
            seen.tally.wrote(part.get("text"));
            seen.tally.wrote(part.get("refusal"));
        }
        self.response(root, seen)
    }

    fn edit_whole(&mut self, root: Value<'_>, pieces: &[CallIndex], calls: &mut Calls) -> Vec<Edit> {
        edits_of_output(root, pieces, calls)
    }
}

/// Takes in a call's end: its id, name and arguments, which must be those of its pieces.
fn settle(
    call: CallIndex,
    stated: Option<&str>,
    item: &ToolItem<'_>,
    seen: &mut Seen,
) -> Result<(), Unjudgeable> {
    if seen.calls.get(call).is_some_and(|call| call.kind != item.kind) {
        return Err(Unjudgeable::because("a tool call changes its type"));
    }
    seen.calls.identify(call, item.id(), &item.name)?;
    if let Some(stated) = stated {
        seen.calls.settle_args(call, stated)?;
    }
    if seen.calls.get(call).is_some_and(|call| call.args.is_empty()) {
        seen.tally.wrote_text(&item.args);
    }
    seen.calls.settle_args(call, &item.args)?;
    seen.calls.complete(call);
    Ok(())
}

/// Puts a refusal in the place of each refused call in a response's `output`.
fn edits_of_output(response: Value<'_>, pieces: &[CallIndex], calls: &Calls) -> Vec<Edit> {
    let output = response.get("output");
    let items = output.iter().flat_map(Value::elements).zip(0_u64..);
    let tools = items.filter(|&(item, _)| ToolItem::read(item).is_some());
    let refused =
        tools.zip(pieces).filter_map(|((item, index), &call)| Some((item, index, calls.refusal(call)?)));
    refused.map(|(item, index, text)| Edit::replace(item.span(), refused_item(item, index, text))).collect()
}

/// An event about a call's arguments.
#[derive(Clone, Copy)]
struct Arguments {
    kind: ToolKind,
    /// Whether it gives all of them, and not a piece.
    whole: bool,
}

impl Arguments {
    /// What an event of this type is, where it is about arguments.
    fn read(name: &str) -> Option<Self> {
        let (stem, whole) = match name.strip_suffix(".delta") {
            Some(stem) => (stem, false),
            None => (name.strip_suffix(".done")?, true),
        };
        let kind = match stem.strip_prefix("response.")? {
            "function_call_arguments" => ToolKind::Function,
            "custom_tool_call_input" => ToolKind::Custom,
            "mcp_call_arguments" => ToolKind::Mcp,
            _ => return None,
        };
        Some(Self { kind, whole })
    }
}
