use serde_json::{Value, json};
use sideguard_policy::source::{Source, load};
use sideguard_policy::workflow::Workflow;
use sideguard_types::resource::{Spec, WorkflowSpec};
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Run, RunState, StepState};

use super::{Deed, Event, Failed, Site, advance, cancel, fold, new, rerun, wake, wanted};

fn spec(text: &str) -> WorkflowSpec {
    let text = format!("apiVersion: sideguard.dev/v1\nkind: Workflow\nmetadata: {{name: w}}\nspec:\n{text}");
    let loaded = load(&[Source::new("w.yaml", text)]);
    assert!(loaded.findings.is_empty(), "{}", loaded.findings[0]);
    match &loaded.documents[0].resource.spec {
        Spec::Workflow(spec) => spec.clone(),
        other => panic!("{}", other.kind()),
    }
}

/// A run that is driven by hand.
struct Driven {
    workflow: Workflow,
    run: Run,
    now: Timestamp,
}

impl Driven {
    fn new(text: &str, input: Value) -> Self {
        let spec = spec(text);
        let workflow = Workflow::compile(&spec).unwrap_or_else(|faults| panic!("{}", faults[0]));
        let run = Run { id: "r".to_owned(), ..new(spec, input) };
        let mut driven = Self { workflow, run, now: Timestamp(0) };
        driven.turn();
        driven
    }

    /// Submits what is to be submitted.
    fn turn(&mut self) {
        advance(&self.workflow, &mut self.run, self.now);
        for deed in wanted(&self.workflow, &self.run) {
            let event = match deed {
                Deed::Submit(job) => Event::Submitted { site: job.site, attempt: job.attempt, job: job.key },
                Deed::Tell(event) => event,
                _ => continue,
            };
            fold(&self.workflow, &mut self.run, &event, self.now);
        }
        advance(&self.workflow, &mut self.run, self.now);
    }

    /// Inputs of the jobs that would be submitted next, by name.
    fn inputs(&mut self) -> Vec<(String, Value)> {
        advance(&self.workflow, &mut self.run, self.now);
        let deeds = wanted(&self.workflow, &self.run).into_iter();
        deeds
            .filter_map(|deed| match deed {
                Deed::Submit(job) => Some((job.key, job.input)),
                _ => None,
            })
            .collect()
    }

    /// Ends a job by its name.
    fn ends(&mut self, name: &str, outcome: Result<Value, Failed>) {
        let found = wanted(&self.workflow, &self.run).into_iter().find_map(|deed| match deed {
            Deed::Look { site, attempt, job, .. } if job == name => Some((site, attempt)),
            _ => None,
        });
        let (site, attempt) = found.unwrap_or_else(|| panic!("no job `{name}` is under way"));
        fold(&self.workflow, &mut self.run, &Event::Ended { site, attempt, outcome }, self.now);
        self.turn();
    }

    fn state(&self, step: &str) -> StepState {
        self.run.steps.iter().find(|own| own.id == step).expect("a step").state
    }

    fn passes(&mut self, seconds: u64) {
        self.now = self.now.plus(std::time::Duration::from_secs(seconds));
        self.turn();
    }
}

fn again() -> Result<Value, Failed> {
    Err(Failed { why: "no luck".to_owned(), again: true })
}

