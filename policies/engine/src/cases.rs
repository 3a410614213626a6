//! Tests of policies, written as data: calls and what is to become of them.
//!
//! A file has `policies` (names of files beside it), `documents` (resources in place) or both, and `cases`:
//!
//! ```yaml
//! policies: [safety.yaml]
//! cases:
//!   - name: dropping a table is denied
//!     call: {server: db, tool: drop_table}
//!     expect: {decision: deny, rule: safety/block-destructive}
//! ```

mod call;
mod velocity;

use std::fmt;

use serde::{Deserialize, Serialize};
use sideguard_types::call::Moment;
use sideguard_types::verdict::{Decision, Mode, Verdict};

use crate::policy::PolicySet;
use crate::source::{Finding, Loaded, Page, Source, load, load_node, read};
use crate::yaml::{self, Node, Value};

pub use call::{CallSpec, HandedOn};
pub use velocity::Counters;

/// What came of the cases.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// How many were as expected.
    pub passed: usize,
    /// The ones that were not.
    pub failures: Vec<Failure>,
    /// What is wrong with the files of cases or their policies.
    pub findings: Vec<Finding>,
}

/// A case that did not come out as expected.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// File of cases.
    pub file: String,
    /// Line where the case begins.
    pub line: usize,
    /// The case's name.
    pub name: String,
    /// What was expected and what came.
    pub message: String,
    /// How the verdict came about.
    pub explanation: String,
}

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    call: CallSpec,
    expect: Expectation,
    /// How often the call is made; what comes of the last is looked at.
    #[serde(default)]
    repeat: Option<u32>,
}

/// What is to come out; what is absent is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expectation {
    decision: Option<Decision>,
    rule: Option<String>,
    /// A part of the reason.
    reason: Option<String>,
    mode: Option<Mode>,
    /// What a document that is not enforced would do; `none` when nothing.
    would: Option<String>,
    /// Constraints as JSON.
    constraints: Option<serde_json::Value>,
    topic: Option<String>,
    risk_tags: Option<Vec<String>>,
}

impl Report {
    /// Whether everything was as expected.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failures.is_empty() && self.findings.is_empty()
    }
}

/// Runs the cases of all `files`. `open` gives the policies that they name, by the name as written and that of the
/// file which names it.
pub fn run(files: &[Source], open: &dyn Fn(&str, &Source) -> Option<Source>) -> Report {
    let mut report = Report::default();
    for file in files {
        let page = Page::new(file);
        let parsed = yaml::parse(&file.text);
        report.findings.extend(parsed.refusals.into_iter().map(|refusal| page.refused(refusal)));
        for root in parsed.roots.into_iter().filter(|root| !root.is_null()) {
            run_document(file, &page, root, open, &mut report);
        }
    }
    report
}

fn run_document(
    file: &Source,
    page: &Page,
    root: Node,
    open: &dyn Fn(&str, &Source) -> Option<Source>,
    report: &mut Report,
) {
    let Value::Map(entries) = root.value else {
        let hint = Some("a file of cases has `policies:` or `documents:`, and `cases:`".to_owned());
        report.findings.push(page.finding(root.at, "case", "expected a map".to_owned(), hint));
        return;
    };
    let mut loaded = Loaded::default();
    let mut cases = Vec::new();
    for entry in entries {
        match entry.key.as_str() {
            "policies" => policies(file, page, &entry.value, open, &mut loaded),
            "documents" => documents(page, entry.value, &mut loaded),
            "cases" => cases = items(entry.value),
            key => {
                let hint = Some("known keys: policies, documents, cases".to_owned());
                let message = format!("there is no key `{key}` here");
                loaded.findings.push(page.finding(entry.at, "unknown-key", message, hint));
            }
        }
    }
    match crate::compile(&loaded) {
        Err(findings) => report.findings.extend(findings),
        Ok(set) => {
            for mut node in cases {
                let line = node.at.line;
                if let Some(case) = read::<Case>(page, &mut node, &[], &mut report.findings) {
                    match check(&set, &case) {
                        Ok(()) => report.passed = report.passed.saturating_add(1),
                        Err((message, explanation)) => {
                            let file = file.name.clone();
                            report.failures.push(Failure {
                                file,
                                line,
                                name: case.name,
                                message,
                                explanation,
                            });
                        }
                    }
                }
            }
        }
    }
}

fn items(node: Node) -> Vec<Node> {
    match node.value {
        Value::List(items) => items,
        Value::Scalar(..) | Value::Map(_) => vec![node],
    }
}

