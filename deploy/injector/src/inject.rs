//! The patch of a pod: a pure function of the pod, its namespace and what is known. Done again to what it made, it changes
//! nothing; done to what somebody has changed since, it puts it right.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sideguard_types::resource::{CaMode, Capture, Waiver};

use crate::covers::covers;
use crate::edit::{Edit, escaped};
use crate::guard;
use crate::known::{Known, Namespace};
use crate::label;
use crate::parts::{self, Parts, TRUST};
use crate::pod::{self, flag, noted, text};
use crate::refusal::{Code, Refusal};
use crate::settings::Settings;
use crate::wish::{self, Wish};

/// Shortest time, in seconds, in which a sidecar can tell control of its last calls.
const SHORT_GRACE: u64 = 10;

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Injected {
    /// Operations of a JSON patch; none when nothing is to change.
    pub patch: Vec<Value>,
    /// What the person should know who made the pod.
    pub warnings: Vec<String>,
    /// Why it is as it is.
    pub outcome: Outcome,
}

/// Why a pod is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It has the sidecar now.
    Injected,
    /// It had it already.
    Unchanged,
    /// Its namespace is not to be injected.
    NotOptedIn,
    /// It left itself out, and may.
    OptedOut,
    /// A node made it, of a file of its own.
    Mirror,
}

impl Outcome {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::NotOptedIn => "not_opted_in",
            Self::OptedOut => "opted_out",
            Self::Mirror => "mirror",
        }
    }
}

impl Injected {
    pub(crate) fn untouched(outcome: Outcome, warning: Option<String>) -> Self {
        Self { patch: Vec::new(), warnings: warning.into_iter().collect(), outcome }
    }
}

/// The patch that puts the sidecar into a pod of a namespace.
///
/// # Errors
/// Why the pod must not be.
pub fn inject(pod: &Value, namespace: &str, known: &Known, settings: &Settings) -> Result<Injected, Refusal> {
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
    if wish::opts_out(pod, found)? {
        let warning = format!("sideguard: this pod has left itself out by `{}: disabled`", label::INJECT);
        return Ok(Injected::untouched(Outcome::OptedOut, Some(warning)));
    }
    let injected = noted(pod, "annotations", label::STATUS).is_some();
    guard::unforged(pod, injected)?;
    let wish = Wish::read(pod, namespace, found, known, settings)?;
    guard::check(pod, &wish)?;
    pod_security(found, &wish)?;
    let mut injection =
        Injection { edit: Edit::new(pod.clone()), warnings: warnings(pod, found, &wish), wish };
    injection.run(pod);
    let Injection { edit, warnings, .. } = injection;
    let patch = edit.into_operations();
    let outcome = if patch.is_empty() { Outcome::Unchanged } else { Outcome::Injected };
    Ok(Injected { patch, warnings, outcome })
}

/// Pod Security would refuse the init step later, with a message that does not say what to do.
fn pod_security(namespace: &Namespace, wish: &Wish<'_>) -> Result<(), Refusal> {
    let level = namespace.labels.get(label::POD_SECURITY).map(String::as_str);
    match (level, wish.capture) {
        (Some(level @ ("baseline" | "restricted")), Capture::Init) => Refusal::err(
            Code::PodSecurity,
            format!(
                "Pod Security is `{level}` in this namespace, and forbids the capability NET_ADMIN of the init step: \
                use `{}: cni` or `explicit`, in the profile or the injector's configuration",
                label::CAPTURE
            ),
        ),
        _ => Ok(()),
    }
}

fn warnings(pod: &Value, namespace: &Namespace, wish: &Wish<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |what: &str| warnings.push(format!("sideguard: {what}"));
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if !wish.native {
        warn(
            "this cluster has no native sidecars (Kubernetes 1.29): a Job's pod does not end by itself, and init containers have no network",
        );
    }
    if wish.capture == Capture::Explicit {
        warn(
            "`capture: explicit` redirects nothing: an agent that ignores its environment gets past the sidecar",
        );
    }
    if spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_u64)
        .is_some_and(|grace| grace < SHORT_GRACE)
    {
        warn(
            "`terminationGracePeriodSeconds` is below 10: the sidecar may not be able to hand on its last records",
        );
    }
    if spec.get("hostUsers").and_then(Value::as_bool) == Some(false) && wish.capture != Capture::Explicit {
        warn(
            "`hostUsers: false` has not been tried with redirection: the pod has no network if it does not work",
        );
    }
    if namespace.annotations.contains_key(label::OPENSHIFT_UIDS) {
        warn(
            "OpenShift gives every container of a namespace one uid: the sidecar needs its own (`nonroot-v2`, or a constraint with its uid)",
        );
    }
    warnings
}

