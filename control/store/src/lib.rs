//! What the central control service keeps, behind four small traits: [`documents`], the [`ledger`] of budgets,
//! [`journal`]s and [`notices`].
//!
//! There are two stores. *Embedded* is a directory for one process on one machine. *Shared* is Redis and NATS for any
//! number of control replicas. One suite of tests (`tests/conformance`) says what both promise; nothing here knows
//! what the control service puts into a store. This crate reads no clock: `now` comes in as an argument. Start at
//! [`Store`]; [`key::Key`] says why one tenant's code cannot reach another tenant's data.

pub mod diagnose;
pub mod documents;
mod embedded;
pub mod error;
pub mod journal;
pub mod key;
pub mod ledger;
pub mod notices;
mod shared;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

pub use error::StoreError;

/// An open store. Cloning it is cheap and gives the same store.
///
/// ```
/// use bytes::Bytes;
/// use sideguard_store::{Store, documents::Expect, key::Key};
/// use sideguard_types::time::Timestamp;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open_embedded(dir.path()).await?;
/// let (key, now) = (Key::new("acme", "agents/reviewer")?, Timestamp(0));
/// let first = store.documents.put(now, &key, Bytes::from("v1"), Expect::Absent, None).await?;
/// store.documents.put(now, &key, Bytes::from("v2"), Expect::Revision(first), None).await?;
/// assert!(store.documents.put(now, &key, Bytes::from("v3"), Expect::Revision(first), None).await.is_err());
/// store.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    /// Named values with revisions.
    pub documents: Arc<dyn documents::Documents>,
    /// Accounts and leases.
    pub ledger: Arc<dyn ledger::Ledger>,
    /// Append-only streams.
    pub journal: Arc<dyn journal::Journal>,
    /// Messages between control replicas.
    pub notices: Arc<dyn notices::Notices>,
    backend: Arc<dyn Backend>,
}

/// What a store does as a whole.
#[async_trait]
trait Backend: Send + Sync + fmt::Debug {
    async fn health(&self) -> Result<(), StoreError>;
    async fn close(&self);
}

impl Store {
    /// Opens the store in the directory `dir`, or makes it. It is this process's alone until it is closed or the
    /// process ends, however it ends.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it, [`StoreError::Newer`] when a later version wrote it,
    /// [`StoreError::Broken`] when files cannot be made, read or locked.
    pub async fn open_embedded(dir: &Path) -> Result<Self, StoreError> {
        embedded::open(dir).await
    }

    /// Connects to the store in Redis and NATS JetStream; everything in it carries `namespace`, so that several stores
    /// can share servers. `redis_url` is like `redis://user:password@host:6379/0`, or `rediss://` for TLS by the
    /// system's roots;
    /// `nats_url` like `nats://user:password@host:4222`, or `tls://`, or several with commas between.
    ///
    /// # Errors
    /// [`StoreError::Away`] when a server does not answer; [`StoreError::Invalid`] for a bad URL or a namespace with
    /// other than lower case letters, digits and `-`.
    pub async fn open_shared(redis_url: &str, nats_url: &str, namespace: &str) -> Result<Self, StoreError> {
        shared::open(redis_url, nats_url, namespace).await
    }

    /// Whether the store can be read and written now.
    ///
    /// # Errors
    /// [`StoreError::Away`] for the first server that does not answer, [`StoreError::Closed`] or
    /// [`StoreError::Broken`].
    pub async fn health(&self) -> Result<(), StoreError> {
        self.backend.health().await
    }

    /// Finishes what was asked before and lets go of files and connections. Later calls fail.
    pub async fn close(&self) {
        self.backend.close().await;
    }
}
