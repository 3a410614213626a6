//! Objects of kube-agentic-networking in our words, where they have any: XAccessPolicy of `v1alpha1` and XBackend of
//! `v0alpha0`, as of 2026-07 (its `api/v1alpha1/accesspolicy_types.go` and `api/v0alpha0/backend_types.go`).
//!
//! An XAccessPolicy says who may do what at its targets, and that nobody else may do anything there. It becomes a Policy with
//! a rule for each right and a last one that denies the rest at those hosts. Whatever is not known here, or says less than it
//! means once it is put in our words, is refused as a whole: nothing is left out. The table is in
//! `deploy/KUBERNETES-AGENTIC-NETWORKING.md`.

mod rights;
mod status;

use kube::api::ApiResource;
use serde_json::{Value, json};

use crate::connect::resource;

pub use status::status;

/// Group of its kinds.
pub const GROUP: &str = "agentic.networking.x-k8s.io";
/// Kind of policies.
pub const POLICY: &str = "XAccessPolicy";
/// Kind of backends.
pub const BACKEND: &str = "XBackend";

/// The kinds that are read.
#[must_use]
pub fn resources() -> [ApiResource; 2] {
    [
        resource(GROUP, "v1alpha1", POLICY, "xaccesspolicies"),
        resource(GROUP, "v0alpha0", BACKEND, "xbackends"),
    ]
}

/// An object of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Ours {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its spec.
    pub spec: Value,
}

/// Why an object has no form in our words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct Unsupported {
    /// Where.
    pub place: String,
    /// Why.
    pub reason: String,
}

fn unsupported<T>(place: impl Into<String>, reason: impl Into<String>) -> Result<T, Unsupported> {
    Err(Unsupported { place: place.into(), reason: reason.into() })
}

/// Translates the spec of an object. `backend` gives the spec of an XBackend of the same namespace.
///
/// # Errors
/// When something in it has no form in our words: then nothing of it may come into force.
pub fn translate(
    kind: &str,
    namespace: &str,
    name: &str,
    spec: &Value,
    backend: &dyn Fn(&str) -> Option<Value>,
) -> Result<Ours, Unsupported> {
    let name = format!("agentic.{name}");
    match kind {
        BACKEND => Ok(Ours { kind: "Upstream", name, spec: upstream(namespace, spec)? }),
        POLICY => Ok(Ours { kind: "Policy", name, spec: policy(namespace, spec, backend)? }),
        other => unsupported("kind", format!("`{other}` is not read")),
    }
}

/// Refuses fields that are not known: a later version may have given them a meaning.
fn only(value: &Value, place: &str, known: &[&str]) -> Result<(), Unsupported> {
    let Some(fields) = value.as_object() else { return unsupported(place, "is no object") };
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => unsupported(format!("{place}.{key}"), "is not known"),
        None => Ok(()),
    }
}

fn text<'v>(value: &'v Value, place: &str) -> Result<&'v str, Unsupported> {
    match value.as_str().filter(|text| !text.is_empty()) {
        Some(text) => Ok(text),
        None => unsupported(place, "is missing, or no text"),
    }
}

/// Where a backend is reached.
struct Reach {
    hosts: Vec<String>,
    port: u64,
    tls: bool,
}

fn reach(namespace: &str, spec: &Value) -> Result<Reach, Unsupported> {
    only(spec, "spec", &["mcp"])?;
    let mcp = &spec["mcp"];
    only(mcp, "spec.mcp", &["serviceName", "hostname", "port", "path"])?;
    let Some(port) = mcp["port"].as_u64().filter(|port| (1..=65_535).contains(port)) else {
        return unsupported("spec.mcp.port", "is no port");
    };
    match (&mcp["serviceName"], &mcp["hostname"]) {
        (service, Value::Null) => {
            let service = plain(text(service, "spec.mcp.serviceName")?, "spec.mcp.serviceName")?;
            let own = format!("{service}.{namespace}.svc");
            // As pods write it, from the longest to the shortest form.
            let hosts = vec![
                own.clone(),
                format!("{own}.cluster.local"),
                format!("{service}.{namespace}"),
                service.to_owned(),
            ];
            Ok(Reach { hosts, port, tls: false })
        }
        (Value::Null, host) => {
            let host = plain(text(host, "spec.mcp.hostname")?, "spec.mcp.hostname")?;
            Ok(Reach { hosts: vec![host.to_owned()], port, tls: port == 443 })
        }
        _ => unsupported("spec.mcp", "has both `serviceName` and `hostname`"),
    }
}

/// A name in which no character means more than itself.
fn plain<'n>(name: &'n str, place: &str) -> Result<&'n str, Unsupported> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if name.bytes().all(fits) { Ok(name) } else { unsupported(place, format!("`{name}` is no plain name")) }
}

fn upstream(namespace: &str, spec: &Value) -> Result<Value, Unsupported> {
    let Reach { hosts, port, tls } = reach(namespace, spec)?;
    let scheme = if tls { "https" } else { "http" };
    let host = hosts.first().map(String::as_str).unwrap_or_default();
    Ok(json!({ "baseUrl": format!("{scheme}://{host}:{port}"), "dialect": "mcp" }))
}

fn policy(
    namespace: &str,
    spec: &Value,
    backend: &dyn Fn(&str) -> Option<Value>,
) -> Result<Value, Unsupported> {
    only(spec, "spec", &["targetRefs", "action", "externalAuth", "rules"])?;
    match text(&spec["action"], "spec.action")? {
        "Allow" if spec["externalAuth"].is_null() => {}
        "Allow" => return unsupported("spec.externalAuth", "stands beside the action `Allow`"),
        other => {
            return unsupported("spec.action", format!("`{other}` asks a server that is not asked here"));
        }
    }
    let hosts = targets(namespace, &spec["targetRefs"], backend)?;
    let Some(given) = spec["rules"].as_array().filter(|rules| !rules.is_empty()) else {
        return unsupported("spec.rules", "are missing");
    };
    let mut rules = Vec::new();
    for (at, rule) in given.iter().enumerate() {
        rules.extend(rights::rules(namespace, rule, &format!("spec.rules[{at}]"), &hosts)?);
    }
    rules.push(json!({
        "id": "otherwise",
        "match": { "hosts": hosts },
        "decision": "deny",
        "reason": "no rule of the XAccessPolicy allows it",
    }));
    Ok(json!({ "rules": rules }))
}

/// The hosts of all targets.
fn targets(
    namespace: &str,
    references: &Value,
    backend: &dyn Fn(&str) -> Option<Value>,
) -> Result<Vec<String>, Unsupported> {
    let Some(references) = references.as_array().filter(|references| !references.is_empty()) else {
        return unsupported("spec.targetRefs", "are missing");
    };
    let mut hosts = Vec::new();
    for (at, reference) in references.iter().enumerate() {
        let place = format!("spec.targetRefs[{at}]");
        only(reference, &place, &["group", "kind", "name"])?;
        if reference["group"] != GROUP || reference["kind"] != BACKEND {
            let reason = "is not an XBackend: which hosts stand behind a Gateway is not known here";
            return unsupported(place, reason);
        }
        let name = text(&reference["name"], &format!("{place}.name"))?;
        let Some(spec) = backend(name) else {
            return unsupported(place, format!("there is no XBackend `{name}` in `{namespace}`"));
        };
        let told = |error: Unsupported| Unsupported { place: place.clone(), reason: error.to_string() };
        hosts.extend(reach(namespace, &spec).map_err(told)?.hosts);
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests;
