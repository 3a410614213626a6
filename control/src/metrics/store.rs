//! A store whose every operation is counted.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sideguard_runtime::clock::Stopwatch;
use sideguard_store::documents::{Changes, Document, Documents, Edit, Page, Revision};
use sideguard_store::journal::Journal;
use sideguard_store::key::{Key, Scope};
use sideguard_store::{Store, StoreError};
use sideguard_types::time::Timestamp;

use super::Metrics;

/// The same store, with the operations of its documents and journals counted.
pub(crate) fn counted(store: Store, metrics: &Arc<Metrics>) -> Store {
    let documents = Counted { inner: Arc::clone(&store.documents), metrics: Arc::clone(metrics) };
    let journal = Counted { inner: Arc::clone(&store.journal), metrics: Arc::clone(metrics) };
    let mut counted = store;
    counted.documents = Arc::new(documents);
    counted.journal = Arc::new(journal);
    counted
}

#[derive(Debug)]
struct Counted<D: ?Sized> {
    inner: Arc<D>,
    metrics: Arc<Metrics>,
}

impl<D: ?Sized> Counted<D> {
    async fn count<T>(
        &self,
        (part, operation): (&'static str, &'static str),
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let since = Stopwatch::start();
        let done = work.await;
        let result = done.as_ref().map_or_else(StoreError::reason, |_| "done");
        self.metrics.stored(part, operation, result, since.elapsed());
        done
    }
}

const DOCUMENTS: &str = "documents";
const JOURNAL: &str = "journal";

#[async_trait]
impl Documents for Counted<dyn Documents> {
    async fn get(&self, now: Timestamp, key: &Key) -> Result<Option<Document>, StoreError> {
        self.count((DOCUMENTS, "get"), self.inner.get(now, key)).await
    }

    async fn put_all(&self, now: Timestamp, edits: Vec<Edit>) -> Result<Revision, StoreError> {
        self.count((DOCUMENTS, "put"), self.inner.put_all(now, edits)).await
    }

    async fn list(
        &self,
        now: Timestamp,
        scope: &Scope,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.count((DOCUMENTS, "list"), self.inner.list(now, scope, after, limit)).await
    }

    fn watch(&self, scope: Scope) -> Changes {
        self.inner.watch(scope)
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.count((DOCUMENTS, "sweep"), self.inner.sweep(now, limit)).await
    }
}

#[async_trait]
impl Journal for Counted<dyn Journal> {
    async fn append(&self, key: &Key, from: u64, entries: Vec<Bytes>) -> Result<u64, StoreError> {
        self.count((JOURNAL, "append"), self.inner.append(key, from, entries)).await
    }

    async fn read(&self, key: &Key, from: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.count((JOURNAL, "read"), self.inner.read(key, from, limit)).await
    }

    async fn end(&self, key: &Key) -> Result<u64, StoreError> {
        self.count((JOURNAL, "end"), self.inner.end(key)).await
    }

    async fn streams(
        &self,
        scope: &Scope,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        self.count((JOURNAL, "streams"), self.inner.streams(scope, after, limit)).await
    }

    async fn truncate_before(&self, key: &Key, position: u64) -> Result<(), StoreError> {
        self.count((JOURNAL, "truncate"), self.inner.truncate_before(key, position)).await
    }
}
