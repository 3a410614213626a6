//! Which job a call is made for, and whether that job is still this worker's. A call looks at atomics only, and at a clock
//! that runs while the process is stopped: nobody has to do anything for a job to be fenced.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use sideguard_runtime::clock;
use sideguard_runtime::secret::Secret;
use sideguard_types::control::jobs::{Assignment, Lease};
use sideguard_types::job::Job;
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::time::Timestamp;
use tokio::sync::watch;

use crate::app::Sidecar;
use crate::delegate;
use crate::delegations::Guard;

/// How long what waits for a fence sleeps at most: a timer does not count while the machine sleeps.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of chance in a job's key.
const KEY: usize = 24;

/// Until when all leases of the worker hold, in microseconds of [`clock::uptime`], and who is told when that changes.
#[derive(Debug, Default)]
pub(crate) struct Term {
    until: AtomicU64,
    changed: watch::Sender<u64>,
}

impl Term {
    /// Sets it: leases hold for `lease` from `sent` on.
    pub(super) fn set(&self, sent: Duration, lease: Duration) {
        self.until.store(micros(sent.saturating_add(lease)), Ordering::Release);
    }

    pub(super) fn until(&self) -> Duration {
        Duration::from_micros(self.until.load(Ordering::Acquire))
    }

    /// Tells whoever waits that something has changed.
    pub(super) fn tell(&self) {
        self.changed.send_modify(|number| *number = number.wrapping_add(1));
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What became of the end of a job that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Control has it.
    Taken,
    /// The job was no longer this worker's.
    Refused,
    /// Control does not take it as it is: status and reason.
    Unfit(u16, String),
}

/// One lease of a job.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) job: Job,
    /// The moment when it must be done.
    pub(crate) deadline: Option<Timestamp>,
    /// By which calls of a process that does this job alone are known.
    pub(crate) key: Secret<String>,
    over: AtomicBool,
    term: Arc<Term>,
    /// What control said of its end.
    pub(super) heard: watch::Sender<Option<Heard>>,
    /// The delegation that it is done under.
    under: Mutex<Option<Guard>>,
}

impl Held {
    pub(super) fn new(given: Assignment, term: &Arc<Term>) -> Self {
        let Assignment { epoch, deadline, job } = given;
        Self {
            lease: Lease { job: job.id.clone(), epoch },
            job,
            deadline,
            key: Secret::new(sideguard_runtime::id::token(KEY)),
            over: AtomicBool::new(false),
            term: Arc::clone(term),
            heard: watch::Sender::new(None),
            under: Mutex::new(None),
        }
    }

    /// Opens the delegation that the job comes with: calls for it are judged by the whole chain from now on.
    ///
    /// # Errors
    /// What is wrong with the chain, and whether that may be different another time: then nothing may be done for the job.
    pub(super) fn take_on(&self, sidecar: &Sidecar, agent: &str) -> Result<(), (String, bool)> {
        let mut under = self.under.lock();
        if under.is_none() {
            *under = delegate::take_on(sidecar, &self.job, agent)?;
        }
        Ok(())
    }

    /// Takes the job away for good.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Whether control has said that it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether nothing may be done for the job any more at `now`.
    pub(crate) fn is_fenced(&self, now: Duration) -> bool {
        self.is_over() || now >= self.term.until()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.term.changes()
    }

    fn refusal(&self) -> Refusal {
        let Lease { job, epoch } = &self.lease;
        let reason = if self.is_over() {
            format!("job `{job}` was taken from this worker (epoch {epoch})")
        } else {
            format!(
                "the lease of job `{job}` could not be renewed (epoch {epoch}): control may have taken it away"
            )
        };
        let mut refusal = Refusal::new(Code::Fenced, format!("job/{job}"), reason);
        refusal.hint = Some("let go of the job: its result would not count".to_owned());
        refusal
    }

    fn has(&self, key: &[u8]) -> bool {
        // The digests are compared: how long that takes tells nothing of the key.
        Sha256::digest(self.key.expose().as_bytes()) == Sha256::digest(key)
    }
}

