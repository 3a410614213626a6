//! What becomes of a run of a workflow: pure functions over a run, a compiled workflow and a moment. No clock, no store, no
//! task.
//!
//! A run moves in three ways, and whoever drives it keeps the run after each of them:
//! [`advance`] does what follows by itself (steps start, pauses end, the run ends); [`wanted`] tells what is to be done
//! outside (jobs, questions, messages), again and again until it has an outcome; [`fold`] takes that in. What is under way is
//! written down before it is asked for, and what is asked for has a name that depends on the run alone ([`key`]), so that it
//! can be asked for twice. What is taken in twice changes nothing the second time.

mod advance;
mod ending;
mod fold;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
mod wanted;

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sideguard_policy::workflow::{Action, Facts, Outcome, Retry, Workflow};
use sideguard_types::resource::WorkflowSpec;
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Moment, Run, RunState, Step, StepState, Stop, Work};

use crate::signer::hex;

pub(crate) use advance::advance;
pub(crate) use fold::{Event, Failed, fold};
pub(crate) use wanted::{Deed, Question, Submission, wanted};

/// Most bytes of the results and items that a run keeps.
pub(crate) const MOST_BYTES: u64 = 1_536 << 10;
/// Most works of the steps of a run: it is kept as one document.
const MOST_WORKS: usize = 2_000;
/// Most bytes of one result.
pub(crate) const LARGEST_RESULT: usize = 64 << 10;
/// Longest error that is kept, in characters.
const LONGEST_ERROR: usize = 300;
/// Moments at either end of a timeline that are kept.
const MOMENTS: usize = 500;

/// Where something is done in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Site {
    /// A step's work: the step by number, and of a `forEach` the item.
    Work(usize, usize),
    /// The undoing of something, by its number in [`Run::undo`].
    Undo(usize),
}

/// A run that has not begun.
pub(crate) fn new(spec: WorkflowSpec, input: Value) -> Run {
    let steps = spec.steps.iter().map(|step| Step { id: step.id.clone(), ..Step::default() }).collect();
    Run { digest: digest(&spec), steps, spec, input, ..Run::default() }
}

/// SHA-256 of a spec, in hex.
fn digest(spec: &WorkflowSpec) -> String {
    hex(&Sha256::digest(serde_json::to_vec(spec).unwrap_or_default()))
}

/// Has a run stop before all of it is done.
///
/// # Errors
/// When there is nothing to stop any more.
pub(crate) fn cancel(run: &mut Run, now: Timestamp, by: &str, compensate: bool) -> Result<(), &'static str> {
    if run.state.is_over() {
        return Err("is over already");
    }
    if run.state == RunState::Compensating {
        return Err("is being undone already");
    }
    let compensate = compensate || run.stop.as_ref().is_some_and(|stop| stop.compensate);
    let stop = Stop { cancelled: true, compensate, reason: format!("taken back by `{by}`") };
    tell(run, now, None, "cancelling", &stop.reason);
    run.stop = Some(stop);
    recall(run);
    Ok(())
}

/// Has everything taken back that is under way.
fn recall(run: &mut Run) {
    for work in run.steps.iter_mut().flat_map(|step| &mut step.works).filter(|work| work.state.is_open()) {
        work.recall = true;
    }
}

