//! The composition root: puts a sidecar together from its configuration, opens its ports, and takes it down again.

mod running;
mod state;
mod stops;
mod sums;

use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ed25519_dalek::SigningKey;
use parking_lot::Mutex;
use sideguard_capture::ca::Authority;
use sideguard_policy::ledger::Ledger;
use sideguard_policy::redact::Detectors;
use sideguard_policy::source::Source;
use sideguard_record::Log;
use sideguard_runtime::drain::Drain;
use sideguard_runtime::otlp::Telemetry;
use sideguard_runtime::secret::Secret;
use sideguard_runtime::{admin, clock, signal, tasks};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::call::Caller;
use sideguard_types::resource::ProxySpec;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};

use crate::admin::Admin;
use crate::breaker::{Breakers, State};
use crate::config::{self, ConfigError, Process};
use crate::delegations::Delegations;
use crate::engine::{self, Connector, Trust};
use crate::feed::{self, Policy, PolicyError};
use crate::fleet::{self, Fleet};
use crate::lease::{self, Leases};
use crate::metrics::Metrics;
use crate::nameserver::{self, NameServer};
use crate::ports::{self, Door, Ports, Uids};
use crate::prices::Prices;
use crate::rates::Rates;
use crate::resolve::Resolver;
use crate::sessions::{McpSessions, Runaways};
use crate::ship;
use crate::trace::Traces;
use crate::upstreams;
use crate::work::{self, Work};
use sideguard_runtime::velocity::Counters;

pub use running::Running;
pub(crate) use state::put_aside;

/// How often policy files and the kill file are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Told of every entry that goes into the record.
pub trait Watcher: Send + Sync + 'static {
    /// An entry was taken into the record.
    fn seen(&self, record: &Record);
}

/// A watcher that does not look.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Watcher for Nobody {
    fn seen(&self, _: &Record) {}
}

/// Why a sidecar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policy is wrong.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A port cannot be opened.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something in the state directory cannot be used.
    #[error("{0}")]
    State(String),
}

impl StartError {
    /// Whether the user's own files are at fault.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Policy(_))
    }
}

/// Host names as globs.
#[derive(Debug, Default)]
pub(crate) struct HostList(Vec<String>);

impl HostList {
    /// Whether a host is in it: `*` is any, `*.example.com` any name below, otherwise the name itself.
    pub(crate) fn holds(&self, host: &str) -> bool {
        self.0.iter().any(|glob| match glob.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == glob,
        })
    }
}

/// Everything that one sidecar works with.
pub struct Sidecar {
    pub(crate) config: ProxySpec,
    pub(crate) agent: Option<Arc<Caller>>,
    /// The fleet that it belongs to.
    pub(crate) fleet: Option<Fleet>,
    /// What its agent does for others.
    pub(crate) work: Option<Work>,
    pub(crate) uids: Uids,
    /// The delegations that agents work under now.
    pub(crate) delegations: Delegations,
    /// The key that links and the record are signed with.
    pub(crate) key: Secret<SigningKey>,
    /// Agents that have a port of their own.
    doors: Vec<Arc<Caller>>,
    pub(crate) nameserver: NameServer,
    pub(crate) policy: ArcSwap<Policy>,
    /// The budgets in force that control keeps. Held while a policy is made and put in force.
    leased: Mutex<fleet::Budgets>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) leases: Leases,
    /// Told whenever a call has given back what it held.
    pub(crate) settled: Notify,
    pub(crate) log: Log,
    pub(crate) authority: Arc<Authority>,
    pub(crate) server_tls: Arc<rustls::ServerConfig>,
    pub(crate) connector: Connector,
    pub(crate) resolver: Resolver,
    pub(crate) prices: Prices,
    pub(crate) breakers: Breakers,
    pub(crate) runaways: Runaways,
    pub(crate) rates: Rates,
    pub(crate) velocity: Counters,
    pub(crate) metrics: Metrics,
    /// What OpenTelemetry is told of each call, when it is told anything.
    pub(crate) traces: Option<Arc<Traces>>,
    telemetry: Option<Telemetry>,
    pub(crate) mcp_sessions: McpSessions,
    pub(crate) drain: Drain,
    watcher: Arc<dyn Watcher>,
    intercept: HostList,
    passthrough: HostList,
    detectors: Mutex<HashMap<Vec<String>, Arc<Detectors>>>,
    hasher: ahash::RandomState,
    killed: watch::Sender<bool>,
    state: PathBuf,
    given: Vec<Source>,
}

