//! Kind `Injector`: the configuration of the Kubernetes injector; and what an agent's profile says of its pods.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of the Kubernetes injector. Every key can also be set as `SIDEGUARD_<PATH>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct InjectorSpec {
    /// Addresses to listen on; port 0 picks a free one.
    pub listen: InjectorListen,
    /// Certificate of the webhook's port, read again whenever it changes. When absent, the injector makes one and keeps it in
    /// a Secret of the cluster.
    pub certificate: Option<ServerCertificate>,
    /// File with the namespaces and agents that are known, as `kubectl get namespaces,agents -A -o yaml` prints them. When
    /// absent, the cluster is watched.
    pub known: Option<PathBuf>,
    /// How the cluster is reached, and what the injector's own things in it are called.
    pub cluster: InjectorCluster,
    /// Version of the cluster, such as `1.33`; the cluster is asked when absent.
    pub kubernetes_version: Option<String>,
    /// Whether the sidecar is a native one: an init container that goes on running.
    pub native_sidecar: NativeSidecar,
    /// The injector's own namespace. Its pods are never injected, nor those of `kube-system` and `kube-node-lease`.
    pub namespace: String,
    /// Image of the sidecar and the init step; name it by digest.
    pub image: String,
    /// When nodes pull the image.
    pub image_pull_policy: PullPolicy,
    /// Secrets that nodes pull the image with; they must exist in the pods' namespaces.
    pub image_pull_secrets: Vec<String>,
    /// How connections get to the sidecar, unless a profile or pod says otherwise.
    pub capture: Capture,
    /// How agents are told to trust the sidecar's certificates, unless a profile or pod says otherwise.
    pub ca_mode: CaMode,
    /// The sidecar in the pods.
    pub proxy: InjectedProxy,
    /// The control service that sidecars belong to. When absent they have `policies` alone.
    pub control: Option<InjectedControl>,
    /// ConfigMap in each pod's namespace with policies that its sidecars have beside control's.
    pub policies: Option<String>,
    /// A service mesh whose proxies are in the same pods.
    pub mesh: MeshSpec,
}

impl Default for InjectorSpec {
    fn default() -> Self {
        Self {
            listen: InjectorListen::default(),
            certificate: None,
            known: None,
            cluster: InjectorCluster::default(),
            kubernetes_version: None,
            native_sidecar: NativeSidecar::default(),
            namespace: "sideguard".to_owned(),
            image: "ghcr.io/sideguard/sideguard:latest".to_owned(),
            image_pull_policy: PullPolicy::default(),
            image_pull_secrets: Vec::new(),
            capture: Capture::default(),
            ca_mode: CaMode::default(),
            proxy: InjectedProxy::default(),
            control: None,
            policies: None,
            mesh: MeshSpec::default(),
        }
    }
}

/// The cluster as the injector reaches it. What stands in its own namespace has these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InjectorCluster {
    /// File that says how the API server is reached; as a pod's service account reaches it when absent.
    pub kubeconfig: Option<PathBuf>,
    /// The Service before the webhook's port.
    pub service: String,
    /// The Secret with the webhook's authority and certificate.
    pub secret: String,
    /// The MutatingWebhookConfiguration and the ValidatingWebhookConfiguration, which have one name.
    pub webhooks: String,
}

impl Default for InjectorCluster {
    fn default() -> Self {
        let name = || "sideguard-injector".to_owned();
        Self { kubeconfig: None, service: name(), secret: name(), webhooks: name() }
    }
}

/// Addresses that the injector listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InjectorListen {
    /// The webhook, over HTTPS.
    pub webhook: String,
    /// Health, readiness and metrics, over plain HTTP.
    pub admin: String,
}

impl Default for InjectorListen {
    fn default() -> Self {
        Self { webhook: "0.0.0.0:4761".to_owned(), admin: "0.0.0.0:4762".to_owned() }
    }
}

/// A server's certificate in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerCertificate {
    /// File with the certificate and those above it, in PEM.
    pub certificate: PathBuf,
    /// File with the certificate's private key, in PEM.
    pub key: PathBuf,
}

/// Whether the sidecar is a native one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NativeSidecar {
    /// Where the cluster is of version 1.29 or later, or its version is not known.
    #[default]
    Auto,
    /// Always: an init container with `restartPolicy: Always`.
    #[serde(alias = "true")]
    Always,
    /// Never: an ordinary container. Jobs do not end by themselves then, and init containers have no network.
    #[serde(alias = "false")]
    Never,
}

/// When nodes pull an image.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// When they do not have it.
    #[default]
    IfNotPresent,
    /// At each start.
    Always,
    /// Not at all: it must be there.
    Never,
}

/// How an agent's connections get to the sidecar.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// By rules that an init container with NET_ADMIN sets. Not possible where Pod Security is `baseline` or `restricted`.
    #[default]
    Init,
    /// By the same rules, which the node's CNI plugin sets; the pod only checks that they are there.
    Cni,
    /// By proxy variables and base URLs in the environment alone: nothing keeps an agent from going round them.
    Explicit,
}

