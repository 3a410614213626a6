//! Answers that come in one piece.

use bytes::Bytes;
use sideguard_types::refusal::Refusal;
use sideguard_types::resource::ToolCallRefusal;

use super::{Judge, Options, Report, Seen, Unjudgeable, dialect};
use crate::{edit, json};

/// Why an answer that is not streamed may not go to the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WholeError {
    /// A tool call in it was refused, and [`Options::refuse`] says that this refuses the answer.
    #[error("{}", .0.message())]
    Refused(Refusal),
    /// It cannot be read, so that it may hold tool calls that nobody judged.
    #[error("the answer cannot be judged: {0}")]
    Unjudgeable(String),
}

/// Judges every tool call of an answer that is not streamed. With none refused the body comes back as it is;
/// else the refused calls are replaced by the refusal's text and everything else is left byte for byte.
///
/// # Errors
/// When a call is refused and the options say that this refuses the answer, and when the body cannot be read.
pub fn whole(options: &Options, body: Bytes, judge: &mut dyn Judge) -> Result<(Bytes, Report), WholeError> {
    let document = json::read(&body).map_err(|error| WholeError::Unjudgeable(error.to_string()))?;
    if document.root.kind() != json::Kind::Object {
        return Err(WholeError::Unjudgeable("it is not a JSON object".to_owned()));
    }
    let mut dialect = dialect(options, false);
    let mut seen = Seen::default();
    let unjudgeable = |Unjudgeable(reason)| WholeError::Unjudgeable(reason);
    let pieces = dialect.read_whole(document.root, &mut seen).map_err(unjudgeable)?;
    seen.calls.judge_complete(judge, options.refuse).map_err(|refusal| match options.refuse {
        ToolCallRefusal::Error => WholeError::Refused(refusal),
        ToolCallRefusal::Replace => WholeError::Unjudgeable(refusal.reason),
    })?;
    if seen.calls.any_open() {
        return Err(WholeError::Unjudgeable("a tool call is not complete".to_owned()));
    }
    seen.tally.complete = true;
    if !seen.calls.any_refused() {
        return Ok((body, seen.report()));
    }
    let edits = dialect.edit_whole(document.root, &pieces, &mut seen.calls);
    Ok((edit::apply(&body, edits).into(), seen.report()))
}
