//! The composition root: opens the store, makes what is missing, serves.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sideguard_kubernetes::ConnectError;
use sideguard_runtime::otlp::Telemetry;
use sideguard_runtime::{clock, id, ports, tasks};
use sideguard_store::{Store, StoreError};
use sideguard_types::resource::ControlSpec;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::{self, Control, Hosts};
use crate::approvals::Webhooks;
use crate::budgets::Budgets;
use crate::cluster::Kubernetes;
use crate::error::Failure;
use crate::feed::Waiting;
use crate::jobs::Jobs;
use crate::known::Known;
use crate::limits::Limits;
use crate::metrics::{self, Metrics};
use crate::operator::{self, NoKey};
use crate::records::Records;
use crate::serve;
use crate::serve::tls::{TlsError, acceptor};
use crate::signer::Signer;
use crate::sinks::{self, Works};
use crate::workflows;

/// Longest time that the collector of telemetry is waited for at the end.
const FLUSH: std::time::Duration = std::time::Duration::from_secs(3);
/// Name of the file with the first operator's key, in the state directory.
pub const OPERATOR_KEY: &str = "operator.key";

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// What the store should hold cannot be had.
    #[error("store: {0}")]
    Kept(#[from] Failure),
    /// The port cannot be opened.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The port cannot speak TLS.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// The cluster cannot be asked.
    #[error("kubernetes: {0}")]
    Kubernetes(#[from] ConnectError),
    /// A webhook cannot be used.
    #[error("{0}")]
    Webhook(String),
    /// A file in the state directory cannot be used.
    #[error("state: `{}`: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl StartError {
    /// Whether the configuration is at fault.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Webhook(_) | Self::Tls(_) | Self::Kubernetes(_))
    }
}

/// A control service that serves.
#[derive(Debug)]
pub struct Running {
    store: Store,
    url: String,
    state: PathBuf,
    operator_key: PathBuf,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    following: Vec<tasks::Owned>,
    waiting: Arc<Waiting>,
    sinks: (Works, tasks::Owned),
    jobs: Arc<Jobs>,
    telemetry: Option<Telemetry>,
}

