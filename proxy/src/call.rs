//! What the stages hand to each other: one exchange and what is known of it so far.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sideguard_dialects::detect::Operation;
use sideguard_dialects::refuse::Form;
use sideguard_dialects::request::{Changeable, Unread};
use sideguard_policy::Grant;
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_runtime::secret::Secret;
use sideguard_types::audit::{Phase, Record, Target};
use sideguard_types::call::{Call, Caller, Class, Point};
use sideguard_types::refusal::Refusal;
use sideguard_types::time::Timestamp;
use sideguard_types::units::{MicroUsd, Tokens};
use sideguard_types::verdict::Verdict;

use crate::delegations::Under;
use crate::feed::Policy;
use crate::inbound::Inbound;
use crate::ports::{Door, Whose};
use crate::upstreams::Upstream;
use crate::waits::Waits;
use crate::work::{Held, Tie};

/// A host name or address, lower case, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl HostPort {
    /// Reads `host:port` or `[v6]:port`; the port must stand.
    pub(crate) fn parse_with_port(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Self::of(host, port.parse().ok()?)
    }

    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    pub(crate) fn parse(text: &str, default_port: u16) -> Option<Self> {
        match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => Self::of(host, port.parse().ok()?),
            _ => Self::of(text, default_port),
        }
    }

    fn of(host: &str, port: u16) -> Option<Self> {
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            None => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
        };
        let valid = !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
        (valid && port != 0 && !is_disguised(&host)).then_some(Self { host, port })
    }

    /// As a `Host` header has it: the port only where it is not the scheme's own.
    pub(crate) fn authority(&self, tls: bool) -> String {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        if self.port == if tls { 443 } else { 80 } {
            [open, &self.host, close].concat()
        } else {
            [open, &self.host, close, ":", &self.port.to_string()].concat()
        }
    }
}

/// Whether a host is an IPv4 address in a spelling of the C library's (`127.1`, `0x7f.1`, `2130706433`), which no rule about
/// hosts would know. As browsers do (WHATWG URL, "ends in a number"), but for refusing it.
fn is_disguised(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(hex);
    number && host.parse::<std::net::IpAddr>().is_err()
}

/// How a connection came: what is known before its first request is read.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// The agent's address.
    pub(crate) from: SocketAddr,
    /// The port that it came in by.
    pub(crate) at: SocketAddr,
    /// Where CONNECT asked to go.
    pub(crate) tunnel: Option<HostPort>,
    /// Whether TLS was opened here.
    pub(crate) tls: bool,
    /// Name that the TLS handshake asked for.
    pub(crate) sni: Option<String>,
    /// Key that CONNECT brought as the proxy password.
    pub(crate) key: Option<Secret<String>>,
    /// Where it was going before it was redirected here.
    pub(crate) origin: Option<SocketAddr>,
    /// Whose it is, as far as the kernel tells.
    pub(crate) whose: Whose,
    /// The port in front of an agent that it came by.
    pub(crate) inbound: Option<Arc<Inbound>>,
    /// The one job that it can be for.
    pub(crate) job: Option<Arc<Held>>,
}

impl Arrival {
    pub(crate) fn new(from: SocketAddr, door: &Door, origin: Option<SocketAddr>, whose: Whose) -> Self {
        let (at, job) = (door.at, door.job.clone());
        Self { from, at, tunnel: None, tls: false, sni: None, key: None, origin, whose, inbound: None, job }
    }
}

/// Where a request leads.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Host and port to reach.
    pub(crate) to: HostPort,
    /// Whether TLS is spoken to it.
    pub(crate) tls: bool,
    /// Path and query as they are sent.
    pub(crate) target: String,
    /// The upstream that it belongs to, where one is configured for it.
    pub(crate) upstream: Option<Arc<Upstream>>,
}

impl Route {
    /// The query without its `?`.
    pub(crate) fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The path without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }
}

/// One thing that is judged: a request has one, a JSON-RPC batch several.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) point: Point,
    pub(crate) class: Class<'static>,
    pub(crate) tool: Option<String>,
    pub(crate) model: Option<String>,
    /// Where the arguments stand in the decoded body.
    pub(crate) args: Option<std::ops::Range<usize>>,
    /// The JSON-RPC id, as it stands in the body.
    pub(crate) rpc_id: Option<Vec<u8>>,
    /// SHA-256 of the arguments, in hex.
    pub(crate) args_hash: Option<String>,
}

