//! What follows by itself.

use serde_json::Value;
use sideguard_policy::workflow::{Action, Delay, Facts, Local, MOST_ITEMS, Workflow};
use sideguard_types::resource::OnFailure;
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Run, RunState, Step, StepState, Stop, Work};

use super::{
    LONGEST_ERROR, MOST_BYTES, MOST_WORKS, Site, attempt, ending, facts, recall, size, tell, tell_of,
};

/// Does everything that follows by itself at this moment. Whether anything has changed.
pub(crate) fn advance(workflow: &Workflow, run: &mut Run, now: Timestamp) -> bool {
    let before = (run.state, run.stop.is_some());
    let mut changed = false;
    if run.state == RunState::Pending {
        run.state = RunState::Running;
        tell(run, now, None, "started", "");
    }
    // Each turn ends something or begins it, and nothing begins that has ended.
    while !run.state.is_over() {
        let turned = late(workflow, run, now)
            || start(workflow, run, now)
            || go_on(workflow, run, now)
            || ending::settle(workflow, run, now);
        if !turned {
            break;
        }
        changed = true;
    }
    if !run.state.is_over() && run.state != RunState::Compensating {
        run.state = standing(run);
    }
    changed || before != (run.state, run.stop.is_some())
}

/// Where a run stands that is neither over nor being undone.
fn standing(run: &Run) -> RunState {
    if run.stop.is_some() {
        return RunState::Stopping;
    }
    let works = || run.steps.iter().flat_map(|step| &step.works);
    let waits = works().any(|work| work.state == StepState::Waiting);
    let runs = works().any(|work| work.state == StepState::Running);
    if waits && !runs { RunState::Waiting } else { RunState::Running }
}

/// Stops a run whose time is over.
fn late(workflow: &Workflow, run: &mut Run, now: Timestamp) -> bool {
    let late = workflow.timeout.is_some_and(|most| now >= run.created.plus(most));
    if !late || run.stop.is_some() {
        return false;
    }
    let reason = "it took longer than it may".to_owned();
    tell(run, now, None, "timed out", &reason);
    let compensate = workflow.on_failure == OnFailure::Compensate;
    run.stop = Some(Stop { cancelled: false, compensate, reason });
    recall(run);
    true
}

/// How a step begins.
enum Start {
    Skip {
        closed: bool,
        why: &'static str,
    },
    Fail(String),
    /// It is over at once.
    Gate(bool),
    /// One work, and until when it waits by itself.
    Work(Option<Timestamp>),
    Items(Vec<Value>),
}

/// Starts the steps whose needs have ended.
fn start(workflow: &Workflow, run: &mut Run, now: Timestamp) -> bool {
    if run.stop.is_some() {
        return false;
    }
    let ready = |at: &usize| run.steps[*at].state == StepState::Pending && all_over(workflow, run, *at);
    let ready: Vec<usize> = (0..workflow.steps.len()).filter(ready).collect();
    if ready.is_empty() {
        return false;
    }
    let starts: Vec<Start> = {
        let facts = facts(run);
        ready.iter().map(|at| begin(workflow, run, *at, &facts, now)).collect()
    };
    for (at, start) in ready.into_iter().zip(starts) {
        started(workflow, run, at, start, now);
    }
    true
}

/// Whether everything before a step is over: of a run that does a part of another one again, what is needed may be done while
/// what people are asked before it is not.
fn all_over(workflow: &Workflow, run: &Run, at: usize) -> bool {
    let mut before: Vec<usize> = workflow.steps[at].needs.clone();
    let mut seen = vec![false; workflow.steps.len()];
    while let Some(need) = before.pop() {
        if !run.steps[need].state.is_over() {
            return false;
        }
        if !std::mem::replace(&mut seen[need], true) {
            before.extend(&workflow.steps[need].needs);
        }
    }
    true
}

fn begin(workflow: &Workflow, run: &Run, at: usize, facts: &Facts<'_>, now: Timestamp) -> Start {
    let step = &workflow.steps[at];
    if step.needs.iter().any(|need| run.steps[*need].closed) {
        return Start::Skip { closed: true, why: "a condition before it is false" };
    }
    match step.when.as_ref().map(|when| when.holds(facts, Local::default())) {
        None | Some(Ok(true)) => {}
        Some(Ok(false)) => return Start::Skip { closed: false, why: "its `if` is false" },
        Some(Err(why)) => return Start::Fail(why),
    }
    match &step.action {
        Action::Job(_) | Action::Approval(_) | Action::Notify(_) => Start::Work(None),
        Action::Condition(expression) => {
            expression.holds(facts, Local::default()).map_or_else(Start::Fail, Start::Gate)
        }
        Action::Delay(Delay::For(span)) => Start::Work(Some(now.plus(*span))),
        Action::Delay(Delay::Until(expression)) => match expression.evaluate(facts, Local::default()) {
            Ok(Value::String(text)) => match Timestamp::parse(&text) {
                Ok(until) => Start::Work(Some(until)),
                Err(error) => Start::Fail(error.to_string()),
            },
            Ok(_) => Start::Fail("`until` does not come to a moment".to_owned()),
            Err(why) => Start::Fail(why),
        },
        Action::ForEach(each) => match each.items.evaluate(facts, Local::default()) {
            Ok(Value::Array(items)) if items.len() > MOST_ITEMS => {
                Start::Fail(format!("there are {} items, more than {MOST_ITEMS}", items.len()))
            }
            Ok(Value::Array(items)) => Start::Items(items),
            Ok(_) => Start::Fail("`items` does not come to a list".to_owned()),
            Err(why) => Start::Fail(why),
        },
    }
}