struct Injection<'a> {
    edit: Edit,
    wish: Wish<'a>,
    warnings: Vec<String>,
}

impl Injection<'_> {
    fn run(&mut self, pod: &Value) {
        let parts = Parts::of(pod, &self.wish);
        self.place("/spec/initContainers", &parts.inits);
        self.place("/spec/containers", &parts.containers);
        self.volumes(&parts.volumes);
        self.pull_secrets();
        for list in ["initContainers", "containers"] {
            let count = pod::named(self.edit.pod(), list).count();
            (0..count).for_each(|index| self.container(list, index));
        }
        self.mark(&parts);
    }

    /// Puts ours at the front of a list. What is there already stays, where it is as wanted; what is there of an earlier time
    /// goes.
    fn place(&mut self, path: &str, wanted: &[Value]) {
        let found = |edit: &Edit| edit.at(path).and_then(Value::as_array).cloned().unwrap_or_default();
        let items = found(&self.edit);
        let ours = items.iter().filter(|item| parts::is_ours(text(item, "name"))).count();
        let in_place =
            wanted.len() == ours && wanted.iter().zip(&items).all(|(wanted, item)| covers(wanted, item));
        if in_place {
            return;
        }
        for (index, item) in items.iter().enumerate().rev() {
            if parts::is_ours(text(item, "name")) {
                self.edit.remove(path, index);
            }
        }
        if wanted.is_empty() {
            return;
        }
        self.edit.list(path);
        self.edit.expect_name(path, 0);
        for (index, part) in wanted.iter().enumerate() {
            self.edit.insert(path, index, part.clone());
        }
    }

    fn volumes(&mut self, wanted: &[Value]) {
        const PATH: &str = "/spec/volumes";
        let items: Vec<Value> = self.edit.at(PATH).and_then(Value::as_array).cloned().unwrap_or_default();
        for (index, item) in items.iter().enumerate().rev() {
            let stays = wanted.iter().any(|wanted| covers(wanted, item));
            if parts::is_our_volume(text(item, "name")) && !stays {
                self.edit.remove(PATH, index);
            }
        }
        self.edit.list(PATH);
        for volume in wanted {
            if !items.iter().any(|item| covers(volume, item)) {
                self.edit.push(PATH, volume.clone());
            }
        }
    }

    fn pull_secrets(&mut self) {
        const PATH: &str = "/spec/imagePullSecrets";
        for name in &self.wish.settings.spec.image_pull_secrets {
            let has = pod::named(self.edit.pod(), "imagePullSecrets").any(|(_, own, _)| own == name);
            if !has {
                self.edit.list(PATH);
                self.edit.push(PATH, json!({"name": name}));
            }
        }
    }

    /// Takes rights away from a container, and tells it of the sidecar.
    fn container(&mut self, list: &str, index: usize) {
        let path = format!("/spec/{list}/{index}");
        let Some(name) = self.edit.pod().pointer(&format!("{path}/name")).and_then(Value::as_str) else {
            return;
        };
        let name = name.to_owned();
        if parts::is_ours(&name) || self.wish.settings.spec.mesh.containers.contains(&name) {
            return;
        }
        let mark = self.edit.mark();
        self.edit.expect_name(&format!("/spec/{list}"), index);
        lock(&mut self.edit, &path, &self.wish.injection.waive);
        // Without a native sidecar nothing listens yet when init containers run.
        let in_time = list == "containers" || self.wish.native;
        if in_time && self.wish.tells(&name) {
            self.tell(&path, &name);
        }
        self.edit.forget_if_idle(mark);
    }

    fn tell(&mut self, path: &str, name: &str) {
        let mut variables = parts::agent_environment(&self.wish);
        let java = parts::java_options(&self.wish);
        let list = format!("{path}/env");
        if !variables.is_empty() || java.is_some() {
            self.edit.list(&list);
        }
        if let Some(options) = java {
            match self.variable(&list, "JAVA_TOOL_OPTIONS") {
                None => variables.push(("JAVA_TOOL_OPTIONS", options)),
                Some((at, Some(own))) if !own.contains(&options) => {
                    self.edit.put(&format!("{list}/{at}/value"), json!(format!("{own} {options}")));
                }
                Some((_, Some(_))) => {}
                Some((_, None)) => self.kept(name, "JAVA_TOOL_OPTIONS"),
            }
        }
        for (variable, value) in variables {
            match self.variable(&list, variable) {
                None => self.edit.push(&list, json!({"name": variable, "value": value})),
                Some((_, own)) if own.as_deref() == Some(&*value) => {}
                Some(_) => self.kept(name, variable),
            }
        }
        if self.wish.ca_mode != CaMode::None {
            let mounts = format!("{path}/volumeMounts");
            self.edit.list(&mounts);
            let has = self.edit.at(path).is_some_and(|container| {
                pod::list(container, "volumeMounts").any(|mount| text(mount, "name") == TRUST)
            });
            if !has {
                self.edit.push(&mounts, parts::trust_mount());
            }
        }
    }

    /// A variable's place in a list, and its value where it stands there.
    fn variable(&self, list: &str, name: &str) -> Option<(usize, Option<String>)> {
        let items = self.edit.at(list)?.as_array()?;
        let at = items.iter().rposition(|item| text(item, "name") == name)?;
        let item = items.get(at)?;
        let plain = item.get("valueFrom").is_none_or(Value::is_null);
        Some((at, plain.then(|| text(item, "value").to_owned())))
    }

    fn kept(&mut self, container: &str, variable: &str) {
        self.warnings.push(format!(
            "sideguard: container `{container}` keeps its own {variable}: it may not trust the sidecar"
        ));
    }

    /// Writes down what was done.
    fn mark(&mut self, parts: &Parts) {
        let [containers, volumes] = parts.names();
        let digest = Sha256::digest(json!([parts.inits, parts.containers, parts.volumes]).to_string());
        let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "configHash": hash,
            "capture": self.wish.capture,
            "containers": containers,
            "volumes": volumes,
        });
        self.edit.map("/metadata");
        self.edit.map("/metadata/annotations");
        self.edit.map("/metadata/labels");
        let annotation = |key: &str| format!("/metadata/annotations/{}", escaped(key));
        self.edit.put(&annotation(label::STATUS), json!(status.to_string()));
        self.edit.put(&annotation(label::GENERATION), json!(self.wish.generation.to_string()));
        self.edit.put(&format!("/metadata/labels/{}", escaped(label::INJECTED)), json!("true"));
        // `kubectl logs` means the first container otherwise.
        let main = pod::named(self.edit.pod(), "containers")
            .map(|(_, name, _)| name)
            .find(|name| !parts::is_ours(name));
        let main = main.map(str::to_owned);
        if let Some(main) = main.filter(|_| !self.wish.native)
            && noted(self.edit.pod(), "annotations", label::DEFAULT_CONTAINER).is_none()
        {
            self.edit.put(&annotation(label::DEFAULT_CONTAINER), json!(main));
        }
    }
}