#[test]
fn results_go_from_step_to_step() {
    let text = "  input: {n: {type: int, required: true}}\n  steps:\n    - {id: a, job: {topic: job.x.a, input: {n: '${{ input.n + 1 }}'}}}\n    - {id: each, needs: [a], forEach: {items: steps.a.result.list, maxParallel: 2, step: {job: {topic: job.x.b, input: '${{ item }} of ${{ index }}'}}}}\n    - {id: last, needs: [each], if: 'size(steps.each.result) == 3', job: {topic: job.x.c, input: '${{ steps.each.result }}'}}\n  output: {sum: '${{ steps.last.result }}'}\n";
    let mut driven = Driven::new(text, json!({"n": 1}));
    let job = driven.run.steps[0].works[0].job.clone();
    assert_eq!(job.as_deref(), Some("r/a/0/1"));
    driven.ends("r/a/0/1", Ok(json!({"list": ["x", "y", "z"]})));
    assert_eq!(driven.run.steps[1].works.iter().filter(|work| work.state.is_open()).count(), 2);
    driven.ends("r/each/1/1", Ok(json!(1)));
    driven.ends("r/each/2/1", Ok(json!(2)));
    driven.ends("r/each/0/1", Ok(json!(0)));
    driven.ends("r/last/0/1", Ok(json!(3)));
    assert_eq!(driven.run.steps[1].result, json!([0, 1, 2]));
    assert_eq!((driven.run.state, &driven.run.output), (RunState::Succeeded, &json!({"sum": 3})));
}

#[test]
fn an_attempt_that_fails_is_followed_by_another_after_a_pause() {
    let text =
        "  steps: [{id: a, job: {topic: job.x.a}, retry: {attempts: 3, backoff: {base: 10s, max: 15s}}}]\n";
    let mut driven = Driven::new(text, json!({}));
    driven.ends("r/a/0/1", again());
    assert_eq!((driven.state("a"), driven.run.state), (StepState::Waiting, RunState::Waiting));
    assert_eq!(wake(&driven.workflow, &driven.run), Some(Timestamp(10_000_000)));
    driven.passes(9);
    assert_eq!(driven.state("a"), StepState::Waiting);
    driven.passes(1);
    driven.ends("r/a/0/2", again());
    driven.passes(15);
    driven.ends("r/a/0/3", again());
    assert_eq!(driven.run.state, RunState::Failed);
    assert_eq!(driven.run.error.as_deref(), Some("step `a` failed: no luck"));
}

#[test]
fn what_was_done_is_undone_the_last_first_with_what_it_came_to() {
    let text = "  onFailure: compensate\n  steps:\n    - {id: a, job: {topic: job.x.a}, compensate: {job: {topic: job.x.undo, input: '${{ result.id }}'}}}\n    - {id: b, needs: [a], forEach: {items: '[7, 8]', step: {job: {topic: job.x.b}, compensate: {job: {topic: job.x.undo, input: '${{ item }}: ${{ result }}'}}}}}\n    - {id: c, needs: [b], job: {topic: job.x.c}}\n";
    let mut driven = Driven::new(text, json!({}));
    driven.ends("r/a/0/1", Ok(json!({"id": "A"})));
    driven.ends("r/b/1/1", Ok(json!("eight")));
    driven.ends("r/b/0/1", Ok(json!("seven")));
    let site = driven.run.steps[2].works[0].job.clone().expect("a job");
    let found = wanted(&driven.workflow, &driven.run);
    let Some(Deed::Look { site: at, attempt, .. }) = found.first() else { panic!("{found:?} {site}") };
    let failed = Event::Ended { site: *at, attempt: *attempt, outcome: Err(Failed::for_good("denied")) };
    fold(&driven.workflow, &mut driven.run, &failed, driven.now);
    assert_eq!(driven.inputs(), [("r/undo/b/0/1".to_owned(), json!("7: seven"))]);
    driven.turn();
    driven.ends("r/undo/b/0/1", Ok(Value::Null));
    driven.ends("r/undo/b/1/1", Ok(Value::Null));
    driven.ends("r/undo/a/0/1", Ok(Value::Null));
    assert_eq!(driven.run.state, RunState::Compensated);
    assert_eq!(driven.run.undo.len(), 3);
}

