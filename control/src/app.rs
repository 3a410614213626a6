//! The composition root: opens the store, makes what is missing, serves.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sideguard_runtime::{clock, tasks};
use sideguard_store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::{self, Control};
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::{self, Principal, Role};
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
    operator_key: PathBuf,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
    following: tasks::Owned,
}

/// Starts the service: `listen` is its address, `state` its directory.
///
/// # Errors
/// Why it cannot start.
pub async fn start(listen: &str, state: &Path) -> Result<Running, StartError> {
    let dir = state.join("control");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|source| StartError::State { path: dir.clone(), source })?;
    let store = Store::open_embedded(&dir).await?;
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
    let control = Arc::new(Control { store: store.clone(), signer, waiting: Arc::clone(&waiting) });
    let (stop, mut stopped) = watch::channel(false);
    let serve = axum::serve(listener, api::router(control)).with_graceful_shutdown(async move {
        // The sender lives as long as the service.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    });
    let serving = tasks::spawn("control", async move { serve.await });
    let following = tasks::Owned::new(&tasks::spawn("follow", waiting.follow(store.clone())));
    Ok(Running { store, address, operator_key, stop, serving, following })
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
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
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
        self.store.close().await;
    }
}
