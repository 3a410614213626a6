//! What has happened outside is taken in.

use serde_json::Value;
use sideguard_policy::workflow::Workflow;
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Run, StepState, Work};

use super::{LARGEST_RESULT, LONGEST_ERROR, MOST_BYTES, Site, plan, size, tell_of, work, work_mut};

/// Something that has happened outside, to one attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// Its job is taken.
    Submitted { site: Site, attempt: u32, job: String },
    /// Its question is put to people.
    Asked { site: Site, attempt: u32, approval: String },
    /// It has ended.
    Ended { site: Site, attempt: u32, outcome: Result<Value, Failed> },
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// In words.
    pub(crate) why: String,
    /// Whether another attempt may help.
    pub(crate) again: bool,
}

impl Failed {
    /// A failure that another attempt does not help.
    pub(crate) fn for_good(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: false }
    }
}

/// Takes in what has happened. Whether anything has changed: what is about an attempt that is over changes nothing.
pub(crate) fn fold(workflow: &Workflow, run: &mut Run, event: &Event, now: Timestamp) -> bool {
    let (Event::Submitted { site, attempt, .. }
    | Event::Asked { site, attempt, .. }
    | Event::Ended { site, attempt, .. }) = event;
    // A pause after an attempt that failed is not that attempt any more.
    let pauses = |work: &Work| work.state == StepState::Waiting && work.error.is_some();
    let current = |work: &&mut Work| work.attempt == *attempt && work.state.is_open() && !pauses(work);
    let Some(work) = work_mut(run, *site).filter(current) else { return false };
    match event {
        Event::Submitted { job, .. } => {
            let new = work.job.is_none();
            work.job.get_or_insert_with(|| job.clone());
            if new {
                tell_of(run, now, *site, "submitted", job);
            }
            new
        }
        Event::Asked { approval, .. } => {
            let new = work.approval.is_none();
            work.approval.get_or_insert_with(|| approval.clone());
            if new {
                tell_of(run, now, *site, "asked", approval);
            }
            new
        }
        Event::Ended { outcome: Ok(value), .. } => succeeded(run, *site, value, now),
        Event::Ended { outcome: Err(failed), .. } => {
            attempt_failed(workflow, run, *site, failed, now);
            true
        }
    }
}

fn succeeded(run: &mut Run, site: Site, value: &Value, now: Timestamp) -> bool {
    let bytes = size(value);
    let room = MOST_BYTES.saturating_sub(run.bytes);
    run.succeeded += 1;
    let done = Some(run.succeeded);
    let Some(work) = work_mut(run, site) else { return false };
    (work.due, work.recall) = (None, false);
    // What is done is done, and can be undone, even when nobody can be told what came of it.
    work.done = done;
    if bytes > LARGEST_RESULT as u64 || bytes > room {
        let why = format!(
            "the result has {bytes} bytes: a run keeps {LARGEST_RESULT} of each and {MOST_BYTES} of all"
        );
        (work.state, work.error) = (StepState::Failed, Some(why.clone()));
        tell_of(run, now, site, "failed", &why);
        return true;
    }
    (work.state, work.error) = (StepState::Succeeded, None);
    // What undoes something comes to nothing that is looked at.
    if matches!(site, Site::Work(..)) {
        work.result = value.clone();
        run.bytes = run.bytes.saturating_add(bytes);
    }
    let what = if matches!(site, Site::Undo(_)) { "undone" } else { "done" };
    tell_of(run, now, site, what, "");
    true
}

fn attempt_failed(workflow: &Workflow, run: &mut Run, site: Site, failed: &Failed, now: Timestamp) {
    let Some(plan) = plan(workflow, run, site) else { return };
    let stops = run.stop.is_some() && matches!(site, Site::Work(..));
    let Some(before) = work(run, site) else { return };
    let (attempt, recalled) = (before.attempt, before.recall);
    let again = failed.again && attempt < plan.retry.attempts && !stops && !recalled;
    let Some(work) = work_mut(run, site) else { return };
    work.error = Some(failed.why.chars().take(LONGEST_ERROR).collect());
    if again {
        let pause = plan.retry.pause(attempt);
        (work.state, work.due) = (StepState::Waiting, Some(now.plus(pause)));
        tell_of(run, now, site, "retrying", &failed.why);
        return;
    }
    work.due = None;
    work.state = if recalled { StepState::Cancelled } else { StepState::Failed };
    let what = if recalled { "taken back" } else { "failed" };
    tell_of(run, now, site, what, &failed.why);
}
