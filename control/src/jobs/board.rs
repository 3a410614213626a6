//! What this replica knows of open jobs and of workers: all of them, in memory, kept up by what it writes itself and by the
//! store's notices. The store decides; whoever acts on what stands here does so by compare-and-set.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use parking_lot::Mutex;
use sideguard_runtime::clock;
use sideguard_store::Store;
use sideguard_store::documents::{Change, Document, Revision};
use sideguard_store::key::{Key, Prefix, Scope};
use sideguard_types::control::jobs::{Assignment, Lease};
use sideguard_types::job::{Job, JobState};
use tokio::sync::{Notify, watch};

use super::{places, state};
use crate::error::Failure;
use crate::keys::OWN;
use crate::scheduler::Registered;

/// Documents that are read at once.
const READ: usize = 1_000;
/// How often everything is read anew, should a notice have been lost.
const LOOK: std::time::Duration = std::time::Duration::from_secs(30);

/// Tenant and id.
pub(crate) type Name = (String, String);

/// Open jobs and workers.
#[derive(Debug, Default)]
pub(crate) struct Board {
    state: Mutex<State>,
    /// Goes up with each change.
    changes: watch::Sender<u64>,
    /// Whether everything was read once: nothing is planned by a part of it.
    ready: AtomicBool,
}

/// A document as it was read or written last; gone ones are remembered for a while, so that an old one does not come back.
#[derive(Debug, Clone)]
struct Seen<T> {
    value: Option<Arc<T>>,
    revision: Revision,
}

#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<Name, Seen<Job>>,
    workers: BTreeMap<Name, Seen<Registered>>,
    /// Told when something becomes of a worker's jobs.
    told: HashMap<Name, Arc<Notify>>,
    /// Names of the jobs that each worker has.
    held: HashMap<Name, Vec<Name>>,
    open: HashMap<String, usize>,
}

/// What the reconciler plans by.
#[derive(Debug, Default)]
pub(crate) struct Moment {
    pub(crate) jobs: Vec<Arc<Job>>,
    pub(crate) workers: Vec<Arc<Registered>>,
}

impl Board {
    /// A change to wait for.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether all that the store has is here.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// All that is there.
    pub(crate) fn moment(&self) -> Moment {
        let state = self.state.lock();
        Moment {
            jobs: state.jobs.values().filter_map(|seen| seen.value.clone()).collect(),
            workers: state.workers.values().filter_map(|seen| seen.value.clone()).collect(),
        }
    }

    /// A job, with the revision of its document.
    pub(crate) fn job(&self, tenant: &str, id: &str) -> Option<(Arc<Job>, Revision)> {
        let state = self.state.lock();
        let seen = state.jobs.get(&name(tenant, id))?;
        Some((seen.value.clone()?, seen.revision))
    }

    /// A worker, with the revision of its document.
    pub(crate) fn worker(&self, tenant: &str, id: &str) -> Option<(Arc<Registered>, Revision)> {
        let state = self.state.lock();
        let seen = state.workers.get(&name(tenant, id))?;
        Some((seen.value.clone()?, seen.revision))
    }

    /// How many jobs of a tenant are open.
    pub(crate) fn open(&self, tenant: &str) -> usize {
        self.state.lock().open.get(tenant).copied().unwrap_or(0)
    }

    /// How many jobs are in which state.
    pub(crate) fn counts(&self) -> HashMap<JobState, u64> {
        let mut counts = HashMap::new();
        for job in self.state.lock().jobs.values().filter_map(|seen| seen.value.as_ref()) {
            *counts.entry(job.state).or_default() += 1;
        }
        counts
    }

    /// The leases of a worker.
    pub(crate) fn leases(&self, tenant: &str, worker: &str) -> Vec<Lease> {
        let state = self.state.lock();
        state.held_by(tenant, worker).map(|job| state::lease(job)).collect()
    }

