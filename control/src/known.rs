//! Keys that were looked up lately, so that a fleet's reports do not each read the store. A key that is revoked or changed
//! is forgotten at once where the store tells of it, and after [`LIFE`] where it cannot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use sideguard_runtime::clock::Stopwatch;
use sideguard_store::Store;
use sideguard_store::documents::Change;
use sideguard_store::key::Prefix;
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::{self, OWN, Principal};

/// How long what was looked up is believed.
const LIFE: Duration = Duration::from_secs(5);
/// Most keys that are known at once; then all are looked up anew.
const MOST: usize = 20_000;

/// Keys by their hashes.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Goes up whenever something is forgotten: what was read before that may not be kept.
    forgotten: u64,
    keys: HashMap<String, (Stopwatch, Principal)>,
}

impl Known {
    /// Whose a key is.
    pub(crate) async fn whose(&self, store: &Store, now: Timestamp, key: &str) -> Result<Principal, Failure> {
        let hash = keys::hash(key);
        let forgotten = {
            let table = self.0.lock();
            if let Some((_, principal)) = table.keys.get(&hash).filter(|(since, _)| since.elapsed() < LIFE) {
                return Ok(principal.clone());
            }
            table.forgotten
        };
        let since = Stopwatch::start();
        let principal = keys::whose(store, now, key).await?;
        let mut table = self.0.lock();
        if table.forgotten == forgotten {
            if table.keys.len() >= MOST {
                table.keys.clear();
            }
            table.keys.insert(hash, (since, principal.clone()));
        }
        Ok(principal)
    }

    /// Forgets keys that change, until the task is dropped.
    pub(crate) async fn follow(self: Arc<Self>, store: Store) {
        let Ok(scope) = Prefix::new(OWN, "keys") else { return };
        let mut changes = store.documents.watch(scope.into());
        while let Some(change) = changes.next().await {
            let mut table = self.0.lock();
            table.forgotten += 1;
            match change {
                Change::Resync => table.keys.clear(),
                Change::Changed { key, .. } => {
                    table.keys.remove(key.path().trim_start_matches("keys/"));
                }
            }
        }
    }

    /// Forgets a key that this replica itself has revoked.
    pub(crate) fn forget(&self, key: &str) {
        let mut table = self.0.lock();
        table.forgotten += 1;
        table.keys.remove(&keys::hash(key));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sideguard_runtime::{clock, tasks};
    use sideguard_store::Store;
    use sideguard_store::documents::Expect;

    use super::Known;
    use crate::keys::{self, Principal, Role, own_key};

    #[tokio::test]
    async fn a_key_that_is_revoked_elsewhere_is_forgotten_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        let known = Arc::new(Known::default());
        let _task = tasks::Owned::new(&tasks::spawn("known", Arc::clone(&known).follow(store.clone())));
        let now = clock::now();
        let viewer = Principal::new("v", Role::Viewer, None);
        let key = keys::make(&store, now, &viewer).await.expect("a key");
        assert_eq!(known.whose(&store, now, &key).await.expect("a principal"), viewer);
        let at = own_key(&format!("keys/{}", keys::hash(&key))).expect("a name");
        store.documents.delete(now, &at, Expect::Any).await.expect("a deletion");
        let since = clock::Stopwatch::start();
        while known.whose(&store, now, &key).await.is_ok() {
            assert!(since.elapsed() < std::time::Duration::from_secs(2), "still known");
            tokio::task::yield_now().await;
        }
    }
}