/// Which job a call is made for.
#[derive(Debug, Clone, Default)]
pub(crate) enum Tie {
    /// None: the agent calls as itself.
    #[default]
    Free,
    /// This one.
    Job(Arc<Held>),
    /// One of these.
    Several(Arc<[Arc<Held>]>),
}

/// The job that a call is made for: the one whose key it brings, else the one whose trace it is in, else the only one that
/// the agent is at. `open` are those that it is at, fenced ones included.
pub(crate) fn job_of(open: &[Arc<Held>], trace: Option<&str>, key: Option<&Secret<String>>) -> Tie {
    let by_key = key.and_then(|key| open.iter().find(|held| held.has(key.expose().as_bytes())));
    if let Some(held) = by_key {
        return Tie::Job(Arc::clone(held));
    }
    let traced: Vec<_> =
        open.iter().filter(|held| Some(held.job.trace_id.as_str()) == trace).cloned().collect();
    one_of(if traced.is_empty() { open } else { &traced })
}

fn one_of(jobs: &[Arc<Held>]) -> Tie {
    match jobs {
        [] => Tie::Free,
        [held] => Tie::Job(Arc::clone(held)),
        several => Tie::Several(several.into()),
    }
}

impl Held {
    /// Whether a call says itself that it is made for this job: by the job's key, or by its trace where that counts.
    pub(crate) fn is_named(&self, trace: Option<&str>, key: Option<&Secret<String>>) -> bool {
        key.is_some_and(|key| self.has(key.expose().as_bytes())) || trace == Some(self.job.trace_id.as_str())
    }
}

/// Whether a key is that of a job that the agent is at.
pub(super) fn knows(open: &[Arc<Held>], key: &Secret<String>) -> bool {
    open.iter().any(|held| held.has(key.expose().as_bytes()))
}

impl Tie {
    fn jobs(&self) -> &[Arc<Held>] {
        match self {
            Self::Free => &[],
            Self::Job(held) => std::slice::from_ref(held),
            Self::Several(several) => several,
        }
    }

    /// The job's id, where it is one.
    pub(crate) fn job(&self) -> Option<&str> {
        match self {
            Self::Job(held) => Some(&held.lease.job),
            Self::Free | Self::Several(_) => None,
        }
    }

    /// Why the call may not go on at `now`, if so. Where it is not known which job it is made for, one that is fenced is
    /// enough.
    pub(crate) fn stops_at(&self, now: Duration) -> Option<Refusal> {
        self.jobs().iter().find(|held| held.is_fenced(now)).map(|held| held.refusal())
    }

    /// Why the call may not go on now, if so.
    pub(crate) fn stops(&self) -> Option<Refusal> {
        if self.jobs().is_empty() { None } else { self.stops_at(clock::uptime()) }
    }

    /// Waits until the call may not go on.
    pub(crate) async fn until_fenced(&self) -> Refusal {
        match self.jobs().first() {
            Some(first) => until(&first.term, || self.stops()).await,
            None => std::future::pending().await,
        }
    }
}

/// Why nothing may be done now for one of these jobs, if so.
pub(super) fn any_stops(jobs: &[Arc<Held>]) -> Option<Refusal> {
    let now = clock::uptime();
    jobs.iter().find(|held| held.is_fenced(now)).map(|held| held.refusal())
}

/// Waits until something is refused. Looks whenever it is polled: what is polled after it does nothing more then.
pub(super) async fn until(term: &Term, refused: impl Fn() -> Option<Refusal>) -> Refusal {
    let mut changes = term.changes();
    let mut waiting = Box::pin(async move {
        loop {
            let left = term.until().saturating_sub(clock::uptime());
            let look = if left.is_zero() { LOOK } else { left.min(LOOK) };
            // The sender lives as long as the term.
            let _ = tokio::time::timeout(look, changes.changed()).await;
        }
    });
    poll_fn(|context| {
        if let Some(refusal) = refused() {
            return Poll::Ready(refusal);
        }
        let _: Poll<()> = waiting.as_mut().poll(context);
        Poll::Pending
    })
    .await
}