/// Starts the service: `state` is its directory.
///
/// # Errors
/// Why it cannot start.
pub async fn start(spec: &ControlSpec, state: &Path) -> Result<Running, StartError> {
    let dir = state.join("control");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|source| StartError::State { path: dir.clone(), source })?;
    let webhooks = Arc::new(Webhooks::open(&spec.approvals).map_err(StartError::Webhook)?);
    let listen = spec.listen.as_str();
    let tls = spec.tls.as_ref().map(acceptor).transpose()?;
    let store = match &spec.store {
        None => Store::open_embedded(&dir).await?,
        Some(shared) => Store::open_shared(&shared.redis, &shared.nats, &shared.namespace).await?,
    };
    let telemetry = Telemetry::start("sideguard-control");
    let metrics = Arc::new(Metrics::new(telemetry.clone()));
    let store = metrics::counted(store, &metrics);
    let now = clock::now();
    let signer = Signer::open(&store, now).await?;
    // As a path from anywhere: whoever reads it in `ports.json` stands elsewhere.
    let operator_key =
        spec.operator_key.as_ref().map_or_else(|| state.join(OPERATOR_KEY), |key| key.file.clone());
    let operator_key = std::path::absolute(&operator_key).unwrap_or(operator_key);
    operator::ensure(&store, now, &operator_key).await.map_err(|error| match error {
        NoKey::Kept(failure) => StartError::Kept(failure),
        NoKey::File(source) => StartError::State { path: operator_key.clone(), source },
    })?;
    let budgets = Arc::new(Budgets::open(&store, spec.lease.0).await?);
    let waiting = Arc::new(Waiting::new());
    waiting.look(&store).await?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|source| StartError::Listen { address: listen.to_owned(), source })?;
    let address =
        listener.local_addr().map_err(|source| StartError::Listen { address: listen.to_owned(), source })?;
    let known = Arc::new(Known::default());
    let jobs = Arc::new(Jobs::new(store.clone()));
    let cluster = match &spec.kubernetes {
        Some(kubernetes) => Some(Kubernetes::open(kubernetes, &dir).await?),
        None => None,
    };
    let control = Arc::new(Control {
        store: store.clone(),
        signer,
        waiting: Arc::clone(&waiting),
        limits: Limits::new(&spec.limits),
        hosts: Hosts::new(address.ip(), &spec.hosts),
        records: Records::new(),
        webhooks: Arc::clone(&webhooks),
        known: Arc::clone(&known),
        budgets: Arc::clone(&budgets),
        jobs: Arc::clone(&jobs),
        metrics: Arc::clone(&metrics),
        loopback: address.ip().is_loopback(),
        certificates: spec.tls.as_ref().is_some_and(|tls| tls.clients.is_some()),
        kubernetes: cluster.as_ref().map(Kubernetes::accounts),
    });
    let mirrored = cluster.map(|cluster| cluster.start(&store, &waiting)).unwrap_or_default();
    let watched = Arc::clone(&control);
    let live = tasks::spawn("records", async move { watched.records.live.run(watched.store.clone()).await });
    let (stop, stopped) = watch::channel(false);
    let url = url(spec, address);
    let serve =
        serve::serve(listener, tls, api::router(Arc::clone(&control)), spec.limits.connections, stopped);
    let serving = tasks::spawn("control", serve);
    let replica = match &spec.store {
        None => "embedded".to_owned(),
        Some(_) => format!("{address}/{}", id::new(now)),
    };
    let works = Works { store: store.clone(), files: dir.join("sinks"), replica: replica.clone(), metrics };
    let passing = tasks::spawn("sinks", sinks::run(works.clone(), Arc::clone(&waiting)));
    let sinks = (works, tasks::Owned::new(&passing));
    let follow = tasks::spawn("follow", Arc::clone(&waiting).follow(store.clone()));
    let keys = tasks::spawn("known", known.follow(store.clone()));
    let notify = tasks::spawn("webhooks", webhooks.follow(store.clone()));
    let sweep = tasks::spawn("sweep", sweep(store.clone()));
    let tend = tasks::spawn("budgets", budgets.tend(store.clone()));
    let board = tasks::spawn("jobs", Arc::clone(&jobs).follow());
    let plan = Arc::clone(&jobs).reconcile(Arc::clone(&waiting), replica.clone());
    let plan = tasks::spawn("reconcile", plan);
    let runs = tasks::spawn("workflows", workflows::drive(Arc::clone(&control), replica));
    let mut following: Vec<tasks::Owned> =
        [&follow, &keys, &live, &notify, &sweep, &tend, &board, &plan, &runs].map(tasks::Owned::new).into();
    following.extend(mirrored);
    let told = [("control", url.clone()), ("operator_key_file", operator_key.display().to_string())];
    ports::announce(state, &told)
        .map_err(|source| StartError::State { path: state.join(ports::FILE), source })?;
    Ok(Running {
        state: state.to_owned(),
        store,
        url,
        operator_key,
        stop,
        serving,
        following,
        waiting,
        sinks,
        jobs,
        telemetry,
    })
}

/// Where it is reached: by its first name, if it has one.
fn url(spec: &ControlSpec, address: SocketAddr) -> String {
    let scheme = if spec.tls.is_some() { "https" } else { "http" };
    match spec.hosts.first() {
        Some(name) => format!("{scheme}://{name}:{}", address.port()),
        None => format!("{scheme}://{address}"),
    }
}

/// Removes documents whose time is over, until the task is dropped.
async fn sweep(store: Store) {
    const PAUSE: std::time::Duration = std::time::Duration::from_secs(60);
    const AT_ONCE: usize = 1_000;
    loop {
        tokio::time::sleep(PAUSE).await;
        loop {
            match store.documents.sweep(clock::now(), AT_ONCE).await {
                Ok(AT_ONCE) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "what is past cannot be removed from the store now");
                    break;
                }
            }
        }
    }
}

impl Running {
    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The file with the first operator's key.
    #[must_use]
    pub fn operator_key(&self) -> &Path {
        &self.operator_key
    }

    /// Stops: takes no new requests, lets those under way end within a moment, closes the store.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.waiting.close();
        // Questions of sidecars are held for long: they ask again elsewhere.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.serving).await;
        drop(self.following);
        let (works, passing) = self.sinks;
        drop(passing);
        if let Err(error) = sinks::release(&works).await {
            tracing::warn!(%error, "leases of sinks stay until they are over");
        }
        if let Err(error) = workflows::release(&self.store, &works.replica).await {
            tracing::warn!(%error, "another replica drives runs only when this one's turn is over");
        }
        if let Err(error) = self.jobs.release(&works.replica).await {
            tracing::warn!(%error, "another replica plans jobs only when this one's turn is over");
        }
        if let Some(telemetry) = &self.telemetry {
            telemetry.stop(FLUSH).await;
        }
        // Nobody is there to tell.
        let _ = ports::withdraw(&self.state, &["control", "operator_key_file"]);
        self.store.close().await;
    }
}
