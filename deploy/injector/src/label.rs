//! Names of labels and annotations. Whatever else begins with [`PREFIX`] is refused: a misspelt wish is not ignored.

/// What all of them begin with.
pub const PREFIX: &str = "sideguard.dev/";

/// On a namespace, as a label: `enabled` has its pods injected. On a pod: `disabled` leaves it out, where its namespace allows
/// that.
pub const INJECT: &str = "sideguard.dev/inject";
/// On a namespace: `true` lets pods leave themselves out.
pub const ALLOW_OPT_OUT: &str = "sideguard.dev/allow-opt-out";
/// On a namespace: the profile of pods that name none.
pub const DEFAULT_PROFILE: &str = "sideguard.dev/default-profile";
/// On a namespace, as a label: its tenant. On a pod: the same, as a check.
pub const TENANT: &str = "sideguard.dev/tenant";
/// On a pod: its profile, the name of an Agent.
pub const PROFILE: &str = "sideguard.dev/profile";
/// On a pod: `init`, `cni` or `explicit`.
pub const CAPTURE: &str = "sideguard.dev/capture";
/// On a pod: addresses to leave alone, with commas between.
pub const SKIP_CIDRS: &str = "sideguard.dev/skip-outbound-cidrs";
/// On a pod: TCP ports to leave alone, with commas between.
pub const SKIP_PORTS: &str = "sideguard.dev/skip-outbound-ports";
/// On a pod: `none`, `env` or `env+java`.
pub const CA_MODE: &str = "sideguard.dev/ca-mode";
/// On a pod: names of the containers that are told of the sidecar.
pub const AGENT_CONTAINERS: &str = "sideguard.dev/agent-containers";
/// On a pod: processor time of the sidecar, both promised and at most.
pub const PROXY_CPU: &str = "sideguard.dev/proxy-cpu";
/// On a pod: memory of the sidecar, both promised and at most.
pub const PROXY_MEMORY: &str = "sideguard.dev/proxy-memory";
/// On a pod: level of the sidecar's log.
pub const LOG_LEVEL: &str = "sideguard.dev/log-level";
/// Written on a pod, as a label: it was injected.
pub const INJECTED: &str = "sideguard.dev/injected";
/// Written on a pod: what was injected.
pub const STATUS: &str = "sideguard.dev/status";
/// Written on a pod: which state of its profile it was made by.
pub const GENERATION: &str = "sideguard.dev/injected-at-generation";

/// Annotations that a pod may have.
pub(crate) const ANNOTATIONS: [&str; 13] = [
    INJECT,
    TENANT,
    PROFILE,
    CAPTURE,
    SKIP_CIDRS,
    SKIP_PORTS,
    CA_MODE,
    AGENT_CONTAINERS,
    PROXY_CPU,
    PROXY_MEMORY,
    LOG_LEVEL,
    STATUS,
    GENERATION,
];
/// Labels that a pod may have.
pub(crate) const LABELS: [&str; 4] = [INJECT, TENANT, PROFILE, INJECTED];

/// On a pod that a node made of a file of its own.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
/// On a namespace: what Pod Security forbids there.
pub(crate) const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// On a namespace of OpenShift: the uids that its pods may have.
pub(crate) const OPENSHIFT_UIDS: &str = "openshift.io/sa.scc.uid-range";
/// On a pod: the container that `kubectl logs` and `exec` mean.
pub(crate) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
