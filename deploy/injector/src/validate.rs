//! The last word on a pod, after every webhook has had its say: it is as injection would leave it, or it is not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::edit::Edit;
use crate::guard;
use crate::inject::{Injected, Outcome, inject, lock};
use crate::known::Known;
use crate::parts;
use crate::pod::{self, text};
use crate::refusal::{Code, Refusal};
use crate::settings::Settings;

/// Whether a pod that is made has what it must have.
///
/// # Errors
/// Why it must not be: as for [`inject`], and when it would have to be changed.
pub fn validate(
    pod: &Value,
    namespace: &str,
    known: &Known,
    settings: &Settings,
) -> Result<Injected, Refusal> {
    let injected = inject(pod, namespace, known, settings)?;
    let changes = injected.patch.iter().filter(|operation| text(operation, "op") != "test");
    let paths: Vec<&str> = changes.map(|operation| text(operation, "path")).collect();
    if paths.is_empty() {
        return Ok(injected);
    }
    let told = paths.iter().take(3).copied().collect::<Vec<_>>().join("`, `");
    Refusal::err(
        Code::Changed,
        format!(
            "the pod is not as it was injected, or was not injected at all: `{told}`. Another webhook may come after this one"
        ),
    )
}

/// Whether a change of a pod that runs leaves its sidecar as it is: of what is Sideguard's in it nothing changes.
///
/// # Errors
/// What must not change.
pub fn validate_update(
    pod: &Value,
    old: Option<&Value>,
    namespace: &str,
    known: &Known,
    settings: &Settings,
) -> Result<Injected, Refusal> {
    if settings.leaves_alone(namespace) {
        return Ok(Injected::untouched(Outcome::NotOptedIn, None));
    }
    let Some(found) = known.namespaces.get(namespace) else {
        return Refusal::err(Code::NotKnown, format!("namespace `{namespace}` is not known yet: try again"));
    };
    if !found.opted_in() {
        return Ok(Injected::untouched(Outcome::NotOptedIn, None));
    }
    let Some(old) = old else {
        return Refusal::err(Code::Malformed, "the request does not tell how the pod was before");
    };
    pod::check(pod)?;
    let changed =
        |what: String| Refusal::err(Code::Changed, format!("{what} of a pod that runs must not change"));
    let ours = |pod: &Value| -> BTreeMap<String, Value> {
        let all = ["initContainers", "containers"].into_iter().flat_map(|list| pod::named(pod, list));
        let own = all.filter(|(_, name, _)| parts::is_ours(name));
        own.map(|(_, name, body)| (name.to_owned(), body.get("image").cloned().unwrap_or_default())).collect()
    };
    if ours(pod) != ours(old) {
        return changed("the image of the sidecar".to_owned());
    }
    for list in ["labels", "annotations"] {
        let own = |pod: &Value| -> BTreeMap<String, Value> {
            let all = pod.pointer(&format!("/metadata/{list}")).and_then(Value::as_object);
            let own = all.into_iter().flatten().filter(|(name, _)| name.starts_with("sideguard.dev/"));
            own.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        if own(pod) != own(old) {
            return changed(format!("`sideguard.dev/` {list}"));
        }
    }
    Ok(Injected::untouched(Outcome::Unchanged, None))
}

/// The patch that takes rights away from ephemeral containers which are added to a pod.
///
/// # Errors
/// Why they must not be.
pub fn add_ephemeral(
    pod: &Value,
    old: Option<&Value>,
    namespace: &str,
    known: &Known,
    settings: &Settings,
) -> Result<Injected, Refusal> {
    if settings.leaves_alone(namespace) {
        return Ok(Injected::untouched(Outcome::NotOptedIn, None));
    }
    pod::check(pod)?;
    let Some(found) = known.namespaces.get(namespace) else {
        return Refusal::err(Code::NotKnown, format!("namespace `{namespace}` is not known yet: try again"));
    };
    if !found.opted_in() {
        return Ok(Injected::untouched(Outcome::NotOptedIn, None));
    }
    let before: BTreeSet<&str> = old
        .into_iter()
        .flat_map(|old| pod::named(old, "ephemeralContainers"))
        .map(|(_, name, _)| name)
        .collect();
    let mut edit = Edit::new(pod.clone());
    let added =
        pod::containers(pod).filter(|one| one.list == "ephemeralContainers" && !before.contains(one.name));
    for container in added {
        guard::check_ephemeral(container, settings)?;
        let mark = edit.mark();
        edit.expect_name("/spec/ephemeralContainers", container.index);
        lock(&mut edit, &container.path(), &[]);
        edit.forget_if_idle(mark);
    }
    let patch = edit.into_operations();
    let outcome = if patch.is_empty() { Outcome::Unchanged } else { Outcome::Injected };
    Ok(Injected { patch, warnings: Vec::new(), outcome })
}

/// Whether ephemeral containers that are added to a pod have no rights that they must not have.
///
/// # Errors
/// Why they must not be.
pub fn validate_ephemeral(
    pod: &Value,
    old: Option<&Value>,
    namespace: &str,
    known: &Known,
    settings: &Settings,
) -> Result<Injected, Refusal> {
    let added = add_ephemeral(pod, old, namespace, known, settings)?;
    if added.patch.is_empty() {
        return Ok(added);
    }
    Refusal::err(
        Code::Capabilities,
        "an ephemeral container must have `allowPrivilegeEscalation: false` and `capabilities: {drop: [ALL]}`: the mutating \
        webhook sees to it when it is called for `pods/ephemeralcontainers`",
    )
}
