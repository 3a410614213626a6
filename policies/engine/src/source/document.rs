//! One YAML document to one resource.

use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use sideguard_types::resource::{
    API_VERSION, AgentSpec, BudgetSpec, Metadata, PolicySpec, Resource, SinkSpec, Spec, ToolCatalogSpec,
    UpstreamSpec, WorkerPoolSpec, WorkflowSpec,
};

use super::{Finding, Severity, Source, nearest};
use crate::yaml::{self, Fault, FaultKind, Mark, Node, Pruned, Refusal, Value};

/// Most findings of one document; after so many the rest is noise.
const MAX_FINDINGS: usize = 50;
/// Kinds that are read here.
const KINDS: [&str; 8] =
    ["Policy", "Budget", "ToolCatalog", "Agent", "Upstream", "Sink", "WorkerPool", "Workflow"];
/// Keys of rules and of `match`: at the top level they mean that indentation was lost.
const INNER_KEYS: [&str; 25] = [
    "id",
    "match",
    "when",
    "decision",
    "reason",
    "constraints",
    "approval",
    "velocity",
    "remediations",
    "tenants",
    "agents",
    "labels",
    "topics",
    "verbs",
    "risk_tags",
    "points",
    "tools",
    "models",
    "hosts",
    "methods",
    "paths",
    "capabilities",
    "requires",
    "delegation",
    "content",
];

/// A resource and the text that it was read from.
#[derive(Debug, Clone)]
pub struct Document {
    /// The resource.
    pub resource: Resource,
    page: Page,
    spec: Node,
}