/// Why a run cannot take so many items more: it is kept as one document.
fn no_room(run: &Run, items: &[Value]) -> Option<String> {
    let works = run.steps.iter().map(|step| step.works.len()).fold(items.len(), usize::saturating_add);
    let bytes = items.iter().map(size).fold(run.bytes, u64::saturating_add);
    if works > MOST_WORKS {
        return Some(format!("too many items: a run does {MOST_WORKS} things at most"));
    }
    (bytes > MOST_BYTES).then(|| format!("the items are too large: a run keeps {MOST_BYTES} bytes"))
}

fn started(workflow: &Workflow, run: &mut Run, at: usize, start: Start, now: Timestamp) {
    // What begins in the same turn counts too.
    let start = match start {
        Start::Items(items) => match no_room(run, &items) {
            Some(why) => Start::Fail(why),
            None => Start::Items(items),
        },
        start => start,
    };
    let step = &mut run.steps[at];
    step.started = Some(now);
    let id = step.id.clone();
    match start {
        Start::Skip { closed, why } => {
            step.closed = closed;
            step.error = Some(why.to_owned());
            end(run, at, StepState::Skipped, now);
        }
        Start::Fail(why) => fail(workflow, run, at, &why, now),
        Start::Gate(open) => {
            (step.result, step.closed) = (Value::Bool(open), !open);
            end(run, at, StepState::Succeeded, now);
        }
        Start::Work(until) => {
            step.works = vec![Work::default()];
            step.state = StepState::Running;
            tell(run, now, Some((&id, None)), "started", "");
            let waits = until.map(|until| until.since(now)).or(asks(&workflow.steps[at].action));
            attempt(run, Site::Work(at, 0), now, waits);
            run.steps[at].state = run.steps[at].works[0].state;
        }
        Start::Items(items) => {
            step.state = StepState::Running;
            step.works = vec![Work::default(); items.len()];
            step.due = workflow.steps[at].timeout.map(|most| now.plus(most));
            run.bytes = items.iter().map(size).fold(run.bytes, u64::saturating_add);
            let count = format!("{} items", items.len());
            step.items = items;
            tell(run, now, Some((&id, None)), "started", &count);
        }
    }
}

/// How long an action that asks people waits for them.
pub(super) const fn asks(action: &Action) -> Option<std::time::Duration> {
    match action {
        Action::Approval(approval) => Some(approval.expires),
        _ => None,
    }
}

fn end(run: &mut Run, at: usize, state: StepState, now: Timestamp) {
    let step = &mut run.steps[at];
    (step.state, step.ended, step.due) = (state, Some(now), None);
    let (id, detail) = (step.id.clone(), step.error.clone().unwrap_or_default());
    tell(run, now, Some((&id, None)), state.as_str(), &detail);
}

/// Ends a step that has failed, and has the run stop unless that is not to matter.
fn fail(workflow: &Workflow, run: &mut Run, at: usize, why: &str, now: Timestamp) {
    run.steps[at].error = Some(why.chars().take(LONGEST_ERROR).collect());
    end(run, at, StepState::Failed, now);
    let on_failure = workflow.steps[at].on_failure;
    if on_failure == OnFailure::Continue {
        return;
    }
    let compensate = on_failure == OnFailure::Compensate;
    match &mut run.stop {
        Some(stop) => stop.compensate |= compensate && !stop.cancelled,
        None => {
            let reason = format!("step `{}` failed: {why}", run.steps[at].id);
            run.stop = Some(Stop { cancelled: false, compensate, reason });
        }
    }
}

/// Goes on with the steps that are under way.
fn go_on(workflow: &Workflow, run: &mut Run, now: Timestamp) -> bool {
    let mut changed = false;
    for at in 0..run.steps.len() {
        if run.steps[at].state.is_open() {
            changed |= match &workflow.steps[at].action {
                Action::ForEach(_) => items(workflow, run, at, now),
                _ => single(workflow, run, at, now),
            };
        }
    }
    changed
}