/// Takes from a container what it could get round the sidecar with.
pub(crate) fn lock(edit: &mut Edit, path: &str, waived: &[Waiver]) {
    let context = format!("{path}/securityContext");
    let seccomp = json!({"type": "RuntimeDefault"});
    let seccomp_set = edit.at("/spec/securityContext/seccompProfile").is_some();
    let Some(own) = edit.at(&context) else {
        let mut whole = json!({"allowPrivilegeEscalation": false});
        if let Some(whole) = whole.as_object_mut() {
            if !waived.contains(&Waiver::Capabilities) {
                whole.insert("capabilities".to_owned(), json!({"drop": ["ALL"]}));
            }
            if !seccomp_set {
                whole.insert("seccompProfile".to_owned(), seccomp);
            }
        }
        return edit.put(&context, whole);
    };
    // Only where it is waived: the API server takes neither of these together with what follows.
    if flag(own, "privileged") {
        return;
    }
    let adds = |wanted: &[&str]| {
        let added = own.pointer("/capabilities/add").and_then(Value::as_array).into_iter().flatten();
        added
            .filter_map(Value::as_str)
            .any(|added| wanted.contains(&added.to_ascii_uppercase().trim_start_matches("CAP_")))
    };
    let administers = adds(&["SYS_ADMIN", "ALL"]);
    let dropped = own.pointer("/capabilities/drop") == Some(&json!(["ALL"]));
    if !administers {
        edit.put(&format!("{context}/allowPrivilegeEscalation"), Value::Bool(false));
    }
    if !dropped && !waived.contains(&Waiver::Capabilities) {
        edit.map(&format!("{context}/capabilities"));
        edit.put(&format!("{context}/capabilities/drop"), json!(["ALL"]));
    }
    if !seccomp_set && edit.at(&format!("{context}/seccompProfile")).is_none() {
        edit.put(&format!("{context}/seccompProfile"), seccomp);
    }
}