impl Document {
    /// Name of the file that it stands in.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.page.name
    }

    /// Tenant, `default` when none is named.
    #[must_use]
    pub fn tenant(&self) -> &str {
        tenant(&self.resource.metadata)
    }

    /// A finding at `path` below `spec`, or as near to it as the document reaches.
    pub(crate) fn finding(
        &self,
        severity: Severity,
        code: &'static str,
        path: &[Step<'_>],
        message: String,
    ) -> Finding {
        let mut node = &self.spec;
        for step in path {
            let next = match (step, &node.value) {
                (Step::Key(key), _) => node.get(key),
                (Step::Item(at), Value::List(items)) => items.get(*at),
                (Step::Item(_), _) => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        let mut finding = self.page.finding(node.at, code, message, None);
        finding.severity = severity;
        finding
    }

    /// The node at `path` below `spec`.
    pub(crate) fn node(&self, path: &[Step<'_>]) -> Option<&Node> {
        path.iter().try_fold(&self.spec, |node, step| match (step, &node.value) {
            (Step::Key(key), _) => node.get(key),
            (Step::Item(at), Value::List(items)) => items.get(*at),
            (Step::Item(_), _) => None,
        })
    }

    pub(crate) fn page(&self) -> &Page {
        &self.page
    }
}

/// One step of the way to a node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    Item(usize),
}

/// The tenant that an object belongs to.
pub(crate) fn tenant(metadata: &Metadata) -> &str {
    metadata.tenant.as_deref().unwrap_or("default")
}

/// A text that findings are about; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    name: Arc<str>,
    text: Arc<str>,
}

impl Page {
    pub(crate) fn new(source: &Source) -> Self {
        Self { name: source.name.as_str().into(), text: source.text.as_str().into() }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// An error at a place.
    pub(crate) fn finding(
        &self,
        at: Mark,
        code: &'static str,
        message: String,
        hint: Option<String>,
    ) -> Finding {
        const WIDEST: usize = 200;
        let line = self.text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
        Finding {
            severity: Severity::Error,
            file: self.name.to_string(),
            line: at.line.max(1),
            column: at.column.max(1),
            code,
            message,
            hint,
            source_line: if at.column > WIDEST { String::new() } else { line.chars().take(WIDEST).collect() },
        }
    }

    pub(crate) fn refused(&self, refusal: Refusal) -> Finding {
        self.finding(refusal.at, refusal.code, refusal.message, refusal.hint)
    }

    fn fault(&self, fault: Fault, root: Mark) -> Option<Finding> {
        let message = fault.to_string();
        let at = fault.at.unwrap_or(root);
        let (code, hint) = match fault.kind {
            FaultKind::Consequence => return None,
            FaultKind::UnknownKey { key, known } => ("unknown-key", Some(known_words(&key, known, "keys"))),
            FaultKind::UnknownValue { value, known } => {
                ("unknown-value", Some(known_words(&value, known, "values")))
            }
            FaultKind::MissingKey(_) => ("missing-key", None),
            FaultKind::Other(_) => ("value", None),
        };
        Some(self.finding(at, code, message, hint))
    }

    fn stem(&self) -> String {
        let stem = Path::new(&*self.name).file_stem().and_then(|stem| stem.to_str()).unwrap_or("policy");
        let stem: String =
            stem.to_ascii_lowercase().chars().map(|c| if is_name_char(c) { c } else { '-' }).collect();
        if stem.is_empty() { "policy".to_owned() } else { stem }
    }
}

fn known_words(word: &str, known: &'static [&'static str], what: &str) -> String {
    match nearest(word, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if known.is_empty() => format!("no {what} are known here"),
        None => format!("known {what}: {}", known.join(", ")),
    }
}

/// Reads `root` as a `T`, telling every fault; what is at fault is left out, of the result and of the tree.
/// `skip` are keys of `root` that are not the type's.
pub(crate) fn read<T: DeserializeOwned>(
    page: &Page,
    root: &mut Node,
    skip: &[&str],
    findings: &mut Vec<Finding>,
) -> Option<T> {
    let mut pruned = Pruned::new();
    for key in skip {
        pruned.extend(root.get(key).map(std::ptr::from_ref));
    }
    let mut decoded = None;
    for _ in 0..MAX_FINDINGS {
        match yaml::decode::<T>(root, &pruned) {
            Ok(value) => {
                decoded = Some(value);
                break;
            }
            Err(fault) => {
                let node = fault.node;
                findings.extend(page.fault(fault, root.at));
                let Some(node) = node.filter(|node| !std::ptr::eq(*node, root)) else { break };
                if !pruned.insert(node) {
                    break;
                }
            }
        }
    }
    prune(root, &pruned);
    decoded
}

fn prune(node: &mut Node, pruned: &Pruned) {
    // Addresses are compared before anything moves: what goes is found first, then removed.
    match &mut node.value {
        Value::Scalar(..) => {}
        Value::List(items) => {
            for item in items.iter_mut() {
                prune(item, pruned);
            }
            let keep: Vec<bool> =
                items.iter().map(|item| !pruned.contains(&std::ptr::from_ref(item))).collect();
            let mut keep = keep.into_iter();
            items.retain(|_| keep.next().unwrap_or(true));
        }
        Value::Map(entries) => {
            for entry in entries.iter_mut() {
                prune(&mut entry.value, pruned);
            }
            let keep: Vec<bool> =
                entries.iter().map(|entry| !pruned.contains(&std::ptr::from_ref(&entry.value))).collect();
            let mut keep = keep.into_iter();
            entries.retain(|_| keep.next().unwrap_or(true));
        }
    }
}

/// Reads one document; `unnamed` counts the ones in its file that took their name from it.
pub(crate) fn load_node(
    page: &Page,
    mut root: Node,
    unnamed: &mut usize,
    findings: &mut Vec<Finding>,
) -> Option<Document> {
    if !matches!(root.value, Value::Map(_)) {
        let message = format!("expected a resource, found {}", root.kind());
        let hint = Some("a resource begins with `apiVersion:` and `kind:`".to_owned());
        findings.push(page.finding(root.at, "kind", message, hint));
        return None;
    }
    if root.get("kind").is_none() {
        return load_safety(page, root, unnamed, findings);
    }
    let known = envelope(page, &root, findings);
    let metadata = metadata(page, &mut root, findings);
    if !known {
        return None;
    }
    let kind = root.get("kind").and_then(Node::text).unwrap_or_default().to_owned();
    let spec_node = take(&mut root, "spec");
    let Some(mut spec_node) = spec_node else {
        let hint = Some("everything but `apiVersion`, `kind` and `metadata` stands under `spec:`".to_owned());
        findings.push(page.finding(root.at, "missing-key", "the key `spec` is missing".to_owned(), hint));
        return None;
    };
    let spec = match kind.as_str() {
        "Policy" => read::<PolicySpec>(page, &mut spec_node, &[], findings).map(Spec::Policy),
        "Budget" => read::<BudgetSpec>(page, &mut spec_node, &[], findings).map(Spec::Budget),
        "ToolCatalog" => read::<ToolCatalogSpec>(page, &mut spec_node, &[], findings).map(Spec::ToolCatalog),
        "Agent" => read::<AgentSpec>(page, &mut spec_node, &[], findings).map(Spec::Agent),
        "Sink" => read::<SinkSpec>(page, &mut spec_node, &[], findings).map(Spec::Sink),
        "Workflow" => read::<WorkflowSpec>(page, &mut spec_node, &[], findings).map(Spec::Workflow),
        "WorkerPool" => read::<WorkerPoolSpec>(page, &mut spec_node, &[], findings).map(Spec::WorkerPool),
        _ => read::<UpstreamSpec>(page, &mut spec_node, &[], findings).map(Spec::Upstream),
    }?;
    Some(Document { resource: Resource { metadata: metadata?, spec }, page: page.clone(), spec: spec_node })
}

/// Checks `apiVersion`, `kind` and that nothing else stands at the top level.
fn envelope(page: &Page, root: &Node, findings: &mut Vec<Finding>) -> bool {
    let before = findings.len();
    let kind = root.get("kind");
    if let Some(node) = kind {
        let name = node.text().unwrap_or_default();
        if name == "Proxy" {
            let hint = Some("give it to the proxy with `-c`, and leave it out of `policies`".to_owned());
            let message = "a `Proxy` is the configuration of a proxy, not a resource".to_owned();
            findings.push(page.finding(node.at, "kind", message, hint));
        } else if !KINDS.contains(&name) {
            let message = format!("the kind `{name}` is not one that is read here");
            findings.push(page.finding(node.at, "kind", message, Some(known_words(name, &KINDS, "kinds"))));
        }
    }
    match root.get("apiVersion") {
        None => {
            let message = "the key `apiVersion` is missing".to_owned();
            findings.push(page.finding(root.at, "missing-key", message, Some(write_version())));
        }
        Some(node) if node.text() != Some(API_VERSION) => {
            let message = format!("the `apiVersion` `{}` is not known", node.text().unwrap_or_default());
            findings.push(page.finding(node.at, "version", message, Some(write_version())));
        }
        Some(_) => {}
    }
    unknown_keys(page, root, &["apiVersion", "kind", "metadata", "spec"], findings);
    findings.len() == before
}

fn write_version() -> String {
    format!("write `apiVersion: {API_VERSION}`")
}

fn unknown_keys(page: &Page, root: &Node, known: &'static [&'static str], findings: &mut Vec<Finding>) {
    let Value::Map(entries) = &root.value else { return };
    for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())).take(MAX_FINDINGS) {
        let message = format!("there is no key `{}` here", entry.key);
        let hint = Some(known_words(&entry.key, known, "keys"));
        findings.push(page.finding(entry.at, "unknown-key", message, hint));
    }
}

