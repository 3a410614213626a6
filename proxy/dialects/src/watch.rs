//! Watches a model's answer on its way to the agent: text flows on as it comes, byte for byte; a tool call is
//! held until all of its arguments are there, judged, and then released as it came or replaced by a refusal.
//!
//! Everything waits behind a held event, so that what passes passes in order; only keep-alives overtake. What
//! cannot be read could hide a tool call, and ends the stream. Start at [`Watch::feed`]; for an answer that
//! comes in one piece see [`whole`].

mod calls;
mod chat;
mod dialect;
mod ending;
mod messages;
mod rebuild;
mod responses;
mod tally;
#[cfg(test)]
mod tests;
mod whole;

use std::collections::VecDeque;

use bytes::Bytes;
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::ToolCallRefusal;
use sideguard_types::units::Tokens;
use sideguard_types::usage::Usage;

use crate::json;
use crate::sse::{Event, Splitter};

use dialect::{Dialect, Held, Read, Seen, Unjudgeable, Way, dialect, kind_of, member, text_of};

pub use whole::{WholeError, whole};

/// Dialect of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// OpenAI's chat completions, and compatible servers.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
}

/// How an answer is watched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its dialect.
    pub answer: Answer,
    /// Whether the agent did not ask for the chunk that holds only usage, so that it must not see it.
    pub hide_usage_chunk: bool,
    /// What becomes of a refused tool call.
    pub refuse: ToolCallRefusal,
    /// Most bytes that are held in one stream, arguments of its tool calls included, and the largest event.
    /// Beyond it the stream is cut.
    pub max_held: usize,
    /// Output that was reserved, over all choices. The stream is cut once it has surely exceeded it.
    pub output_limit: Option<Tokens>,
    /// Id of the call, which errors in the stream carry.
    pub call: String,
}

/// A tool call that the model proposes, or that its provider has already run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProposedCall<'a> {
    /// Id that the result will refer to; empty where there is none.
    pub id: &'a str,
    /// Name of the tool.
    pub name: &'a str,
    /// The arguments as the model wrote them: JSON text, though it may be invalid; of a [`ToolKind::Custom`]
    /// tool any text. `{}` where the model wrote none.
    pub args: &'a [u8],
    /// What sort of tool it is.
    pub kind: ToolKind,
}

/// What sort of tool a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolKind {
    /// A function that the agent defined.
    Function,
    /// A tool that the agent defined, with free text as input.
    Custom,
    /// A tool that the provider defined and the agent runs: `shell`, `computer`, `apply_patch`.
    BuiltIn,
    /// A tool of an MCP server that the provider calls by itself. It has run already; a refusal hides it.
    Mcp,
}

/// Says whether a tool call may reach the agent.
pub trait Judge {
    /// Judges one call. Each call of an answer is judged once, in the order in which they are complete.
    ///
    /// # Errors
    /// The refusal, when it may not.
    fn judge(&mut self, call: &ProposedCall<'_>) -> Result<(), Refusal>;
}

/// Whether the stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// It goes on.
    Go,
    /// It is over: the dialect's error has been given out and nothing may follow. The upstream is to be dropped.
    End,
}

/// How the upstream's stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// As HTTP says that it should.
    Clean,
    /// It broke off.
    Cut,
}

/// What is known of an answer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// What the provider says was used; unknown where it has not said.
    pub usage: Usage,
    /// Whether the answer came to its own end.
    pub complete: bool,
    /// Bytes of all that the model wrote: text, reasoning and arguments, passed on or not.
    pub emitted_text_bytes: u64,
    /// The tool calls, in order; hosted ones included.
    pub tool_calls: Vec<ToolCall>,
    /// The model, as the provider names it.
    pub model: Option<String>,
}

/// One tool call of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Name of the tool.
    pub name: String,
    /// Whether it was kept from the agent.
    pub refused: bool,
}

/// The watch over one streamed answer.
///
/// ```
/// use sideguard_dialects::watch::{Answer, Flow, Judge, Options, ProposedCall, StreamEnd, Watch};
/// use sideguard_types::refusal::{Code, Refusal};
///
/// struct NoShell;
/// impl Judge for NoShell {
///     fn judge(&mut self, call: &ProposedCall<'_>) -> Result<(), Refusal> {
///         match call.name {
///             "shell" => Err(Refusal::new(Code::PolicyDenied, "tools/no-shell", "shells are not allowed")),
///             _ => Ok(()),
///         }
///     }
/// }
///
/// let options = Options {
///     answer: Answer::Chat,
///     hide_usage_chunk: false,
///     refuse: Default::default(),
///     max_held: 1 << 20,
///     output_limit: None,
///     call: String::new(),
/// };
/// let mut watch = Watch::new(options);
/// let mut out = Vec::new();
/// let chunk = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\n";
/// assert_eq!(watch.feed(chunk.into(), &mut NoShell, &mut out), Flow::Go);
/// assert_eq!(watch.finish(StreamEnd::Clean, &mut NoShell, &mut out), Flow::Go);
/// assert_eq!((out.concat(), watch.report().complete), (chunk.as_bytes().to_vec(), true));
/// ```
pub struct Watch {
    options: Options,
    splitter: Splitter,
    dialect: Box<dyn Dialect + Send>,
    seen: Seen,
    /// Events that wait for a call to be judged, in order.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Whether the answer's own last event has been given out.
    finished: bool,
    /// Whether nothing may be given out any more.
    ended: bool,
}

