//! The record as it comes, for those who watch: one reader for all of them, which rests while there is none.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use sideguard_store::Store;
use sideguard_types::control::records::Entry;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use super::block::Facts;
use super::follow::{Cursor, follow};
use super::query::Filter;
use crate::error::Failure;
use crate::keys::Principal;

/// Entries that a watcher may be behind; then it misses some and is told how many.
const BEHIND: usize = 512;
/// Most watchers at once.
const WATCHERS: usize = 64;
/// How often it is looked whether somebody still watches.
const LOOK: Duration = Duration::from_secs(5);
/// Longest time until a watch begins.
const BEGIN: Duration = Duration::from_secs(10);
/// Pause after the store could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// The entries as they come.
#[derive(Debug)]
pub(crate) struct Live {
    entries: broadcast::Sender<Arc<Entry>>,
    /// Whether entries are being read.
    reading: watch::Sender<bool>,
    /// Told when somebody comes.
    watched: tokio::sync::Notify,
    places: Arc<Semaphore>,
}

/// What a watcher gets.
#[derive(Debug)]
pub(crate) enum Seen {
    /// An entry.
    Entry(Arc<Entry>),
    /// So many entries were too fast.
    Missed(u64),
}

/// A watcher's own end.
struct Watcher {
    entries: broadcast::Receiver<Arc<Entry>>,
    who: Principal,
    filter: Filter,
    _place: OwnedSemaphorePermit,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            entries: broadcast::Sender::new(BEHIND),
            reading: watch::Sender::new(false),
            watched: tokio::sync::Notify::new(),
            places: Arc::new(Semaphore::new(WATCHERS)),
        }
    }

    /// Reads for those who watch until the task is dropped.
    pub(crate) async fn run(&self, store: Store) {
        loop {
            self.watched.notified().await;
            if let Err(error) = self.read(&store).await {
                tracing::warn!(%error, "the record cannot be followed now");
                tokio::time::sleep(PAUSE).await;
                // Whoever still watches goes on with what comes from then on.
                self.watched.notify_one();
            }
            self.reading.send_replace(false);
        }
    }

    /// Hands on what comes as long as somebody watches.
    async fn read(&self, store: &Store) -> Result<(), Failure> {
        let mut follow = follow(store, Cursor::now(store).await?)?;
        self.reading.send_replace(true);
        while self.entries.receiver_count() > 0 {
            let Ok(next) = tokio::time::timeout(LOOK, follow.next()).await else { continue };
            for entry in next?.0 {
                // An error means that the last one has just gone.
                let _ = self.entries.send(Arc::new(entry));
            }
        }
        Ok(())
    }

    /// What comes from now on that a principal may see and asks for.
    pub(crate) async fn watch(
        &self,
        who: Principal,
        filter: Filter,
    ) -> Result<impl Stream<Item = Seen> + use<>, Failure> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Failure::Busy(format!("{WATCHERS} streams are open already")))?;
        let watcher = Watcher { entries: self.entries.subscribe(), who, filter, _place: place };
        let mut reading = self.reading.subscribe();
        self.watched.notify_one();
        let begun = tokio::time::timeout(BEGIN, reading.wait_for(|reading| *reading)).await;
        if !matches!(begun, Ok(Ok(_))) {
            return Err(Failure::Busy("the record cannot be followed now".to_owned()));
        }
        Ok(stream::unfold(watcher, Watcher::next))
    }
}

impl Watcher {
    async fn next(mut self) -> Option<(Seen, Self)> {
        loop {
            match self.entries.recv().await {
                Ok(entry) if self.wants(&entry) => return Some((Seen::Entry(entry), self)),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return Some((Seen::Missed(missed), self)),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.who.reaches(&entry.tenant)
            && self.filter.wants(&entry.tenant, &entry.sidecar)
            && Facts::read(entry.record.get().as_bytes()).is_some_and(|facts| self.filter.fits(&facts))
    }
}
