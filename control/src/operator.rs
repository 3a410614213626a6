//! The first operator's key. The first replica of an empty store makes it, and the store remembers that this was done: a
//! replica that comes later, with a state directory of its own, makes a key of its own, which is named for its host, shows
//! in the list of keys, and is told of in the log.

use std::path::Path;

use sideguard_runtime::{environment, ports};
use sideguard_store::documents::{Edit, Expect};
use sideguard_store::{Store, StoreError};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::{self, Principal, Role, own_key};

/// Why there is no key.
#[derive(Debug)]
pub(crate) enum NoKey {
    /// The store does not take or give it.
    Kept(Failure),
    /// The file cannot be read or written.
    File(std::io::Error),
}

impl<T: Into<Failure>> From<T> for NoKey {
    fn from(error: T) -> Self {
        Self::Kept(error.into())
    }
}

/// Sees to it that the file at `path` holds an operator's key, unless the store has none of that name any more.
pub(crate) async fn ensure(store: &Store, now: Timestamp, path: &Path) -> Result<(), NoKey> {
    let present = match std::fs::read_to_string(path) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(NoKey::File(error)),
    };
    if let Some(key) = &present {
        if !keys::is_well_made(key) {
            let what = "there is no key in it: a key is `sgk_` and 64 hex digits";
            return Err(NoKey::File(std::io::Error::new(std::io::ErrorKind::InvalidData, what)));
        }
        match keys::whose(store, now, key).await {
            Ok(_) => return Ok(()),
            Err(Failure::Unauthenticated) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let fresh = present.clone().unwrap_or_else(keys::fresh);
    let first = Principal::new("operator", Role::Operator, None);
    let marker = Edit::put(own_key("operator")?, now.to_string().into_bytes().into(), Expect::Absent);
    match store.documents.put_all(now, vec![marker, keys::edit(now, &fresh, &first)?]).await {
        // A file that was there may be one that nobody can write: a mounted Secret.
        Ok(_) if present.is_some() => return Ok(()),
        Ok(_) => return place(path, &fresh),
        Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if present.is_some() {
        tracing::warn!(
            path = %path.display(),
            "the key in this file is not one of this store, or not any more: remove the file to have another one made"
        );
        return Ok(());
    }
    let name = format!("operator@{}", environment::host());
    let further = Principal { name, ..first };
    let fresh = keys::make(store, now, &further).await?;
    tracing::warn!(name = further.name, path = %path.display(), "the store had an operator already: made a further key");
    place(path, &fresh)
}

fn place(path: &Path, key: &str) -> Result<(), NoKey> {
    ports::place(path, format!("{key}\n").as_bytes(), 0o600).map_err(NoKey::File)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sideguard_runtime::clock;
    use sideguard_store::Store;
    use sideguard_store::documents::Expect;

    use super::{NoKey, ensure};
    use crate::keys::{self, own_key};

    async fn name(store: &Store, file: &Path) -> Option<String> {
        let key = std::fs::read_to_string(file).expect("a file");
        keys::whose(store, clock::now(), key.trim()).await.ok().map(|who| who.name)
    }

    #[tokio::test]
    async fn an_empty_store_gets_one_operator_and_later_replicas_their_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        let (one, other) = (dir.path().join("one.key"), dir.path().join("other.key"));
        let now = clock::now();
        for _ in 0..2 {
            ensure(&store, now, &one).await.expect("a key");
            ensure(&store, now, &other).await.expect("a key");
        }
        assert_eq!(name(&store, &one).await.as_deref(), Some("operator"));
        assert!(name(&store, &other).await.expect("a key").starts_with("operator@"));
        // Whoever revokes a key does not get it back by a restart.
        let key = std::fs::read_to_string(&one).expect("a file");
        let at = own_key(&format!("keys/{}", keys::hash(key.trim()))).expect("a name");
        store.documents.delete(now, &at, Expect::Any).await.expect("a deletion");
        ensure(&store, now, &one).await.expect("a start");
        assert_eq!(name(&store, &one).await, None);
        assert_eq!(std::fs::read_to_string(&one).expect("a file"), key);
    }

    #[tokio::test]
    async fn a_key_that_is_there_becomes_the_operators_and_its_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        let given = dir.path().join("given.key");
        std::fs::write(&given, "\n").expect("a file");
        let refused = ensure(&store, clock::now(), &given).await.expect_err("no key");
        assert!(matches!(refused, NoKey::File(error) if error.kind() == std::io::ErrorKind::InvalidData));
        std::fs::write(&given, format!("{}\n", keys::fresh())).expect("a file");
        let inode =
            |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("a file"));
        let before = inode(&given);
        ensure(&store, clock::now(), &given).await.expect("a key");
        assert_eq!(name(&store, &given).await.as_deref(), Some("operator"));
        assert_eq!(inode(&given), before);
    }
}
