//! What the dialects have in common: how their events are read and written.

use std::borrow::Cow;

use bytes::Bytes;
use sideguard_types::refusal::{Code, Refusal};

use super::calls::{CallIndex, Calls};
use super::tally::Tally;
use super::{Answer, Options, Report, chat, messages, responses};
use crate::edit::Edit;
use crate::json::Value;
use crate::sse::Event;

/// What was learnt from an answer so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) calls: Calls,
    pub(super) tally: Tally,
}

impl Seen {
    pub(super) fn report(&self) -> Report {
        Report {
            usage: self.tally.usage,
            complete: self.tally.complete,
            emitted_text_bytes: self.tally.bytes(),
            tool_calls: self.calls.report(),
            model: self.tally.model.clone(),
        }
    }
}

/// An event on its way, and what reading it told.
pub(super) struct Held {
    pub(super) event: Event,
    pub(super) read: Read,
}

/// What reading an event told.
pub(super) struct Read {
    pub(super) way: Way,
    /// The calls that its pieces belong to, in the order in which they stand in it.
    pub(super) pieces: Vec<CallIndex>,
    /// Its sequence number, where the dialect has them.
    pub(super) sequence: Option<u64>,
}

impl Read {
    pub(super) fn new(way: Way) -> Self {
        Self { way, pieces: Vec::new(), sequence: None }
    }
}

/// When an event is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// After all that came before it.
    InTurn,
    /// The same, and it is the one that ends the answer.
    Last,
    /// At once: a keep-alive.
    Overtake,
    /// Never.
    Hide,
}

/// The events of one dialect: how they are read, and how they are written when a call was refused.
pub(super) trait Dialect {
    /// Reads the JSON of an event, which has the given name.
    fn read(&mut self, name: Option<&str>, root: Value<'_>, seen: &mut Seen) -> Result<Read, Unjudgeable>;

    /// Reads `[DONE]`.
    fn done(&mut self, seen: &mut Seen) -> Read;

    /// Writes an event all of whose calls have been judged: as it came, unless one of them was refused.
    fn write(&mut self, held: Held, calls: &mut Calls, out: &mut Vec<Bytes>);

    /// Writes the error that makes the dialect's SDKs raise.
    fn cut(&self, refusal: &Refusal, seen: &Seen, out: &mut Vec<Bytes>);

    /// Reads an answer that is not streamed, up to where its calls are complete. Gives the calls in the order
    /// in which they stand in it.
    fn read_whole(&mut self, root: Value<'_>, seen: &mut Seen) -> Result<Vec<CallIndex>, Unjudgeable>;

    /// What has to change in an answer that is not streamed, once its calls have been judged.
    fn edit_whole(&mut self, root: Value<'_>, pieces: &[CallIndex], calls: &mut Calls) -> Vec<Edit>;
}

/// The dialect of an answer, streamed or not.
pub(super) fn dialect(options: &Options, streamed: bool) -> Box<dyn Dialect + Send> {
    match options.answer {
        Answer::Chat => Box::new(chat::Chat::new(streamed, options.hide_usage_chunk)),
        Answer::Responses => Box::new(responses::Responses::default()),
        Answer::Messages => Box::new(messages::Messages::default()),
    }
}

/// What an event says it is; `type` in its data and its name must not contradict each other, for libraries
/// look at either.
pub(super) fn kind_of<'e>(name: Option<&'e str>, root: Value<'e>) -> Result<Cow<'e, str>, Unjudgeable> {
    let kind = member(root, "type").and_then(|kind| kind.as_str());
    match (kind, name) {
        (Some(kind), Some(name)) if kind != name => {
            Err(Unjudgeable(format!("an event of the stream is both `{kind}` and `{name}`")))
        }
        (Some(kind), _) => Ok(kind),
        (None, name) => Ok(name.unwrap_or_default().into()),
    }
}

/// A member that is there and not `null`.
pub(super) fn member<'v>(object: Value<'v>, key: &str) -> Option<Value<'v>> {
    object.get(key).filter(|value| !value.is_null())
}

/// The text of a member; empty when it has none.
pub(super) fn text_of<'v>(object: Value<'v>, key: &str) -> Cow<'v, str> {
    object.get(key).and_then(|value| value.as_str()).unwrap_or_default()
}

/// What came cannot be judged, and why.
#[derive(Debug)]
pub(super) struct Unjudgeable(pub(super) String);

impl Unjudgeable {
    pub(super) fn because(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

impl From<Unjudgeable> for Refusal {
    fn from(Unjudgeable(reason): Unjudgeable) -> Self {
        Self::new(Code::Unjudgeable, "dialect", reason)
    }
}