#[test]
fn a_condition_that_is_false_closes_the_way_and_an_if_does_not() {
    let text = "  steps:\n    - {id: gate, condition: {expr: '1 > 2'}}\n    - {id: behind, needs: [gate], job: {topic: job.x.a}}\n    - {id: further, needs: [behind], job: {topic: job.x.a}}\n    - {id: maybe, if: 'false', job: {topic: job.x.a}}\n    - {id: after, needs: [maybe], if: 'steps.maybe.state == \"skipped\"', condition: {expr: 'true'}}\n";
    let driven = Driven::new(text, json!({}));
    let states = ["gate", "behind", "further", "maybe", "after"].map(|step| driven.state(step));
    use StepState::{Skipped, Succeeded};
    assert_eq!(states, [Succeeded, Skipped, Skipped, Skipped, Succeeded]);
    assert_eq!(driven.run.state, RunState::Succeeded);
}

#[test]
fn an_expression_that_cannot_be_evaluated_fails_its_step() {
    for (step, why) in [
        ("if: 'input.m.x > 1', condition: {expr: 'true'}", "there is no `x`"),
        ("condition: {expr: '1 / input.zero == 1'}", "division by zero"),
        ("forEach: {items: 'input.m', step: {job: {topic: job.x.a}}}", "does not come to a list"),
        ("job: {topic: job.x.a, input: '${{ input.m.x }}'}", "there is no `x`"),
        ("delay: {until: '\"tomorrow\"'}", "is not an RFC 3339 date"),
    ] {
        let text =
            format!("  input: {{m: {{}}, zero: {{type: int, default: 0}}}}\n  steps: [{{id: a, {step}}}]\n");
        let mut driven = Driven::new(&text, json!({"m": {}, "zero": 0}));
        driven.turn();
        assert_eq!(driven.run.state, RunState::Failed, "{step}");
        let error = driven.run.error.clone().unwrap_or_default();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_result_that_is_too_large_fails_its_step_which_is_undone_all_the_same() {
    let text = "  onFailure: compensate\n  steps: [{id: a, job: {topic: job.x.a}, compensate: {job: {topic: job.x.undo}}}]\n";
    let mut driven = Driven::new(text, json!({}));
    driven.ends("r/a/0/1", Ok(json!("x".repeat(super::LARGEST_RESULT))));
    assert_eq!(driven.run.state, RunState::Compensating);
    driven.ends("r/undo/a/0/1", Ok(Value::Null));
    assert_eq!(driven.run.state, RunState::Compensated);
}

#[test]
fn a_run_that_is_taken_back_takes_its_jobs_back_and_waits_for_their_end() {
    let text =
        "  steps:\n    - {id: a, job: {topic: job.x.a}}\n    - {id: b, needs: [a], job: {topic: job.x.b}}\n";
    let mut driven = Driven::new(text, json!({}));
    cancel(&mut driven.run, driven.now, "ada", false).expect("it is under way");
    driven.turn();
    assert_eq!(driven.run.state, RunState::Stopping);
    assert!(matches!(wanted(&driven.workflow, &driven.run)[..], [Deed::Look { recall: true, .. }]));
    driven.ends("r/a/0/1", Ok(json!(1)));
    assert_eq!(
        (driven.run.state, driven.state("a"), driven.state("b")),
        (RunState::Cancelled, StepState::Succeeded, StepState::Cancelled)
    );
    assert_eq!(cancel(&mut driven.run, driven.now, "ada", false), Err("is over already"));
}

#[test]
fn a_rerun_keeps_what_stands_and_does_the_rest() {
    let text = "  steps:\n    - {id: a, job: {topic: job.x.a}}\n    - {id: b, needs: [a], job: {topic: job.x.b}}\n    - {id: c, job: {topic: job.x.c}}\n    - {id: d, needs: [b, c], job: {topic: job.x.d}}\n";
    let mut driven = Driven::new(text, json!({}));
    for (name, result) in [("r/a/0/1", 1), ("r/c/0/1", 3), ("r/b/0/1", 2)] {
        driven.ends(name, Ok(json!(result)));
    }
    assert!(rerun(&driven.workflow, &driven.run, None).is_err(), "it is not over");
    driven.ends("r/d/0/1", Err(Failed::for_good("no")));
    let kept = |from: Option<&str>| {
        let run = rerun(&driven.workflow, &driven.run, from).expect("a run");
        let kept = run.steps.iter().filter(|step| step.state == StepState::Succeeded);
        kept.map(|step| step.id.clone()).collect::<Vec<_>>().concat()
    };
    assert_eq!((kept(None).as_str(), kept(Some("b")).as_str(), kept(Some("a")).as_str()), ("abc", "ac", "c"));
    assert!(rerun(&driven.workflow, &driven.run, Some("x")).is_err());
}

#[test]
fn a_rerun_asks_again_before_what_it_does_again() {
    let text = "  steps:\n    - {id: ask, approval: {text: ok?}}\n    - {id: first, needs: [ask], job: {topic: job.x.a}}\n    - {id: second, needs: [first], job: {topic: job.x.b}}\n    - {id: other, approval: {text: and?}}\n";
    let mut driven = Driven::new(text, json!({}));
    for step in [0, 3] {
        let yes = Event::Ended { site: Site::Work(step, 0), attempt: 1, outcome: Ok(Value::Null) };
        fold(&driven.workflow, &mut driven.run, &yes, driven.now);
    }
    driven.turn();
    driven.ends("r/first/0/1", Ok(json!(1)));
    driven.ends("r/second/0/1", Err(Failed::for_good("no")));
    driven.run = Run { id: "s".to_owned(), ..rerun(&driven.workflow, &driven.run, None).expect("a run") };
    driven.turn();
    assert_eq!(
        ["ask", "first", "second", "other"].map(|step| driven.state(step)),
        [StepState::Waiting, StepState::Succeeded, StepState::Pending, StepState::Succeeded]
    );
    assert!(matches!(wanted(&driven.workflow, &driven.run)[..], [Deed::Ask(_)]));
    let yes = Event::Ended { site: Site::Work(0, 0), attempt: 1, outcome: Ok(Value::Null) };
    fold(&driven.workflow, &mut driven.run, &yes, driven.now);
    driven.turn();
    assert_eq!(driven.state("second"), StepState::Running);
}

#[test]
fn a_run_does_no_more_than_its_document_can_hold() {
    let each = |id: &str| {
        format!("{{id: {id}, forEach: {{items: 'input.list', step: {{job: {{topic: job.x.y}}}}}}}}")
    };
    let text = format!(
        "  steps: [{}, {}, {}]\n  input: {{list: {{type: list, required: true}}}}\n",
        each("a"),
        each("b"),
        each("c")
    );
    let driven = Driven::new(&text, json!({"list": vec![0; 1000]}));
    let why = driven.run.steps[2].error.as_deref();
    assert_eq!(why, Some("too many items: a run does 2000 things at most"));
    assert_eq!((driven.state("b"), driven.state("c")), (StepState::Cancelled, StepState::Failed));
}

#[test]
fn a_long_timeline_keeps_its_ends() {
    let text = "  steps: [{id: each, forEach: {items: 'input.list', maxParallel: 100, step: {notify: {webhook: w}}}}]\n  input: {list: {type: list, required: true}}\n";
    let mut driven = Driven::new(text, json!({"list": vec![0; 1000]}));
    while !driven.run.state.is_over() {
        for deed in wanted(&driven.workflow, &driven.run) {
            let Deed::Notify { site, attempt, .. } = deed else { panic!("{deed:?}") };
            let done = Event::Ended { site, attempt, outcome: Ok(Value::Null) };
            fold(&driven.workflow, &mut driven.run, &done, driven.now);
        }
        driven.turn();
    }
    let timeline = &driven.run.timeline;
    assert_eq!((timeline.len(), timeline[0].what.as_str()), (2 * super::MOMENTS, "started"));
    assert_eq!(timeline.last().map(|moment| moment.what.as_str()), Some("succeeded"));
    assert!(driven.run.left_out > 0);
}