/// Ends what waits by itself, if it is time or the run stops; tries again what has paused.
fn waited(workflow: &Workflow, run: &mut Run, site: Site, now: Timestamp) -> bool {
    let Site::Work(at, item) = site else { return false };
    let (stops, step) = (run.stop.is_some(), &workflow.steps[at]);
    let action = match &step.action {
        Action::ForEach(each) => &each.action,
        action => action,
    };
    let work = &mut run.steps[at].works[item];
    if !work.state.is_open() {
        return false;
    }
    if matches!(action, Action::Approval(_)) {
        // Nobody is to be asked for a run that stops.
        let recalls = stops && !work.recall;
        work.recall |= recalls;
        return recalls;
    }
    if work.state != StepState::Waiting {
        // Nobody knows yet whether its job was submitted: it is to be found and taken back, not submitted now.
        let recalls = stops && !work.recall && work.job.is_none() && matches!(action, Action::Job(_));
        work.recall |= recalls;
        return recalls;
    }
    let due = work.due.is_some_and(|due| now >= due);
    match action {
        Action::Delay(_) if due => {
            (work.state, work.due) = (StepState::Succeeded, None);
            true
        }
        Action::Delay(_) if stops => {
            (work.state, work.due) = (StepState::Cancelled, None);
            true
        }
        // A pause after an attempt that failed: its error stands.
        _ if stops || work.recall => {
            (work.state, work.due) = (StepState::Failed, None);
            true
        }
        Action::Delay(_) => false,
        _ if due => {
            attempt(run, site, now, None);
            true
        }
        _ => false,
    }
}

/// Goes on with a step that does one thing.
fn single(workflow: &Workflow, run: &mut Run, at: usize, now: Timestamp) -> bool {
    let changed = waited(workflow, run, Site::Work(at, 0), now);
    let step = &mut run.steps[at];
    let Some(work) = step.works.first_mut() else { return false };
    match work.state {
        StepState::Succeeded => {
            step.result = std::mem::take(&mut work.result);
            end(run, at, StepState::Succeeded, now);
        }
        StepState::Failed => {
            let why = work.error.clone().unwrap_or_default();
            fail(workflow, run, at, &why, now);
        }
        StepState::Cancelled => end(run, at, StepState::Cancelled, now),
        state => {
            let moved = step.state != state;
            step.state = state;
            return changed || moved;
        }
    }
    true
}

/// Goes on with a `forEach`: starts items while there is room, ends it when all of them have ended.
fn items(workflow: &Workflow, run: &mut Run, at: usize, now: Timestamp) -> bool {
    let Action::ForEach(each) = &workflow.steps[at].action else { return false };
    let mut changed = false;
    for item in 0..run.steps[at].works.len() {
        changed |= waited(workflow, run, Site::Work(at, item), now);
    }
    let step = &mut run.steps[at];
    if step.due.is_some_and(|due| now >= due) {
        step.due = None;
        step.error = Some("it took longer than it may".to_owned());
        step.works.iter_mut().filter(|work| work.state.is_open()).for_each(|work| work.recall = true);
        changed = true;
    }
    let failed = step.works.iter().any(|work| work.state == StepState::Failed);
    if run.stop.is_some() || step.error.is_some() || (failed && !each.tolerate) {
        for work in step.works.iter_mut().filter(|work| work.state == StepState::Pending) {
            work.state = StepState::Cancelled;
            changed = true;
        }
    }
    let busy = step.works.iter().filter(|work| work.state.is_open()).count();
    let room = each.max_parallel.saturating_sub(busy);
    let next: Vec<usize> = (0..step.works.len())
        .filter(|item| step.works[*item].state == StepState::Pending)
        .take(room)
        .collect();
    for item in next {
        attempt(run, Site::Work(at, item), now, asks(&each.action));
        tell_of(run, now, Site::Work(at, item), "started", "");
        changed = true;
    }
    if run.steps[at].works.iter().all(|work| work.state.is_over()) {
        all_ended(workflow, run, at, each.tolerate, now);
        return true;
    }
    changed
}

/// Ends a `forEach` whose items have all ended.
fn all_ended(workflow: &Workflow, run: &mut Run, at: usize, tolerate: bool, now: Timestamp) {
    let step: &mut Step = &mut run.steps[at];
    let failed = step.works.iter().position(|work| work.state == StepState::Failed);
    let cancelled = step.works.iter().any(|work| work.state == StepState::Cancelled);
    if let Some(why) = step.error.clone() {
        return fail(workflow, run, at, &why, now);
    }
    if let Some(item) = failed.filter(|_| !tolerate) {
        let why = step.works[item].error.clone().unwrap_or_default();
        return fail(workflow, run, at, &format!("item {item}: {why}"), now);
    }
    if cancelled {
        return end(run, at, StepState::Cancelled, now);
    }
    step.result = step.works.iter_mut().map(|work| std::mem::take(&mut work.result)).collect();
    end(run, at, StepState::Succeeded, now);
}
