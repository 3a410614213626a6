//! A spec to a workflow, telling everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use sideguard_types::resource::{
    ApprovalStep, CompensateSpec, DelayStep, ForEachStep, InputSpec, JobStep, NotifyStep, OnFailure,
    RetrySpec, StepSpec, WorkflowSpec,
};
use sideguard_types::time::Span;

use super::action::{Action, Approval, Delay, Each, Job, Notify, Undo};
use super::expression::Expression;
use super::infer::{Language, Type};
use super::template::{Shape, Template};
use super::{Fault, MOST_STEPS, Place, Retry, Step, Workflow, graph};
use crate::source::nearest;
use crate::when::BadExpression;

/// Most attempts.
const MOST_ATTEMPTS: u32 = 20;
/// Most items at work at once.
const MOST_PARALLEL: u32 = 100;
/// Most inputs.
const MOST_INPUTS: usize = 100;
/// Longest name of a step or an input.
const LONGEST_NAME: usize = 40;
/// Most people that may be asked for.
const CROWD: u32 = 20;
/// How long a question may be answered when nothing is said, and at most.
const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// Longest delay, time of a step and of a run.
const YEAR: Duration = Duration::from_secs(366 * 86_400);

pub(super) fn compile(spec: &WorkflowSpec) -> Result<Workflow, Vec<Fault>> {
    let mut check = Check { spec, path: Vec::new(), faults: Vec::new() };
    check.inputs();
    let needs = check.needs();
    let ids: Vec<&str> = spec.steps.iter().map(|step| step.id.as_str()).collect();
    if let Some(way) = graph::cycle(&needs) {
        let way: Vec<String> = way.iter().filter_map(|at| ids.get(*at)).map(|id| format!("`{id}`")).collect();
        let message = format!("the steps need one another: {}", way.join(" → "));
        check.within("steps", |check| check.fault("cycle", message, None));
        // What comes before what cannot be told.
        return Err(check.faults);
    }
    let before = graph::ancestors(&needs);
    let results: Vec<Type> = spec.steps.iter().map(|step| result(step, spec)).collect();
    let mut steps = Vec::with_capacity(spec.steps.len());
    for (at, step) in spec.steps.iter().enumerate() {
        let ended = before.get(at).into_iter().flatten();
        let named = |at: &usize| Some((*ids.get(*at)?, *results.get(*at)?));
        let language = Language {
            inputs: &spec.input,
            before: ended.filter_map(named).collect(),
            steps: &ids,
            item: false,
            result: None,
        };
        let needs = needs.get(at).cloned().unwrap_or_default();
        check.path = vec![Place::Key("steps".to_owned()), Place::Item(at)];
        steps.extend(check.step(step, &language, needs));
    }
    check.path.clear();
    let all = ids.iter().map(|id| (*id, Type::Any)).collect();
    let language = Language { inputs: &spec.input, before: all, steps: &ids, item: false, result: None };
    let output = (!spec.output.is_null()).then(|| check.shape("output", &spec.output, &language));
    check.span("timeout", spec.timeout, YEAR);
    if !check.faults.is_empty() {
        return Err(check.faults);
    }
    Ok(Workflow {
        steps,
        timeout: spec.timeout.map(|span| span.0),
        on_failure: spec.on_failure.unwrap_or_default(),
        output,
        inputs: spec.input.clone(),
    })
}

