//! What is refused in a pod: whatever would let an agent get round the sidecar, or pass for it.
//!
//! Two things cannot be told from a pod: the user that its image names, which could be the sidecar's (so an installation
//! chooses a uid that no image has), and what its service account may do in the cluster.

use serde_json::Value;
use sideguard_types::resource::{Capture, Waiver};

use crate::parts::{self, RESERVED, TRUST_DIR};
use crate::pod::{self, Container, flag, list, text};
use crate::refusal::{Code, Refusal};
use crate::settings::Settings;
use crate::wish::Wish;

/// Capabilities that can take rules away, get round them, become or look into the sidecar, or take over the node.
const DANGEROUS: [&str; 12] = [
    "ALL",
    "NET_ADMIN",
    "NET_RAW",
    "SYS_ADMIN",
    "SETUID",
    "SETGID",
    "SYS_PTRACE",
    "BPF",
    "PERFMON",
    "SYS_MODULE",
    "SYS_RAWIO",
    "DAC_READ_SEARCH",
];

/// Refuses a pod that must not be; ours are not looked at.
pub(crate) fn check(pod: &Value, wish: &Wish<'_>) -> Result<(), Refusal> {
    let guard = Guard { settings: wish.settings, waived: &wish.injection.waive };
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    linux(spec)?;
    guard.host(spec, wish.capture)?;
    guard.user(spec.get("securityContext"), "the pod", false)?;
    for container in pod::containers(pod).filter(|container| !parts::is_ours(container.name)) {
        guard.container(container)?;
    }
    tokens(pod, wish.settings)?;
    names(pod)
}

/// Refuses an ephemeral container that must not be.
pub(crate) fn check_ephemeral(container: Container<'_>, settings: &Settings) -> Result<(), Refusal> {
    let guard = Guard { settings, waived: &[] };
    guard.container(container)?;
    let target = text(container.body, "targetContainerName");
    if target.starts_with(RESERVED) {
        return Refusal::err(
            Code::Forged,
            format!(
                "container `{}`: `targetContainerName: {target}` would share the sidecar's processes",
                container.name
            ),
        );
    }
    Ok(())
}

/// Refuses names, volumes and mounts of ours on what is not ours. `injected` says whether the pod claims to have ours already.
pub(crate) fn unforged(pod: &Value, injected: bool) -> Result<(), Refusal> {
    let forged = |what: String| Refusal::err(Code::Forged, what);
    for container in pod::containers(pod).filter(|container| container.name.starts_with(RESERVED)) {
        if !injected || !parts::is_ours(container.name) || container.list == "ephemeralContainers" {
            return forged(format!(
                "names of containers that begin with `{RESERVED}` are the injector's: `{}`",
                container.name
            ));
        }
    }
    for (_, name, _) in pod::named(pod, "volumes").filter(|(_, name, _)| name.starts_with(RESERVED)) {
        if !injected || !parts::is_our_volume(name) {
            return forged(format!(
                "names of volumes that begin with `{RESERVED}` are the injector's: `{name}`"
            ));
        }
    }
    Ok(())
}

struct Guard<'a> {
    settings: &'a Settings,
    waived: &'a [Waiver],
}

