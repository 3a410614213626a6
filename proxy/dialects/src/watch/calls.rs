//! The tool calls of one answer, from their first piece to their judgement.

use sideguard_types::refusal::Refusal;
use sideguard_types::resource::ToolCallRefusal;

use super::{Judge, ProposedCall, ToolCall, ToolKind, Unjudgeable};

/// Most calls that one answer may hold; the largest real ones hold a few dozen.
const MOST: usize = 1024;

/// A call's place among those of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallIndex(usize);

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) args: String,
    pub(super) kind: ToolKind,
    state: State,
    /// Whether the agent has been told of the refusal.
    told: bool,
}

#[derive(Debug)]
enum State {
    /// More of it may come.
    Open,
    /// All of it is there.
    Complete,
    /// It passes.
    Allowed,
    /// It was not judged, for it does not concern the agent.
    Noted,
    /// It does not, for this reason.
    Refused(String),
}

/// All calls of an answer, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Calls {
    all: Vec<Call>,
    open: usize,
    bytes: usize,
}

impl Calls {
    /// Begins a call that is judged once it is complete.
    pub(super) fn open(&mut self, kind: ToolKind) -> Result<CallIndex, Unjudgeable> {
        self.open += 1;
        self.add(kind, State::Open)
    }

    /// Takes note of a call that the provider runs by itself.
    pub(super) fn note(&mut self, name: &str) -> Result<CallIndex, Unjudgeable> {
        let index = self.add(ToolKind::BuiltIn, State::Noted)?;
        if let Some(call) = self.all.get_mut(index.0) {
            call.name.push_str(name);
        }
        Ok(index)
    }

    fn add(&mut self, kind: ToolKind, state: State) -> Result<CallIndex, Unjudgeable> {
        if self.all.len() == MOST {
            return Err(Unjudgeable(format!("the answer holds more than {MOST} tool calls")));
        }
        let (id, name, args) = Default::default();
        self.all.push(Call { id, name, args, kind, state, told: false });
        Ok(CallIndex(self.all.len() - 1))
    }

    pub(super) fn get(&self, index: CallIndex) -> Option<&Call> {
        self.all.get(index.0)
    }

    /// The first call that `fits`.
    pub(super) fn find(&self, fits: impl Fn(&Call) -> bool) -> Option<CallIndex> {
        self.all.iter().position(fits).map(CallIndex)
    }

    /// Gives a call its id and name, of which a second one must equal the first: libraries disagree about
    /// whether to replace or to append. Empty ones say nothing.
    pub(super) fn identify(&mut self, index: CallIndex, id: &str, name: &str) -> Result<(), Unjudgeable> {
        let Some(call) = self.all.get_mut(index.0) else { return Ok(()) };
        let open = call.is_open();
        for (known, new) in [(&mut call.id, id), (&mut call.name, name)] {
            if new.is_empty() || known == new {
                continue;
            }
            if !known.is_empty() || !open {
                return Err(Unjudgeable(format!("a tool call is called both `{known}` and `{new}`")));
            }
            known.push_str(new);
        }
        Ok(())
    }

    /// Appends to a call's arguments.
    pub(super) fn extend(&mut self, index: CallIndex, args: &str) -> Result<(), Unjudgeable> {
        let noted = self.get(index).is_some_and(|call| matches!(call.state, State::Noted));
        if !args.is_empty() && !noted {
            self.still_open(index)?.args.push_str(args);
            self.bytes += args.len();
        }
        Ok(())
    }

    /// Takes in all of a call's arguments at once, which must be what its pieces made.
    pub(super) fn settle_args(&mut self, index: CallIndex, args: &str) -> Result<(), Unjudgeable> {
        let call = self.still_open(index)?;
        if call.args.is_empty() {
            return self.extend(index, args);
        }
        if !args.is_empty() && call.args != args {
            return Err(Unjudgeable(format!("the call to `{}` states its arguments in two ways", call.name)));
        }
        Ok(())
    }

    /// Says that all of a call is there.
    pub(super) fn complete(&mut self, index: CallIndex) {
        if let Some(call) = self.all.get_mut(index.0).filter(|call| matches!(call.state, State::Open)) {
            call.state = State::Complete;
        }
    }

    /// Judges what is complete. Under [`ToolCallRefusal::Error`] a refusal is the error.
    pub(super) fn judge_complete(
        &mut self,
        judge: &mut dyn Judge,
        refuse: ToolCallRefusal,
    ) -> Result<(), Refusal> {
        if self.open == 0 {
            return Ok(());
        }
        for call in self.all.iter_mut().filter(|call| matches!(call.state, State::Complete)) {
            if call.name.is_empty() {
                return Err(Unjudgeable::because("a tool call has no name").into());
            }
            self.open = self.open.saturating_sub(1);
            call.state = match (judge.judge(&call.proposed()), refuse) {
                (Ok(()), _) => State::Allowed,
                (Err(refusal), ToolCallRefusal::Replace) => State::Refused(refusal.message()),
                (Err(refusal), ToolCallRefusal::Error) => {
                    call.state = State::Refused(String::new());
                    return Err(refusal);
                }
            };
        }
        Ok(())
    }

    /// Whether a call waits for more of it, or for its judgement.
    pub(super) fn any_open(&self) -> bool {
        self.open > 0
    }

    pub(super) fn any_refused(&self) -> bool {
        self.all.iter().any(|call| call.refusal().is_some())
    }

    pub(super) fn any_allowed(&self, kind: ToolKind) -> bool {
        self.all.iter().any(|call| call.kind == kind && call.is_allowed())
    }

    /// Why a call was refused; none when it was not.
    pub(super) fn refusal(&self, index: CallIndex) -> Option<&str> {
        self.get(index)?.refusal()
    }

    /// Why a call was refused, the first time that it is asked for.
    pub(super) fn tell_refusal(&mut self, index: CallIndex) -> Option<String> {
        let call = self.all.get_mut(index.0).filter(|call| !call.told)?;
        let text = call.refusal()?.to_owned();
        call.told = true;
        Some(text)
    }

    /// Bytes of arguments that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn report(&self) -> Vec<ToolCall> {
        let report = |call: &Call| ToolCall { name: call.name.clone(), refused: call.refusal().is_some() };
        self.all.iter().map(report).collect()
    }

    fn still_open(&mut self, index: CallIndex) -> Result<&mut Call, Unjudgeable> {
        let call = self.all.get_mut(index.0).filter(|call| matches!(call.state, State::Open));
        call.ok_or_else(|| Unjudgeable::because("more of a tool call came after its end"))
    }
}

impl Call {
    /// Whether the agent will run it.
    fn is_allowed(&self) -> bool {
        matches!(self.state, State::Allowed)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    fn refusal(&self) -> Option<&str> {
        match &self.state {
            State::Refused(text) => Some(text),
            State::Open | State::Complete | State::Allowed | State::Noted => None,
        }
    }

    fn proposed(&self) -> ProposedCall<'_> {
        let none = self.args.trim_ascii().is_empty() && self.kind != ToolKind::Custom;
        let args = if none { b"{}" } else { self.args.as_bytes() };
        ProposedCall { id: &self.id, name: &self.name, args, kind: self.kind }
    }
}
