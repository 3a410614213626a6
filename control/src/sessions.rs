//! Who is signed in at the page: a random id in a cookie, kept as a hash, that stands for a key for a while.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sideguard_store::documents::Expect;
use sideguard_store::key::Key;
use sideguard_store::{Store, StoreError};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::{self, Principal, Role, own_key};

/// How long one is good.
const LIFE: Duration = Duration::from_secs(12 * 3_600);
/// How long one is good unused.
const IDLE: Duration = Duration::from_secs(3_600);
/// How exactly its last use is kept.
const COARSE: Duration = Duration::from_secs(60);

/// A session as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Hash of the key that it stands for: it ends with the key.
    key: String,
    created: Timestamp,
    seen: Timestamp,
}

impl Kept {
    fn ends(&self) -> Timestamp {
        self.created.plus(LIFE).min(self.seen.plus(IDLE))
    }
}

/// Whose a session is.
pub(crate) struct Session {
    pub(crate) who: Principal,
    /// Hash of the key that it stands for.
    pub(crate) key: String,
}

fn at(id: &str) -> Result<Key, Failure> {
    own_key(&format!("sessions/{}", keys::hash(id)))
}

/// Begins a session for a person's key; gives its id.
pub(crate) async fn begin(store: &Store, now: Timestamp, key: &str) -> Result<(String, Principal), Failure> {
    let who = keys::whose(store, now, key).await?;
    if who.role == Role::Sidecar {
        return Err(Failure::Forbidden("sign in: it is a sidecar's"));
    }
    let id = keys::secret("sgs_");
    let kept = Kept { key: keys::hash(key), created: now, seen: now };
    write(store, now, &id, &kept, Expect::Absent).await?;
    Ok((id, who))
}

/// Whose a session is, if it goes on and its key is still good.
pub(crate) async fn whose(store: &Store, now: Timestamp, id: &str) -> Result<Session, Failure> {
    let at = at(id)?;
    let document = store.documents.get(now, &at).await?.ok_or(Failure::Unauthenticated)?;
    let mut kept: Kept =
        serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(at.to_string()))?;
    let who = keys::whose_hash(store, now, &kept.key).await?;
    if now.since(kept.seen) >= COARSE {
        kept.seen = now;
        match write(store, now, id, &kept, Expect::Revision(document.revision)).await {
            // Another request was as late.
            Ok(()) | Err(Failure::Store(StoreError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Session { who, key: kept.key })
}

/// Ends a session.
pub(crate) async fn end(store: &Store, now: Timestamp, id: &str) -> Result<(), Failure> {
    store.documents.delete(now, &at(id)?, Expect::Any).await?;
    Ok(())
}

async fn write(store: &Store, now: Timestamp, id: &str, kept: &Kept, expect: Expect) -> Result<(), Failure> {
    let value = serde_json::to_vec(kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    store.documents.put(now, &at(id)?, value.into(), expect, Some(kept.ends())).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sideguard_runtime::clock;
    use sideguard_store::Store;

    use crate::keys::{self, Principal, Role};

    #[tokio::test]
    async fn a_session_ends_unused_after_its_time_and_with_its_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        let start = clock::now();
        let who = Principal::new("eve", Role::Viewer, Some("acme".to_owned()));
        let key = keys::make(&store, start, &who).await.expect("a key");
        let (id, whose) = super::begin(&store, start, &key).await.expect("a session");
        assert_eq!(whose, who);
        let later = |minutes: u64| start.plus(Duration::from_secs(minutes * 60));
        // Used every 59 minutes it goes on, to the twelfth hour.
        for minutes in (0..720).step_by(59) {
            assert!(super::whose(&store, later(minutes), &id).await.is_ok(), "{minutes}");
        }
        assert!(super::whose(&store, later(721), &id).await.is_err());
        let (id, _) = super::begin(&store, start, &key).await.expect("a session");
        assert!(super::whose(&store, later(61), &id).await.is_err());
        assert!(super::whose(&store, later(1), &id).await.is_ok());
        let entry = keys::list(&store, start, &who, None, 10).await.expect("keys").items.remove(0);
        keys::revoke(&store, start, &who, &entry.id).await.expect("revoked");
        assert!(super::whose(&store, later(1), &id).await.is_err());
        let sidecar = Principal { role: Role::Sidecar, ..who };
        let key = keys::make(&store, start, &sidecar).await.expect("a key");
        assert!(super::begin(&store, start, &key).await.is_err(), "a sidecar is no person");
    }
}