impl Guard<'_> {
    fn waives(&self, waiver: Waiver) -> bool {
        self.waived.contains(&waiver)
    }

    fn host(&self, spec: &Value, capture: Capture) -> Result<(), Refusal> {
        const FLAGS: [(&str, Waiver); 4] = [
            ("hostNetwork", Waiver::HostNetwork),
            ("hostPID", Waiver::HostPid),
            ("hostIPC", Waiver::HostIpc),
            ("shareProcessNamespace", Waiver::ShareProcessNamespace),
        ];
        for (key, waiver) in FLAGS {
            if flag(spec, key) && !self.waives(waiver) {
                return refused(key);
            }
        }
        if flag(spec, "hostNetwork") && capture != Capture::Explicit {
            let what = "`hostNetwork: true` is only possible with `capture: explicit`: rules would hold for the whole node";
            return Refusal::err(Code::Host, what);
        }
        for volume in list(spec, "volumes") {
            if volume.get("hostPath").is_some_and(|path| !path.is_null()) && !self.waives(Waiver::HostPath) {
                return refused(&format!("hostPath` of volume `{}", text(volume, "name")));
            }
        }
        Ok(())
    }

    fn container(&self, container: Container<'_>) -> Result<(), Refusal> {
        let name = container.name;
        // What is added to a running pod is no mesh's, whatever it is called.
        let lasting = container.list != "ephemeralContainers";
        let mesh = lasting && self.settings.spec.mesh.containers.iter().any(|own| own == name);
        let context = container.body.get("securityContext").unwrap_or(&Value::Null);
        self.user(Some(context), &format!("container `{name}`"), mesh)?;
        if flag(context, "privileged") && !self.waives(Waiver::Privileged) {
            return refused(&format!("privileged` of container `{name}"));
        }
        if text(context, "procMount") == "Unmasked" && !self.waives(Waiver::ProcMount) {
            return refused(&format!("procMount: Unmasked` of container `{name}"));
        }
        if !mesh && !self.waives(Waiver::Capabilities) {
            for added in context.pointer("/capabilities/add").and_then(Value::as_array).into_iter().flatten()
            {
                let added = added.as_str().unwrap_or_default().to_ascii_uppercase();
                let plain = added.strip_prefix("CAP_").unwrap_or(&added);
                if DANGEROUS.contains(&plain) {
                    let what = format!(
                        "container `{name}` asks for the capability `{plain}`, by which it could get round the sidecar{}",
                        self.hint()
                    );
                    return Refusal::err(Code::Capabilities, what);
                }
            }
        }
        self.ports(container)?;
        mounts(container)
    }

    fn hint(&self) -> &'static str {
        if self.settings.spec.mesh.containers.is_empty() {
            "; a service mesh's containers are named in the injector's `mesh.containers`"
        } else {
            ""
        }
    }

    fn user(&self, context: Option<&Value>, whose: &str, mesh: bool) -> Result<(), Refusal> {
        let Some(context) = context else { return Ok(()) };
        let own = u64::from(self.settings.spec.proxy.uid);
        let taken = |id: u64| {
            id == own || (!mesh && self.settings.spec.mesh.uids.iter().any(|uid| u64::from(*uid) == id))
        };
        for key in ["runAsUser", "runAsGroup", "fsGroup"] {
            if let Some(id) = context.get(key).and_then(Value::as_u64).filter(|id| taken(*id)) {
                return Refusal::err(
                    Code::ProxyUser,
                    format!(
                        "`{key}: {id}` of {whose} is the sidecar's, or a mesh's: the rules leave it alone"
                    ),
                );
            }
        }
        if let Some(id) = list(context, "supplementalGroups").filter_map(Value::as_u64).find(|id| taken(*id))
        {
            return Refusal::err(
                Code::ProxyUser,
                format!("`supplementalGroups` of {whose} holds `{id}`, which is the sidecar's"),
            );
        }
        Ok(())
    }

    fn ports(&self, container: Container<'_>) -> Result<(), Refusal> {
        let proxy = &self.settings.spec.proxy;
        let ours = [proxy.outbound, proxy.dns, proxy.admin].map(u64::from);
        let taken = list(container.body, "ports")
            .flat_map(|port| [port.get("containerPort"), port.get("hostPort")])
            .filter_map(|port| port?.as_u64())
            .find(|port| ours.contains(port));
        match taken {
            Some(port) => Refusal::err(
                Code::Forged,
                format!("port {port} of container `{}` is the sidecar's", container.name),
            ),
            None => Ok(()),
        }
    }
}

/// Whether the system is Linux, as far as the pod tells.
fn linux(spec: &Value) -> Result<(), Refusal> {
    let selected = |key: &str| spec.pointer(&format!("/nodeSelector/{key}")).and_then(Value::as_str);
    let named = spec.pointer("/os/name").and_then(Value::as_str);
    for os in [named, selected("kubernetes.io~1os"), selected("beta.kubernetes.io~1os")].into_iter().flatten()
    {
        if os != "linux" {
            return Refusal::err(
                Code::Windows,
                format!("the sidecar runs on Linux alone, and this pod is for `{os}`"),
            );
        }
    }
    Ok(())
}

/// A container mounts of ours the bundle alone, read-only, at its place; and nothing over it.
fn mounts(container: Container<'_>) -> Result<(), Refusal> {
    let name = container.name;
    for mount in list(container.body, "volumeMounts") {
        let path = text(mount, "mountPath").trim_end_matches('/');
        let ours = text(mount, "name").starts_with(RESERVED);
        let exactly = ours && crate::covers::covers(&parts::trust_mount(), mount);
        if !exactly && (ours || path == TRUST_DIR || path.starts_with(&format!("{TRUST_DIR}/"))) {
            return Refusal::err(
                Code::Forged,
                format!("container `{name}` mounts `{path}`, which is the sidecar's to give"),
            );
        }
    }
    for device in list(container.body, "volumeDevices") {
        if text(device, "name").starts_with(RESERVED) {
            return Refusal::err(
                Code::Forged,
                format!("container `{name}` has a device of the sidecar's volumes"),
            );
        }
    }
    Ok(())
}

/// No token but the sidecar's own by which something could enrol as a sidecar.
fn tokens(pod: &Value, settings: &Settings) -> Result<(), Refusal> {
    let Some(control) = &settings.spec.control else { return Ok(()) };
    for (_, name, volume) in pod::named(pod, "volumes").filter(|(_, name, _)| !parts::is_our_volume(name)) {
        let projected = volume.get("projected").unwrap_or(&Value::Null);
        let audience = |source: &Value| {
            source.pointer("/serviceAccountToken/audience") == Some(&Value::from(&*control.audience))
        };
        if list(projected, "sources").any(audience) {
            let what = format!(
                "volume `{name}` holds a token for `{}`, by which the agent could pass for a sidecar",
                control.audience
            );
            return Refusal::err(Code::Forged, what);
        }
    }
    Ok(())
}

/// No two containers of one name: the API server refuses that too, but later.
fn names(pod: &Value) -> Result<(), Refusal> {
    let mut seen = std::collections::BTreeSet::new();
    match pod::containers(pod).find(|container| !seen.insert(container.name)) {
        Some(twice) => {
            Refusal::err(Code::Malformed, format!("two containers have the name `{}`", twice.name))
        }
        None => Ok(()),
    }
}

fn refused(what: &str) -> Result<(), Refusal> {
    Refusal::err(
        Code::Host,
        format!("`{what}` is not permitted for an agent's pod; its Agent's `injection.waive` can permit it"),
    )
}