/// A request body: as it came, and as it is judged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Body {
    /// The bytes as they came.
    pub(crate) raw: Bytes,
    /// The bytes after decompression; the same where there was none.
    pub(crate) decoded: Bytes,
}

impl Body {
    /// Whether the body came compressed.
    pub(crate) fn compressed(&self) -> bool {
        self.raw.as_ptr() != self.decoded.as_ptr() || self.raw.len() != self.decoded.len()
    }
}

/// One exchange, from its request's head on. What is not known yet is empty.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) id: String,
    pub(crate) at: Timestamp,
    pub(crate) since: Stopwatch,
    /// How long of that it has waited for people.
    pub(crate) waited: Duration,
    /// How much of that it has waited for others.
    pub(crate) waits: Waits,
    pub(crate) method: String,
    pub(crate) session: Option<String>,
    pub(crate) trace_id: Option<String>,
    /// What OpenTelemetry is told of it, where anything is.
    pub(crate) trace: Option<Arc<crate::trace::Trace>>,
    /// The policy that everything in this exchange is judged by.
    pub(crate) policy: Arc<Policy>,
    pub(crate) route: Option<Route>,
    pub(crate) caller: Option<Arc<Caller>>,
    /// The job that it is made for.
    pub(crate) job: Tie,
    /// Its id, where that is certain.
    pub(crate) named: Option<String>,
    /// The delegations that it is made under.
    pub(crate) under: Option<Under>,
    /// Id of the link by which it hands work on, or by which it came in.
    pub(crate) link: Option<String>,
    /// What it asks of the sidecar itself: the target below `/jobs`.
    pub(crate) own: Option<String>,
    pub(crate) form: Form,
    pub(crate) operation: Operation,
    pub(crate) batch: bool,
    /// Whether its MCP headers and body disagree, which has an answer of its own.
    pub(crate) mismatch: bool,
    /// Who is answered where its MCP messages could not be read.
    pub(crate) unread: Option<Unread>,
    pub(crate) items: Vec<Item>,
    /// Upper bound of tokens and cost, as the policy sees them.
    pub(crate) tokens: Tokens,
    pub(crate) cost: MicroUsd,
    /// Id of the approval that it uses, and who gave it.
    pub(crate) approval: Option<(String, Vec<String>)>,
}

impl Exchange {
    pub(crate) fn new(policy: Arc<Policy>, method: &str) -> Self {
        let at = clock::now();
        Self {
            id: sideguard_runtime::id::new(at),
            at,
            since: Stopwatch::start(),
            waited: Duration::ZERO,
            waits: Waits::counted(),
            method: method.to_owned(),
            session: None,
            trace_id: None,
            trace: None,
            policy,
            route: None,
            caller: None,
            job: Tie::Free,
            named: None,
            under: None,
            link: None,
            own: None,
            form: Form::Problem,
            operation: Operation::Plain,
            batch: false,
            mismatch: false,
            unread: None,
            items: Vec::new(),
            tokens: Tokens::ZERO,
            cost: MicroUsd::ZERO,
            approval: None,
        }
    }

    /// The call as policy sees it, for one of its items.
    pub(crate) fn call<'a>(&'a self, caller: &'a Caller, item: &'a Item, body: &'a [u8]) -> Call<'a> {
        Call {
            caller,
            point: item.point,
            class: item.class.clone(),
            tool: item.tool.as_deref(),
            args: item.args.clone().and_then(|range| body.get(range)),
            model: item.model.as_deref(),
            host: self.route.as_ref().map_or("", |route| route.to.host.as_str()),
            method: &self.method,
            path: self.route.as_ref().map_or("", Route::path),
            query: self.route.as_ref().filter(|route| route.upstream.is_none()).map_or("", Route::query),
            tokens: self.tokens,
            cost: self.cost,
            session: self.session.as_deref(),
            content: body,
        }
    }

