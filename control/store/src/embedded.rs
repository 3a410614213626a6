//! The store of one machine: a directory with a SQLite database, for one process.
//!
//! What was acknowledged is on disk: the write-ahead log is synced on every commit (`synchronous=FULL`). One thread
//! writes, and puts all writes that wait into one transaction, so that they share one sync; a few threads read.

mod documents;
mod journal;
mod ledger;
mod notices;
mod schema;
mod worker;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use rusqlite::Connection;

use crate::documents::Feed;
use crate::error::StoreError;
use crate::{Backend, Store};
use notices::EmbeddedNotices;
use worker::Worker;

/// Threads that read.
const READERS: usize = 3;

/// The threads that hold the database.
#[derive(Debug)]
struct Embedded {
    writer: Worker,
    readers: Vec<Worker>,
    turn: AtomicUsize,
    feed: Feed,
}

/// Opens the store in `dir`, which is made when it is missing.
pub(crate) async fn open(dir: &Path) -> Result<Store, StoreError> {
    let broken = |error| StoreError::broken("making its directory", error);
    std::fs::create_dir_all(dir).map_err(broken)?;
    let lock = lock(dir)?;
    let file = dir.join("store.db");
    let connection = schema::open(dir, &file)?;
    let readers = (0..READERS)
        .map(|_| Worker::reader(schema::open_reader(&file)?))
        .collect::<Result<Vec<_>, StoreError>>()?;
    let writer = Worker::writer(connection, lock)?;
    let notices = Arc::new(EmbeddedNotices::default());
    let embedded = Arc::new(Embedded { writer, readers, turn: AtomicUsize::new(0), feed: Feed::new() });
    Ok(Store {
        documents: embedded.clone(),
        ledger: embedded.clone(),
        journal: embedded.clone(),
        notices,
        backend: embedded,
    })
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let broken = |error| StoreError::broken("locking its directory", error);
    let file = File::create(dir.join("lock")).map_err(broken)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(broken(error)),
    }
}

impl Embedded {
    /// Runs `job` in a transaction of the writer; `committed` is told its result once that is on disk.
    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        committed: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.run(job, committed).await
    }

    /// Runs `job` on one snapshot of the database.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let reader = self.readers.get(turn % READERS).ok_or(StoreError::Closed)?;
        reader.run(job, |_| ()).await
    }
}

#[async_trait]
impl Backend for Embedded {
    async fn health(&self) -> Result<(), StoreError> {
        self.write(|_| Ok(()), |()| ()).await
    }

    async fn close(&self) {
        for reader in &self.readers {
            reader.close().await;
        }
        self.writer.close().await;
    }
}

/// A number as SQLite holds it. Revisions, positions and amounts stay far below the bound.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that SQLite holds; none of ours is negative.
fn uint(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::broken("a statement of SQLite", error)
    }
}
