//! The configuration of a daemon: one `kind: Proxy`, `kind: Control` or `kind: Injector` document and the environment over it.

use serde::de::DeserializeOwned;
use sideguard_types::resource::{API_VERSION, ControlSpec, InjectorSpec, Metadata, ProxySpec};

use super::document::{Page, read, take};
use super::{Finding, Severity, Source, environment, nearest};
use crate::yaml::{self, Mark, Node, Value};

/// A kind of configuration.
struct Kind {
    name: &'static str,
    /// Name of an object without metadata.
    unnamed: &'static str,
    /// Keys of its spec; what the environment may set.
    keys: &'static [&'static str],
}

const CONTROL: Kind = Kind {
    name: "Control",
    unnamed: "control",
    keys: &[
        "listen",
        "state",
        "store",
        "tls",
        "hosts",
        "limits",
        "approvals",
        "lease",
        "kubernetes",
        "operatorKey",
    ],
};

const INJECTOR: Kind = Kind {
    name: "Injector",
    unnamed: "injector",
    keys: &[
        "listen",
        "certificate",
        "known",
        "cluster",
        "kubernetesVersion",
        "nativeSidecar",
        "namespace",
        "image",
        "imagePullPolicy",
        "imagePullSecrets",
        "capture",
        "caMode",
        "proxy",
        "control",
        "policies",
        "mesh",
    ],
};

const PROXY: Kind = Kind { name: "Proxy", unnamed: "proxy", keys: &PROXY_KEYS };

const PROXY_KEYS: [&str; 17] = [
    "agent",
    "agents",
    "listen",
    "control",
    "policies",
    "state",
    "tls",
    "upstreams",
    "hosts",
    "private",
    "limits",
    "audit",
    "prices",
    "refusals",
    "breakers",
    "delegation",
    "worker",
];

/// Reads the configuration of a proxy and puts `env` (pairs of `SIDEGUARD_<PATH>` and value, `__` between levels,
/// lists and maps as YAML flow text) over it. Metadata may be absent; the name is then `proxy`.
///
/// # Errors
/// Everything that is wrong; findings about variables name `environment` as their file.
pub fn load_proxy(source: &Source, env: &[(String, String)]) -> Result<(Metadata, ProxySpec), Vec<Finding>> {
    load(&PROXY, source, env)
}

/// Reads the configuration of a control service, as [`load_proxy`] does a proxy's.
///
/// # Errors
/// As [`load_proxy`].
pub fn load_control(
    source: &Source,
    env: &[(String, String)],
) -> Result<(Metadata, ControlSpec), Vec<Finding>> {
    load(&CONTROL, source, env)
}

/// Reads the configuration of an injector, as [`load_proxy`] does a proxy's.
///
/// # Errors
/// As [`load_proxy`].
pub fn load_injector(
    source: &Source,
    env: &[(String, String)],
) -> Result<(Metadata, InjectorSpec), Vec<Finding>> {
    load(&INJECTOR, source, env)
}

fn load<T: DeserializeOwned>(
    kind: &Kind,
    source: &Source,
    env: &[(String, String)],
) -> Result<(Metadata, T), Vec<Finding>> {
    let lines = source.text.lines().count();
    let mut text = source.text.clone();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    // Variables get lines of their own behind the file's, so that findings can show them as well.
    for (name, value) in env {
        text.push_str(&format!("{name}={}\n", value.replace(['\n', '\r'], " ")));
    }
    let page = Page::new(&Source { name: source.name.clone(), text });
    let mut findings = Vec::new();
    let read = parse(kind, &page, source, env, lines, &mut findings);
    for finding in findings.iter_mut().filter(|finding| finding.line > lines.max(1)) {
        finding.file = "environment".to_owned();
        finding.line = finding.line.saturating_sub(lines);
    }
    match read {
        Some(read) if findings.iter().all(|finding| finding.severity != Severity::Error) => Ok(read),
        _ => Err(findings),
    }
}

fn parse<T: DeserializeOwned>(
    kind: &Kind,
    page: &Page,
    source: &Source,
    env: &[(String, String)],
    lines: usize,
    findings: &mut Vec<Finding>,
) -> Option<(Metadata, T)> {
    let start = Mark { line: 1, column: 1 };
    let parsed = yaml::parse(&source.text);
    findings.extend(parsed.refusals.into_iter().map(|refusal| page.refused(refusal)));
    if !findings.is_empty() {
        return None;
    }
    let mut roots = parsed.roots.into_iter();
    let (Some(mut root), None) = (roots.next(), roots.next()) else {
        let message = format!("expected one `kind: {}` document", kind.name);
        findings.push(page.finding(start, "kind", message, Some(begin(kind))));
        return None;
    };
    envelope(kind, page, &root, findings);
    let metadata = match take(&mut root, "metadata") {
        Some(mut node) => read::<Metadata>(page, &mut node, &[], findings)?,
        None => Metadata { name: kind.unnamed.to_owned(), ..Metadata::default() },
    };
    let empty = Node { at: root.at, bytes: 0..0, value: Value::Map(Vec::new()) };
    let mut spec = take(&mut root, "spec").filter(|node| !node.is_null()).unwrap_or(empty);
    for misfit in environment::overlay(&mut spec, kind.keys, env, lines.saturating_add(1)) {
        findings.push(page.finding(misfit.at, "environment", misfit.message, None));
    }
    let spec = read::<T>(page, &mut spec, &[], findings)?;
    Some((metadata, spec))
}

fn begin(kind: &Kind) -> String {
    format!("begin with `apiVersion: {API_VERSION}` and `kind: {}`", kind.name)
}

fn envelope(kind: &Kind, page: &Page, root: &Node, findings: &mut Vec<Finding>) {
    for (key, wanted) in [("apiVersion", API_VERSION), ("kind", kind.name)] {
        let found = root.get(key);
        if found.and_then(Node::text) != Some(wanted) {
            let at = found.map_or(root.at, |node| node.at);
            let message = format!("the key `{key}` must be `{wanted}`");
            findings.push(page.finding(at, "kind", message, Some(begin(kind))));
        }
    }
    let Value::Map(entries) = &root.value else { return };
    const ENVELOPE: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];
    for entry in entries.iter().filter(|entry| !ENVELOPE.contains(&entry.key.as_str())) {
        let hint = if kind.keys.contains(&entry.key.as_str()) {
            Some("put it under `spec:`".to_owned())
        } else {
            nearest(&entry.key, ENVELOPE).map(|meant| format!("did you mean `{meant}`?"))
        };
        let message = format!("there is no key `{}` here", entry.key);
        findings.push(page.finding(entry.at, "unknown-key", message, hint));
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use sideguard_types::resource::{ControlSpec, InjectorSpec, ProxySpec};

    fn same(spec: impl Serialize, keys: &[&str]) {
        let spec = serde_json::to_value(spec).expect("a map");
        let mut all: Vec<&str> = spec.as_object().expect("a map").keys().map(String::as_str).collect();
        let mut known = keys.to_vec();
        all.sort_unstable();
        known.sort_unstable();
        assert_eq!(all, known);
    }

    #[test]
    fn every_key_can_be_set_in_the_environment() {
        same(ProxySpec::default(), super::PROXY.keys);
        same(ControlSpec::default(), super::CONTROL.keys);
        same(InjectorSpec::default(), super::INJECTOR.keys);
    }
}