    /// A record entry with all that is known, for one of its items or for the exchange as a whole.
    pub(crate) fn record(&self, phase: Phase, item: Option<&Item>) -> Record {
        let mut record = Record::new(phase, clock::now());
        record.call.clone_from(&self.id);
        if let Some(caller) = &self.caller {
            record.tenant.clone_from(&caller.tenant);
            record.agent.clone_from(&caller.agent);
            record.chain.clone_from(&caller.chain);
        }
        record.correlation = self.under.as_ref().map(|under| under.by);
        record.link.clone_from(&self.link);
        record.session.clone_from(&self.session);
        record.trace_id.clone_from(&self.trace_id);
        record.job = self.job.job().map(str::to_owned);
        record.policy_digest = self.policy.set.digest().to_string();
        if let Some((id, by)) = &self.approval {
            record.approval = Some(id.clone());
            record.approved_by.clone_from(by);
        }
        record.target = Target { method: self.method.clone(), ..Target::default() };
        if let Some(route) = &self.route {
            record.target.host = route.to.authority(route.tls);
            record.target.path = crate::audit::recorded_path(&route.target);
        }
        if let Some(item) = item.or_else(|| self.items.first()) {
            record.point = Some(item.point);
            record.topic = item.class.topic.to_string();
            record.verb = Some(item.class.verb);
            record.risk_tags = item.class.risk_tags.iter().map(ToString::to_string).collect();
            record.target.tool.clone_from(&item.tool);
            record.target.model.clone_from(&item.model);
            record.args_hash.clone_from(&item.args_hash);
        }
        record
    }

    /// Ends the way of a call: nothing goes upstream.
    pub(crate) fn refuse(self, refusal: Refusal) -> Refused {
        Refused { exchange: Box::new(self), refusals: vec![(0, refusal)] }
    }
}

/// A call that is not let through, with what was known when that was decided.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) exchange: Box<Exchange>,
    /// Which items were refused, and why. The first refusal gives the reply its status.
    pub(crate) refusals: Vec<(usize, Refusal)>,
}

impl Refused {
    /// The refusal that gives the reply its form.
    pub(crate) fn first(&self) -> Option<&Refusal> {
        self.refusals.first().map(|(_, refusal)| refusal)
    }
}

/// An exchange whose request has been read whole.
pub(crate) struct Accepted {
    pub(crate) exchange: Exchange,
    pub(crate) body: Body,
    pub(crate) key: Option<Secret<String>>,
}

/// An exchange whose agent is known.
pub(crate) struct Identified {
    pub(crate) exchange: Exchange,
    pub(crate) body: Body,
}

/// An exchange of which it is known what it would do.
pub(crate) struct Classified {
    pub(crate) exchange: Exchange,
    pub(crate) body: Body,
    pub(crate) model: Option<ModelFacts>,
}

/// What a model request says of itself, as far as it bears on budgets and rewriting.
#[derive(Debug, Clone)]
pub(crate) struct ModelFacts {
    pub(crate) model: String,
    pub(crate) provider: String,
    pub(crate) stream: bool,
    pub(crate) output_cap: Option<Tokens>,
    pub(crate) choices: u64,
    pub(crate) include_usage: bool,
    /// Whether the provider goes on with the answer when nobody listens.
    pub(crate) background: bool,
    /// Upper bound of input tokens.
    pub(crate) input: Tokens,
    /// Where its body can be changed.
    pub(crate) changeable: Changeable,
    /// Whether an output cap was put in on the way.
    pub(crate) cap_sent: bool,
    /// Whether the provider counts no output for it (embeddings, count_tokens).
    pub(crate) no_output: bool,
}

/// An exchange that policy lets go once people have said yes.
pub(crate) struct Awaiting {
    pub(crate) classified: Classified,
    /// The verdict on its only item.
    pub(crate) verdict: Verdict,
}

/// An exchange that people have said yes to: it is to be judged again.
pub(crate) struct Approved {
    pub(crate) classified: Classified,
    pub(crate) ticket: Ticket,
}

/// A grant at control that is not used up yet.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    /// Id of the approval.
    pub(crate) id: String,
    /// Hash of the canonical request.
    pub(crate) hash: String,
    /// Digest of the policy set that asked.
    pub(crate) digest: Arc<str>,
}

/// An exchange that policy lets go, with the grants that say so.
pub(crate) struct Cleared {
    pub(crate) exchange: Exchange,
    pub(crate) body: Body,
    pub(crate) model: Option<ModelFacts>,
    /// One for each item.
    pub(crate) grants: Vec<Grant>,
    /// What is to be used up before it leaves.
    pub(crate) ticket: Option<Ticket>,
}

/// An exchange whose upper bound is held in every budget that it falls under.
pub(crate) struct Reserved {
    pub(crate) exchange: Exchange,
    pub(crate) body: Body,
    pub(crate) model: Option<ModelFacts>,
    pub(crate) grants: Vec<Grant>,
    /// What is to be used up before it leaves.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) held: crate::reserve::Held,
    /// Output cap to send where it is not the agent's own.
    pub(crate) cap: Option<Tokens>,
}
