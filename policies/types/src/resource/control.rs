//! Kind `Control`: the configuration of a control service.

use std::num::NonZeroU32;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

const LEASE: Span = Span(std::time::Duration::from_secs(30));

/// Configuration of a control service. Every key can also be set as `SIDEGUARD_<PATH>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ControlSpec {
    /// Address of interface and page; port 0 picks a free one.
    pub listen: String,
    /// Directory of state: the embedded store and the first operator's key.
    pub state: Option<PathBuf>,
    /// File with the key, `sgk_` and 64 hex digits, that is the first operator's in an empty store; made when it is missing.
    /// `operator.key` in the state directory when absent.
    pub operator_key: Option<SecretFile>,
    /// Where things are kept; one machine's own directory when absent.
    pub store: Option<SharedStore>,
    /// TLS on the port; plain HTTP when absent.
    pub tls: Option<ControlTls>,
    /// Names by which it is reached, without a port; requests that name another host are refused. The first one is told to
    /// clients of this machine. When absent: names of loopback on a loopback address, any name on another.
    pub hosts: Vec<String>,
    /// What one client, or all together, may ask for.
    pub limits: ControlLimits,
    /// How people are told of calls that wait for them.
    pub approvals: ApprovalsSpec,
    /// How long a sidecar may draw on a lease of a budget without a word from control, `1s` to `10m`. A lease whose sidecar
    /// is lost is charged in full after twice as long.
    pub lease: Span,
    /// The Kubernetes cluster whose objects are put in force and whose service accounts enrol; none when absent.
    pub kubernetes: Option<KubernetesSpec>,
}

impl Default for ControlSpec {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:4760".to_owned(),
            state: None,
            operator_key: None,
            store: None,
            tls: None,
            hosts: Vec::new(),
            limits: ControlLimits::default(),
            approvals: ApprovalsSpec::default(),
            lease: LEASE,
            kubernetes: None,
        }
    }
}

/// A Kubernetes cluster. A namespace's objects belong to the tenant that its label `sideguard.dev/tenant` names, else to the
/// tenant of the namespace's own name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct KubernetesSpec {
    /// File that says how the API server is reached (a kubeconfig); as a pod's service account reaches it when absent.
    pub kubeconfig: Option<PathBuf>,
    /// The cluster's name: what comes from it has the label `sideguard.dev/cluster` with this value.
    pub cluster: String,
    /// Whether its objects (custom resources of `sideguard.dev`, and ConfigMaps with the label `sideguard.dev/kind`) are put in
    /// force.
    pub objects: bool,
    /// Namespaces whose objects hold for all tenants: whoever may write there governs the whole fleet.
    pub shared_namespaces: Vec<String>,
    /// Audience that a service account's token must have been made for to enrol a sidecar.
    pub audience: String,
    /// Which agent a sidecar is for that enrols with a service account's token.
    pub agents: AgentFrom,
    /// Whether XAccessPolicy and XBackend objects of kube-agentic-networking are put in force where they can be.
    pub agentic_networking: bool,
}

impl Default for KubernetesSpec {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            cluster: "local".to_owned(),
            objects: true,
            shared_namespaces: Vec::new(),
            audience: "sideguard-control".to_owned(),
            agents: AgentFrom::default(),
            agentic_networking: false,
        }
    }
}

/// Which agent a pod's sidecar is for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AgentFrom {
    /// The one with the name of the pod's service account.
    #[default]
    ServiceAccount,
    /// The one that the pod's label `sideguard.dev/profile` names, else its namespace's `sideguard.dev/default-profile`. Whoever
    /// may make pods in a namespace chooses among that tenant's agents then.
    Profile,
}

/// What one client, or all together, may ask of a control service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ControlLimits {
    /// Requests a second of one key; ten times as many at once.
    pub key_rate: NonZeroU32,
    /// Requests a second without a good key from one address; ten times as many at once.
    pub address_rate: NonZeroU32,
    /// Open connections in all.
    pub connections: u32,
    /// Questions held and streams open in all.
    pub held: u32,
    /// Questions held and streams open of one key.
    pub held_by_key: u32,
}

impl Default for ControlLimits {
    fn default() -> Self {
        Self {
            key_rate: NonZeroU32::new(1_000).unwrap_or(NonZeroU32::MIN),
            address_rate: NonZeroU32::new(200).unwrap_or(NonZeroU32::MIN),
            connections: 10_000,
            held: 20_000,
            held_by_key: 256,
        }
    }
}

/// How people are told of calls that wait for them.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApprovalsSpec {
    /// Who is told of each new approval; at most 8.
    pub webhooks: Vec<Webhook>,
}

/// A URL that is told of each new approval and may answer it, and that workflows send messages to; all of it signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Name by which steps of workflows send it messages; only one with a name gets any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is told of approvals.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub approvals: bool,
    /// Where notifications are posted: `https://…`, or `http://…` within a network that is trusted.
    pub url: String,
    /// The secret that both sides sign with; at least 16 bytes.
    pub secret: SecretFile,
    /// The tenant whose approvals it is told of and may answer; those of all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_yes(told: &bool) -> bool {
    *told
}

/// File with a secret; white space around it does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    /// Its path.
    pub file: PathBuf,
}

/// A store that several control services share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedStore {
    /// Redis, such as `redis://user:password@host:6379/0`; its appendonly file must be on.
    pub redis: String,
    /// NATS with JetStream, such as `nats://user:password@host:4222`; several with commas between.
    pub nats: String,
    /// Name that everything in them begins with, so that several fleets can share servers.
    #[serde(default = "namespace")]
    pub namespace: String,
}

fn namespace() -> String {
    "sideguard".to_owned()
}

/// TLS of the control service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlTls {
    /// File with its certificate and those above it, in PEM.
    pub certificate: PathBuf,
    /// File with the certificate's private key, in PEM.
    pub key: PathBuf,
    /// File with the roots that clients' certificates must come from, in PEM; no certificate is asked for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<PathBuf>,
}