    /// Jobs of a worker's session that wait for it and that it does not know of.
    pub(crate) fn waiting(&self, worker: &Registered, known: &[Lease]) -> Vec<Assignment> {
        let state = self.state.lock();
        let own = state.held_by(&worker.tenant, &worker.id).filter(|job| {
            let session = job.hold.as_ref().is_some_and(|hold| hold.session == worker.session);
            session && job.state == JobState::Dispatched && !known.contains(&state::lease(job))
        });
        own.map(|job| Assignment { epoch: job.epoch, deadline: None, job: Job::clone(job) }).collect()
    }

    /// What tells when something becomes of a worker's jobs.
    pub(crate) fn notify(&self, tenant: &str, worker: &str) -> Arc<Notify> {
        Arc::clone(self.state.lock().told.entry(name(tenant, worker)).or_default())
    }

    /// Takes over a job as it was read or written; final ones are gone from here.
    pub(crate) fn put_job(&self, tenant: &str, id: &str, job: Option<Job>, revision: Revision) {
        let job = job.filter(|job| !job.state.is_final()).map(Arc::new);
        if self.state.lock().put_job(name(tenant, id), Seen { value: job, revision }) {
            self.changes.send_modify(|change| *change = change.wrapping_add(1));
        }
    }

    /// Takes over a worker as it was read or written.
    pub(crate) fn put_worker(&self, tenant: &str, id: &str, worker: Option<Registered>, revision: Revision) {
        let mut state = self.state.lock();
        let at = name(tenant, id);
        if state.workers.get(&at).is_some_and(|seen| seen.revision >= revision) {
            return;
        }
        state.workers.insert(at, Seen { value: worker.map(Arc::new), revision });
        drop(state);
        self.changes.send_modify(|change| *change = change.wrapping_add(1));
    }

    /// Follows the store until the task is dropped.
    pub(crate) async fn follow(self: Arc<Self>, store: Store) {
        let Ok(scope) = Prefix::new(OWN, places::JOBS) else { return };
        let mut changes = store.documents.watch(scope.into());
        loop {
            if let Err(error) = self.read_all(&store).await {
                tracing::warn!(%error, "open jobs cannot be read");
            }
            let until = clock::Stopwatch::start();
            loop {
                let left = LOOK.saturating_sub(until.elapsed());
                match tokio::time::timeout(left, changes.next()).await {
                    Ok(Some(Change::Changed { key, revision })) => self.look(&store, &key, revision).await,
                    Ok(Some(Change::Resync)) | Err(_) => break,
                    Ok(None) => return,
                }
            }
        }
    }

    /// Reads one document that has changed, unless it is known so already.
    async fn look(&self, store: &Store, key: &Key, revision: Revision) {
        let Some((kind, tenant, id)) = places::parse(key) else { return };
        if self.state.lock().knows(kind, &name(tenant, id), revision) {
            return;
        }
        match store.documents.get(clock::now(), key).await {
            Ok(Some(document)) => self.take(&document),
            Ok(None) => self.gone(kind, tenant, id, revision),
            Err(error) => tracing::warn!(%error, "a job or a worker cannot be read"),
        }
    }

