//! Journals: append-only streams of entries, each at a position that counts from 0.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;
use crate::key::{Key, Scope};

/// The largest entry, in bytes.
pub const LARGEST_ENTRY: usize = 256 << 10;
/// The most entries of one append.
pub const MOST_ENTRIES: usize = 10_000;
/// The most entries of one read; a larger limit means this.
pub const LONGEST_READ: usize = 1000;
/// A read ends early when its entries exceed this many bytes.
pub(crate) const HEAVIEST_READ: usize = 4 << 20;

/// Append-only streams.
#[async_trait]
pub trait Journal: Send + Sync + fmt::Debug {
    /// Appends `entries`, the first of which belongs at position `from`, and tells the position after the last of
    /// them. Entries that are there already are skipped when they are equal (or were truncated), so an append whose
    /// answer was lost can be repeated. After an error, a first part of `entries` may be there.
    ///
    /// # Errors
    /// [`StoreError::Fork`] when another entry is at a position; [`StoreError::Gap`] when the journal ends before
    /// `from`; [`StoreError::Invalid`] when an entry is larger than [`LARGEST_ENTRY`] or there are more than
    /// [`MOST_ENTRIES`]; when the store is away, closed or broken.
    async fn append(&self, key: &Key, from: u64, entries: Vec<Bytes>) -> Result<u64, StoreError>;

    /// Entries from position `from` on, or from the first that is left, with their positions; at most `limit`, fewer
    /// when they are large, none only at the end.
    ///
    /// # Errors
    /// When the store is away, closed or broken.
    async fn read(&self, key: &Key, from: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError>;

    /// The position after the last entry; 0 for an unknown journal.
    ///
    /// # Errors
    /// When the store is away, closed or broken.
    async fn end(&self, key: &Key) -> Result<u64, StoreError>;

    /// Journals of `scope` that have had an entry, after the key `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// When the store is away, closed or broken.
    async fn streams(&self, scope: &Scope, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, StoreError>;

    /// Gives up the entries before `position`, or the end of the journal. Some of them may stay readable; the entries
    /// from `position` on and the end stay as they are.
    ///
    /// # Errors
    /// When the store is away, closed or broken.
    async fn truncate_before(&self, key: &Key, position: u64) -> Result<(), StoreError>;
}

/// Refuses entries that no store takes.
pub(crate) fn check(key: &Key, from: u64, entries: &[Bytes]) -> Result<(), StoreError> {
    if entries.len() > MOST_ENTRIES {
        return Err(StoreError::Invalid(format!("more than {MOST_ENTRIES} entries at once for `{key}`")));
    }
    if entries.iter().any(|entry| entry.len() > LARGEST_ENTRY) {
        return Err(StoreError::Invalid(format!("an entry for `{key}` is larger than {LARGEST_ENTRY} bytes")));
    }
    // What SQLite holds, and far more than will ever be written.
    if from > (1 << 62) {
        return Err(StoreError::Invalid(format!("position {from} of `{key}` is out of range")));
    }
    Ok(())
}
