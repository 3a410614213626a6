use serde_json::{Value, json};
use sideguard_types::resource::{Spec, WorkflowSpec};

use super::{Facts, Local, Outcome, Workflow};
use crate::source::{Source, load};

fn spec(text: &str) -> WorkflowSpec {
    let text = format!("apiVersion: sideguard.dev/v1\nkind: Workflow\nmetadata: {{name: w}}\nspec:\n{text}");
    let loaded = load(&[Source::new("w.yaml", text)]);
    assert!(loaded.findings.is_empty(), "{}", loaded.findings[0]);
    match &loaded.documents[0].resource.spec {
        Spec::Workflow(spec) => spec.clone(),
        other => panic!("{}", other.kind()),
    }
}

/// What is wrong with a workflow of one step with an `if`, after a job `a`.
fn wrong(when: &str) -> Vec<String> {
    let when = when.replace('"', "'");
    let text = format!(
        "  input: {{n: {{type: int, required: true}}, s: {{type: string, required: true}}, maybe: {{type: string}}}}\n  steps:\n    - {{id: a, job: {{topic: job.x.a}}}}\n    - {{id: free, job: {{topic: job.x.a}}}}\n    - {{id: gate, condition: {{expr: 'true'}}}}\n    - {{id: b, needs: [a, gate], if: \"{when}\", job: {{topic: job.x.b}}}}\n"
    );
    let faults = Workflow::compile(&spec(&text)).map(|_| Vec::new()).unwrap_or_else(|faults| faults);
    faults.iter().map(|fault| fault.message.clone()).collect()
}

#[test]
fn expressions_are_checked_before_a_run() {
    for good in [
        "input.n > 3",
        "has(steps.a.result.x) && steps.a.result.x",
        "steps.a.state == 'succeeded' || steps.a.error != null",
        "steps.gate.result",
        "input.maybe == 'x'",
        "[1, 2].exists(steps, steps == input.n)",
        "steps.a.result.list.all(x, x.y > 1.5)",
        "timestamp(input.s) < timestamp('2026-01-01T00:00:00Z') + duration('1h')",
        "run.id != ''",
    ] {
        assert_eq!(wrong(good), Vec::<String>::new(), "{good}");
    }
    for (bad, why) in [
        ("input.m", "there is no input `m`"),
        ("steps.c.result", "there is no step `c`"),
        ("steps.free.result", "the step `free` has not ended by then"),
        ("steps.b.result", "the step `b` has not ended by then"),
        ("steps.a.value", "there is no fact of a step `value`"),
        ("size(steps) > 0", "`steps` is not a value by itself"),
        ("steps['a'].result", "steps are named, not looked up"),
        ("input.n", "the expression is of type int, where bool is wanted"),
        ("input.n > 'x'", "`>` does not take int and string"),
        ("input.n == 'x'", "`==` does not take int and string"),
        ("input.n + input.s == 'x'", "`+` does not take int and string"),
        ("input.n && true", "`&&` does not take int and bool"),
        ("input.s.field == 1", "a string has no field `field`"),
        ("item.x", "`item` is not a name that is known here"),
        ("now > 1", "`now` is not a name that is known here"),
        ("1 +", "the expression ends too early"),
    ] {
        assert_eq!(wrong(bad), [why], "{bad}");
    }
}

#[test]
fn texts_and_values_take_expressions() {
    let text = "  input: {who: {type: string, required: true}}\n  steps:\n    - {id: a, job: {topic: job.x.a, input: {plain: 1, whole: '${{ steps.b.result }}', text: 'dear ${{ input.who }}, ${{ {\"a\": {\"b\": 2}}.a.b }} of {}'}}, needs: [b]}\n    - {id: b, job: {topic: job.x.b}}\n";
    let workflow = Workflow::compile(&spec(text)).expect("it compiles");
    let super::Action::Job(job) = &workflow.steps[0].action else { panic!("a job") };
    let (input, result) = (json!({"who": "Ada"}), json!({"list": [1, 2.5, "x", null]}));
    let b = Outcome { id: "b", state: "succeeded", result: &result, error: None };
    let facts = Facts::new(&input, Value::Null, vec![b]);
    let made = job.input.value(&facts, Local::default()).expect("a value");
    assert_eq!(made, json!({"plain": 1, "whole": result, "text": "dear Ada, 2 of {}"}));
}

#[test]
fn values_with_expressions_stay_within_bounds() {
    let times = |part: &str, times: usize| vec![part; times].join(", ");
    let nested = |part: &str, depth: usize| format!("{}{part}{}", "[".repeat(depth), "]".repeat(depth));
    let (large, deep) = ("x".repeat(100_000), nested("1", 40));
    let deep: Value = serde_json::from_str(&deep).expect("JSON");
    let whole = "'${{ input.large }}'";
    for (shape, why) in [
        (format!("[{}]", times(whole, 10)), ""),
        (format!("[{}]", times(whole, 11)), "more than 1048576 bytes"),
        (format!("'{}'", "${{ input.large }}".repeat(11)), "more than 1048576 bytes"),
        (nested("'${{ input.deep }}'", 24), ""),
        (nested("'${{ input.deep }}'", 25), "deeper than 64"),
    ] {
        let text = format!(
            "  input: {{large: {{type: string}}, deep: {{type: list}}}}\n  steps: [{{id: a, job: {{topic: job.x.a, input: {shape}}}}}]\n"
        );
        let workflow = Workflow::compile(&spec(&text)).expect("it compiles");
        let super::Action::Job(job) = &workflow.steps[0].action else { panic!("a job") };
        let input = json!({"large": large, "deep": deep});
        let made = job.input.value(&Facts::new(&input, Value::Null, Vec::new()), Local::default());
        match made {
            Ok(_) => assert_eq!(why, "", "{shape:.60}"),
            Err(error) => assert!(!why.is_empty() && error.contains(why), "{shape:.60}: {error}"),
        }
    }
}

#[test]
fn a_run_is_given_what_its_workflow_declares() {
    let text = "  input: {a: {type: int, required: true}, b: {type: list, default: [1]}, c: {type: string}}\n  steps: [{id: x, job: {topic: job.x.y}}]\n";
    let workflow = Workflow::compile(&spec(text)).expect("it compiles");
    assert_eq!(workflow.input(&json!({"a": 1})), Ok(json!({"a": 1, "b": [1], "c": null})));
    for (given, why) in [
        (json!({}), "the input `a` is missing"),
        (json!({"a": 1.5}), "the input `a` is not of type int"),
        (json!({"a": null}), "the input `a` is not of type int"),
        (json!({"a": 1, "d": 1}), "there is no input `d`; known inputs: a, b, c"),
        (json!([1]), "the input is not a map of names and values"),
    ] {
        assert_eq!(workflow.input(&given), Err(vec![why.to_owned()]));
    }
}

#[test]
fn pauses_double_up_to_the_longest() {
    let text =
        "  steps: [{id: x, job: {topic: job.x.y}, retry: {attempts: 20, backoff: {base: 1s, max: 10s}}}]\n";
    let workflow = Workflow::compile(&spec(text)).expect("it compiles");
    let pauses: Vec<u64> = [1, 2, 3, 4, 5, 40].map(|n| workflow.steps[0].retry.pause(n).as_secs()).to_vec();
    assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
}
