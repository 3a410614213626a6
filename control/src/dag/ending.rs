//! How a run ends: by itself, or after it was stopped, with what it has done undone if that is wanted.

use sideguard_policy::workflow::{Action, Local, Workflow};
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Run, RunState, StepState, Undo};

use super::{LONGEST_ERROR, MOST_BYTES, Site, attempt, facts, size, tell, tell_of};

/// Ends a run, or begins and goes on undoing it, if it is time. Whether anything has changed.
pub(super) fn settle(workflow: &Workflow, run: &mut Run, now: Timestamp) -> bool {
    if run.state == RunState::Compensating {
        return go_on(run, now);
    }
    if run.steps.iter().any(|step| step.state.is_open()) {
        return false;
    }
    let Some(stop) = run.stop.clone() else {
        if run.steps.iter().all(|step| step.state.is_over()) {
            succeed(workflow, run, now);
            return true;
        }
        return false;
    };
    for step in run.steps.iter_mut().filter(|step| step.state == StepState::Pending) {
        step.state = StepState::Cancelled;
    }
    if stop.compensate {
        run.undo = undone(workflow, run);
    }
    if run.undo.is_empty() {
        let state = if stop.cancelled { RunState::Cancelled } else { RunState::Failed };
        finish(run, state, Some(stop.reason), now);
    } else {
        run.state = RunState::Compensating;
        tell(run, now, None, "compensating", &stop.reason);
    }
    true
}

fn succeed(workflow: &Workflow, run: &mut Run, now: Timestamp) {
    let output = workflow.output.as_ref().map(|output| output.value(&facts(run), Local::default()));
    match output {
        Some(Err(why)) => finish(run, RunState::Failed, Some(format!("output: {why}")), now),
        Some(Ok(output)) if run.bytes.saturating_add(size(&output)) > MOST_BYTES => {
            let why = format!("output: it is too large: a run keeps {MOST_BYTES} bytes");
            finish(run, RunState::Failed, Some(why), now);
        }
        Some(Ok(output)) => {
            run.output = output;
            finish(run, RunState::Succeeded, None, now);
        }
        None => finish(run, RunState::Succeeded, None, now),
    }
}

fn finish(run: &mut Run, state: RunState, error: Option<String>, now: Timestamp) {
    let error = error.map(|error| error.chars().take(2 * LONGEST_ERROR).collect::<String>());
    tell(run, now, None, state.as_str(), error.as_deref().unwrap_or_default());
    (run.state, run.ended, run.error) = (state, Some(now), error);
}

/// What is to be undone, the last that succeeded first.
fn undone(workflow: &Workflow, run: &Run) -> Vec<Undo> {
    let mut found = Vec::new();
    for (step, plan) in run.steps.iter().zip(&workflow.steps) {
        let each = match &plan.action {
            Action::ForEach(each) => Some(each),
            _ => None,
        };
        let undoes = each.map_or(plan.compensate.is_some(), |each| each.compensate.is_some());
        for (item, work) in step.works.iter().enumerate().filter(|_| undoes) {
            if let Some(done) = work.done {
                let item = each.map(|_| item);
                found.push((done, Undo { step: step.id.clone(), item, ..Undo::default() }));
            }
        }
    }
    found.sort_by_key(|(done, _)| std::cmp::Reverse(*done));
    found.into_iter().map(|(_, undo)| undo).collect()
}

/// Undoes one after the other. What cannot be undone does not keep the rest from being undone.
fn go_on(run: &mut Run, now: Timestamp) -> bool {
    let Some(at) = run.undo.iter().position(|undo| !undo.work.state.is_over()) else {
        let stuck = run.undo.iter().find(|undo| undo.work.state != StepState::Succeeded);
        let why = stuck.map(|undo| {
            let why = undo.work.error.clone().unwrap_or_default();
            format!("step `{}` could not be undone: {why}", undo.step)
        });
        let state = if why.is_some() { RunState::Failed } else { RunState::Compensated };
        let reason = run.stop.as_ref().map(|stop| stop.reason.clone()).unwrap_or_default();
        let error = why.map_or_else(|| reason.clone(), |why| format!("{reason}; {why}"));
        finish(run, state, Some(error), now);
        return true;
    };
    let work = &run.undo[at].work;
    let due = work.due.is_some_and(|due| now >= due);
    match work.state {
        StepState::Pending => {
            attempt(run, Site::Undo(at), now, None);
            tell_of(run, now, Site::Undo(at), "undoing", "");
            true
        }
        StepState::Waiting if due => {
            attempt(run, Site::Undo(at), now, None);
            true
        }
        _ => false,
    }
}
