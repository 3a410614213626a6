//! The last word on a pod, after every webhook has had its say: it is as injection would leave it, or it is not.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::edit::Edit;
use crate::guard;
use crate::inject::{Injected, Outcome, inject, lock};
use crate::known::Known;
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