fn metadata(page: &Page, root: &mut Node, findings: &mut Vec<Finding>) -> Option<Metadata> {
    let Some(mut node) = take(root, "metadata") else {
        let hint = Some("write `metadata: {name: …}`".to_owned());
        findings.push(page.finding(root.at, "missing-key", "the key `metadata` is missing".to_owned(), hint));
        return None;
    };
    let metadata: Metadata = read(page, &mut node, &[], findings)?;
    for (key, name) in [("name", Some(&metadata.name)), ("tenant", metadata.tenant.as_ref())] {
        if let Some(name) = name.filter(|name| !is_name(name)) {
            let at = node.get(key).map_or(node.at, |node| node.at);
            let hint = Some("use at most 253 lower case letters, digits, `-` and `.`".to_owned());
            findings.push(page.finding(at, "name", format!("`{name}` is not a name"), hint));
            return None;
        }
    }
    Some(metadata)
}

pub(super) fn take(root: &mut Node, key: &str) -> Option<Node> {
    let Value::Map(entries) = &mut root.value else { return None };
    let at = entries.iter().position(|entry| entry.key == key)?;
    Some(entries.remove(at).value)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.')
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && name.chars().all(is_name_char)
}

/// Reads a safety.yaml document: `version: v1` and the keys of a policy, with no envelope.
fn load_safety(
    page: &Page,
    mut root: Node,
    unnamed: &mut usize,
    findings: &mut Vec<Finding>,
) -> Option<Document> {
    if root.get("rules").is_none() && root.get("version").is_none() {
        let hint = Some(format!(
            "a resource has `kind:` ({}), a safety.yaml `version: v1` and `rules:`",
            KINDS.join(", ")
        ));
        findings.push(page.finding(root.at, "kind", "the key `kind` is missing".to_owned(), hint));
        return None;
    }
    if let Some(finding) = lost_indentation(page, &root) {
        findings.push(finding);
        return None;
    }
    match root.get("version") {
        Some(node) if node.text() == Some("v1") => {}
        other => {
            let at = other.map_or(root.at, |node| node.at);
            let message = "the version of a safety.yaml must be `v1`".to_owned();
            findings.push(page.finding(at, "version", message, Some("write `version: v1`".to_owned())));
        }
    }
    if root.get("rules").is_none() {
        findings.push(page.finding(root.at, "missing-key", "the key `rules` is missing".to_owned(), None));
        return None;
    }
    let spec: PolicySpec = read(page, &mut root, &["version"], findings)?;
    *unnamed = unnamed.saturating_add(1);
    let name = if *unnamed == 1 { page.stem() } else { format!("{}-{unnamed}", page.stem()) };
    let metadata = Metadata { name, ..Metadata::default() };
    Some(Document {
        resource: Resource { metadata, spec: Spec::Policy(spec) },
        page: page.clone(),
        spec: root,
    })
}

/// A text whose indentation was lost is valid YAML still: rules that have only an `id`, and what belongs to them
/// beside them. It is refused, never guessed at.
fn lost_indentation(page: &Page, root: &Node) -> Option<Finding> {
    let Value::Map(entries) = &root.value else { return None };
    let stray = entries.iter().find(|entry| INNER_KEYS.contains(&entry.key.as_str()))?;
    let message = format!("`{}` stands at the top level, but it belongs to a rule", stray.key);
    let hint = "the indentation seems to be lost: below `rules:` each rule begins with `  - id:`, its other keys \
                stand under `id`, and the keys of `match` two spaces deeper";
    Some(page.finding(stray.at, "indentation", message, Some(hint.to_owned())))
}
