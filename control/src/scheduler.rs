//! The planner: jobs, workers and pools at one moment in, what is to be done out. Nothing here reads a clock or a store, so
//! that a recorded moment ([`Recorded`]) gives the same plan again.
//!
//! A job is given to a worker only by [`Action::Dispatch`], and taken from one only after the worker is buried
//! ([`Action::Bury`], which is written before anything else is planned for its jobs), its time is over or it gave the job
//! back. [`crew`] knows who has room.

mod crew;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sideguard_policy::pool::Pool;
use sideguard_types::control::Scope;
use sideguard_types::control::jobs::Skills;
use sideguard_types::job::{Job, JobLimits, JobReason, JobState};
use sideguard_types::resource::{JOB_LIMITS, Reassign, WorkerPoolSpec};
use sideguard_types::time::Timestamp;

use crew::Crew;

pub(crate) use crew::works_in;

/// Most jobs that one plan gives out.
const AT_ONCE: usize = 500;
/// After so long in the queue a job counts as one more important.
const AGING: Duration = Duration::from_secs(60);

/// A worker as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Registered {
    /// Its sidecar's id.
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) skills: Skills,
    /// What its process is known by.
    pub(crate) process: String,
    /// Number of its session; leases of another one are over.
    pub(crate) session: u64,
    /// When it was heard of.
    pub(crate) seen: Timestamp,
    /// Until when it gets jobs without being heard of again.
    pub(crate) fresh: Timestamp,
    /// Until when it was promised its leases, and a margin.
    pub(crate) until: Timestamp,
    /// Whether it takes no more jobs by its own word.
    #[serde(default)]
    pub(crate) draining: bool,
    /// Whether it takes no more jobs by an operator's word.
    #[serde(default)]
    pub(crate) drained: bool,
    /// Whether its session is over.
    #[serde(default)]
    pub(crate) dead: bool,
}

/// What the planner sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'v> {
    pub(crate) now: Timestamp,
    pub(crate) pools: &'v [Pool],
    pub(crate) workers: &'v [Arc<Registered>],
    /// Jobs that are not final, in order of tenant and id.
    pub(crate) jobs: &'v [Arc<Job>],
    /// Kill switches.
    pub(crate) stopped: &'v [Scope],
}

/// A view as it can be written down, to plan by it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) now: Timestamp,
    pub(crate) pools: Vec<(String, Option<String>, WorkerPoolSpec)>,
    pub(crate) workers: Vec<Arc<Registered>>,
    pub(crate) jobs: Vec<Arc<Job>>,
    pub(crate) stopped: Vec<Scope>,
}

impl View<'_> {
    /// As it can be written down.
    pub(crate) fn record(&self) -> Recorded {
        let pools = self.pools.iter();
        Recorded {
            now: self.now,
            pools: pools.map(|pool| (pool.name.clone(), pool.tenant.clone(), pool.spec.clone())).collect(),
            workers: self.workers.to_vec(),
            jobs: self.jobs.to_vec(),
            stopped: self.stopped.to_vec(),
        }
    }
}

#[cfg(test)]
impl Recorded {
    /// The plan for it.
    pub(crate) fn plan(&self) -> Plan {
        let pools = self.pools.iter();
        let pools: Vec<Pool> =
            pools.map(|(name, tenant, spec)| Pool::new(name, tenant.as_deref(), spec.clone())).collect();
        let Self { now, workers, jobs, stopped, .. } = self;
        plan(&View { now: *now, pools: &pools, workers, jobs, stopped })
    }
}

/// Something to be done. Each concerns one document, and is void when that has changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// The session of a worker that was silent for too long is over.
    Bury { tenant: String, worker: String },
    /// A job goes to a worker.
    Dispatch { tenant: String, job: String, worker: String, pool: String },
    /// A job's lease is over; from `until` on it may be given out again. Void when the job stands otherwise by now.
    Requeue { tenant: String, job: String, stood: Stood, reason: JobReason, until: Timestamp },
    /// A job's moment has come.
    Ready { tenant: String, job: String },
    /// A job is over. Void when it stands otherwise by now.
    End { tenant: String, job: String, stood: Stood, state: JobState, reason: JobReason },
}

