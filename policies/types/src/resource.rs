//! What users write: one module a kind. Every struct refuses unknown keys. Parsing (YAML, line and column of
//! each error) is the policy engine's `source` module; these are only the shapes.

mod agent;
mod budget;
mod catalog;
mod control;
mod delegation;
mod injector;
mod policy;
mod pool;
mod proxy;
mod sink;
mod upstream;
mod workflow;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use agent::{AgentKey, AgentSpec};
pub use budget::{BudgetScope, BudgetSpec, Limit, Per, Unit, Window};
pub use catalog::{CatalogTool, ToolCatalogSpec};
pub use control::{
    AgentFrom, ApprovalsSpec, ControlLimits, ControlSpec, ControlTls, KubernetesSpec, SecretFile,
    SharedStore, Webhook,
};
pub use delegation::{Correlate, DelegationSpec, Inbound, Require};
pub use injector::{
    Amount, CaMode, Capture, InjectedControl, InjectedProxy, InjectionSpec, InjectorCluster, InjectorListen,
    InjectorSpec, MeshSpec, NativeSidecar, PullPolicy, ServerCertificate, SkipOutbound, Waiver,
};
pub use policy::{
    ContentMatch, DelegationMatch, MatchSpec, ModeByPoint, ModeSpec, PolicySpec, RuleSpec, VelocitySpec,
};
pub use pool::{Backoff, Heartbeat, LIMITS as JOB_LIMITS, Reassign, WorkerPoolSpec};
pub use proxy::{
    AuditSpec, BoundAgent, BreakerSpec, Breakers, Control, Ech, Limits, Listen, McpRefusal, NamedUpstream,
    NoSni, PriceSpec, ProxySpec, Refusals, RunawaySpec, Size, Sync, Tls, TokenFile, ToolCallRefusal,
    WorkerSpec,
};
pub use sink::{
    BatchForm, NdjsonSink, OtlpSink, SinkFilter, SinkFormat, SinkSecret, SinkSpec, SyslogForm, SyslogSink,
    WebhookSink,
};
pub use upstream::{Credential, Dialect, StreamUsage, UpstreamSpec};
pub use workflow::{
    ApprovalStep, CompensateSpec, ConditionStep, DelayStep, ForEachStep, InputSpec, InputType, ItemStep,
    JobStep, NotifyStep, OnFailure, RetrySpec, StepSpec, WorkflowSpec,
};

/// Version that every object names in `apiVersion`.
pub const API_VERSION: &str = "sideguard.dev/v1";

/// Name and labels of an object.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Name, unique for its kind within its tenant: lower case letters, digits, `-` and `.`.
    pub name: String,
    /// Tenant; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One object of any kind that the data plane reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "spec")]
pub enum Spec {
    /// Rules.
    Policy(PolicySpec),
    /// Budget limits.
    Budget(BudgetSpec),
    /// Topics, verbs and tags of tools.
    ToolCatalog(ToolCatalogSpec),
    /// An agent's identity and rights.
    Agent(AgentSpec),
    /// A model provider or tool server.
    Upstream(UpstreamSpec),
    /// Somewhere that control passes the record on to; sidecars have nothing to do with it.
    Sink(SinkSpec),
    /// Steps that control runs; sidecars have nothing to do with it.
    Workflow(WorkflowSpec),
    /// Workers that do jobs; control alone has to do with it.
    WorkerPool(WorkerPoolSpec),
}

/// Kinds that are control's own business: sidecars are not told of them.
pub const CONTROL_KINDS: [&str; 3] = ["Sink", "WorkerPool", "Workflow"];

impl Spec {
    /// Name of the kind, as it stands in `kind:`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Policy(_) => "Policy",
            Self::Budget(_) => "Budget",
            Self::ToolCatalog(_) => "ToolCatalog",
            Self::Agent(_) => "Agent",
            Self::Upstream(_) => "Upstream",
            Self::Sink(_) => "Sink",
            Self::Workflow(_) => "Workflow",
            Self::WorkerPool(_) => "WorkerPool",
        }
    }
}

/// An object with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Name and labels.
    pub metadata: Metadata,
    /// Kind and contents.
    pub spec: Spec,
}
