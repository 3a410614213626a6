//! Kind `Proxy`: the configuration of one sidecar or gateway.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Credential, DelegationSpec, Dialect, Inbound, Metadata, StreamUsage, UpstreamSpec};
use crate::time::Span;

/// Configuration of a proxy. Every key can also be set as `SIDEGUARD_<PATH>`.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ProxySpec {
    /// The agent that calls belong to, unless a key says otherwise.
    pub agent: Option<Metadata>,
    /// Agents that are known by the port or the uid that their connections come from; goes before keys.
    pub agents: Vec<BoundAgent>,
    /// Addresses to listen on; port 0 picks a free one.
    pub listen: Listen,
    /// Control service.
    pub control: Option<Control>,
    /// Files and directories with policies and other resources.
    pub policies: Vec<PathBuf>,
    /// Directory of state.
    pub state: Option<PathBuf>,
    /// Interception and trust.
    pub tls: Tls,
    /// Upstreams beside the built-in ones; one of the same name replaces it.
    pub upstreams: Vec<NamedUpstream>,
    /// Static resolution: host name, with or without port, to address and port.
    pub hosts: BTreeMap<String, String>,
    /// Addresses that are not public but may be reached, as blocks or with a port: `10.0.0.0/8`, `127.0.0.1:8000`.
    /// Those of `upstreams` and `hosts` need not be listed.
    pub private: Vec<String>,
    /// Sizes and times.
    pub limits: Limits,
    /// How soon the record is on disk.
    pub audit: AuditSpec,
    /// Prices beside the shipped ones.
    pub prices: Vec<PriceSpec>,
    /// Form of refusals.
    pub refusals: Refusals,
    /// When breakers trip.
    pub breakers: Breakers,
    /// How work is handed to other agents, and taken from them.
    pub delegation: DelegationSpec,
    /// What its agent does for others: jobs that control gives out.
    pub worker: Option<WorkerSpec>,
}

/// An agent that takes jobs. Its sidecar speaks with control: it registers the worker, renews its leases, fetches jobs
/// and hands them over at `/jobs` of the outbound port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct WorkerSpec {
    /// The agent that works; `spec.agent` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Pools that it wants to work in; each pool says whom it takes.
    pub pools: Vec<String>,
    /// What it can do: a job that requires something else goes elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Labels, for the placement of jobs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How many jobs it takes at once.
    pub max_parallel: u32,
}

impl Default for WorkerSpec {
    fn default() -> Self {
        Self {
            agent: None,
            pools: Vec::new(),
            capabilities: Vec::new(),
            labels: BTreeMap::new(),
            max_parallel: 1,
        }
    }
}

/// An agent that is known by where its connections come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BoundAgent {
    /// Who it is.
    pub agent: Metadata,
    /// Uid of its sockets, in the sidecar's own network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// An outbound port of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
}

/// An upstream with its name, as the proxy's configuration lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NamedUpstream {
    /// Name: the first segment of its gateway path.
    pub name: String,
    /// As in [`UpstreamSpec`].
    pub base_url: String,
    /// As in [`UpstreamSpec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// As in [`UpstreamSpec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// As in [`UpstreamSpec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerSpec>,
    /// As in [`UpstreamSpec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_usage: Option<StreamUsage>,
    /// As in [`UpstreamSpec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

impl From<NamedUpstream> for (String, UpstreamSpec) {
    fn from(named: NamedUpstream) -> Self {
        let NamedUpstream { name, base_url, dialect, credential, breaker, stream_usage, agent } = named;
        (name, UpstreamSpec { base_url, dialect, credential, breaker, stream_usage, agent })
    }
}

/// Addresses to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// The one outbound port.
    pub outbound: String,
    /// Health, metrics and drain.
    pub admin: String,
    /// The name server of a captured namespace, over UDP and TCP; none when absent. As in `127.0.0.1:4753`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    /// Ports in front of agents, by which other agents reach them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inbound: Vec<Inbound>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            outbound: "127.0.0.1:4750".to_owned(),
            admin: "127.0.0.1:4751".to_owned(),
            dns: None,
            inbound: Vec::new(),
        }
    }
}

