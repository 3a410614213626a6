//! The sidecar of a worker: keeps the worker known to control, renews its leases, fetches jobs, hands them to the agent,
//! tells how they ended. And for every agent of a fleet: jobs that it submits.
//!
//! What makes effects safe is an order. A job is handed over only after control has taken in that it starts, and while its
//! lease holds; a call that is made for it passes only while the lease holds ([`tie`]), which is looked at when the call is
//! judged and again right before it leaves. A lease holds until a moment that was set when control last answered, counted
//! from when it was asked: a process that was stopped, or cannot reach control, is fenced without doing anything.
//!
//! [`book`] knows what there is; `follow` speaks with control; [`hand`] hands over; `desk` is the agent's side, `submit` the
//! way of a new job.

mod book;
mod desk;
mod follow;
mod hand;
mod submit;
#[cfg(test)]
mod tests;
mod tie;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sideguard_runtime::clock;
use sideguard_runtime::secret::Secret;
use sideguard_types::call::Caller;
use sideguard_types::control::jobs::{self, Skills, Told};
use sideguard_types::refusal::Refusal;
use sideguard_types::resource::ProxySpec;
use tokio::sync::{Notify, watch};

use book::Book;
use tie::Term;

pub(crate) use desk::{own, serve};
pub(crate) use follow::follow;
pub use hand::{Ended, Hands, Task};
pub(crate) use tie::{Held, Tie, job_of};

/// An agent that asked so recently will take a job.
const EAGER: Duration = Duration::from_secs(10);
/// Bytes of chance in a process's name.
const PROCESS: usize = 12;

/// The worker of one sidecar.
#[derive(Debug)]
pub(crate) struct Work {
    skills: Skills,
    /// The agent, where it is known without a key.
    caller: Option<Arc<Caller>>,
    /// What this process is known by.
    process: String,
    book: Mutex<Book>,
    /// Jobs that the agent is at, as calls see them.
    open: ArcSwap<Vec<Arc<Held>>>,
    term: Arc<Term>,
    /// How many of the agent's questions wait now, and when one last did.
    asking: AtomicUsize,
    asked: AtomicU64,
    /// Told when the agent asks again after a while.
    eager: Notify,
    /// Whether a command of this process does the jobs, and no agent may ask.
    taken: AtomicBool,
    /// Pools that do not take the worker, and why.
    refused: Mutex<Value>,
}

/// A question of the agent's that waits, until it is dropped.
struct Asking<'w>(&'w Work);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.seen();
        self.0.asking.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Work {
    /// The worker that a configuration describes.
    pub(crate) fn new(config: &ProxySpec) -> Option<Self> {
        let spec = config.worker.as_ref()?;
        let own = config.agent.iter().chain(config.agents.iter().map(|bound| &bound.agent));
        let name = spec.agent.as_ref().or(config.agent.as_ref().map(|agent| &agent.name))?;
        let caller = own.into_iter().find(|agent| agent.name == *name).map(crate::config::caller);
        let skills = Skills {
            agent: name.clone(),
            pools: spec.pools.clone(),
            capabilities: spec.capabilities.clone(),
            labels: spec.labels.clone(),
            max_parallel: spec.max_parallel,
        };
        let most = usize::try_from(spec.max_parallel).unwrap_or(usize::MAX);
        let term = Arc::new(Term::default());
        Some(Self {
            skills,
            caller,
            process: sideguard_runtime::id::token(PROCESS),
            book: Mutex::new(Book::new(most, Arc::clone(&term))),
            open: ArcSwap::default(),
            term,
            asking: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
            eager: Notify::new(),
            taken: AtomicBool::new(false),
            refused: Mutex::new(Value::Null),
        })
    }

    /// Whether a caller is the agent that works.
    pub(crate) fn is_by(&self, caller: &Caller) -> bool {
        caller.agent == self.skills.agent
    }

    /// The agent, when `key` is that of a job that it is at.
    pub(crate) fn caller_by(&self, key: &Secret<String>) -> Option<&Arc<Caller>> {
        self.caller.as_ref().filter(|_| tie::knows(&self.open.load(), key))
    }

    /// The job that a call of the agent's is made for.
    pub(crate) fn tie(&self, trace: Option<&str>, key: Option<&Secret<String>>) -> Tie {
        job_of(&self.open.load(), trace, key)
    }

    /// Waits until a job that the agent is at is fenced; for connections that nobody can tell the jobs of that they are used
    /// for.
    pub(crate) async fn until_fenced(&self) -> Refusal {
        if self.taken.load(Ordering::Acquire) {
            // Each job's connections are its own.
            return std::future::pending().await;
        }
        tie::until(&self.term, || tie::any_stops(&self.open.load())).await
    }

    /// How it stands, for the admin port.
    pub(crate) fn status(&self) -> Value {
        let left = self.term.until().saturating_sub(clock::uptime());
        let leases = self.book.lock().leases();
        json!({
            "leases": leases,
            "lease_left_ms": u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            "open": self.open.load().iter().map(|held| held.lease.clone()).collect::<Vec<_>>(),
            "refused": &*self.refused.lock(),
        })
    }

    /// Waits until there is no job any more.
    pub(crate) async fn until_done(&self) {
        let mut changes = self.term.changes();
        while !self.book.lock().is_empty() {
            // The sender lives in `self`.
            let _ = changes.changed().await;
        }
    }

    /// Changes the book, and tells everybody.
    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self.book.lock();
        let changed = change(&mut book);
        self.open.store(Arc::new(book.open()));
        drop(book);
        self.term.tell();
        changed
    }

    fn take(&self, told: Told, sent: Duration) {
        let refused = json!(told.refused);
        let before = std::mem::replace(&mut *self.refused.lock(), refused.clone());
        if before != refused && !told.refused.is_empty() {
            tracing::warn!(%refused, "pools do not take this worker");
        }
        self.change(|book| book.take(told, sent, clock::uptime()));
    }

    /// What control is asked. A worker with room whose agent asks for nothing takes no jobs.
    fn question(&self, draining: bool) -> jobs::Work {
        let book = self.book.lock();
        jobs::Work {
            skills: self.skills.clone(),
            process: self.process.clone(),
            leases: book.leases(),
            draining: draining || book.has_room() && !self.is_eager(),
        }
    }

    fn ask(&self) -> Asking<'_> {
        let eager = self.is_eager();
        self.asking.fetch_add(1, Ordering::AcqRel);
        self.seen();
        if !eager {
            self.eager.notify_one();
        }
        Asking(self)
    }

    fn seen(&self) {
        let now = u64::try_from(clock::uptime().as_micros()).unwrap_or(u64::MAX);
        self.asked.store(now, Ordering::Release);
    }

    fn is_eager(&self) -> bool {
        let asked = self.asked.load(Ordering::Acquire);
        let ago = clock::uptime().saturating_sub(Duration::from_micros(asked));
        self.asking.load(Ordering::Acquire) > 0 || asked > 0 && ago < EAGER
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.term.changes()
    }
}
