//! What may stand in a rule.

use std::sync::Arc;

use sideguard_types::call::Point;
use sideguard_types::resource::{ContentMatch, DelegationMatch, MatchSpec, Per, RuleSpec};
use sideguard_types::verdict::{Constraints, Decision};

use super::Checks;
use crate::content::{self, Content};
use crate::glob::{Case, Glob};
use crate::policy::{Answer, Delegation, Match, Velocity};
use crate::redact;
use crate::source::{Step, nearest};
use crate::when::{BadExpression, When};
use crate::yaml::{Node, Style, Value};

type Compiled = (Answer, Match, Option<When>, Option<Velocity>);

/// Compiles one rule; `None` when something is wrong with it, which then is among the findings.
pub(super) fn compile(
    checks: &mut Checks<'_>,
    document: &str,
    index: usize,
    rule: &RuleSpec,
) -> Option<Compiled> {
    let before = checks.count();
    let mut at = Place { checks, index };
    if rule.id.trim().is_empty() || rule.id.chars().any(|c| c.is_control() || c == '/') || rule.id.len() > 128
    {
        at.error("id", &["id"], "an id must have 1 to 128 characters and no `/`".to_owned());
    }
    if rule.id == "default" {
        let hint = "`default` names the document's `default_decision`; choose another id";
        at.error_with("id", &["id"], "the id `default` is taken".to_owned(), hint);
    }
    let matches = matches(&mut at, &rule.matches);
    let when = rule.when.as_deref().and_then(|text| match When::compile(text) {
        Ok(when) => Some(when),
        Err(bad) => {
            at.expression(bad);
            None
        }
    });
    decision(&mut at, rule);
    let velocity = rule.velocity.as_ref().map(|spec| {
        if spec.window.0.is_zero() {
            at.error(
                "velocity",
                &["velocity", "window"],
                "the window must be longer than nothing".to_owned(),
            );
        }
        Velocity { max: spec.max, window: spec.window.0, per: spec.per.unwrap_or(Per::Agent) }
    });
    let reason = rule.reason.clone().unwrap_or_else(|| match rule.decision {
        Decision::Deny => format!("denied by rule `{}`", rule.id),
        Decision::RequireApproval => format!("rule `{}` asks for an approval", rule.id),
        Decision::Throttle => format!("rule `{}` limits the rate", rule.id),
        Decision::Allow | Decision::AllowWithConstraints => format!("allowed by rule `{}`", rule.id),
    });
    let answer = Answer {
        rule: format!("{document}/{}", rule.id).into(),
        fallback: false,
        connects: rule.matches.points.contains(&Point::NetConnect),
        decision: rule.decision,
        reason: reason.into(),
        constraints: rule.constraints.clone().map(Arc::new),
        approval: rule.approval.clone().map(Arc::new),
        remediations: rule.remediations.clone().into(),
    };
    (checks.count() == before).then_some((answer, matches, when, velocity))
}

/// The answer of a document for calls that none of its rules matches.
pub(super) fn default(checks: &mut Checks<'_>, document: &str, decision: Decision) -> Option<Answer> {
    if matches!(decision, Decision::AllowWithConstraints | Decision::Throttle) {
        let message = format!("`{}` needs constraints, which a default has none of", decision.as_str());
        let hint = "write a rule at the end that matches everything".to_owned();
        checks.error_with("constraints", &[Step::Key("default_decision")], message, hint);
        return None;
    }
    let reason = format!("no rule of `{document}` matched, and its default is `{}`", decision.as_str());
    Some(Answer {
        rule: format!("{document}/default").into(),
        fallback: true,
        connects: false,
        decision,
        reason: reason.into(),
        constraints: None,
        approval: None,
        remediations: Arc::from([]),
    })
}

/// A rule being checked.
struct Place<'c, 'd> {
    checks: &'c mut Checks<'d>,
    index: usize,
}