/// The type of what a step comes to, as those that need it see it: one that is skipped or has failed comes to null.
fn result(step: &StepSpec, spec: &WorkflowSpec) -> Type {
    let sure = step.when.is_none() && step.on_failure.or(spec.on_failure) != Some(OnFailure::Continue);
    match step {
        StepSpec { condition: Some(_), .. } if sure => Type::Bool,
        StepSpec { for_each: Some(_), .. } if sure => Type::List,
        _ => Type::Any,
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

struct Check<'s> {
    spec: &'s WorkflowSpec,
    path: Vec<Place>,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn within<T>(&mut self, key: &str, act: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(Place::Key(key.to_owned()));
        let done = act(self);
        self.path.pop();
        done
    }

    fn fault(&mut self, code: &'static str, message: String, hint: Option<String>) {
        self.faults.push(Fault { path: self.path.clone(), within: None, code, message, hint });
    }

    fn at(&mut self, key: &str, code: &'static str, message: String, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.within(key, |check| check.fault(code, message, hint));
    }

    fn bad(&mut self, bad: BadExpression) {
        let BadExpression { line, column, message, hint } = bad;
        let path = self.path.clone();
        self.faults.push(Fault { path, within: Some((line, column)), code: "expression", message, hint });
    }

    fn inputs(&mut self) {
        let inputs = &self.spec.input;
        if inputs.len() > MOST_INPUTS {
            self.at("input", "limit", format!("more than {MOST_INPUTS} inputs"), "");
        }
        for (name, input) in inputs {
            let InputSpec { kind, required, default, .. } = input;
            self.path = vec![Place::Key("input".to_owned()), Place::Key(name.clone())];
            if !is_input(name) {
                let hint = "use letters, digits and `_`, a letter first".to_owned();
                self.fault("name", format!("`{name}` is not the name of an input"), Some(hint));
            }
            if !default.is_null() && !kind.takes(default) {
                let message = format!("the default is not of type {}", kind.as_str());
                self.at("default", "type", message, "");
            }
            if *required && !default.is_null() {
                self.at("default", "input", "an input that is required has no default".to_owned(), "");
            }
        }
        self.path.clear();
    }

    /// The numbers of the steps that each step needs; what is wrong with names is told.
    fn needs(&mut self) -> Vec<Vec<usize>> {
        let steps = &self.spec.steps;
        if steps.is_empty() {
            self.at("steps", "steps", "a workflow has at least one step".to_owned(), "");
        }
        if steps.len() > MOST_STEPS {
            self.at("steps", "limit", format!("more than {MOST_STEPS} steps"), "");
        }
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            self.path = vec![Place::Key("steps".to_owned()), Place::Item(at)];
            if !is_name(&step.id) {
                let hint = "use at most 40 lower case letters, digits and `_`, a letter first";
                self.at("id", "name", format!("`{}` is not the id of a step", step.id), hint);
            }
            if numbers.insert(&step.id, at).is_some() {
                self.at("id", "duplicate-id", format!("the id `{}` is that of another step", step.id), "");
            }
        }
        let mut needs = Vec::with_capacity(steps.len());
        for (at, step) in steps.iter().enumerate() {
            let mut own = BTreeSet::new();
            for (number, need) in step.needs.iter().enumerate() {
                let needs = Place::Key("needs".to_owned());
                self.path = vec![Place::Key("steps".to_owned()), Place::Item(at), needs, Place::Item(number)];
                match numbers.get(need.as_str()) {
                    Some(at) => drop(own.insert(*at)),
                    None => {
                        let meant = nearest(need, numbers.keys().copied());
                        let hint = meant.map(|meant| format!("did you mean `{meant}`?"));
                        self.fault("unknown-step", format!("there is no step `{need}`"), hint);
                    }
                }
            }
            needs.push(own.into_iter().collect());
        }
        self.path.clear();
        needs
    }

    fn step(&mut self, step: &StepSpec, language: &Language<'_>, needs: Vec<usize>) -> Option<Step> {
        let when = step.when.as_deref().and_then(|text| self.expression("if", text, language, Type::Bool));
        let StepSpec { job, approval, condition, delay, notify, for_each, .. } = step;
        let given = [
            job.is_some(),
            approval.is_some(),
            condition.is_some(),
            delay.is_some(),
            notify.is_some(),
            for_each.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            let hint =
                "write one of `job`, `approval`, `condition`, `delay`, `notify` and `forEach`".to_owned();
            self.fault("step", format!("the step `{}` does exactly one thing", step.id), Some(hint));
            return None;
        }
        let action = self.action(step, language);
        self.fits(step);
        let retry = self.retry(step.retry.as_ref());
        let undo = step.compensate.as_ref();
        let compensate = undo.map(|undo| self.within("compensate", |check| check.undo(undo, language)));
        Some(Step {
            id: step.id.clone(),
            needs,
            when,
            action: action?,
            retry,
            timeout: step.timeout.map(|span| span.0),
            on_failure: step.on_failure.or(self.spec.on_failure).unwrap_or_default(),
            compensate,
        })
    }

    /// What a step does.
    fn action(&mut self, step: &StepSpec, language: &Language<'_>) -> Option<Action> {
        match step {
            StepSpec { job: Some(job), .. } => {
                Some(Action::Job(self.within("job", |check| check.job(job, language))))
            }
            StepSpec { approval: Some(approval), .. } => {
                self.within("approval", |check| check.approval(approval, language)).map(Action::Approval)
            }
            StepSpec { condition: Some(condition), .. } => self
                .within("condition", |check| check.expression("expr", &condition.expr, language, Type::Bool))
                .map(Action::Condition),
            StepSpec { delay: Some(delay), .. } => {
                self.within("delay", |check| check.delay(delay, language)).map(Action::Delay)
            }
            StepSpec { notify: Some(notify), .. } => {
                Some(Action::Notify(self.within("notify", |check| check.notify(notify, language))))
            }
            StepSpec { for_each: Some(each), .. } => self
                .within("forEach", |check| check.each(each, language))
                .map(|each| Action::ForEach(Box::new(each))),
            _ => None,
        }
    }

    /// Whether `retry`, `timeout` and `compensate` have a meaning for what a step does.
    fn fits(&mut self, step: &StepSpec) {
        let StepSpec { job, approval, condition, delay, notify, for_each, .. } = step;
        let inside = if for_each.is_some() { "write it in `forEach.step`" } else { "" };
        if step.retry.is_some() && job.is_none() && notify.is_none() {
            self.at("retry", "retry", "only jobs and notifications are tried again".to_owned(), inside);
        }
        if step.compensate.is_some() && (condition.is_some() || delay.is_some() || for_each.is_some()) {
            self.at("compensate", "compensate", "there is nothing to undo in this step".to_owned(), inside);
        }
        if step.timeout.is_some() && job.is_none() && for_each.is_none() {
            let hint = if approval.is_some() { "write `expires` in `approval`" } else { "" };
            self.at("timeout", "timeout", "this step has its own time".to_owned(), hint);
        }
        self.span("timeout", step.timeout, YEAR);
    }

    fn job(&mut self, job: &JobStep, language: &Language<'_>) -> Job {
        let JobStep { topic, requires, placement, labels, priority, input, idempotent } = job;
        let word = |word: &str| {
            let odd = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'));
            !word.is_empty() && !word.contains(odd)
        };
        let words: Vec<&str> = topic.split('.').collect();
        if topic.len() > 200
            || words.len() < 3
            || words.first() != Some(&"job")
            || !words.iter().all(|w| word(w))
        {
            let hint = "write `job.SERVICE.OPERATION` in lower case, such as `job.orders.fetch`";
            self.at("topic", "topic", format!("`{topic}` is not a topic"), hint);
        }
        if *priority > 9 {
            self.at("priority", "limit", "`priority` is 0 to 9".to_owned(), "");
        }
        if labels.keys().any(|label| label.starts_with("sideguard.dev/")) {
            self.at(
                "labels",
                "labels",
                "labels that begin with `sideguard.dev/` are control's".to_owned(),
                "",
            );
        }
        Job {
            topic: topic.clone(),
            requires: requires.clone(),
            placement: placement.clone(),
            labels: labels.clone(),
            priority: *priority,
            input: self.shape("input", input, language),
            idempotent: *idempotent,
        }
    }

    fn approval(&mut self, approval: &ApprovalStep, language: &Language<'_>) -> Option<Approval> {
        let ApprovalStep { text, show, approvers, roles, separate, quorum, expires } = approval;
        if text.trim().is_empty() {
            self.at("text", "approval", "people must be asked something".to_owned(), "");
        }
        if !(1..=CROWD).contains(quorum) {
            self.at("quorum", "approval", format!("the quorum is 1 to {CROWD}"), "");
        }
        self.span("expires", *expires, WEEK);
        let show = self.shape("show", show, language);
        let text =
            self.within("text", |check| Template::compile(text, language).map_err(|bad| check.bad(bad)).ok());
        Some(Approval {
            text: text?,
            show,
            approvers: approvers.clone(),
            roles: roles.clone(),
            separate: *separate,
            quorum: *quorum,
            expires: expires.map_or(DAY, |span| span.0),
        })
    }

    fn delay(&mut self, delay: &DelayStep, language: &Language<'_>) -> Option<Delay> {
        match (delay.span, &delay.until) {
            (Some(span), None) => {
                self.span("for", Some(span), YEAR);
                Some(Delay::For(span.0))
            }
            (None, Some(until)) => self.expression("until", until, language, Type::Moment).map(Delay::Until),
            _ => {
                let hint = "write `for: 10m` or `until: EXPRESSION`".to_owned();
                self.fault("delay", "a delay has one of `for` and `until`".to_owned(), Some(hint));
                None
            }
        }
    }

    fn notify(&mut self, notify: &NotifyStep, language: &Language<'_>) -> Notify {
        if notify.webhook.is_empty() {
            let hint = "it is the `name` of a webhook in control's configuration";
            self.at("webhook", "notify", "a webhook is named".to_owned(), hint);
        }
        Notify { webhook: notify.webhook.clone(), body: self.shape("body", &notify.body, language) }
    }

    fn each(&mut self, each: &ForEachStep, language: &Language<'_>) -> Option<Each> {
        let items = self.expression("items", &each.items, language, Type::List);
        if !(1..=MOST_PARALLEL).contains(&each.max_parallel) {
            self.at("maxParallel", "limit", format!("`maxParallel` is 1 to {MOST_PARALLEL}"), "");
        }
        let language = Language { item: true, ..language.clone() };
        let (step, language) = (&each.step, &language);
        self.path.push(Place::Key("step".to_owned()));
        let given = [step.job.is_some(), step.approval.is_some(), step.notify.is_some()];
        let action = match (&step.job, &step.approval, &step.notify) {
            (Some(job), None, None) => {
                Some(Action::Job(self.within("job", |check| check.job(job, language))))
            }
            (None, Some(approval), None) => {
                self.within("approval", |check| check.approval(approval, language)).map(Action::Approval)
            }
            (None, None, Some(notify)) => {
                Some(Action::Notify(self.within("notify", |check| check.notify(notify, language))))
            }
            _ => {
                let hint = "write one of `job`, `approval` and `notify`".to_owned();
                self.fault("step", "what is done for each item is exactly one thing".to_owned(), Some(hint));
                None
            }
        };
        if step.retry.is_some() && given == [false, true, false] {
            self.at("retry", "retry", "only jobs and notifications are tried again".to_owned(), "");
        }
        if step.timeout.is_some() && step.job.is_none() {
            self.at("timeout", "timeout", "this has its own time".to_owned(), "");
        }
        self.span("timeout", step.timeout, YEAR);
        let retry = self.retry(step.retry.as_ref());
        let undo = step.compensate.as_ref();
        let compensate = undo.map(|undo| self.within("compensate", |check| check.undo(undo, language)));
        self.path.pop();
        Some(Each {
            items: items?,
            max_parallel: usize::try_from(each.max_parallel).unwrap_or(1).max(1),
            action: action?,
            retry,
            timeout: step.timeout.map(|span| span.0),
            tolerate: step.tolerate,
            compensate,
        })
    }

    fn undo(&mut self, undo: &CompensateSpec, language: &Language<'_>) -> Undo {
        let language = Language { result: Some(Type::Any), ..language.clone() };
        self.span("timeout", undo.timeout, YEAR);
        Undo {
            job: self.within("job", |check| check.job(&undo.job, &language)),
            retry: self.retry(undo.retry.as_ref()),
            timeout: undo.timeout.map(|span| span.0),
        }
    }

    fn retry(&mut self, retry: Option<&RetrySpec>) -> Retry {
        if let Some(spec) = retry {
            self.path.push(Place::Key("retry".to_owned()));
            if !(1..=MOST_ATTEMPTS).contains(&spec.attempts) {
                self.at("attempts", "retry", format!("`attempts` is 1 to {MOST_ATTEMPTS}"), "");
            }
            if spec.backoff.max < spec.backoff.base {
                self.at("backoff", "retry", "the longest pause is shorter than the first".to_owned(), "");
            }
            self.path.pop();
        }
        Retry::of(retry)
    }

    fn span(&mut self, key: &str, span: Option<Span>, most: Duration) {
        if let Some(span) = span.filter(|span| span.0.is_zero() || span.0 > most) {
            let message =
                format!("`{span}` is no time here: write more than nothing, and at most {}", Span(most));
            self.at(key, "span", message, "");
        }
    }

    fn expression(
        &mut self,
        key: &str,
        text: &str,
        language: &Language<'_>,
        wanted: Type,
    ) -> Option<Expression> {
        self.within(key, |check| {
            Expression::compile(text, language, wanted).map_err(|bad| check.bad(bad)).ok()
        })
    }

    fn shape(&mut self, key: &str, value: &Value, language: &Language<'_>) -> Shape {
        let mut path = self.path.clone();
        path.push(Place::Key(key.to_owned()));
        let faults = &mut self.faults;
        Shape::compile(value, language, &mut path, &mut |path, bad: BadExpression| {
            let BadExpression { line, column, message, hint } = bad;
            let (path, within) = (path.to_vec(), Some((line, column)));
            faults.push(Fault { path, within, code: "expression", message, hint });
        })
    }
}

fn is_input(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