impl Watch {
    /// A watch over a stream that is about to begin.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            splitter: Splitter::new(options.max_held),
            dialect: dialect(&options, true),
            options,
            seen: Seen::default(),
            held: VecDeque::new(),
            held_bytes: 0,
            finished: false,
            ended: false,
        }
    }

    /// Takes the next bytes of the stream and appends what may go to the agent to `out`. How the stream is cut
    /// into chunks makes no difference to what is given out and judged, only to when.
    pub fn feed(&mut self, chunk: Bytes, judge: &mut dyn Judge, out: &mut Vec<Bytes>) -> Flow {
        if self.ended {
            return Flow::End;
        }
        self.splitter.push(chunk);
        loop {
            let passed = match self.splitter.next() {
                Ok(Some(event)) => self.pass(event, judge, out),
                Ok(None) => return Flow::Go,
                Err(too_large) => Err(Unjudgeable(too_large.to_string()).into()),
            };
            if let Err(refusal) = passed {
                self.cut(&refusal, out);
                return Flow::End;
            }
        }
    }

    /// Takes the end of the upstream's stream. One that has said that the answer is over passes as it came. One that has
    /// not, however it ended, is given the dialect's error, since a bare end looks like success to SDKs.
    pub fn finish(&mut self, end: StreamEnd, judge: &mut dyn Judge, out: &mut Vec<Bytes>) -> Flow {
        if self.ended {
            return Flow::End;
        }
        let finished = match end {
            StreamEnd::Clean => self.finish_cleanly(judge, out),
            StreamEnd::Cut if self.finished => Ok(()),
            StreamEnd::Cut => Err(Refusal::new(
                Code::UpstreamUnreachable,
                "upstream",
                "the upstream broke off before the end of its answer",
            )),
        };
        if let Err(refusal) = finished {
            self.cut(&refusal, out);
            return Flow::End;
        }
        Flow::Go
    }

    /// Ends the stream with the dialect's error; what is held is dropped. Nothing follows, and nothing is given
    /// out where the answer has already come to its own end.
    pub fn cut(&mut self, refusal: &Refusal, out: &mut Vec<Bytes>) {
        self.held.clear();
        if !self.ended && !self.finished {
            let mut refusal = refusal.clone();
            refusal.call.clone_from(&self.options.call);
            self.dialect.cut(&refusal, &self.seen, out);
        }
        self.ended = true;
    }

    /// What is known of the answer so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.seen.report()
    }

    /// The first MiB of what the model wrote: text, reasoning and arguments, passed on or not. What is billed
    /// when a stream is cut before it says its usage is estimated from it.
    #[must_use]
    pub fn emitted_text(&self) -> &str {
        self.seen.tally.text()
    }

    fn finish_cleanly(&mut self, judge: &mut dyn Judge, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if let Some(event) = self.splitter.rest() {
            self.pass(event, judge, out)?;
        }
        if self.seen.calls.any_open() {
            return Err(Unjudgeable::because("the stream ended within a tool call").into());
        }
        if !self.finished && !self.seen.report().complete {
            let reason = "the upstream's answer ended without saying that it is over";
            return Err(Refusal::new(Code::UpstreamUnreachable, "upstream", reason));
        }
        Ok(())
    }

    /// Reads an event, judges the calls that it completes, and gives out whatever need not wait.
    fn pass(&mut self, event: Event, judge: &mut dyn Judge, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if event.odd {
            return Err(Unjudgeable::because("the stream has a line that is no field of an event").into());
        }
        if event.data.is_empty() {
            out.push(event.raw);
            return Ok(());
        }
        let read = self.read(&event)?;
        if self.options.output_limit.is_some_and(|limit| self.seen.tally.least_tokens() > limit) {
            let reason = "the answer is longer than the output that was reserved for it";
            return Err(Refusal::new(Code::BudgetExhausted, "output-limit", reason));
        }
        match read.way {
            Way::Overtake => out.push(event.raw),
            Way::Hide => {}
            Way::InTurn | Way::Last => self.hold(Held { event, read })?,
        }
        self.seen.calls.judge_complete(judge, self.options.refuse)?;
        if !self.seen.calls.any_open() {
            self.release(out);
        }
        Ok(())
    }

    fn read(&mut self, event: &Event) -> Result<Read, Unjudgeable> {
        if event.data.trim_ascii() == b"[DONE]" {
            return Ok(self.dialect.done(&mut self.seen));
        }
        let document = json::read(&event.data)
            .map_err(|error| Unjudgeable(format!("an event of the stream cannot be read: {error}")))?;
        if document.root.kind() != json::Kind::Object {
            return Err(Unjudgeable::because("an event of the stream is not a JSON object"));
        }
        let name = event.name.as_deref().map(String::from_utf8_lossy);
        self.dialect.read(name.as_deref(), document.root, &mut self.seen)
    }

    fn hold(&mut self, held: Held) -> Result<(), Unjudgeable> {
        self.held_bytes += held.event.raw.len();
        self.held.push_back(held);
        if self.held_bytes + self.seen.calls.bytes() > self.options.max_held && self.seen.calls.any_open() {
            return Err(Unjudgeable(format!(
                "a tool call takes more than the {} bytes that are held",
                self.options.max_held
            )));
        }
        Ok(())
    }

    fn release(&mut self, out: &mut Vec<Bytes>) {
        self.held_bytes = 0;
        while let Some(held) = self.held.pop_front() {
            self.finished |= held.read.way == Way::Last;
            self.dialect.write(held, &mut self.seen.calls, out);
        }
    }
}
