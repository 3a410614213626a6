//! What holds of every run, whatever its steps are, whatever fails, and wherever whoever drives it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use sideguard_policy::workflow::{Action, Workflow};
use sideguard_types::resource::{
    ApprovalStep, Backoff, CompensateSpec, ConditionStep, DelayStep, ForEachStep, ItemStep, JobStep,
    OnFailure, RetrySpec, StepSpec, WorkflowSpec,
};
use sideguard_types::time::{Span, Timestamp};
use sideguard_types::workflow::{Run, RunState, StepState};

use super::{Deed, Event, Failed, Site, advance, cancel, fold, new, wanted};

/// One turn of the driver is so long.
const TURN: Duration = Duration::from_secs(1);

/// What is outside: jobs and questions by name, each with when it ends.
#[derive(Debug, Default, Clone, PartialEq)]
struct World {
    chance: u64,
    jobs: BTreeMap<String, u64>,
    asked: BTreeMap<String, u64>,
    recalled: BTreeSet<String>,
    /// Names of undoing jobs in the order in which they came.
    undone: Vec<String>,
}

/// A number that depends on a text and a seed alone.
fn dice(seed: u64, text: &str) -> u64 {
    text.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }) >> 16
}

impl World {
    fn outcome(&self, key: &str, now: u64, ends: u64) -> Option<Result<Value, Failed>> {
        if self.recalled.contains(key) {
            return Some(Err(Failed::for_good("taken back")));
        }
        (now >= ends).then(|| match dice(self.chance, key) % 4 {
            0 => Err(Failed { why: "no luck".to_owned(), again: !dice(self.chance, key).is_multiple_of(3) }),
            _ => Ok(json!({ "by": key })),
        })
    }

    /// Does something, and tells what came of it.
    fn perform(&mut self, deed: &Deed, now: u64, run: &Run, workflow: &Workflow) -> Vec<Event> {
        match deed {
            Deed::Submit(submission) => {
                let (site, attempt, key) = (submission.site, submission.attempt, submission.key.clone());
                if !self.jobs.contains_key(&key) {
                    self.check(site, run, workflow);
                    self.jobs.insert(key.clone(), now + dice(self.chance, &format!("{key}!")) % 4);
                    if matches!(site, Site::Undo(_)) && attempt == 1 {
                        self.undone.push(key.clone());
                    }
                }
                vec![Event::Submitted { site, attempt, job: key }]
            }
            Deed::Look { site, attempt, job, recall } => {
                let ends = self.jobs[job];
                if *recall && now < ends {
                    self.recalled.insert(job.clone());
                }
                let outcome = self.outcome(job, now, ends);
                outcome
                    .map(|outcome| Event::Ended { site: *site, attempt: *attempt, outcome })
                    .into_iter()
                    .collect()
            }
            Deed::Find { site, attempt, key } => match self.jobs.contains_key(key) {
                true => vec![Event::Submitted { site: *site, attempt: *attempt, job: key.clone() }],
                false => {
                    let outcome = Err(Failed::for_good("never submitted"));
                    vec![Event::Ended { site: *site, attempt: *attempt, outcome }]
                }
            },
            Deed::Ask(question) => {
                let (site, attempt) = (question.site, question.attempt);
                let ends = *self.asked.entry(question.id.clone()).or_insert(now + 2);
                if question.recall {
                    self.recalled.insert(question.id.clone());
                }
                let mut events = vec![Event::Asked { site, attempt, approval: question.id.clone() }];
                let outcome = self.outcome(&question.id, now, ends);
                events.extend(outcome.map(|outcome| Event::Ended { site, attempt, outcome }));
                events
            }
            Deed::Notify { site, attempt, .. } => {
                vec![Event::Ended { site: *site, attempt: *attempt, outcome: Ok(Value::Null) }]
            }
            Deed::Tell(event) => vec![event.clone()],
        }
    }

