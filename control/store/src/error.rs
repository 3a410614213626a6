//! What can go wrong in a store.

use std::error::Error;
use std::path::PathBuf;

use crate::documents::Revision;
use crate::key::Key;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A server did not answer in time. A write that ends so may or may not have happened: every write here can be
    /// repeated with the same expectation, turn or position, and the answer then tells.
    #[error("{server} is away")]
    Away {
        /// `redis` or `nats`.
        server: &'static str,
        /// What the client saw.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The document is not as the caller expected; nothing was written.
    #[error("`{key}` is at revision {}, which was not expected", present.map_or_else(|| "none".to_owned(), |at| at.0.to_string()))]
    Conflict {
        /// The first document that was not as expected.
        key: Key,
        /// Its present revision; `None` when there is no such document.
        present: Option<Revision>,
    },
    /// The journal holds another entry at this position; nothing after it was written.
    #[error("journal `{key}` holds a different entry at position {position}")]
    Fork {
        /// The journal.
        key: Key,
        /// The first position that differs.
        position: u64,
    },
    /// The entries would leave a hole in the journal; nothing was written.
    #[error("journal `{key}` ends at position {expected}: append from there")]
    Gap {
        /// The journal.
        key: Key,
        /// The position that an append has to start from.
        expected: u64,
    },
    /// More was to be spent and kept than the lease holds; nothing was written.
    #[error("the lease holds {held} of `{account}`, less than what was to be spent and kept")]
    Beyond {
        /// The account of the first line that goes beyond.
        account: Key,
        /// What the lease holds of it.
        held: u64,
    },
    /// The request makes no sense; it will not next time either.
    #[error("{0}")]
    Invalid(String),
    /// The directory was written by a later version of Sideguard.
    #[error("the store in `{}` has version {found}, this program knows up to {known}: use a newer program", dir.display())]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its version.
        found: i64,
        /// The latest version that this program knows.
        known: i64,
    },
    /// Another process has the directory.
    #[error("the store in `{}` is in use by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The database, a file or a server did something that it should not.
    #[error("the store failed: {what}")]
    Broken {
        /// What was being done.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// The stable code of this error, for logs and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Away { .. } => "store_away",
            Self::Conflict { .. } => "store_conflict",
            Self::Fork { .. } => "store_fork",
            Self::Gap { .. } => "store_gap",
            Self::Beyond { .. } => "store_beyond",
            Self::Invalid(_) => "store_invalid",
            Self::Newer { .. } => "store_newer",
            Self::InUse { .. } => "store_in_use",
            Self::Closed => "store_closed",
            Self::Broken { .. } => "store_broken",
        }
    }

    pub(crate) fn broken(what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Broken { what, source: source.into() }
    }
}
