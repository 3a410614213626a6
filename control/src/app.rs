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

use crate::api::{self, Control};
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::{self, Principal, Role};
use crate::records::Records;
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
    address: SocketAddr,
    state: PathBuf,
    operator_key: PathBuf,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
    following: [tasks::Owned; 2],
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
    let control =
        Control { store: store.clone(), signer, waiting: Arc::clone(&waiting), records: Records::new() };
    let control = Arc::new(control);
    let watched = Arc::clone(&control);
    let live = tasks::spawn("records", async move { watched.records.live.run(watched.store.clone()).await });
    let (stop, mut stopped) = watch::channel(false);
    let serve = axum::serve(listener, api::router(control)).with_graceful_shutdown(async move {
        // The sender lives as long as the service.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    });
    let serving = tasks::spawn("control", async move { serve.await });
    let follow = tasks::spawn("follow", waiting.follow(store.clone()));
    let following = [tasks::Owned::new(&follow), tasks::Owned::new(&live)];
    let known =
        [("control", format!("http://{address}")), ("operator_key_file", operator_key.display().to_string())];
    ports::announce(state, &known)
        .map_err(|source| StartError::State { path: state.join(ports::FILE), source })?;
    Ok(Running { state: state.to_owned(), store, address, operator_key, stop, serving, following })
}

/// Makes the first operator's key when the file with it is not there.
async fn first_operator(store: &Store, path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::State { path: path.to_owned(), source };
    if path.try_exists().map_err(failed)? {
        return Ok(());
    }
    let operator = Principal { name: "operator".to_owned(), role: Role::Operator, tenant: None };
    let key = keys::make(store, clock::now(), &operator).await?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(format!("{key}\n").as_bytes()).map_err(failed)
}

impl Running {
    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
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
