//! What sidecars wait for. Every replica follows the store's changes, so that it does not matter which one a sidecar asks.
//!
//! A replica says what is in force only while it knows: when the store has not answered for [`SURE`], it signs nothing and
//! sends sidecars away, to one that still can.

mod places;
mod ready;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_store::Store;
use sideguard_store::documents::Change;
use sideguard_store::key::Prefix;
use sideguard_types::control::Feed;
use sideguard_types::control::feed::{Beat, Has};
use tokio::sync::watch;

use crate::desired::{self, Kept};
use crate::error::Failure;
use crate::keys::{OWN, Principal};
use crate::kills;
use crate::signer::Signer;
use places::Places;
use ready::Ready;

pub(crate) use stream::stream;

/// How long a question is held when there is nothing new.
const HELD: Duration = Duration::from_secs(25);
/// How often the store is looked at without a notice, should one have been lost.
const LOOK: Duration = Duration::from_secs(5);
/// For so long after a look a replica is sure of what is in force.
const SURE: Duration = Duration::from_secs(10);
/// Longest nonce.
const LONGEST_NONCE: usize = 64;

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
    /// The newest generation for each tenant.
    ready: Ready,
    places: Places,
    closing: watch::Sender<bool>,
    since: Stopwatch,
    /// Looks begun so far.
    looks: AtomicU64,
    /// The look that `now` is from, and when it began, in microseconds of `since`.
    seen: Mutex<(u64, u64)>,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Self {
            now: watch::Sender::new(None),
            ready: Ready::default(),
            places: Places::default(),
            closing: watch::Sender::new(false),
            since: Stopwatch::start(),
            looks: AtomicU64::new(0),
            seen: Mutex::new((0, 0)),
        }
    }

    /// Follows the store until the task is dropped.
    pub(crate) async fn follow(self: Arc<Self>, store: Store) {
        let Ok(scope) = Prefix::whole(OWN) else { return };
        let mut changes = store.documents.watch(scope.into());
        loop {
            if let Err(error) = self.look(&store).await {
                tracing::warn!(%error, "the desired state cannot be read");
            }
            // Reports and keys change all the time: they say nothing of the desired state.
            let matters = async {
                while let Some(change) = changes.next().await {
                    match change {
                        Change::Resync => return true,
                        Change::Changed { key, .. } if matches!(key.path(), "head" | "kills") => return true,
                        Change::Changed { .. } => {}
                    }
                }
                false
            };
            if tokio::time::timeout(LOOK, matters).await == Ok(false) {
                return;
            }
        }
    }

    /// Looks at the store and tells those who wait when something is newer.
    pub(crate) async fn look(&self, store: &Store) -> Result<(), Failure> {
        let look = self.looks.fetch_add(1, Ordering::AcqRel) + 1;
        let began = self.since.micros();
        let now = clock::now();
        let known = self.now.borrow().as_ref().map(|now| Arc::clone(&now.generation));
        let number = desired::number(store, now).await?;
        let generation = match known.filter(|known| known.told.number == number && number > 0) {
            Some(known) => known,
            None => Arc::new(desired::head(store, now).await?.kept),
        };
        let kills = kills::kept(store, now).await?;
        // Of two looks at once the later one has seen at least as much: an earlier one's answer must not undo it.
        let mut seen = self.seen.lock();
        if seen.0 > look {
            return Ok(());
        }
        *seen = (look, began);
        self.now.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|known| {
                known.generation.told.number != generation.told.number || known.kills.number != kills.number
            });
            if newer {
                *known = Some(Now { generation, kills: Arc::new(kills) });
            }
            newer
        });
        Ok(())
    }

    /// As [`Self::look`], after a change that is made already: it must not seem to have failed when the store goes away.
    pub(crate) async fn look_after(&self, store: &Store) {
        if let Err(error) = self.look(store).await {
            tracing::warn!(%error, "a change is made, and this replica cannot see it yet");
        }
    }

    /// Number of the generation in force, as this replica knows it.
    pub(crate) fn number(&self) -> u64 {
        self.now.borrow().as_ref().map_or(0, |now| now.generation.told.number)
    }

    /// The generation in force and the kill switches that are on, as this replica knows them.
    pub(crate) fn in_force(&self) -> Option<(Arc<Kept>, Arc<kills::Kept>)> {
        self.now.borrow().as_ref().map(|now| (Arc::clone(&now.generation), Arc::clone(&now.kills)))
    }

    /// Sends those who wait away: they ask another replica.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// What is in force, signed with a question's nonce; nothing while this replica is not sure.
    pub(crate) fn beat(&self, signer: &Signer, tenant: &str, nonce: &str) -> Option<Beat> {
        if nonce.is_empty() || nonce.len() > LONGEST_NONCE || !self.is_sure() {
            return None;
        }
        let now = self.now.borrow().clone()?;
        Some(signer.beat(Beat {
            tenant: tenant.to_owned(),
            generation: now.generation.told.number,
            since: now.generation.told.time,
            kills: now.kills.number,
            nonce: nonce.to_owned(),
            time: clock::now(),
            signature: String::new(),
        }))
    }

    fn is_sure(&self) -> bool {
        let (_, began) = *self.seen.lock();
        Duration::from_micros(self.since.micros().saturating_sub(began)) < SURE
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

    /// What is newer for a tenant than what its sidecar has, as soon as there is something, or nothing after a while.
    pub(crate) async fn wait(
        &self,
        store: &Store,
        signer: &Signer,
        who: &Principal,
        has: &Has,
    ) -> Result<Feed, Failure> {
        let tenant = who.sidecars_tenant();
        let mut place = self.places.enter(who)?;
        let mut watching = self.now.subscribe();
        let mut closing = self.closing.subscribe();
        let newer = watching.wait_for(|now| {
            now.as_ref().is_some_and(|now| {
                now.generation.told.number != has.generation || now.kills.number != has.kills
            })
        });
        let found = tokio::select! {
            newer = newer => newer.ok().and_then(|now| now.clone()),
            _ = closing.wait_for(|closing| *closing) => None,
            () = place.outdone() => None,
            () = tokio::time::sleep(HELD) => None,
        };
        let mut feed = Feed::default();
        if let Some(now) = found {
            // A store that was put back to an earlier time has older ones: the sidecar refuses them and says so.
            if now.generation.told.number != has.generation && now.generation.told.number > 0 {
                let ready = self.ready.of(store, signer, &now.generation, tenant).await?;
                feed.generation = Some(ready.signed.clone());
            }
            if now.kills.number != has.kills {
                feed.kills = Some(signer.kills(now.kills.for_tenant(tenant)));
            }
        }
        feed.beat = self.beat(signer, tenant, &has.nonce);
        if feed == Feed::default() && !has.nonce.is_empty() {
            return Err(Failure::Unsure);
        }
        Ok(feed)
    }
}