/// How a job stood that something was planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stood {
    epoch: u64,
    state: JobState,
}

impl Stood {
    pub(crate) const fn of(job: &Job) -> Self {
        Self { epoch: job.epoch, state: job.state }
    }
}

/// What is to be done, and when to look again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) next: Option<Timestamp>,
}

impl Plan {
    fn look(&mut self, at: Timestamp) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// What becomes of one job now.
enum Due {
    /// Nothing before this moment.
    At(Timestamp),
    /// It may be given to a worker; if none has room, something else becomes of it at this moment.
    Given(Timestamp),
    Act(Action),
}

/// Plans.
pub(crate) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut crew = Crew::new(view);
    for worker in view.workers.iter().filter(|worker| !worker.dead) {
        if worker.until <= view.now {
            let (tenant, worker) = (worker.tenant.clone(), worker.id.clone());
            plan.actions.push(Action::Bury { tenant, worker });
        } else {
            plan.look(worker.until);
        }
    }
    let mut waiting: BTreeMap<&str, Vec<&Arc<Job>>> = BTreeMap::new();
    for job in view.jobs {
        match due(view, &crew, job) {
            Due::Act(action) => plan.actions.push(action),
            Due::At(at) => plan.look(at),
            Due::Given(at) => {
                plan.look(at);
                waiting.entry(&job.tenant).or_default().push(job);
            }
        }
    }
    place(view.now, &mut crew, waiting, &mut plan);
    plan
}

/// How long a job may take: by its own word, its pool's, or ours.
pub(crate) fn limits(own: JobLimits, pool: Option<&Pool>) -> [Duration; 4] {
    let pools = pool.map(|pool| pool.spec.limits).unwrap_or_default();
    let both = [
        (own.queue, pools.queue),
        (own.dispatch, pools.dispatch),
        (own.run, pools.run),
        (own.total, pools.total),
    ];
    let mut limits = JOB_LIMITS;
    for (limit, (own, pool)) in limits.iter_mut().zip(both) {
        if let Some(span) = own.or(pool) {
            *limit = span.0;
        }
    }
    limits
}

fn end(job: &Job, state: JobState, reason: JobReason) -> Due {
    let (tenant, stood) = (job.tenant.clone(), Stood::of(job));
    Due::Act(Action::End { tenant, job: job.id.clone(), stood, state, reason })
}

fn due(view: &View<'_>, crew: &Crew<'_>, job: &Job) -> Due {
    let held = job.hold.as_ref().filter(|_| job.state.is_leased());
    let pool = match held {
        Some(hold) => view.pools.iter().find(|pool| pool.name == hold.pool && pool.is_for(&job.tenant)),
        None => crew.pool(job),
    };
    let [queue, dispatch, run, total] = limits(job.spec.limits, pool);
    // A job that may not begin before some moment is not late before it.
    let last = job.spec.after.map_or(job.created, |after| after.max(job.created)).plus(total);
    if last <= view.now {
        return end(job, JobState::TimedOut, JobReason::TotalTimeout);
    }
    match (job.state, held) {
        (JobState::Scheduled, _) => match job.until {
            Some(until) if until > view.now => Due::At(until.min(last)),
            _ => Due::Act(Action::Ready { tenant: job.tenant.clone(), job: job.id.clone() }),
        },
        (JobState::Pending, _) => {
            let last = job.changed.plus(queue).min(last);
            if last <= view.now {
                end(job, JobState::TimedOut, JobReason::QueueTimeout)
            } else {
                Due::Given(last)
            }
        }
        (JobState::Dispatched | JobState::Running, Some(hold)) => {
            if crew.is_lost(&job.tenant, hold) {
                return lost(view.now, job, pool);
            }
            let (since, most) = match hold.started {
                Some(started) => (started, run),
                None => (hold.dispatched, dispatch),
            };
            let last = since.plus(most).min(last);
            match (last <= view.now, hold.started) {
                (false, _) => Due::At(last),
                (true, Some(_)) => end(job, JobState::TimedOut, JobReason::RunTimeout),
                (true, None) => again(view.now, job, pool, JobReason::NotStarted),
            }
        }
        _ => Due::At(last),
    }
}