impl Place<'_, '_> {
    fn path<'p>(&self, keys: &[&'p str]) -> Vec<Step<'p>> {
        let rule = [Step::Key("rules"), Step::Item(self.index)];
        rule.into_iter().chain(keys.iter().map(|key| Step::Key(key))).collect()
    }

    fn error(&mut self, code: &'static str, keys: &[&str], message: String) {
        let path = self.path(keys);
        self.checks.error(code, &path, message);
    }

    fn error_with(&mut self, code: &'static str, keys: &[&str], message: String, hint: &str) {
        let path = self.path(keys);
        self.checks.error_with(code, &path, message, hint.to_owned());
    }

    fn globs(&mut self, key: &str, items: &[String], case: Case) -> Vec<Glob> {
        let path = self.path(&["match", key]);
        self.checks.globs(&path, items, case)
    }

    /// Tells what is wrong with an expression at its very place, as far as the way it was written lets it be known.
    fn expression(&mut self, bad: BadExpression) {
        let path = self.path(&["when"]);
        let document = self.checks.document();
        let message = format!("in `when`: {}", bad.message);
        let mut finding =
            document.finding(crate::source::Severity::Error, "expression", &path, message.clone());
        if let Some(node) = document.node(&path) {
            let at = inside(node, bad.line, bad.column, document.page().text());
            finding = document.page().finding(at, "expression", message, None);
        }
        finding.hint = bad.hint;
        self.checks.push(finding);
    }
}

/// The place of line and column of a scalar's text.
pub(super) fn inside(node: &Node, line: usize, column: usize, text: &str) -> crate::yaml::Mark {
    let mut at = node.at;
    match &node.value {
        Value::Scalar(_, Style::Plain) if line == 1 => {
            at.column = at.column.saturating_add(column.saturating_sub(1));
        }
        Value::Scalar(_, Style::Quoted) if line == 1 => at.column = at.column.saturating_add(column),
        Value::Scalar(_, Style::Block) => {
            // The node begins at its first line of text, or at the `|` before it.
            let header = text
                .lines()
                .nth(at.line.saturating_sub(1))
                .is_some_and(|line| line.trim_end().trim_end_matches(['-', '+']).ends_with(['|', '>']));
            at.line = at.line.saturating_add(line.saturating_sub(1)).saturating_add(usize::from(header));
            let source = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
            let indent = source.chars().take_while(|c| *c == ' ').count();
            at.column = indent.saturating_add(column);
        }
        _ => {}
    }
    at
}

fn matches(at: &mut Place<'_, '_>, spec: &MatchSpec) -> Match {
    let labels = at.path(&["match", "labels"]);
    hosts(at, &spec.hosts);
    Match {
        points: spec.points.clone(),
        verbs: spec.verbs.clone(),
        risk_tags: at.globs("risk_tags", &spec.risk_tags, Case::Folded),
        requires: at.globs("requires", &spec.requires, Case::Folded),
        methods: at.globs("methods", &spec.methods, Case::Folded),
        tenants: at.globs("tenants", &spec.tenants, Case::Exact),
        agents: at.globs("agents", &spec.agents, Case::Exact),
        tools: at.globs("tools", &spec.tools, Case::Folded),
        models: at.globs("models", &spec.models, Case::Folded),
        hosts: at.globs("hosts", &spec.hosts, Case::Folded),
        topics: at.globs("topics", &spec.topics, Case::Folded),
        paths: at.globs("paths", &spec.paths, Case::Exact),
        capabilities: at.globs("capabilities", &spec.capabilities, Case::Folded),
        labels: at.checks.labels(&labels, spec.labels.iter()),
        delegation: spec.delegation.as_ref().map(|spec| delegation(at, spec)),
        content: spec.content.as_ref().and_then(|spec| content(at, spec)),
        given: Vec::new(),
    }
    .settled()
}

fn hosts(at: &mut Place<'_, '_>, hosts: &[String]) {
    for (index, host) in hosts.iter().enumerate() {
        let port = host.matches(':').count() == 1;
        if host.contains('/') || port {
            let mut path = at.path(&["match", "hosts"]);
            path.push(Step::Item(index));
            let message = format!("`{host}` is not a host name");
            let hint = "write the name alone, without scheme, port and path".to_owned();
            at.checks.error_with("host", &path, message, hint);
        }
    }
}

fn delegation(at: &mut Place<'_, '_>, spec: &DelegationMatch) -> Delegation {
    if *spec == DelegationMatch::default() {
        let hint = "give `max_depth`, `issuers` or `forbid_delegated: true`";
        at.error_with("delegation", &["match", "delegation"], "this matches no call".to_owned(), hint);
    }
    let path = at.path(&["match", "delegation", "issuers"]);
    Delegation {
        max_depth: spec.max_depth.map(|depth| usize::try_from(depth).unwrap_or(usize::MAX)),
        issuers: at.checks.globs(&path, &spec.issuers, Case::Exact),
        forbid_delegated: spec.forbid_delegated,
    }
}