impl Sidecar {
    /// Takes an entry into the record, in order, and tells whoever watches.
    pub(crate) fn note(&self, record: &Record) {
        self.log.later(record);
        self.seen(record);
    }

    /// Tells whoever watches of an entry that is in the record.
    pub(crate) fn seen(&self, record: &Record) {
        self.metrics.recorded(record);
        if let Some(traces) = &self.traces {
            traces.recorded(record);
        }
        self.watcher.seen(record);
    }

    /// The agents that are known without a key.
    pub(crate) fn agents(&self) -> Vec<&Caller> {
        self.agent
            .as_deref()
            .into_iter()
            .chain(self.uids.agents())
            .chain(self.doors.iter().map(Arc::as_ref))
            .collect()
    }

    /// Puts one of the sidecar's own doings on record.
    pub(crate) fn told(&self, code: &str) {
        let mut record = Record::new(Phase::Control, clock::now());
        record.code = Some(code.to_owned());
        self.note(&record);
    }

    /// Breakers that are not healthy, as `name: state`.
    pub(crate) fn unhealthy_breakers(&self) -> Vec<String> {
        let named = |(key, state): (String, State)| {
            let state = if matches!(state, State::Probing { .. }) { "probing" } else { "tripped" };
            format!("{key}: {state}")
        };
        let troubled = self.breakers.troubled().into_iter().map(named);
        let runaways = self.runaways.all(clock::now()).into_iter();
        troubled.chain(runaways.map(|(agent, _)| format!("agent/{agent}: tripped"))).collect()
    }

    /// Whether TLS to a host is opened.
    pub(crate) fn opens(&self, host: &str) -> bool {
        !self.passthrough.holds(host) && self.intercept.holds(host)
    }

