//! Fresh stores for the cases.

use std::sync::atomic::{AtomicU32, Ordering};

use sideguard_store::Store;
use sideguard_store::key::Key;
use sideguard_types::time::Timestamp;
use tempfile::TempDir;

use harness::servers::SERVERS;

/// How many shared stores were made.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A moment to start from.
pub(crate) const NOW: Timestamp = Timestamp(1_795_000_000_000_000);

/// Two replicas of a store that nobody else uses.
pub(crate) struct Fresh {
    pub(crate) one: Store,
    pub(crate) other: Store,
    _dir: Option<TempDir>,
}

impl Fresh {
    pub(crate) async fn end(self) {
        self.one.close().await;
        self.other.close().await;
    }
}

pub(crate) async fn embedded() -> Fresh {
    let dir = tempfile::tempdir().expect("a directory");
    let one = Store::open_embedded(dir.path()).await.expect("a store");
    Fresh { other: one.clone(), one, _dir: Some(dir) }
}

pub(crate) fn key(tenant: &str, path: &str) -> Key {
    Key::new(tenant, path).expect("a key")
}

pub(crate) fn after(seconds: u64) -> Timestamp {
    NOW.plus(std::time::Duration::from_secs(seconds))
}

pub(crate) async fn shared() -> Fresh {
    let (redis, nats) = SERVERS.urls();
    let namespace = format!("case-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let one = Store::open_shared(&redis, &nats, &namespace).await.expect("a store");
    let other = Store::open_shared(&redis, &nats, &namespace).await.expect("a store");
    Fresh { one, other, _dir: None }
}