fn policies(
    file: &Source,
    page: &Page,
    node: &Node,
    open: &dyn Fn(&str, &Source) -> Option<Source>,
    loaded: &mut Loaded,
) {
    for item in items(node.clone()) {
        let name = item.text().unwrap_or_default();
        match open(name, file) {
            Some(source) => {
                let more = load(&[source]);
                loaded.documents.extend(more.documents);
                loaded.findings.extend(more.findings);
            }
            None => {
                let message = format!("the policy `{name}` cannot be read");
                loaded.findings.push(page.finding(item.at, "case", message, None));
            }
        }
    }
}

fn documents(page: &Page, node: Node, loaded: &mut Loaded) {
    let mut unnamed = 0;
    for item in items(node) {
        loaded.documents.extend(load_node(page, item, &mut unnamed, &mut loaded.findings));
    }
}

fn check(set: &PolicySet, case: &Case) -> Result<(), (String, String)> {
    let counters = Counters::default();
    let moment = Moment { now: case.call.time(), velocity: &counters };
    let again = case.repeat.unwrap_or(1).clamp(1, 10_000).saturating_sub(1);
    case.call.with(set.classifier(), |call| {
        for _ in 0..again {
            let _ = set.decide(call, moment);
        }
        // What would be counted by explaining must not be: the counters are copied before the last call.
        let before = counters.clone();
        let mut verdict = set.decide(call, moment).verdict().clone();
        // Rights go before policy, as they do in a sidecar.
        if let Err(out) = set.scope(call, moment.now) {
            verdict.decision = Decision::Deny;
            (verdict.rule, verdict.reason) = (out.rule.into(), out.reason.into());
        }
        let wrong = differences(&case.expect, &verdict, call);
        if wrong.is_empty() {
            return Ok(());
        }
        let explanation = set.explain(call, Moment { velocity: &before, ..moment });
        Err((wrong.join("; "), explanation.to_string()))
    })
}

fn differences(
    expect: &Expectation,
    verdict: &Verdict,
    call: &sideguard_types::call::Call<'_>,
) -> Vec<String> {
    let would = verdict.would.as_ref().map_or("none", |would| would.decision.as_str());
    let constraints = serde_json::to_value(verdict.constraints.as_deref()).unwrap_or_default();
    let tags: Vec<&str> = call.class.risk_tags.iter().map(AsRef::as_ref).collect();
    let mut wrong = Vec::new();
    let mut differ = |what: &str, expected: Option<String>, found: String, same: bool| {
        if let Some(expected) = expected.filter(|_| !same) {
            wrong.push(format!("{what} `{expected}` was expected, but came `{found}`"));
        }
    };
    let equal = |expected: &Option<String>, found: &str| expected.as_deref() == Some(found);
    let decision = expect.decision.map(|decision| decision.as_str().to_owned());
    differ(
        "decision",
        decision,
        verdict.decision.as_str().to_owned(),
        expect.decision == Some(verdict.decision),
    );
    differ("rule", expect.rule.clone(), verdict.rule.to_string(), equal(&expect.rule, &verdict.rule));
    let within = expect.reason.as_deref().is_some_and(|part| verdict.reason.contains(part));
    differ("reason", expect.reason.clone(), verdict.reason.to_string(), within);
    let mode = expect.mode.map(|mode| mode.as_str().to_owned());
    differ("mode", mode, verdict.mode.as_str().to_owned(), expect.mode == Some(verdict.mode));
    differ("would", expect.would.clone(), would.to_owned(), equal(&expect.would, would));
    differ(
        "topic",
        expect.topic.clone(),
        call.class.topic.to_string(),
        equal(&expect.topic, &call.class.topic),
    );
    let shown = expect.constraints.as_ref().map(ToString::to_string);
    differ("constraints", shown, constraints.to_string(), expect.constraints.as_ref() == Some(&constraints));
    let wanted = expect.risk_tags.as_ref().map(|tags| tags.join(", "));
    let same = expect.risk_tags.as_ref().is_some_and(|wanted| *wanted == tags);
    differ("risk_tags", wanted, tags.join(", "), same);
    wrong
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        for Failure { file, line, name, message, explanation } in &self.failures {
            writeln!(f, "{file}:{line}: failed: {name}: {message}")?;
            for line in explanation.lines() {
                writeln!(f, "    {line}")?;
            }
        }
        write!(f, "{} passed, {} failed", self.passed, self.failures.len())
    }
}