    /// A key for the counters.
    pub(crate) fn velocity_key(&self, of: &impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    /// Detectors by name, compiled once.
    pub(crate) fn detectors(&self, names: &[String]) -> Result<Arc<Detectors>, String> {
        if let Some(known) = self.detectors.lock().get(names) {
            return Ok(Arc::clone(known));
        }
        let detectors = Arc::new(Detectors::compile(names).map_err(|error| error.to_string())?);
        self.detectors.lock().insert(names.to_vec(), Arc::clone(&detectors));
        Ok(detectors)
    }

    /// Reads the policy files again. A set that does not compile changes nothing. Returns the digest in force.
    ///
    /// # Errors
    /// Why the new set cannot be used.
    pub fn reload(&self) -> Result<String, PolicyError> {
        let reloaded = self.swap(None);
        self.fleet.iter().for_each(Fleet::files_changed);
        reloaded
    }

    /// Puts texts of control's in force, with the policy files as they are. A set that does not compile changes nothing.
    pub(crate) fn adopt(&self, texts: Arc<Vec<Source>>) -> Result<String, String> {
        self.swap(Some(texts)).map_err(|error| error.to_string())
    }

    /// Files and control may bring something new at the same moment: one goes after the other, and sees what it did.
    fn swap(&self, texts: Option<Arc<Vec<Source>>>) -> Result<String, PolicyError> {
        let mut before = self.leased.lock();
        let built = self.build(texts.as_deref().map(Vec::as_slice));
        let (policy, leased) = match built {
            Ok(built) => built,
            Err(error) => {
                self.metrics.reloaded("refused");
                tracing::error!(%error, "new policy refused: the old one stays in force");
                return Err(error);
            }
        };
        let digest = policy.set.digest().to_string();
        let adopted = |texts| self.fleet.iter().zip(texts).for_each(|(fleet, texts)| fleet.adopted(texts));
        // The digest does not tell whose a budget is: it may have moved from a file to control.
        if *digest == **self.policy.load().set.digest() && leased == *before {
            adopted(texts);
            return Ok(digest);
        }
        let ledger =
            Ledger::new(policy.set.budgets()).map_err(|error| PolicyError::Budget(error.to_string()))?;
        let ledger = ledger.lease(|budget| leased.contains(&(budget.tenant.clone(), budget.name.clone())));
        {
            let mut current = self.ledger.lock();
            let kept = ledger.with_accounts_of(&current);
            *current = kept;
        }
        *before = leased;
        let rules = policy.set.rule_count();
        self.policy.store(Arc::new(policy));
        adopted(texts);
        self.metrics.reloaded("accepted");
        let mut record = Record::new(Phase::Control, clock::now());
        record.code = Some("policy_changed".to_owned());
        record.policy_digest.clone_from(&digest);
        self.note(&record);
        tracing::info!(%digest, rules, "new policy in force");
        Ok(digest)
    }

    /// The policy of now, and the budgets in it that control keeps.
    fn build(&self, texts: Option<&[Source]>) -> Result<(Policy, fleet::Budgets), PolicyError> {
        let mut sources = feed::read(&self.config.policies)?;
        sources.extend(self.given.iter().cloned());
        let central = match texts {
            Some(texts) => texts.to_vec(),
            None => self.fleet.as_ref().map(Fleet::sources).unwrap_or_default(),
        };
        let leased = fleet::budgets(&central);
        sources.extend(central);
        Ok((feed::build(&sources, &self.config.upstreams, &Process)?, leased))
    }
}

/// Starts a sidecar: `state` is its directory, `given` are policy texts beside the configured files, `ports` are where
/// agents come in.
///
/// # Errors
/// Why it cannot start. Configuration and policy are checked before any port opens.
pub async fn start(
    spec: ProxySpec,
    state: &Path,
    given: Vec<Source>,
    ports: Ports,
    watcher: Arc<dyn Watcher>,
) -> Result<Running, StartError> {
    // Keys are in its memory and environment: for no other process of the same user, and for no core file.
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "the sidecar's memory cannot be closed to others");
    }
    signal::survive_file_size_limit().map_err(|error| StartError::State(error.to_string()))?;
    let sidecar = Arc::new(assemble(spec, state, given, watcher)?);
    let shut = |(address, source)| StartError::Listen { address, source };
    let opened = ports::open(&sidecar.config, ports).await.map_err(shut)?;
    let admin = ports::listen(&sidecar.config.listen.admin).await.map_err(shut)?;
    let admin_at = admin.local_addr().map_err(|error| StartError::State(error.to_string()))?;
    let inbound = opened.doors.iter().filter(|(_, door)| door.inbound.is_some());
    let inbound: Vec<String> = inbound.map(|(_, door)| door.at.to_string()).collect();
    let outbound_at = opened.doors.first().map(|(_, door)| door.at);
    let outbound_at = outbound_at.ok_or_else(|| StartError::State("there is no outbound port".to_owned()))?;
    let token = state::admin_token(state).map_err(StartError::State)?;
    let answer = Arc::new(Admin { sidecar: Arc::clone(&sidecar), token: Secret::new(token) });
    let most = usize::try_from(sidecar.config.limits.max_connections).unwrap_or(usize::MAX);
    let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    let accepting = opened.doors.into_iter().map(|(listener, door)| {
        let accept = accept(listener, Arc::new(door), Arc::clone(&places), Arc::clone(&sidecar));
        tasks::Owned::new(&tasks::spawn("accept", accept))
    });
    let accepting = accepting.collect();
    let mut tasks = vec![
        tasks::Owned::new(&tasks::spawn("admin", admin::serve(admin, answer))),
        tasks::Owned::new(&tasks::spawn_vital("look", look(Arc::clone(&sidecar)))),
        tasks::Owned::new(&tasks::spawn_vital("fleet", fleet::belong(Arc::clone(&sidecar)))),
        tasks::Owned::new(&tasks::spawn_vital("leases", lease::keep(Arc::clone(&sidecar)))),
        tasks::Owned::new(&tasks::spawn_vital("work", work::follow(Arc::clone(&sidecar)))),
    ];
    let ship = ship::ship(Arc::clone(&sidecar), state.to_owned());
    let shipping = tasks::Owned::new(&tasks::spawn_vital("ship", ship));
    for socket in opened.dns_udp {
        let serve = nameserver::serve_udp(socket, Arc::clone(&sidecar));
        tasks.push(tasks::Owned::new(&tasks::spawn("dns-udp", serve)));
    }
    for listener in opened.dns_tcp {
        let serve = nameserver::serve_tcp(listener, Arc::clone(&sidecar));
        tasks.push(tasks::Owned::new(&tasks::spawn("dns-tcp", serve)));
    }
    let mut record = Record::new(Phase::Control, clock::now());
    record.code = Some("start".to_owned());
    record.policy_digest = sidecar.policy.load().set.digest().to_string();
    sidecar.note(&record);
    state::write_ports(state, outbound_at, admin_at, &inbound).map_err(StartError::State)?;
    Ok(Running { sidecar, outbound: outbound_at, admin: admin_at, tasks, accepting, shipping, places })
}