    /// What must hold when a job begins.
    fn check(&self, site: Site, run: &Run, workflow: &Workflow) {
        match site {
            Site::Work(at, _) => {
                let needs = &workflow.steps[at].needs;
                assert!(
                    needs.iter().all(|need| run.steps[*need].state.is_over()),
                    "no step before its needs"
                );
                assert!(run.undo.is_empty(), "no step once what was done is being undone");
                if let Action::ForEach(each) = &workflow.steps[at].action {
                    let busy = run.steps[at].works.iter().filter(|work| work.state.is_open()).count();
                    assert!(busy <= each.max_parallel, "{busy} at once");
                }
            }
            Site::Undo(at) => {
                assert!(run.steps.iter().all(|step| step.state.is_over()), "nothing is at work");
                assert!(run.undo[..at].iter().all(|undo| undo.work.state.is_over()), "one after the other");
            }
        }
    }
}

/// Drives a run to its end; `crashes` says at which of the driver's boundaries it is killed.
fn drive(
    workflow: &Workflow,
    spec: &WorkflowSpec,
    seed: u64,
    crashes: &[bool],
    stop_at: Option<u64>,
) -> (Run, World) {
    let mut world = World { chance: seed, ..World::default() };
    let mut kept = Run { id: "r".to_owned(), ..new(spec.clone(), json!({})) };
    let mut boundary = 0;
    let mut killed = || {
        boundary += 1;
        crashes.get(boundary - 1).copied().unwrap_or(false)
    };
    for turn in 0..2_000_u64 {
        let now = Timestamp(0).plus(TURN * u32::try_from(turn).expect("few turns"));
        if stop_at == Some(turn) && !kept.state.is_over() {
            let _ = cancel(&mut kept, now, "x", seed.is_multiple_of(2));
        }
        let mut run = kept.clone();
        let changed = advance(workflow, &mut run, now);
        assert!(!advance(workflow, &mut run.clone(), now), "what follows by itself follows at once");
        if changed {
            if killed() {
                continue;
            }
            kept = run.clone();
            if killed() {
                continue;
            }
        }
        if kept.state.is_over() {
            return (kept, world);
        }
        let mut events = Vec::new();
        for deed in wanted(workflow, &run) {
            events.extend(world.perform(&deed, turn, &run, workflow));
        }
        if killed() {
            continue;
        }
        events.sort_by_key(|event| dice(seed.wrapping_add(turn), &format!("{event:?}")));
        for event in &events {
            fold(workflow, &mut run, event, now);
            let once = run.clone();
            assert!(!fold(workflow, &mut run, event, now), "told twice, it changes nothing");
            assert_eq!(run, once);
        }
        if killed() {
            continue;
        }
        kept = run;
    }
    panic!("it does not end: {kept:#?}");
}

fn job(topic: &str) -> JobStep {
    JobStep { topic: topic.to_owned(), ..JobStep::default() }
}

fn undoing(wanted: bool) -> Option<CompensateSpec> {
    wanted.then(|| CompensateSpec { job: job("job.x.undo"), ..CompensateSpec::default() })
}

fn retried(attempts: u32) -> Option<RetrySpec> {
    let backoff = Backoff { base: Span(TURN), max: Span(TURN * 3) };
    (attempts > 1).then_some(RetrySpec { attempts, backoff })
}

fn step(number: usize) -> impl Strategy<Value = StepSpec> {
    let failure = prop_oneof![Just(OnFailure::Fail), Just(OnFailure::Continue), Just(OnFailure::Compensate)];
    let needs = prop::collection::vec(prop::bool::weighted(0.4), number);
    let parts =
        (0..7_u8, needs, failure, any::<bool>(), 1..4_u32, 0..6_usize, 1..4_u32, prop::bool::weighted(0.2));
    parts.prop_map(move |(kind, needs, failure, undo, attempts, items, parallel, odd)| {
        let needs =
            needs.iter().enumerate().filter(|(_, need)| **need).map(|(at, _)| format!("s{at}")).collect();
        let base =
            StepSpec { id: format!("s{number}"), needs, on_failure: Some(failure), ..StepSpec::default() };
        match kind {
            0 => StepSpec { approval: Some(ask()), compensate: undoing(undo), ..base },
            1 => StepSpec { condition: Some(ConditionStep { expr: (!odd).to_string() }), ..base },
            2 => StepSpec { delay: Some(DelayStep { span: Some(Span(TURN * 2)), until: None }), ..base },
            3 | 4 => {
                let step = ItemStep {
                    job: Some(job("job.x.item")),
                    retry: retried(attempts),
                    tolerate: odd,
                    compensate: undoing(undo),
                    ..ItemStep::default()
                };
                let items = format!("{:?}", (0..items).collect::<Vec<_>>());
                let timeout = odd.then_some(Span(TURN * 3));
                let each = ForEachStep { items, max_parallel: parallel, step };
                StepSpec { for_each: Some(each), timeout, ..base }
            }
            _ => {
                let when = odd.then(|| "1 > 2".to_owned());
                StepSpec {
                    job: Some(job("job.x.a")),
                    when,
                    retry: retried(attempts),
                    compensate: undoing(undo),
                    ..base
                }
            }
        }
    })
}