/// How agents are told to trust the sidecar's certificates.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CaMode {
    /// Not at all: TLS is judged by host and server name only, or the image trusts them by itself.
    #[serde(rename = "none")]
    None,
    /// By environment variables and a mounted bundle.
    #[default]
    #[serde(rename = "env")]
    Env,
    /// The same, and `JAVA_TOOL_OPTIONS`.
    #[serde(rename = "env+java")]
    EnvJava,
}

/// The sidecar in the pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct InjectedProxy {
    /// Its uid and gid. Nothing else in a pod may run as it: an installation's own, rather than the default, is harder to
    /// take by accident.
    pub uid: u32,
    /// Its port for agents, on loopback.
    pub outbound: u16,
    /// Its name server, on loopback.
    pub dns: u16,
    /// Health and metrics, at every address: probes come from the node.
    pub admin: u16,
    /// Processor time: requested, and at most.
    pub cpu: Amount,
    /// Memory: requested, and at most.
    pub memory: Amount,
    /// Room for its record on the node's disk, such as `2Gi`. Half of it is used.
    pub state: String,
    /// Level of its log, as in `SIDEGUARD_LOG`.
    pub log_level: String,
    /// Further variables of its environment, such as `SIDEGUARD_PRIVATE`.
    pub env: BTreeMap<String, String>,
}

impl Default for InjectedProxy {
    fn default() -> Self {
        let amount =
            |request: &str, limit: &str| Amount { request: request.to_owned(), limit: limit.to_owned() };
        Self {
            uid: 14102,
            outbound: 4750,
            dns: 4753,
            admin: 4751,
            cpu: amount("50m", "500m"),
            memory: amount("64Mi", "256Mi"),
            state: "2Gi".to_owned(),
            log_level: "info".to_owned(),
            env: BTreeMap::new(),
        }
    }
}

/// How much of a resource a container is promised, and gets at most, as Kubernetes writes quantities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// What it is promised.
    pub request: String,
    /// What it gets at most.
    pub limit: String,
}

/// The control service that injected sidecars belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InjectedControl {
    /// Its base URL, as pods reach it; several with commas between are replicas of one.
    pub url: String,
    /// ConfigMap in each pod's namespace whose key `ca.crt` holds the roots that its certificate comes from; the system's
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Audience of the service account token that a sidecar enrols with.
    #[serde(default = "audience")]
    pub audience: String,
}

fn audience() -> String {
    "sideguard-control".to_owned()
}

/// A service mesh whose proxies are in the same pods.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MeshSpec {
    /// Uids of its proxies: 1337 for Istio, 2102 for linkerd. The rules leave their traffic alone, so no agent may run as one.
    pub uids: Vec<u32>,
    /// Names of its containers, such as `istio-init` and `istio-proxy`, which may have capabilities and run as these uids.
    pub containers: Vec<String>,
}

/// How the pods of an agent are made. What is absent here is as the injector's configuration says.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct InjectionSpec {
    /// How connections get to the sidecar. A pod may then only ask for the same, or for a stricter way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
    /// How the agent is told to trust the sidecar's certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_mode: Option<CaMode>,
    /// Names of the containers that are told of the sidecar; all when absent. The rules hold for every container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agent_containers: Vec<String>,
    /// What pods may have although it is refused otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waive: Vec<Waiver>,
    /// Connections that pods may ask, by annotation, to have left alone.
    #[serde(skip_serializing_if = "SkipOutbound::is_empty")]
    pub skip_outbound: SkipOutbound,
    /// TCP ports within the pod that its containers may connect to, beside those that they declare; `any` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loopback: Vec<String>,
    /// Secrets of the pod's namespace whose keys the sidecar, and only it, gets as environment: credentials of upstreams.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
    /// Further variables of the sidecar's environment, such as `SIDEGUARD_PRIVATE`; these go before the injector's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Whether a pod whose policy has become too old is no longer ready. It refuses calls either way.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stale_not_ready: bool,
}

/// What is refused in a pod unless its profile waives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Waiver {
    /// `hostNetwork`; only with `capture: explicit`, since rules would hold for the whole node.
    HostNetwork,
    /// `hostPID`: other processes of the node can be seen.
    #[serde(rename = "hostPID")]
    HostPid,
    /// `hostIPC`.
    #[serde(rename = "hostIPC")]
    HostIpc,
    /// `shareProcessNamespace`: the sidecar's process can be seen.
    ShareProcessNamespace,
    /// `privileged` containers, which can take rules away.
    Privileged,
    /// `procMount: Unmasked`.
    ProcMount,
    /// Volumes of the node's own files.
    HostPath,
    /// Capabilities that can take rules away or get round them; containers keep what they have.
    Capabilities,
}

/// Connections that are left alone.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SkipOutbound {
    /// Addresses, such as `10.96.0.0/12`. A pod may ask for these or parts of them.
    pub cidrs: Vec<String>,
    /// TCP ports, at every address.
    pub ports: Vec<u16>,
}

impl SkipOutbound {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cidrs.is_empty() && self.ports.is_empty()
    }
}
