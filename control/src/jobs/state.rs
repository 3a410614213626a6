//! What may become of a job, as pure functions. Nothing leads out of a final state but an operator's retry of a
//! dead-lettered job, and each change of the lease has a new epoch.

use serde_json::Value;
use sideguard_types::control::jobs::{Lease, Outcome};
use sideguard_types::job::{Hold, Job, JobEvent, JobReason, JobState, Large};
use sideguard_types::time::Timestamp;

use crate::scheduler::Registered;

/// Most steps of a job's life that are kept; beyond that the middle is left out.
const EVENTS: usize = 40;
/// Longest message that is kept, in characters.
const MESSAGE: usize = 2_000;

/// A lease that is over: its holder has no say any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over;

/// A result as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kept {
    Inline(Value),
    Large(Large),
}

/// Puts a job into a state.
pub(crate) fn step(job: &mut Job, now: Timestamp, state: JobState, reason: Option<JobReason>) {
    if job.state.is_leased() && !state.is_leased() {
        job.epoch += 1;
    }
    job.state = state;
    job.reason = reason;
    job.changed = now;
    let worker = job.hold.as_ref().filter(|_| job.epoch > 0).map(|hold| hold.worker.clone());
    let worker = worker.filter(|_| state.is_leased() || reason.is_some());
    if job.events.len() >= EVENTS {
        job.events.remove(EVENTS / 2);
    }
    job.events.push(JobEvent { time: now, state, reason, worker, epoch: job.epoch });
}

/// Gives a job to a worker.
pub(crate) fn dispatch(job: &mut Job, now: Timestamp, worker: &Registered, pool: &str) {
    job.epoch += 1;
    job.attempts += 1;
    job.until = None;
    job.hold = Some(Hold {
        worker: worker.id.clone(),
        agent: worker.skills.agent.clone(),
        session: worker.session,
        pool: pool.to_owned(),
        dispatched: now,
        started: None,
    });
    job.message.clear();
    step(job, now, JobState::Dispatched, None);
}

/// Takes a job from its worker; it may be given out again from `until` on.
pub(crate) fn requeue(job: &mut Job, now: Timestamp, reason: JobReason, until: Timestamp) {
    job.until = Some(until);
    let state = if until > now { JobState::Scheduled } else { JobState::Pending };
    step(job, now, state, Some(reason));
}

/// People have said yes: the job waits for a worker, or for its moment.
pub(crate) fn granted(job: &mut Job, now: Timestamp) {
    let later = job.until.is_some_and(|until| until > now);
    step(job, now, if later { JobState::Scheduled } else { JobState::Pending }, None);
}

/// Ends a job.
pub(crate) fn end(job: &mut Job, now: Timestamp, state: JobState, reason: JobReason, message: &str) {
    job.until = None;
    message.clone_into(&mut job.message);
    step(job, now, state, Some(reason));
}

/// Whether a worker has a lease.
pub(crate) fn holds(job: &Job, worker: &str, epoch: u64) -> bool {
    job.state.is_leased() && job.epoch == epoch && job.hold.as_ref().is_some_and(|hold| hold.worker == worker)
}

/// The lease of a job that a worker has.
pub(crate) fn lease(job: &Job) -> Lease {
    Lease { job: job.id.clone(), epoch: job.epoch }
}

/// A worker is about to begin; tells whether that is new.
pub(crate) fn start(job: &mut Job, now: Timestamp, worker: &str, epoch: u64) -> Result<bool, Over> {
    if !holds(job, worker, epoch) {
        return Err(Over);
    }
    let Some(hold) = job.hold.as_mut() else { return Err(Over) };
    if hold.started.is_some() {
        return Ok(false);
    }
    hold.started = Some(now);
    step(job, now, JobState::Running, None);
    Ok(true)
}

/// What a worker's word on a job's end leads to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    /// A result that policy has let through.
    Result(Kept),
    /// A result that it has not; why.
    Refused(String),
    /// It failed.
    Failed { message: String, retry: bool },
    /// It was not started.
    GivenBack,
}

impl Said {
    /// What a worker says when nothing is to be judged.
    pub(crate) fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Succeeded(_) => None,
            Outcome::Failed { message, retry } => {
                Some(Self::Failed { message: message.clone(), retry: *retry })
            }
            Outcome::GivenBack => Some(Self::GivenBack),
        }
    }
}

/// A worker says how a job ended; tells whether that is new. `again` is when a further try may begin.
pub(crate) fn ended(
    job: &mut Job,
    now: Timestamp,
    worker: &str,
    epoch: u64,
    said: Said,
    again: Timestamp,
) -> Result<bool, Over> {
    if !holds(job, worker, epoch) {
        return if told_before(job, worker, epoch) { Ok(false) } else { Err(Over) };
    }
    match said {
        Said::GivenBack => {
            // The worker's doing, not the job's.
            job.attempts = job.attempts.saturating_sub(1);
            requeue(job, now, JobReason::GivenBack, now);
        }
        Said::Failed { message, retry } => {
            job.failures += 1;
            let message: String = message.chars().take(MESSAGE).collect();
            if retry && job.failures <= job.spec.retries {
                requeue(job, now, JobReason::Failed, again);
                job.message = message;
            } else {
                end(job, now, JobState::Failed, JobReason::Failed, &message);
            }
        }
        Said::Refused(why) => end(job, now, JobState::Failed, JobReason::ResultDenied, &why),
        Said::Result(kept) => {
            match kept {
                Kept::Inline(value) => job.result = value,
                Kept::Large(large) => job.large_result = Some(large),
            }
            job.until = None;
            job.message.clear();
            step(job, now, JobState::Succeeded, None);
        }
    }
    Ok(true)
}

/// Whether a worker has told the end of this lease already: its answer was lost.
fn told_before(job: &Job, worker: &str, epoch: u64) -> bool {
    let own = job.hold.as_ref().is_some_and(|hold| hold.worker == worker);
    let by_worker = match job.state {
        JobState::Succeeded => true,
        JobState::Failed => matches!(job.reason, Some(JobReason::Failed | JobReason::ResultDenied)),
        JobState::Scheduled | JobState::Pending => job.reason == Some(JobReason::Failed),
        _ => false,
    };
    own && by_worker && job.epoch == epoch + 1
}

/// Takes a job back; tells whether that changes anything.
pub(crate) fn cancel(job: &mut Job, now: Timestamp, by: &str) -> bool {
    if job.state.is_final() {
        return false;
    }
    end(job, now, JobState::Cancelled, JobReason::Cancelled, &format!("by `{by}`"));
    true
}

/// Puts a dead-lettered job into the queue again.
pub(crate) fn revive(job: &mut Job, now: Timestamp) {
    job.attempts = 0;
    job.failures = 0;
    job.created = now;
    job.message.clear();
    step(job, now, JobState::Pending, None);
}
