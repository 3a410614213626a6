//! Why the record cannot be written.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// The record cannot be written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unwritable {
    /// The disk refuses.
    #[error("cannot {doing} the record `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The segment.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// The record has reached its bound, and nothing of it may be removed.
    #[error("the record has reached its bound of {max_bytes} bytes: ship it to control or raise the bound")]
    Full {
        /// The bound.
        max_bytes: u64,
    },
    /// The log was closed.
    #[error("the record is closed")]
    Closed,
}

impl Unwritable {
    /// Stable code for logs and metrics: `disk_full`, `disk_failed`, `record_full` or `record_closed`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            Self::Io { source, .. } => match source.kind() {
                StorageFull | QuotaExceeded | FileTooLarge => "disk_full",
                _ => "disk_failed",
            },
            Self::Full { .. } => "record_full",
            Self::Closed => "record_closed",
        }
    }
}
