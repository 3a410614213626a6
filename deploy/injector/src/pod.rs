//! What stands in a pod, read where it is. A pod that does not have the form of one is refused before anything is looked at.

use serde_json::{Map, Value};

use crate::refusal::{Code, Refusal};

/// Lists of containers in a pod's spec.
pub(crate) const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// A container of a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container<'p> {
    /// The list that it is in.
    pub(crate) list: &'static str,
    pub(crate) index: usize,
    pub(crate) name: &'p str,
    pub(crate) body: &'p Value,
}

impl Container<'_> {
    /// Its place in the pod.
    pub(crate) fn path(&self) -> String {
        format!("/spec/{}/{}", self.list, self.index)
    }
}

/// All containers, init containers first.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = Container<'_>> {
    LISTS.into_iter().flat_map(move |list| {
        named(pod, list).map(move |(index, name, body)| Container { list, index, name, body })
    })
}

/// Named things of a list in the spec.
pub(crate) fn named<'p>(pod: &'p Value, list: &str) -> impl Iterator<Item = (usize, &'p str, &'p Value)> {
    let items = pod.get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_array);
    items.into_iter().flatten().enumerate().map(|(index, body)| (index, text(body, "name"), body))
}

/// A text in a map; empty when there is none.
pub(crate) fn text<'v>(map: &'v Value, key: &str) -> &'v str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Items of a list in a map.
pub(crate) fn list<'v>(map: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    map.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Whether a flag in a map is set.
pub(crate) fn flag(map: &Value, key: &str) -> bool {
    map.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// The pod's labels or annotations.
pub(crate) fn metadata<'p>(pod: &'p Value, what: &str) -> impl Iterator<Item = (&'p str, &'p str)> {
    let map = pod.get("metadata").and_then(|metadata| metadata.get(what)).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// A label or annotation of the pod.
pub(crate) fn noted<'p>(pod: &'p Value, what: &str, key: &str) -> Option<&'p str> {
    metadata(pod, what).find(|(own, _)| *own == key).map(|(_, value)| value)
}

/// Sees to it that what is looked at later has the form that it must have: what cannot be read is not passed over.
pub(crate) fn check(pod: &Value) -> Result<(), Refusal> {
    let metadata = map(pod, "metadata", "the pod")?;
    for what in ["labels", "annotations"] {
        let entries = metadata.map(|metadata| inner(metadata, what)).transpose()?.flatten();
        for (key, value) in entries.into_iter().flatten() {
            if !value.is_string() {
                return bad(&format!("`metadata.{what}`: `{key}` is no text"));
            }
        }
    }
    let Some(spec) = map(pod, "spec", "the pod")? else { return bad("the pod has no `spec`") };
    for flag in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
        typed(spec, flag, "spec", "no flag", Value::is_boolean)?;
    }
    user(inner(spec, "securityContext")?, "spec")?;
    for name in LISTS {
        for container in items(spec, name)? {
            check_container(name, container)?;
        }
    }
    for volume in items(spec, "volumes")? {
        if !volume.get("name").is_some_and(Value::is_string) {
            return bad("a volume has no name");
        }
    }
    Ok(())
}

fn check_container(list: &str, container: &Value) -> Result<(), Refusal> {
    let Some(name) = container.get("name").and_then(Value::as_str) else {
        return bad(&format!("`spec.{list}`: a container has no name"));
    };
    let container = container.as_object().ok_or_else(|| malformed("a container is no map"))?;
    let context = inner(container, "securityContext")?;
    user(context, name)?;
    if let Some(context) = context {
        typed(context, "privileged", name, "no flag", Value::is_boolean)?;
        typed(context, "procMount", name, "no text", Value::is_string)?;
        if let Some(capabilities) = inner(context, "capabilities")? {
            for which in ["add", "drop"] {
                texts(capabilities, which, name)?;
            }
        }
    }
    for (key, what) in [("env", "name"), ("volumeMounts", "mountPath")] {
        for item in items(container, key)? {
            if !item.get(what).is_some_and(Value::is_string) {
                return bad(&format!("container `{name}`: an item of `{key}` has no `{what}`"));
            }
        }
    }
    for port in items(container, "ports")? {
        let port =
            port.as_object().ok_or_else(|| malformed(format!("container `{name}`: a port is no map")))?;
        for key in ["containerPort", "hostPort"] {
            typed(port, key, name, "no whole number", |value| value.is_i64() || value.is_u64())?;
        }
    }
    Ok(())
}

/// The uids and gids of a security context.
fn user(context: Option<&Map<String, Value>>, whose: &str) -> Result<(), Refusal> {
    let Some(context) = context else { return Ok(()) };
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        typed(context, key, whose, "no whole number", |value| value.is_i64() || value.is_u64())?;
    }
    let groups = items(context, "supplementalGroups")?;
    if groups.iter().any(|group| !group.is_i64() && !group.is_u64()) {
        return bad(&format!("`{whose}`: `supplementalGroups` holds something that is no whole number"));
    }
    Ok(())
}

fn texts(map: &Map<String, Value>, key: &str, whose: &str) -> Result<(), Refusal> {
    if items(map, key)?.iter().any(|item| !item.is_string()) {
        return bad(&format!("`{whose}`: `{key}` holds something that is no text"));
    }
    Ok(())
}

fn typed(
    map: &Map<String, Value>,
    key: &str,
    whose: &str,
    what: &str,
    fits: impl Fn(&Value) -> bool,
) -> Result<(), Refusal> {
    match map.get(key) {
        Some(value) if !value.is_null() && !fits(value) => bad(&format!("`{whose}`: `{key}` is {what}")),
        _ => Ok(()),
    }
}

fn map<'v>(value: &'v Value, key: &str, whose: &str) -> Result<Option<&'v Map<String, Value>>, Refusal> {
    let value = value.as_object().ok_or_else(|| malformed(format!("{whose} is no map")))?;
    inner(value, key)
}

fn inner<'v>(map: &'v Map<String, Value>, key: &str) -> Result<Option<&'v Map<String, Value>>, Refusal> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(inner)) => Ok(Some(inner)),
        Some(_) => bad(&format!("`{key}` is no map")),
    }
}

fn items<'v>(map: &'v Map<String, Value>, key: &str) -> Result<&'v [Value], Refusal> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => bad(&format!("`{key}` is no list")),
    }
}

fn malformed(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::Malformed, message)
}

fn bad<T>(message: &str) -> Result<T, Refusal> {
    Err(malformed(message))
}