fn ask() -> ApprovalStep {
    ApprovalStep { text: "may it?".to_owned(), quorum: 1, ..ApprovalStep::default() }
}

fn steps() -> impl Strategy<Value = Vec<StepSpec>> {
    (1..8_usize).prop_flat_map(|count| (0..count).map(step).collect::<Vec<_>>())
}

/// Names of what must have been undone, in order.
fn to_undo(workflow: &Workflow, run: &Run) -> Vec<String> {
    let mut done = Vec::new();
    for (step, plan) in run.steps.iter().zip(&workflow.steps) {
        let undoes = match &plan.action {
            Action::ForEach(each) => each.compensate.is_some(),
            _ => plan.compensate.is_some(),
        };
        for (item, work) in step.works.iter().enumerate().filter(|_| undoes) {
            done.extend(work.done.map(|done| (done, format!("r/undo/{}/{item}/1", step.id))));
        }
    }
    done.sort_unstable();
    done.into_iter().rev().map(|(_, name)| name).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_run_ends_once_and_undoes_exactly_what_it_did(
        steps in steps(),
        seed in any::<u64>(),
        crashes in prop::collection::vec(prop::bool::weighted(0.3), 0..120),
        stop_at in prop::option::weighted(0.3, 0..12_u64),
        timeout in prop::option::weighted(0.2, 1..10_u32),
    ) {
        let timeout = timeout.map(|turns| Span(TURN * turns));
        let spec = WorkflowSpec { steps, timeout, ..WorkflowSpec::default() };
        let workflow = Workflow::compile(&spec).expect("a valid workflow");
        let (run, world) = drive(&workflow, &spec, seed, &crashes, stop_at);
        prop_assert_eq!(&(run.clone(), world.clone()), &drive(&workflow, &spec, seed, &crashes, stop_at), "the same again");

        prop_assert!(run.ended.is_some());
        let ends = run.timeline.iter().filter(|moment| moment.step.is_none() && moment.what == run.state.as_str());
        prop_assert_eq!(ends.count(), 1, "it ends once");
        prop_assert!(run.steps.iter().all(|step| step.state.is_over()));
        let failed = |at: &usize| {
            run.steps[*at].state == StepState::Failed && workflow.steps[*at].on_failure != OnFailure::Continue
        };
        let bad = (0..run.steps.len()).any(|at| failed(&at));
        prop_assert_eq!(run.stop.is_none(), run.state == RunState::Succeeded);
        prop_assert!(!(bad && run.state == RunState::Succeeded));
        let undoes = run.stop.as_ref().is_some_and(|stop| stop.compensate);
        let expected = if undoes { to_undo(&workflow, &run) } else { Vec::new() };
        prop_assert_eq!(&world.undone, &expected, "undone: exactly what was done, the last first");
        let all = run.undo.iter().all(|undo| undo.work.state == StepState::Succeeded);
        prop_assert_eq!(run.state == RunState::Compensated, undoes && !expected.is_empty() && all);
        for (at, step) in run.steps.iter().enumerate() {
            let closed = workflow.steps[at].needs.iter().any(|need| run.steps[*need].closed);
            prop_assert!(!closed || matches!(step.state, StepState::Skipped | StepState::Cancelled));
        }
    }
}
