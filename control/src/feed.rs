//! What sidecars wait for. Every replica follows the store's changes, so that it does not matter which one a sidecar asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use sideguard_runtime::clock;
use sideguard_store::Store;
use sideguard_store::key::Prefix;
use sideguard_types::control::{Feed, Signed};
use tokio::sync::{Mutex, watch};

use crate::desired::{self, Kept};
use crate::error::Failure;
use crate::keys::OWN;
use crate::kills;
use crate::signer::Signer;

/// How long a question is held when there is nothing new.
const HELD: Duration = Duration::from_secs(25);
/// How often the store is looked at without a notice, should one have been lost.
const LOOK: Duration = Duration::from_secs(5);

/// What is in force, as this replica knows it.
#[derive(Debug, Clone)]
struct Now {
    generation: Arc<Kept>,
    kills: Arc<kills::Kept>,
}

/// The waiting room.
#[derive(Debug)]
pub(crate) struct Waiting {
    now: watch::Sender<Option<Now>>,
    /// The newest generation for each tenant, made when it is first asked for.
    signed: Mutex<(u64, HashMap<String, Arc<Signed>>)>,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Self { now: watch::channel(None).0, signed: Mutex::default() }
    }

    /// Follows the store until the task is dropped.
    pub(crate) async fn follow(self: Arc<Self>, store: Store) {
        let Ok(scope) = Prefix::whole(OWN) else { return };
        let mut changes = store.documents.watch(scope.into());
        loop {
            if let Err(error) = self.look(&store).await {
                tracing::warn!(%error, "the desired state cannot be read");
            }
            // Whatever changed: looking is cheap, and notices of one write come together.
            tokio::select! {
                change = changes.next() => if change.is_none() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Looks at the store and tells those who wait when something is newer.
    pub(crate) async fn look(&self, store: &Store) -> Result<(), Failure> {
        let now = clock::now();
        let (head, kills) = (desired::head(store, now).await?, kills::kept(store, now).await?);
        self.now.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|known| {
                known.generation.told.number != head.kept.told.number || known.kills.number != kills.number
            });
            if newer {
                *known = Some(Now { generation: Arc::new(head.kept), kills: Arc::new(kills) });
            }
            newer
        });
        Ok(())
    }

    /// The generation in force, as soon as its number is another than `known`.
    pub(crate) async fn other_than(&self, known: Option<u64>) -> Arc<Kept> {
        let mut watching = self.now.subscribe();
        let other = watching
            .wait_for(|now| now.as_ref().is_some_and(|now| Some(now.generation.told.number) != known));
        match other.await.map(|now| now.as_ref().map(|now| Arc::clone(&now.generation))) {
            Ok(Some(kept)) => kept,
            // The sender is this room's own, and what was waited for is there.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// How many questions wait for something new.
    pub(crate) fn waiting(&self) -> usize {
        self.now.receiver_count()
    }

    /// Number of the generation in force, as this replica knows it.
    pub(crate) fn generation(&self) -> u64 {
        self.now.borrow().as_ref().map_or(0, |now| now.generation.told.number)
    }

    /// What is newer for a tenant than what its sidecar has, as soon as there is something, or nothing after a while.
    pub(crate) async fn wait(
        &self,
        store: &Store,
        signer: &Signer,
        tenant: &str,
        generation: u64,
        kills: u64,
    ) -> Result<Feed, Failure> {
        let mut watching = self.now.subscribe();
        let newer = watching.wait_for(|now| {
            now.as_ref()
                .is_some_and(|now| now.generation.told.number != generation || now.kills.number != kills)
        });
        let found = match tokio::time::timeout(HELD, newer).await {
            Ok(Ok(now)) => now.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(now) = found else { return Ok(Feed::default()) };
        let mut feed = Feed::default();
        // A store that was put back to an earlier time has older ones: the sidecar refuses them and says so.
        if now.generation.told.number != generation && now.generation.told.number > 0 {
            feed.generation = Some((*self.signed(store, signer, &now.generation, tenant).await?).clone());
        }
        if now.kills.number != kills {
            feed.kills = Some(now.kills.for_tenant(tenant));
        }
        Ok(feed)
    }

    async fn signed(
        &self,
        store: &Store,
        signer: &Signer,
        kept: &Kept,
        tenant: &str,
    ) -> Result<Arc<Signed>, Failure> {
        // One makes it, the others of the tenant wait for that: a change must not read the same texts for each sidecar.
        let mut made = self.signed.lock().await;
        if made.0 != kept.told.number {
            *made = (kept.told.number, HashMap::new());
        }
        if let Some(known) = made.1.get(tenant) {
            return Ok(Arc::clone(known));
        }
        let fresh = desired::for_tenant(store, clock::now(), kept, tenant).await?;
        let fresh = Arc::new(signer.sign(fresh));
        made.1.insert(tenant.to_owned(), Arc::clone(&fresh));
        Ok(fresh)
    }
}