    /// Reads everything. What is not there any more is gone.
    async fn read_all(&self, store: &Store) -> Result<(), Failure> {
        let mut missing = self.state.lock().revisions();
        for kind in [places::Kind::Worker, places::Kind::Open] {
            let invalid = |error: sideguard_store::key::KeyError| Failure::Invalid(error.to_string());
            let scope: Scope = Prefix::new(OWN, kind.path()).map_err(invalid)?.into();
            let mut after = None;
            loop {
                let page = store.documents.list(clock::now(), &scope, after.as_ref(), READ).await?;
                for document in &page.documents {
                    if let Some((kind, tenant, id)) = places::parse(&document.key) {
                        missing.remove(&(kind, name(tenant, id)));
                    }
                    self.take(document);
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        for ((kind, (tenant, id)), Revision(known)) in missing {
            // It was removed after it was known: if it was written again since, then later than this.
            self.gone(kind, &tenant, &id, Revision(known + 1));
        }
        self.ready.store(true, Ordering::Release);
        self.changes.send_modify(|change| *change = change.wrapping_add(1));
        Ok(())
    }

    fn take(&self, document: &Document) {
        let Some((kind, tenant, id)) = places::parse(&document.key) else { return };
        let unreadable = |error: serde_json::Error| {
            tracing::error!(%error, key = %document.key, "the store holds a job or a worker that cannot be read");
        };
        match kind {
            places::Kind::Open => match serde_json::from_slice(&document.value) {
                Ok(job) => self.put_job(tenant, id, Some(job), document.revision),
                Err(error) => unreadable(error),
            },
            places::Kind::Worker => match serde_json::from_slice(&document.value) {
                Ok(worker) => self.put_worker(tenant, id, Some(worker), document.revision),
                Err(error) => unreadable(error),
            },
        }
    }

    fn gone(&self, kind: places::Kind, tenant: &str, id: &str, revision: Revision) {
        match kind {
            places::Kind::Open => self.put_job(tenant, id, None, revision),
            places::Kind::Worker => self.put_worker(tenant, id, None, revision),
        }
    }
}

impl State {
    fn held_by(&self, tenant: &str, worker: &str) -> impl Iterator<Item = &Arc<Job>> {
        let names = self.held.get(&name(tenant, worker)).into_iter().flatten();
        names.filter_map(|at| self.jobs.get(at)?.value.as_ref())
    }

    fn knows(&self, kind: places::Kind, at: &Name, revision: Revision) -> bool {
        match kind {
            places::Kind::Open => self.jobs.get(at).is_some_and(|seen| seen.revision >= revision),
            places::Kind::Worker => self.workers.get(at).is_some_and(|seen| seen.revision >= revision),
        }
    }

    fn put_job(&mut self, at: Name, seen: Seen<Job>) -> bool {
        if self.jobs.get(&at).is_some_and(|known| known.revision >= seen.revision) {
            return false;
        }
        let before = self.jobs.get(&at).and_then(|seen| seen.value.clone());
        for (job, here) in [(before.as_ref(), false), (seen.value.as_ref(), true)] {
            let Some(job) = job else { continue };
            let count = self.open.entry(at.0.clone()).or_default();
            *count = if here { *count + 1 } else { count.saturating_sub(1) };
            let Some(hold) = job.hold.as_ref().filter(|_| job.state.is_leased()) else { continue };
            let worker = (at.0.clone(), hold.worker.clone());
            let held = self.held.entry(worker.clone()).or_default();
            if here {
                held.push(at.clone());
            } else {
                held.retain(|other| *other != at);
            }
            if held.is_empty() {
                self.held.remove(&worker);
            }
            if let Some(notify) = self.told.get(&worker) {
                notify.notify_waiters();
            }
        }
        self.jobs.insert(at, seen);
        true
    }

    /// What is known, each with its revision. What was gone already is forgotten: a reading as old as that is over by now.
    fn revisions(&mut self) -> HashMap<(places::Kind, Name), Revision> {
        self.jobs.retain(|_, seen| seen.value.is_some());
        self.workers.retain(|_, seen| seen.value.is_some());
        self.told.retain(|_, notify| Arc::strong_count(notify) > 1);
        self.open.retain(|_, count| *count > 0);
        let jobs = self.jobs.iter().map(|(at, seen)| ((places::Kind::Open, at.clone()), seen.revision));
        let workers =
            self.workers.iter().map(|(at, seen)| ((places::Kind::Worker, at.clone()), seen.revision));
        jobs.chain(workers).collect()
    }
}

fn name(tenant: &str, id: &str) -> Name {
    (tenant.to_owned(), id.to_owned())
}
