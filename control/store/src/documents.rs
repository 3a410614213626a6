//! Documents: named values with revisions, changed together or not at all, listed, watched, and gone after a time.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use sideguard_types::time::Timestamp;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::error::StoreError;
use crate::key::{Key, Scope};

/// The largest value of a document, in bytes.
pub const LARGEST_VALUE: usize = 4 << 20;
/// The most documents of one page; a larger limit means this.
pub const LONGEST_PAGE: usize = 1000;
/// A page ends early when its values exceed this many bytes.
pub(crate) const HEAVIEST_PAGE: usize = 4 << 20;
/// The most edits of one [`Documents::put_all`].
pub const MOST_EDITS: usize = 1000;
/// How far a watcher may fall behind before it gets a [`Change::Resync`] instead.
const FEED: usize = 1024;

/// When a document was last written, as a number that is unique in its store and only goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its name.
    pub key: Key,
    /// When it was written. Documents written together share a revision.
    pub revision: Revision,
    /// The value.
    pub value: Bytes,
    /// From this moment on it is as if it were not there.
    pub expires: Option<Timestamp>,
}

/// What a writer believes of a document. A document whose time is over is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// It is not there.
    Absent,
    /// It is there at this revision.
    Revision(Revision),
}

/// One change of a [`Documents::put_all`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Which document.
    pub key: Key,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
    /// What has to hold.
    pub expect: Expect,
    /// When the new value ends.
    pub expires: Option<Timestamp>,
}

impl Edit {
    /// Writes a document.
    #[must_use]
    pub const fn put(key: Key, value: Bytes, expect: Expect) -> Self {
        Self { key, value: Some(value), expect, expires: None }
    }

    /// Deletes a document.
    #[must_use]
    pub const fn delete(key: Key, expect: Expect) -> Self {
        Self { key, value: None, expect, expires: None }
    }

    /// The same, ending at `expires`.
    #[must_use]
    pub fn until(self, expires: Option<Timestamp>) -> Self {
        Self { expires, ..self }
    }
}

/// Some documents of a listing, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The documents: no more than was asked for, fewer when they are large.
    pub documents: Vec<Document>,
    /// Where to go on after; `None` at the end.
    pub next: Option<Key>,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A document was written or deleted, at least at this revision.
    Changed {
        /// Which.
        key: Key,
        /// The revision of the write, or of the store when it was deleted.
        revision: Revision,
    },
    /// Changes may have been missed: list again.
    Resync,
}

/// Changes as they happen; ends when the store is closed.
pub type Changes = BoxStream<'static, Change>;

/// Named values with revisions.
#[async_trait]
pub trait Documents: Send + Sync + fmt::Debug {
    /// The document as it is at `now`.
    ///
    /// # Errors
    /// When the store is away, closed or broken.
    async fn get(&self, now: Timestamp, key: &Key) -> Result<Option<Document>, StoreError>;

    /// Does all of `edits`, of any tenants, or none of them, at one revision. Deleting what is not there changes
    /// nothing. Once it returns, a crash of the store loses none of it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for the first edit whose expectation does not hold; [`StoreError::Invalid`] when a key
    /// comes twice, a value is larger than [`LARGEST_VALUE`] or there are more than [`MOST_EDITS`]; as [`Self::get`].
    async fn put_all(&self, now: Timestamp, edits: Vec<Edit>) -> Result<Revision, StoreError>;

    /// Documents of `scope` after the key `after`, at most `limit`.
    ///
    /// # Errors
    /// As [`Self::get`].
    async fn list(
        &self,
        now: Timestamp,
        scope: &Scope,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreError>;

    /// Tells of every change of `scope` from now on, at least once; when it cannot, it says [`Change::Resync`]. A
    /// caller watches first and lists then. Reaching `expires` is a change only when the document is swept.
    fn watch(&self, scope: Scope) -> Changes;

    /// Removes up to `limit` documents whose time was over at `now`, and tells how many.
    ///
    /// # Errors
    /// As [`Self::get`].
    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Writes one document.
    ///
    /// # Errors
    /// As [`Self::put_all`].
    async fn put(
        &self,
        now: Timestamp,
        key: &Key,
        value: Bytes,
        expect: Expect,
        expires: Option<Timestamp>,
    ) -> Result<Revision, StoreError> {
        self.put_all(now, vec![Edit::put(key.clone(), value, expect).until(expires)]).await
    }

    /// Deletes one document.
    ///
    /// # Errors
    /// As [`Self::put_all`].
    async fn delete(&self, now: Timestamp, key: &Key, expect: Expect) -> Result<Revision, StoreError> {
        self.put_all(now, vec![Edit::delete(key.clone(), expect)]).await
    }
}

/// Refuses edits that no store takes.
pub(crate) fn check(edits: &[Edit]) -> Result<(), StoreError> {
    if edits.len() > MOST_EDITS {
        return Err(StoreError::Invalid(format!("more than {MOST_EDITS} edits at once")));
    }
    let mut keys: Vec<&Key> = edits.iter().map(|edit| &edit.key).collect();
    keys.sort_unstable();
    if let Some([twice, _]) = keys.array_windows().find(|[a, b]| a == b) {
        return Err(StoreError::Invalid(format!("`{twice}` is edited twice at once")));
    }
    match edits.iter().find(|edit| edit.value.as_ref().is_some_and(|value| value.len() > LARGEST_VALUE)) {
        Some(large) => {
            Err(StoreError::Invalid(format!("the value of `{}` is larger than {LARGEST_VALUE} bytes", large.key)))
        }
        None => Ok(()),
    }
}

/// Hands changes to the watchers of this process.
#[derive(Debug, Clone)]
pub(crate) struct Feed(broadcast::Sender<Change>);

impl Feed {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(FEED))
    }

    pub(crate) fn tell(&self, change: Change) {
        // An error means that nobody watches.
        let _ = self.0.send(change);
    }

    pub(crate) fn watch(&self, scope: Scope) -> Changes {
        let receiver = self.0.subscribe();
        stream::unfold((receiver, scope), |(mut receiver, scope)| async move {
            loop {
                let change = match receiver.recv().await {
                    Ok(Change::Changed { key, .. }) if !scope.holds(&key) => continue,
                    Ok(change) => change,
                    Err(RecvError::Lagged(_)) => Change::Resync,
                    Err(RecvError::Closed) => return None,
                };
                return Some((change, (receiver, scope)));
            }
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::{Change, FEED, Feed, Revision};
    use crate::key::{EveryTenant, Key};

    #[test]
    fn a_watcher_that_falls_behind_is_told_to_resync() {
        let feed = Feed::new();
        let mut changes = feed.watch(EveryTenant.into());
        let key = Key::new("acme", "a").expect("a key");
        for revision in 0..=FEED as u64 {
            feed.tell(Change::Changed { key: key.clone(), revision: Revision(revision) });
        }
        assert_eq!(changes.next().now_or_never(), Some(Some(Change::Resync)));
        assert_eq!(changes.next().now_or_never(), Some(Some(Change::Changed { key, revision: Revision(1) })));
        drop(feed);
        let rest = changes.collect::<Vec<_>>().now_or_never().expect("it ends");
        assert_eq!(rest.len(), FEED - 1);
    }
}