/// Control service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Control {
    /// Its base URL; several with commas between are replicas of one, tried in turn.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// The same as a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// File with the enrolment token, needed once, for a state directory that has not enrolled; or with a service account's token
    /// of a Kubernetes cluster, which is read anew at each use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenFile>,
    /// File with the root certificates, in PEM, that its own must come from; the system's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// File with a client's certificate and those above it, in PEM, for a control service that asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// File with that certificate's private key, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// How long calls that only read go on when control cannot be reached.
    #[serde(default = "an_hour")]
    pub max_stale: Span,
    /// How long calls that write go on then.
    #[serde(default = "a_minute")]
    pub max_stale_writes: Span,
}

impl Control {
    /// A control service, with what holds when nothing else is said.
    #[must_use]
    pub fn new(url: String, token: Option<TokenFile>) -> Self {
        Self {
            url,
            urls: Vec::new(),
            token,
            ca: None,
            certificate: None,
            key: None,
            max_stale: an_hour(),
            max_stale_writes: a_minute(),
        }
    }

    /// All base URLs, with commas between.
    #[must_use]
    pub fn addresses(&self) -> String {
        let own = self.url.split(',').chain(self.urls.iter().map(String::as_str)).map(str::trim);
        own.filter(|url| !url.is_empty()).collect::<Vec<_>>().join(",")
    }
}

fn an_hour() -> Span {
    Span(std::time::Duration::from_secs(3_600))
}

fn a_minute() -> Span {
    Span(std::time::Duration::from_secs(60))
}

/// File with a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    /// Its path.
    pub file: PathBuf,
}

/// Interception and trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Tls {
    /// Hosts whose TLS is opened (globs).
    pub intercept: Vec<String>,
    /// Hosts whose TLS stays closed (globs); goes before `intercept`.
    pub passthrough: Vec<String>,
    /// Oldest TLS version towards upstreams: `1.2` or `1.3`.
    pub min_version: String,
    /// PEM files with roots to trust beside the system's.
    pub trust: Vec<PathBuf>,
    /// Directory that what agents must trust is written to at the start: `bundle.pem`, the roots and the sidecar's own
    /// authority, and `truststore.jks`, the same for Java. The state directory has `ca/bundle.pem` in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<PathBuf>,
    /// Redirected TLS connections that name no server.
    pub no_sni: NoSni,
    /// TLS connections whose client hello holds an encrypted one (RFC 9849), or pretends to.
    pub ech: Ech,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            intercept: vec!["*".to_owned()],
            passthrough: Vec::new(),
            min_version: "1.2".to_owned(),
            trust: Vec::new(),
            publish: None,
            no_sni: NoSni::default(),
            ech: Ech::default(),
        }
    }
}

/// What becomes of redirected TLS connections that name no server.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoSni {
    /// They are refused.
    #[default]
    Refuse,
    /// They count as connections to the name that their address was given for, else to the address.
    Address,
}

/// What becomes of TLS connections with an encrypted client hello.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ech {
    /// They are refused.
    #[default]
    Refuse,
    /// They count as connections to the name that stands outside. A browser that only pretends to have one works then,
    /// and where TLS is opened a real one cannot hide anything.
    Outer,
}

/// Sizes and times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Limits {
    /// Largest request body, after decompression too.
    pub max_body: Size,
    /// Largest header section.
    pub max_headers: Size,
    /// Longest silence on a connection.
    pub idle_timeout: Span,
    /// Longest time to connect to an upstream, TLS included.
    pub connect_timeout: Span,
    /// Most connections from agents at once.
    pub max_connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = |n| Span(std::time::Duration::from_secs(n));
        Self {
            max_body: Size(8 << 20),
            max_headers: Size(64 << 10),
            idle_timeout: seconds(120),
            connect_timeout: seconds(5),
            max_connections: 10_000,
        }
    }
}