/// A run that keeps what another one has done well, and does the rest: from a step on, with all that needs it, or only what
/// has not succeeded. Whoever was asked before something that is done again is asked again.
///
/// # Errors
/// When the other one is not over, or has no such step.
pub(crate) fn rerun(workflow: &Workflow, old: &Run, from: Option<&str>) -> Result<Run, String> {
    if !old.state.is_over() {
        return Err(format!("run `{}` is not over: cancel it first", old.id));
    }
    let start = match from {
        None => None,
        Some(id) => {
            let at = old.steps.iter().position(|step| step.id == id);
            Some(at.ok_or_else(|| format!("run `{}` has no step `{id}`", old.id))?)
        }
    };
    let mut run = new(old.spec.clone(), old.input.clone());
    let mut again = vec![false; old.steps.len()];
    // Each round finds the steps one further away: no way is longer than there are steps.
    for _ in 0..old.steps.len() {
        for (at, step) in workflow.steps.iter().enumerate() {
            again[at] = again[at]
                || start == Some(at)
                || !stands(old, at)
                || step.needs.iter().any(|need| again[*need]);
        }
    }
    let asked = asked_again(workflow, &again);
    for (at, step) in old.steps.iter().enumerate().filter(|(at, _)| !again[*at] && !asked[*at]) {
        run.steps[at] = step.clone();
    }
    run.succeeded = old.succeeded;
    run.bytes = run.steps.iter().map(bytes_of).sum();
    Ok(run)
}

/// The steps that ask people before something is done again: a yes was said to what was done then.
fn asked_again(workflow: &Workflow, again: &[bool]) -> Vec<bool> {
    let mut above = again.to_vec();
    for _ in 0..workflow.steps.len() {
        for (at, step) in workflow.steps.iter().enumerate().filter(|(_, step)| !step.needs.is_empty()) {
            if above[at] {
                step.needs.iter().for_each(|need| above[*need] = true);
            }
        }
    }
    let asks = |action: &Action| match action {
        Action::ForEach(each) => matches!(each.action, Action::Approval(_)),
        action => matches!(action, Action::Approval(_)),
    };
    workflow.steps.iter().zip(above).map(|(step, above)| above && asks(&step.action)).collect()
}

/// Whether what a step did stands: it was done or skipped, and not undone.
fn stands(run: &Run, at: usize) -> bool {
    let step = &run.steps[at];
    let undone = run.undo.iter().any(|undo| undo.step == step.id);
    !undone && matches!(step.state, StepState::Succeeded | StepState::Skipped)
}

/// Bytes of what a step keeps.
fn bytes_of(step: &Step) -> u64 {
    let works = step.works.iter().map(|work| &work.result);
    works.chain(&step.items).chain([&step.result]).map(size).sum()
}

/// About how many bytes a value has.
fn size(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        value => serde_json::to_vec(value).map_or(u64::MAX, |bytes| bytes.len() as u64),
    }
}

/// When a run has to be looked at again though nothing has happened.
pub(crate) fn wake(workflow: &Workflow, run: &Run) -> Option<Timestamp> {
    if run.state.is_over() {
        return None;
    }
    let whole = workflow.timeout.filter(|_| run.stop.is_none()).map(|most| run.created.plus(most));
    let steps = run.steps.iter().filter(|step| !step.state.is_over()).filter_map(|step| step.due);
    let works = run.steps.iter().flat_map(|step| &step.works).chain(run.undo.iter().map(|undo| &undo.work));
    let works = works.filter(|work| work.state.is_open()).filter_map(|work| work.due);
    whole.into_iter().chain(steps).chain(works).min()
}

/// The name of one attempt at something, which is the same whoever works it out.
pub(crate) fn key(run: &Run, site: Site) -> String {
    let attempt = work(run, site).map_or(0, |work| work.attempt);
    match site {
        Site::Work(step, item) => format!("{}/{}/{item}/{attempt}", run.id, run.steps[step].id),
        Site::Undo(at) => {
            let undo = &run.undo[at];
            format!("{}/undo/{}/{}/{attempt}", run.id, undo.step, undo.item.unwrap_or(0))
        }
    }
}

/// The id of an approval, by the name of the attempt that asks, and by when it began: ids sort by time.
fn approval_id(key: &str, since: Timestamp) -> String {
    let millis = u64::try_from(since.0.div_euclid(1_000)).unwrap_or(0) & 0xffff_ffff_ffff;
    let rest: String = hex(&Sha256::digest(key.as_bytes())).chars().take(12).collect();
    format!("{millis:012x}{rest}")
}

