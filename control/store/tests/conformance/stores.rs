//! Fresh stores for the cases.

use sideguard_store::Store;
use sideguard_store::key::Key;
use sideguard_types::time::Timestamp;
use tempfile::TempDir;

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
