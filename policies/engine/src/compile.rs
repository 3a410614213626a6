//! Resources to a [`PolicySet`]: everything that can be wrong with what was written is told here, so that judging
//! has nothing left to refuse.

mod amounts;
mod checks;
mod digest;
mod pools;
mod rules;
mod sinks;
mod workflows;

use std::collections::HashMap;
use std::sync::Arc;

use sideguard_types::resource::{ModeSpec, PolicySpec, Spec};
use sideguard_types::verdict::Mode;

use crate::classify::Classifier;
use crate::identity::Identities;
use crate::policy::{Index, PolicyDocument, PolicySet, Rule};
use crate::pool::Pool;
use crate::source::{Document, Finding, Loaded, Severity, Step};

use checks::Checks;

/// Compiles what was loaded.
///
/// # Errors
/// All errors of loading and compiling together, by file and line; warnings of loading are not among them.
pub fn compile(loaded: &Loaded) -> Result<PolicySet, Vec<Finding>> {
    let mut findings: Vec<Finding> =
        loaded.findings.iter().filter(|finding| finding.severity == Severity::Error).cloned().collect();
    let documents = ordered(&loaded.documents, &mut findings);
    let mut set = PolicySet {
        digest: digest::digest(documents.iter().map(|document| &document.resource)),
        documents: Vec::new(),
        rules: Vec::new(),
        index: Index::new(&[]),
        nothing: Arc::from([]),
        budgets: Vec::new(),
        upstreams: Vec::new(),
        pools: Vec::new(),
        classifier: Classifier::default(),
        identities: Identities::default(),
    };
    for document in documents {
        add(&mut set, &mut Checks::new(document, &mut findings));
    }
    if findings.is_empty() {
        set.index = Index::new(&set.rules);
        return Ok(set);
    }
    findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    Err(findings)
}

/// The documents by kind, tenant and name, so that nothing depends on the order of files; a name that stands twice
/// is an error.
fn ordered<'l>(documents: &'l [Document], findings: &mut Vec<Finding>) -> Vec<&'l Document> {
    let mut ordered: Vec<&Document> = documents.iter().collect();
    ordered.sort_by_key(|document| identity(document));
    for pair in ordered.windows(2) {
        let [first, second] = pair else { continue };
        if identity(first) == identity(second) {
            let (kind, _, name) = identity(second);
            let message = format!("there are two resources of kind `{kind}` named `{name}`");
            let mut finding = second.finding(Severity::Error, "duplicate-name", &[], message);
            finding.hint = Some(format!("the other one stands in `{}`; give one another name", first.file()));
            findings.push(finding);
        }
    }
    ordered
}

fn identity(document: &Document) -> (&'static str, &str, &str) {
    (document.resource.spec.kind(), document.tenant(), &document.resource.metadata.name)
}

fn add(set: &mut PolicySet, checks: &mut Checks<'_>) {
    let document = checks.document();
    let metadata = &document.resource.metadata;
    match &document.resource.spec {
        Spec::Policy(spec) => add_policy(set, checks, spec),
        Spec::Budget(spec) => {
            amounts::check(checks, spec);
            set.budgets.push((metadata.clone(), spec.clone()));
        }
        Spec::Upstream(spec) => {
            checks.upstream(spec);
            set.upstreams.push((metadata.clone(), spec.clone()));
        }
        Spec::ToolCatalog(spec) => {
            for (index, key, message) in set.classifier.add(spec) {
                checks.error("catalog", &[Step::Key("tools"), Step::Item(index), Step::Key(key)], message);
            }
        }
        Spec::Sink(spec) => sinks::check(checks, spec),
        Spec::Workflow(spec) => workflows::check(checks, spec),
        Spec::WorkerPool(spec) => {
            pools::check(checks, spec);
            set.pools.push(Pool::new(&metadata.name, metadata.tenant.as_deref(), spec.clone()));
        }
        Spec::Agent(spec) => {
            for (list, index, message) in set.identities.add(metadata, spec) {
                checks.error("agent", &[Step::Key(list), Step::Item(index)], message);
            }
        }
    }
}

fn add_policy(set: &mut PolicySet, checks: &mut Checks<'_>, spec: &PolicySpec) {
    let metadata = &checks.document().resource.metadata;
    let name: Arc<str> = metadata.name.as_str().into();
    let number = set.documents.len();
    let first = set.rules.len();
    let mut ids: HashMap<&str, usize> = HashMap::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        if let Some(before) = ids.insert(&rule.id, index) {
            let path = [Step::Key("rules"), Step::Item(index), Step::Key("id")];
            let message =
                format!("the id `{}` is that of rule {} already", rule.id, before.saturating_add(1));
            checks.error("duplicate-id", &path, message);
        }
        if let Some((answer, matches, when, velocity)) = rules::compile(checks, &name, index, rule) {
            set.rules.push(Rule { document: number, answer, matches, when, velocity });
        }
    }
    let default = spec.default_decision.and_then(|decision| rules::default(checks, &name, decision));
    let mode = |point| match &spec.mode {
        None => Mode::Enforce,
        Some(ModeSpec::One(mode)) => *mode,
        Some(ModeSpec::ByPoint(modes)) => modes.points.get(&point).copied().unwrap_or(modes.default),
    };
    let rules = first..set.rules.len();
    set.documents.push(PolicyDocument::new(name, metadata.tenant.clone(), rules, default, mode));
}