/// What a command's surroundings have to know of its upstreams.
#[derive(Debug)]
pub struct Survey {
    /// Ports of this host that upstreams are at.
    pub local_ports: Vec<u16>,
    /// Environment variables that hold credentials.
    pub key_variables: Vec<String>,
}

/// Looks at configuration and policy without starting anything; what is wrong with them is found here too.
///
/// # Errors
/// As for [`start`].
pub fn survey(spec: &ProxySpec, given: &[Source]) -> Result<Survey, StartError> {
    config::check(spec)?;
    let mut sources = feed::read(&spec.policies)?;
    sources.extend(given.iter().cloned());
    let policy = feed::build(&sources, &spec.upstreams, &Process)?;
    let mut key_variables: Vec<String> = upstreams::key_variables().map(str::to_owned).collect();
    let named = spec.upstreams.iter().map(|upstream| &upstream.credential);
    let credentials = named.chain(policy.set.upstreams().iter().map(|(_, upstream)| &upstream.credential));
    for credential in credentials.flatten() {
        let names = credential.value.split("${env:").skip(1).filter_map(|rest| rest.split_once('}'));
        key_variables.extend(names.map(|(name, _)| name.to_owned()));
    }
    Ok(Survey { local_ports: policy.upstreams.local_ports().collect(), key_variables })
}