fn work(run: &Run, site: Site) -> Option<&Work> {
    match site {
        Site::Work(step, item) => run.steps.get(step)?.works.get(item),
        Site::Undo(at) => run.undo.get(at).map(|undo| &undo.work),
    }
}

fn work_mut(run: &mut Run, site: Site) -> Option<&mut Work> {
    match site {
        Site::Work(step, item) => run.steps.get_mut(step)?.works.get_mut(item),
        Site::Undo(at) => run.undo.get_mut(at).map(|undo| &mut undo.work),
    }
}

/// What a work does, how often it is tried, and how long an attempt may take.
struct Plan<'w> {
    action: PlanAction<'w>,
    retry: Retry,
    timeout: Option<Duration>,
}

enum PlanAction<'w> {
    Step(&'w Action),
    Undo(&'w sideguard_policy::workflow::Undo),
}

/// The plan of a work.
fn plan<'w>(workflow: &'w Workflow, run: &Run, site: Site) -> Option<Plan<'w>> {
    let undo = |undo: &'w sideguard_policy::workflow::Undo| Plan {
        action: PlanAction::Undo(undo),
        retry: undo.retry,
        timeout: undo.timeout,
    };
    match site {
        Site::Work(step, _) => {
            let step = workflow.steps.get(step)?;
            Some(match &step.action {
                Action::ForEach(each) => {
                    Plan { action: PlanAction::Step(&each.action), retry: each.retry, timeout: each.timeout }
                }
                action => Plan { action: PlanAction::Step(action), retry: step.retry, timeout: step.timeout },
            })
        }
        Site::Undo(at) => {
            let undone = run.undo.get(at)?;
            let step = workflow.steps.iter().find(|step| step.id == undone.step)?;
            match &step.action {
                Action::ForEach(each) => each.compensate.as_ref().map(undo),
                _ => step.compensate.as_ref().map(undo),
            }
        }
    }
}

/// What expressions may name: the steps that have ended.
fn facts(run: &Run) -> Facts<'_> {
    let about = json!({ "id": run.id, "workflow": run.workflow, "tenant": run.tenant });
    let ended = run.steps.iter().filter(|step| step.state.is_over());
    Facts::new(&run.input, about, ended.map(outcome).collect())
}

/// How a step ended, as expressions see it.
fn outcome(step: &Step) -> Outcome<'_> {
    let Step { id, state, result, error, .. } = step;
    Outcome { id, state: state.as_str(), result, error: error.as_deref() }
}

/// Begins an attempt.
fn attempt(run: &mut Run, site: Site, now: Timestamp, waits: Option<Duration>) {
    let Some(work) = work_mut(run, site) else { return };
    work.attempt += 1;
    work.state = if waits.is_some() { StepState::Waiting } else { StepState::Running };
    work.since = Some(now);
    work.due = waits.map(|most| now.plus(most));
    (work.job, work.approval, work.error) = (None, None, None);
}

/// Puts what happened into the timeline.
fn tell(run: &mut Run, now: Timestamp, at: Option<(&str, Option<usize>)>, what: &str, detail: &str) {
    if run.timeline.len() >= 2 * MOMENTS {
        run.timeline.remove(MOMENTS);
        run.left_out += 1;
    }
    run.timeline.push(Moment {
        time: now,
        step: at.map(|(step, _)| step.to_owned()),
        item: at.and_then(|(_, item)| item),
        what: what.to_owned(),
        detail: detail.chars().take(LONGEST_ERROR).collect(),
    });
}

/// The same for a work.
fn tell_of(run: &mut Run, now: Timestamp, site: Site, what: &str, detail: &str) {
    let (step, item) = match site {
        Site::Work(step, item) => {
            let step = &run.steps[step];
            (step.id.clone(), (!step.items.is_empty()).then_some(item))
        }
        Site::Undo(at) => (run.undo[at].step.clone(), run.undo[at].item),
    };
    tell(run, now, Some((&step, item)), what, detail);
}