/// A number of bytes as users write it: a whole number and `B`, `KiB`, `MiB` or `GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Reads a whole number followed by its unit.
    ///
    /// # Errors
    /// When the number or its unit is not one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a size: write a whole number and `B`, `KiB`, `MiB` or `GiB`");
        let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(at).ok_or_else(bad)?;
        let number: u64 = number.parse().map_err(|_| bad())?;
        let factor: u64 = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(bad()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(bad)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A whole number and `B`, `KiB`, `MiB` or `GiB`, such as `8MiB`."
        })
    }
}

impl Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (number, unit) = match self.0 {
            n if n >= 1 << 30 && n.is_multiple_of(1 << 30) => (n >> 30, "GiB"),
            n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => (n >> 20, "MiB"),
            n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => (n >> 10, "KiB"),
            n => (n, "B"),
        };
        serializer.collect_str(&format_args!("{number}{unit}"))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// How the record is kept on this disk.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct AuditSpec {
    /// `batch` or `always`.
    pub sync: Sync,
    /// Most bytes that the record takes on this disk. What control has may go then, oldest first; what it has not stays,
    /// and calls wait and are refused instead. For a sidecar of a fleet 1 GiB when absent, otherwise without bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_spool: Option<Size>,
}

/// When the record is forced to disk. Either way an intent is written before its call is dispatched.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// At most 20 ms later: survives the death of the process at any point.
    #[default]
    Batch,
    /// Before dispatch: survives a power cut as well.
    Always,
}

/// Price of a model, in dollars for a million tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PriceSpec {
    /// Model's name (glob); `*` is the price of unknown models.
    pub model: String,
    /// Input tokens.
    pub input: f64,
    /// Output tokens.
    pub output: f64,
    /// Input tokens read from cache; as `input` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<f64>,
    /// Input tokens written to cache; as `input` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
}

/// Form of refusals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Refusals {
    /// Status of `budget_exhausted`: 402, 403, 422 or 429.
    pub budget_status: u16,
    /// How a denied MCP tool call is answered.
    pub mcp: McpRefusal,
    /// What becomes of a denied tool call in a model's answer.
    pub tool_call: ToolCallRefusal,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { budget_status: 402, mcp: McpRefusal::default(), tool_call: ToolCallRefusal::default() }
    }
}

/// How a denied MCP tool call is answered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum McpRefusal {
    /// A tool result with `isError: true`, which the model reads.
    #[default]
    Result,
    /// A JSON-RPC error, which the client library raises.
    Error,
}

/// What becomes of a denied tool call in a model's answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolCallRefusal {
    /// The block is replaced by a refusal that names the rule; the rest of the answer goes on.
    #[default]
    Replace,
    /// The answer ends with the dialect's error, which the SDK raises.
    Error,
}

/// When breakers trip.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breakers {
    /// By upstream and model.
    pub upstream: BreakerSpec,
    /// By agent.
    pub agent: RunawaySpec,
}

/// When an upstream's breaker trips, and how it heals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSpec {
    /// Failures in a row (connection, time-out, 5xx) that trip it; 0 switches it off.
    pub failures: u32,
    /// How long it stays tripped before it probes; doubles with each failed probe, up to ten times.
    pub cooldown: Span,
}

impl Default for BreakerSpec {
    fn default() -> Self {
        Self { failures: 5, cooldown: Span(std::time::Duration::from_secs(5)) }
    }
}

/// When an agent counts as running away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RunawaySpec {
    /// The same call (target and body) so often in `window` trips it; 0 switches this off.
    pub repeats: u32,
    /// So many tokens in `window` trip it; 0 switches this off.
    pub burn: u64,
    /// The span of time that both look at.
    pub window: Span,
    /// How long the agent's calls are held back.
    pub cooldown: Span,
}

impl Default for RunawaySpec {
    fn default() -> Self {
        Self {
            repeats: 60,
            burn: 0,
            window: Span(std::time::Duration::from_secs(60)),
            cooldown: Span(std::time::Duration::from_secs(30)),
        }
    }
}