fn assemble(
    config: ProxySpec,
    state: &Path,
    given: Vec<Source>,
    watcher: Arc<dyn Watcher>,
) -> Result<Sidecar, StartError> {
    config::check(&config)?;
    let value = |what: String| StartError::Config(ConfigError::Value(what));
    let fleet = match &config.control {
        Some(control) => {
            state::make(state).map_err(StartError::State)?;
            let id = state::sidecar_id(state).map_err(StartError::State)?;
            Some(Fleet::open(control.clone(), state, id).map_err(StartError::State)?)
        }
        None => None,
    };
    let mut sources = feed::read(&config.policies)?;
    sources.extend(given.iter().cloned());
    let central = fleet.as_ref().map(Fleet::sources).unwrap_or_default();
    let leased = fleet::budgets(&central);
    sources.extend(central);
    let policy = feed::build(&sources, &config.upstreams, &Process)?;
    let ledger = Ledger::new(policy.set.budgets()).map_err(|error| PolicyError::Budget(error.to_string()))?;
    let ledger = ledger.lease(|budget| leased.contains(&(budget.tenant.clone(), budget.name.clone())));
    let resolver = Resolver::new(&config.hosts, &config.private, config.limits.connect_timeout.0);
    let resolver = resolver.map_err(value)?;
    let prices = Prices::new(&config.prices).map_err(value)?;
    let agent = config.agent.as_ref().map(config::caller);
    // A second provider in the process would make rustls refuse to choose; the first one installed stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let files = state::open(state, &config, ledger, agent.as_deref()).map_err(StartError::State)?;
    let limits = &config.limits;
    let trust = Trust {
        connect: limits.connect_timeout.0,
        silence: limits.idle_timeout.0,
        tls13_only: config.tls.min_version == "1.3",
    };
    let telemetry = Telemetry::start("sideguard-proxy");
    Ok(Sidecar {
        connector: Connector::new(&files.roots, trust),
        intercept: HostList(config.tls.intercept.iter().map(|host| host.to_ascii_lowercase()).collect()),
        passthrough: HostList(config.tls.passthrough.iter().map(|host| host.to_ascii_lowercase()).collect()),
        agent,
        fleet,
        work: Work::new(&config),
        uids: Uids::new(&config),
        delegations: Delegations::new(config.delegation.clone()),
        key: files.key,
        doors: config
            .agents
            .iter()
            .filter(|bound| bound.listen.is_some())
            .map(|bound| config::caller(&bound.agent))
            .collect(),
        nameserver: NameServer::default(),
        policy: ArcSwap::from_pointee(policy),
        leased: Mutex::new(leased),
        ledger: Mutex::new(files.ledger),
        leases: Leases::new(),
        settled: Notify::new(),
        log: files.log,
        authority: files.authority,
        server_tls: files.server_tls,
        resolver,
        prices,
        breakers: Breakers::default(),
        runaways: Runaways::default(),
        rates: Rates::default(),
        velocity: Counters::default(),
        metrics: Metrics::new(telemetry.as_ref()),
        traces: telemetry.clone().map(Traces::new),
        telemetry,
        mcp_sessions: McpSessions::default(),
        drain: Drain::default(),
        watcher,
        detectors: Mutex::default(),
        hasher: ahash::RandomState::new(),
        killed: watch::Sender::new(state.join("kill").exists()),
        state: state.to_owned(),
        given,
        config,
    })
}

async fn accept(listener: TcpListener, door: Arc<Door>, places: Arc<Semaphore>, sidecar: Arc<Sidecar>) {
    loop {
        // When all places are taken further connections wait in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, from)) => {
                let (door, sidecar) = (Arc::clone(&door), Arc::clone(&sidecar));
                tasks::spawn_plain(async move {
                    sidecar.metrics.connected();
                    engine::accept(tcp, from, &door, Arc::clone(&sidecar)).await;
                    sidecar.metrics.disconnected();
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Looks for changed policy files and for the kill file.
async fn look(sidecar: Arc<Sidecar>) {
    let mut stamp = feed::stamp(&sidecar.config.policies);
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let killed = sidecar.state.join("kill").exists();
        if sidecar.killed.send_replace(killed) != killed {
            let mut record = Record::new(Phase::Control, clock::now());
            record.code = Some(if killed { "killed" } else { "unkilled" }.to_owned());
            sidecar.note(&record);
            tracing::warn!(killed, "kill switch changed");
        }
        sidecar.nameserver.close(&sidecar, false);
        let now = feed::stamp(&sidecar.config.policies);
        if now != stamp {
            stamp = now;
            // A refused set is logged and counted there. It takes a while, and control's may be in the making.
            let own = Arc::clone(&sidecar);
            let _ = tokio::task::spawn_blocking(move || own.reload()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HostList;

    #[test]
    fn hosts_are_matched_whole() {
        let list = HostList(vec!["*.bank.example".to_owned(), "a.b".to_owned()]);
        assert!(list.holds("x.bank.example") && list.holds("a.b"));
        assert!(!list.holds("bank.example") && !list.holds("evilbank.example") && !list.holds("x.a.b"));
        assert!(HostList(vec!["*".to_owned()]).holds("anything"));
    }
}
