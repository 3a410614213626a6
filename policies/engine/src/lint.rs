//! What is allowed but likely not meant: rules that never decide, tags and topics that nothing produces, a set that
//! denies everything.

mod cover;

use std::collections::BTreeSet;

use sideguard_types::call::Point;
use sideguard_types::resource::Spec;
use sideguard_types::verdict::{Decision, Mode};

use crate::classify::DERIVED_TAGS;
use crate::policy::{Key, PolicyDocument, PolicySet, Rule};
use crate::source::{Document, Finding, Loaded, Severity, Step};

/// Most rules of a document that are compared with each other.
const MAX_COMPARED: usize = 2_000;

/// Looks over a set and the documents that it was compiled from; all findings are warnings.
#[must_use]
pub fn lint(loaded: &Loaded, set: &PolicySet) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        loaded.findings.iter().filter(|finding| finding.severity == Severity::Warning).cloned().collect();
    for document in &loaded.documents {
        if let (Spec::Policy(_), Some(compiled)) = (&document.resource.spec, compiled(set, document)) {
            let mut page = Lint { set, document, compiled, findings: &mut findings };
            page.shadowed();
            page.unproduced();
            page.undone();
            page.silent();
        }
    }
    findings.extend(denies_everything(loaded, set));
    findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    findings
}

fn compiled<'s>(set: &'s PolicySet, document: &Document) -> Option<&'s PolicyDocument> {
    let metadata = &document.resource.metadata;
    set.documents
        .iter()
        .find(|compiled| *compiled.name == *metadata.name && compiled.tenant == metadata.tenant)
}

/// A document being looked over.
struct Lint<'l> {
    set: &'l PolicySet,
    document: &'l Document,
    compiled: &'l PolicyDocument,
    findings: &'l mut Vec<Finding>,
}

impl<'l> Lint<'l> {
    fn rules(&self) -> &'l [Rule] {
        self.set.rules.get(self.compiled.rules.clone()).unwrap_or_default()
    }

    fn warn(&mut self, code: &'static str, path: &[Step<'_>], message: String, hint: &str) {
        let mut finding = self.document.finding(Severity::Warning, code, path, message);
        finding.hint = Some(hint.to_owned());
        self.findings.push(finding);
    }

    /// Rules whose calls all go to an earlier rule.
    fn shadowed(&mut self) {
        let rules = self.rules().get(..MAX_COMPARED).unwrap_or_else(|| self.rules());
        for (index, rule) in rules.iter().enumerate() {
            let earlier = rules.get(..index).unwrap_or_default();
            if let Some(before) = earlier.iter().find(|before| cover::covers(before, rule)) {
                let before = own_id(before);
                let message = format!(
                    "rule `{}` never decides: `{before}` before it matches all its calls",
                    own_id(rule)
                );
                let path = [Step::Key("rules"), Step::Item(index), Step::Key("id")];
                self.warn("shadowed", &path, message, "put the narrower rule first, or remove it");
            }
        }
    }

    /// Tags and topics that no classification yields.
    fn unproduced(&mut self) {
        let tags: BTreeSet<&str> = self.set.classifier.catalog_tags().chain(DERIVED_TAGS).collect();
        let topics: BTreeSet<&str> = self.set.classifier.catalog_topics().collect();
        for (index, rule) in self.rules().iter().enumerate() {
            for key in [Key::RiskTags, Key::Requires] {
                for (item, glob) in rule.matches.globs(key).iter().enumerate() {
                    if !tags.iter().any(|tag| glob.matches(tag)) {
                        let path = place(index, key, item);
                        let message = format!("nothing produces the risk tag `{}`", glob.text());
                        let hint = "derived are `destructive`, `unclassified`, `hosted_tools` and `raw_tcp`; others come from a ToolCatalog";
                        self.warn("unproduced-tag", &path, message, hint);
                    }
                }
            }
            for (item, glob) in rule.matches.globs(Key::Topics).iter().enumerate() {
                let head = glob.head();
                let derived = ["job.", "llm.", "mcp.", "net."]
                    .iter()
                    .any(|root| root.starts_with(head) || head.starts_with(root));
                if !derived && !topics.iter().any(|topic| glob.matches(topic)) {
                    let path = place(index, Key::Topics, item);
                    let message = format!("nothing produces a topic such as `{}`", glob.text());
                    let hint = "topics are `job.<service>.<operation>` or `llm.<provider>.<operation>`";
                    self.warn("unproduced-topic", &path, message, hint);
                }
            }
        }
    }

    /// Allow rules whose calls another enforced document of the same reach denies.
    fn undone(&mut self) {
        for (index, rule) in self.rules().iter().enumerate() {
            if rule.answer.decision > Decision::Throttle {
                continue;
            }
            let denial = self
                .set
                .documents
                .iter()
                .filter(|other| self.reaches(other))
                .find_map(|other| denies(self.set, other, rule));
            if let Some(denial) = denial {
                let message =
                    format!("rule `{}` never applies: `{denial}` denies all its calls", own_id(rule));
                let path = [Step::Key("rules"), Step::Item(index), Step::Key("id")];
                self.warn(
                    "undone",
                    &path,
                    message,
                    "of several documents the most restrictive wins; change that one",
                );
            }
        }
    }

    /// Whether what `other` denies is denied wherever this document speaks.
    fn reaches(&self, other: &PolicyDocument) -> bool {
        !std::ptr::eq(other, self.compiled)
            && (other.tenant.is_none() || other.tenant == self.compiled.tenant)
            && Point::ALL.iter().all(|point| other.mode(*point) == Mode::Enforce)
    }

    /// Documents that only watch, but leave calls without a say.
    fn silent(&mut self) {
        let watching = Point::ALL.iter().all(|point| self.compiled.mode(*point) != Mode::Enforce);
        if watching && self.compiled.default.is_none() && self.set.documents.len() == 1 {
            let message = "nothing is enforced, but calls that no rule matches are denied".to_owned();
            self.warn("silent", &[Step::Key("mode")], message, "add `default_decision: allow`");
        }
    }
}

