//! The composition root: opens the store, makes what is missing, serves.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sideguard_runtime::{clock, ports, tasks};
use sideguard_store::{Store, StoreError};
use sideguard_types::resource::ControlSpec;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::{self, Control, Hosts};
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::{self, Principal, Role};
use crate::limits::Limits;
use crate::serve;
use crate::serve::tls::{TlsError, acceptor};
use crate::signer::Signer;

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
    /// A file in the state directory cannot be used.
    #[error("state: `{}`: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
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
    following: tasks::Owned,
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
    let listen = spec.listen.as_str();
    let tls = spec.tls.as_ref().map(acceptor).transpose()?;
    let store = match &spec.store {
        None => Store::open_embedded(&dir).await?,
        Some(shared) => Store::open_shared(&shared.redis, &shared.nats, &shared.namespace).await?,
    };
    let now = clock::now();
    let signer = Signer::open(&store, now).await?;
    let operator_key = state.join(OPERATOR_KEY);
    first_operator(&store, &operator_key).await?;
    let waiting = Arc::new(Waiting::new());
    waiting.look(&store).await?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|source| StartError::Listen { address: listen.to_owned(), source })?;
    let address =
        listener.local_addr().map_err(|source| StartError::Listen { address: listen.to_owned(), source })?;
    let control = Arc::new(Control {
        store: store.clone(),
        signer,
        waiting: Arc::clone(&waiting),
        limits: Limits::new(&spec.limits),
        hosts: Hosts::new(address.ip(), &spec.hosts),
        certificates: spec.tls.as_ref().is_some_and(|tls| tls.clients.is_some()),
    });
    let (stop, stopped) = watch::channel(false);
    let url = url(spec, address);
    let serve = serve::serve(listener, tls, api::router(control), spec.limits.connections, stopped);
    let serving = tasks::spawn("control", serve);
    let following = tasks::Owned::new(&tasks::spawn("follow", waiting.follow(store.clone())));
    let known = [("control", url.clone()), ("operator_key_file", operator_key.display().to_string())];
    ports::announce(state, &known)
        .map_err(|source| StartError::State { path: state.join(ports::FILE), source })?;
    Ok(Running { state: state.to_owned(), store, url, operator_key, stop, serving, following })
}

/// Where it is reached: by its first name, if it has one.
fn url(spec: &ControlSpec, address: SocketAddr) -> String {
    let scheme = if spec.tls.is_some() { "https" } else { "http" };
    match spec.hosts.first() {
        Some(name) => format!("{scheme}://{name}:{}", address.port()),
        None => format!("{scheme}://{address}"),
    }
}

/// Makes the first operator's key when the file with it is not there.
async fn first_operator(store: &Store, path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::State { path: path.to_owned(), source };
    if path.try_exists().map_err(failed)? {
        return Ok(());
    }
    let operator = Principal::new("operator", Role::Operator, None);
    let key = keys::make(store, clock::now(), &operator).await?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(format!("{key}\n").as_bytes()).map_err(failed)
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
        // Questions of sidecars are held for long: they ask again elsewhere.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.serving).await;
        drop(self.following);
        // Nobody is there to tell.
        let _ = ports::withdraw(&self.state, &["control", "operator_key_file"]);
        self.store.close().await;
    }
}