/// What becomes of a job whose worker is lost. Without its pool it is treated as by a pool that says nothing.
fn lost(now: Timestamp, job: &Job, pool: Option<&Pool>) -> Due {
    let started = job.hold.as_ref().is_some_and(|hold| hold.started.is_some());
    let may = match pool.map(|pool| pool.spec.reassign).unwrap_or_default() {
        Reassign::Idempotent => !started || job.spec.idempotent,
        Reassign::NotStarted => !started,
        Reassign::Never => false,
    };
    if may {
        return again(now, job, pool, JobReason::WorkerLost);
    }
    let reason =
        if started && !job.spec.idempotent { JobReason::NotIdempotent } else { JobReason::WorkerLost };
    end(job, JobState::DeadLettered, reason)
}

/// A job's lease is over, and it may be given out again, if it was not too often.
fn again(now: Timestamp, job: &Job, pool: Option<&Pool>, reason: JobReason) -> Due {
    let most = pool.map_or(1, |pool| pool.spec.max_attempts);
    if job.attempts >= most {
        return end(job, JobState::DeadLettered, JobReason::AttemptsExhausted);
    }
    let until = now.plus(pause(pool, job.attempts));
    let (tenant, stood) = (job.tenant.clone(), Stood::of(job));
    Due::Act(Action::Requeue { tenant, job: job.id.clone(), stood, reason, until })
}

/// The pause after so many tries.
pub(crate) fn pause(pool: Option<&Pool>, tries: u32) -> Duration {
    let backoff = pool.map(|pool| pool.spec.backoff).unwrap_or_default();
    let times = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
    backoff.base.0.saturating_mul(times).min(backoff.max.0)
}

/// A job's place in its tenant's queue: the smallest first.
fn rank(now: Timestamp, job: &Job) -> (std::cmp::Reverse<u64>, Timestamp, &str) {
    let waited = now.since(job.created).as_secs() / AGING.as_secs();
    (std::cmp::Reverse(u64::from(job.spec.priority).saturating_add(waited)), job.created, &job.id)
}

/// Gives jobs to workers, in turn to each tenant: the one first of whose jobs the fewest are under way.
fn place(now: Timestamp, crew: &mut Crew<'_>, mut waiting: BTreeMap<&str, Vec<&Arc<Job>>>, plan: &mut Plan) {
    for jobs in waiting.values_mut() {
        // The next one stands at the end.
        jobs.sort_unstable_by(|a, b| rank(now, b).cmp(&rank(now, a)));
    }
    // What no worker takes now: others of the same kind need not be tried.
    let mut nowhere: HashSet<crew::Kind<'_>> = HashSet::new();
    let mut given = 0;
    while given < AT_ONCE {
        let open = waiting.iter().filter(|(tenant, jobs)| !jobs.is_empty() && crew.has_room(tenant));
        let Some((tenant, _)) = open.min_by_key(|(tenant, _)| (crew.under_way(tenant), **tenant)) else {
            break;
        };
        let tenant: &str = tenant;
        let Some(job) = waiting.get_mut(tenant).and_then(Vec::pop) else { break };
        let kind = crew::Kind::of(job);
        if nowhere.contains(&kind) {
            continue;
        }
        match crew.take(job) {
            Some((worker, pool)) => {
                plan.actions.push(Action::Dispatch {
                    tenant: job.tenant.clone(),
                    job: job.id.clone(),
                    worker,
                    pool,
                });
                given += 1;
            }
            None => {
                nowhere.insert(kind);
            }
        }
    }
    if given == AT_ONCE {
        plan.look(now);
    }
}