fn place(rule: usize, key: Key, item: usize) -> [Step<'static>; 5] {
    [Step::Key("rules"), Step::Item(rule), Step::Key("match"), Step::Key(key.as_str()), Step::Item(item)]
}

fn own_id(rule: &Rule) -> &str {
    rule.answer.rule.split_once('/').map_or(&rule.answer.rule, |(_, id)| id)
}

/// The rule or default of `document` that denies every call of `rule`: the first that could match any of them.
fn denies<'s>(set: &'s PolicySet, document: &'s PolicyDocument, rule: &Rule) -> Option<&'s str> {
    for other in set.rules.get(document.rules.clone()).unwrap_or_default() {
        if other.answer.decision != Decision::Deny {
            return None;
        }
        if cover::covers(other, rule) {
            return Some(&other.answer.rule);
        }
    }
    let default = document.default.as_ref().filter(|answer| answer.decision == Decision::Deny);
    default.map(|answer| &*answer.rule)
}

/// Whether no rule and no default lets anything through.
fn denies_everything(loaded: &Loaded, set: &PolicySet) -> Option<Finding> {
    let answers = || {
        let defaults = set.documents.iter().filter_map(|document| document.default.as_ref());
        set.rules.iter().map(|rule| &rule.answer).chain(defaults)
    };
    let enforced = set.documents.iter().all(|document| document.mode(Point::ToolCall) == Mode::Enforce);
    if !enforced || answers().any(|answer| answer.decision != Decision::Deny) {
        return None;
    }
    let first = loaded.documents.iter().find(|document| matches!(document.resource.spec, Spec::Policy(_)))?;
    let message = "this set denies every call: no rule and no default allows anything".to_owned();
    let mut finding = first.finding(Severity::Warning, "denies-everything", &[], message);
    finding.hint = Some("add rules that allow, or `default_decision: allow`".to_owned());
    Some(finding)
}

#[cfg(test)]
mod tests;