fn content(at: &mut Place<'_, '_>, spec: &ContentMatch) -> Option<Content> {
    if *spec == ContentMatch::default() {
        let hint = "give `detectors` or `patterns`";
        at.error_with("content", &["match", "content"], "this matches no call".to_owned(), hint);
    }
    detectors(at, &["match", "content", "detectors"], &spec.detectors);
    for (index, text) in spec.patterns.iter().enumerate() {
        if let Err(message) = content::pattern(text) {
            let mut path = at.path(&["match", "content", "patterns"]);
            path.push(Step::Item(index));
            at.checks.error("pattern", &path, message);
        }
    }
    Content::compile(spec)
}

fn detectors(at: &mut Place<'_, '_>, keys: &[&str], names: &[String]) {
    for (index, name) in names.iter().enumerate() {
        if !redact::names().contains(&name.as_str()) {
            let mut path = at.path(keys);
            path.push(Step::Item(index));
            let hint = match nearest(name, redact::names().iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known detectors: {}", redact::names().join(", ")),
            };
            at.checks.error_with("detector", &path, format!("there is no detector `{name}`"), hint);
        }
    }
}

/// Checks that the decision has what it needs, and nothing that it has no use for.
fn decision(at: &mut Place<'_, '_>, rule: &RuleSpec) {
    let decision = rule.decision;
    let name = decision.as_str();
    match (&rule.constraints, decision) {
        (None, Decision::AllowWithConstraints) => {
            let hint = "add `constraints:`, or write `decision: allow`";
            at.error_with("constraints", &["decision"], format!("`{name}` needs `constraints`"), hint);
        }
        (None, Decision::Throttle) => {
            let hint = "add `constraints: {rate: {calls: 10, per: 1m}}`";
            at.error_with("constraints", &["decision"], format!("`{name}` needs `constraints.rate`"), hint);
        }
        (Some(constraints), Decision::AllowWithConstraints | Decision::Throttle) => {
            self::constraints(at, constraints, decision);
        }
        (Some(_), Decision::Allow | Decision::Deny | Decision::RequireApproval) => {
            let hint = "write `decision: allow_with_constraints`, or remove `constraints`";
            at.error_with(
                "constraints",
                &["constraints"],
                format!("`{name}` has no use for `constraints`"),
                hint,
            );
        }
        (None, _) => {}
    }
    if let Some(approval) = &rule.approval {
        if decision != Decision::RequireApproval {
            let hint = "write `decision: require_approval`, or remove `approval`";
            at.error_with("approval", &["approval"], format!("`{name}` has no use for `approval`"), hint);
        }
        if approval.quorum == Some(0) {
            at.error("approval", &["approval", "quorum"], "a quorum of 0 asks nobody".to_owned());
        }
        if approval.hold_seconds.is_some_and(|seconds| seconds > 300) {
            at.error("approval", &["approval", "holdSeconds"], "a call is held for at most 300 s".to_owned());
        }
    }
}

fn constraints(at: &mut Place<'_, '_>, constraints: &Constraints, decision: Decision) {
    detectors(at, &["constraints", "redact"], &constraints.redact);
    if constraints.is_empty() {
        at.error("constraints", &["constraints"], "nothing is constrained here".to_owned());
    }
    match &constraints.rate {
        None if decision == Decision::Throttle => {
            let hint = "add `rate: {calls: 10, per: 1m}`";
            at.error_with(
                "constraints",
                &["constraints"],
                "`throttle` needs `constraints.rate`".to_owned(),
                hint,
            );
        }
        Some(rate) if rate.calls == 0 || rate.per.0.is_zero() || rate.burst == Some(0) => {
            let hint = "to let nothing through, write `decision: deny`";
            at.error_with(
                "constraints",
                &["constraints", "rate"],
                "this rate lets nothing through".to_owned(),
                hint,
            );
        }
        _ => {}
    }
    for key in constraints.set_args.keys().filter(|key| constraints.drop_args.contains(key)) {
        at.error("constraints", &["constraints"], format!("`{key}` is both set and dropped"));
    }
}
