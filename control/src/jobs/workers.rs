//! Workers: their signs of life, and what they are told.

use std::collections::BTreeMap;
use std::time::Duration;

use sideguard_policy::PolicySet;
use sideguard_runtime::clock;
use sideguard_store::StoreError;
use sideguard_store::documents::{Expect, Revision};
use sideguard_types::control::jobs::{Health, Lease, Told, Work, Worker};
use sideguard_types::time::Timestamp;

use super::{Jobs, places, state};
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::Principal;
use crate::scheduler::{Registered, works_in};

/// How long a question is held when there is nothing to tell.
const HELD: Duration = Duration::from_millis(2_000);
/// A sign of life is written down no more often than this.
const COARSE: Duration = Duration::from_secs(1);
/// By so much the promise to a worker is shorter than what control waits: for clocks of replicas that differ.
const MARGIN: Duration = Duration::from_millis(1_500);
/// How long a worker that is in no pool is waited for.
const ALONE: [Duration; 2] = [Duration::from_secs(6), Duration::from_secs(15)];
/// How long a worker is remembered after it was heard of last.
const FORGOTTEN: Duration = Duration::from_secs(86_400);
/// Longest name, most of them, and most jobs at once of a worker.
const TEXT: usize = 128;
const SEVERAL: usize = 64;
const PARALLEL: u32 = 1_000;

impl Jobs {
    /// Takes a sign of life and tells what is new, as soon as there is something, or after a while.
    pub(crate) async fn work(&self, waiting: &Waiting, who: &Principal, work: Work) -> Result<Told, Failure> {
        check(&work)?;
        who.speaks_for(&work.skills.agent)?;
        let tenant = who.sidecars_tenant();
        let set = self.judge.set(&self.store, waiting, clock::now(), tenant).await.ok();
        let since = clock::Stopwatch::start();
        let notify = self.board.notify(tenant, &who.name);
        loop {
            // Listened for before it is looked at, so that nothing in between is missed.
            let news = notify.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let (worker, fresh) = self.heard(set.as_deref(), tenant, &who.name, &work).await?;
            let over = self.over(&worker, &work.leases, fresh).await?;
            let jobs = self.board.waiting(&worker, &work.leases);
            let left = HELD.saturating_sub(since.elapsed());
            if !over.is_empty() || !jobs.is_empty() || left.is_zero() || fresh {
                // Counted by the worker from when it sent its question. Looked at before the clock: a pause in between makes
                // the lease shorter.
                let held = since.elapsed();
                let lease = worker.until.since(clock::now()).saturating_sub(MARGIN).saturating_add(held);
                let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(0);
                let refused = set.as_deref().map(|set| refused(set, &worker)).unwrap_or_default();
                return Ok(Told { jobs, over, lease_ms, refused });
            }
            let _ = tokio::time::timeout(left, news).await;
        }
    }

    /// Writes down that a worker was heard of, if it is time; tells whether its session is new.
    async fn heard(
        &self,
        set: Option<&PolicySet>,
        tenant: &str,
        id: &str,
        work: &Work,
    ) -> Result<(Registered, bool), Failure> {
        for _ in 0..super::TRIES {
            let now = clock::now();
            let known = match self.board.worker(tenant, id) {
                Some((worker, revision)) => Some(((*worker).clone(), revision)),
                None => self.read_worker(now, tenant, id).await?,
            };
            let before = known.as_ref().map(|(worker, _)| worker);
            let goes_on = before.is_some_and(|worker| !worker.dead && worker.process == work.process);
            if let Some(worker) = before.filter(|worker| {
                goes_on
                    && now.since(worker.seen) < COARSE
                    && worker.skills == work.skills
                    && worker.draining == work.draining
            }) {
                return Ok((worker.clone(), false));
            }
            let mut worker = Registered {
                id: id.to_owned(),
                tenant: tenant.to_owned(),
                skills: work.skills.clone(),
                process: work.process.clone(),
                session: before.map_or(1, |worker| worker.session + u64::from(!goes_on)),
                seen: now,
                fresh: now,
                until: now,
                draining: work.draining,
                drained: before.is_some_and(|worker| worker.drained),
                dead: false,
            };
            let [stale, dead] = patience(set, &worker);
            worker.fresh = now.plus(stale);
            // What was promised before holds on.
            worker.until = before.filter(|_| goes_on).map_or(now, |worker| worker.until).max(now.plus(dead));
            let expect = known.as_ref().map_or(Expect::Absent, |(_, revision)| Expect::Revision(*revision));
            match self.write_worker(now, &worker, expect).await {
                Ok(()) => return Ok((worker, !goes_on)),
                Err(Failure::Store(StoreError::Conflict { .. })) => {
                    self.reread_worker(now, tenant, id).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Failure::Conflict(format!("another process speaks for worker `{id}`")))
    }

    /// The leases that a worker names and has not. In a new session it has none of those before.
    async fn over(&self, worker: &Registered, named: &[Lease], fresh: bool) -> Result<Vec<Lease>, Failure> {
        let mut over = Vec::new();
        for lease in named {
            let holds = |job: &sideguard_types::job::Job| {
                let session = job.hold.as_ref().is_some_and(|hold| hold.session == worker.session);
                session && state::holds(job, &worker.id, lease.epoch)
            };
            let known = self.board.job(&worker.tenant, &lease.job);
            if !fresh && known.is_some_and(|(job, _)| holds(&job)) {
                continue;
            }
            // The board may be behind.
            let read = self.open_job(clock::now(), &worker.tenant, &lease.job).await?;
            if fresh || !read.is_some_and(|(job, _)| holds(&job)) {
                over.push(lease.clone());
            }
        }
        Ok(over)
    }

    pub(super) async fn read_worker(
        &self,
        now: Timestamp,
        tenant: &str,
        id: &str,
    ) -> Result<Option<(Registered, Revision)>, Failure> {
        let key = places::worker(tenant, id)?;
        let Some(document) = self.store.documents.get(now, &key).await? else { return Ok(None) };
        let worker = serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(key.to_string()))?;
        Ok(Some((worker, document.revision)))
    }

    async fn reread_worker(&self, now: Timestamp, tenant: &str, id: &str) -> Result<(), Failure> {
        if let Some((worker, revision)) = self.read_worker(now, tenant, id).await? {
            self.board.put_worker(tenant, id, Some(worker), revision);
        }
        Ok(())
    }

    pub(super) async fn write_worker(
        &self,
        now: Timestamp,
        worker: &Registered,
        expect: Expect,
    ) -> Result<(), Failure> {
        let key = places::worker(&worker.tenant, &worker.id)?;
        let value = super::bytes(worker)?;
        let expires = Some(remembered(now, worker));
        let revision = self.store.documents.put(now, &key, value, expect, expires).await?;
        self.board.put_worker(&worker.tenant, &worker.id, Some(worker.clone()), revision);
        Ok(())
    }

    /// Workers, as people see them.
    pub(crate) fn workers(&self, who: &Principal, tenant: Option<&str>, now: Timestamp) -> Vec<Worker> {
        let workers = self.board.moment().workers.into_iter();
        let seen = workers.filter(|worker| {
            who.reaches(&worker.tenant) && tenant.is_none_or(|tenant| tenant == worker.tenant)
        });
        seen.map(|worker| self.shown(&worker, now)).collect()
    }

    fn shown(&self, worker: &Registered, now: Timestamp) -> Worker {
        let health = match (worker.dead || worker.until <= now, worker.fresh > now) {
            (true, _) => Health::Dead,
            (false, true) => Health::Live,
            (false, false) => Health::Stale,
        };
        Worker {
            id: worker.id.clone(),
            tenant: worker.tenant.clone(),
            health,
            seen: worker.seen,
            draining: worker.draining || worker.drained,
            jobs: self.board.leases(&worker.tenant, &worker.id),
            skills: worker.skills.clone(),
        }
    }

    /// Lets a worker have no more jobs, or have some again.
    pub(crate) async fn drain(
        &self,
        who: &Principal,
        tenant: &str,
        id: &str,
        drained: bool,
    ) -> Result<Worker, Failure> {
        let missing = || Failure::Missing(format!("worker `{}`", id.chars().take(64).collect::<String>()));
        if !who.reaches(tenant) {
            return Err(missing());
        }
        for _ in 0..super::TRIES {
            let now = clock::now();
            let (mut worker, revision) = self.read_worker(now, tenant, id).await?.ok_or_else(missing)?;
            worker.drained = drained;
            match self.write_worker(now, &worker, Expect::Revision(revision)).await {
                Ok(()) => return Ok(self.shown(&worker, now)),
                Err(Failure::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Failure::Conflict(format!("worker `{id}` changes all the time: try again")))
    }
}

/// When a worker is forgotten: not while it was promised a lease.
pub(super) fn remembered(now: Timestamp, worker: &Registered) -> Timestamp {
    now.max(worker.until).plus(FORGOTTEN)
}

/// How long a silent worker gets new jobs, and how long it keeps those that it has: as the strictest of its pools says.
fn patience(set: Option<&PolicySet>, worker: &Registered) -> [Duration; 2] {
    let pools = set.map(PolicySet::pools).unwrap_or_default().iter();
    let own = pools.filter(|pool| works_in(worker, pool)).map(|pool| pool.spec.heartbeat);
    own.fold(None, |least: Option<[Duration; 2]>, beat| {
        let [stale, dead] = least.unwrap_or([Duration::MAX; 2]);
        Some([stale.min(beat.stale.0), dead.min(beat.dead.0)])
    })
    .unwrap_or(ALONE)
}

/// Pools that a worker wants to work in and that do not take it.
fn refused(set: &PolicySet, worker: &Registered) -> BTreeMap<String, String> {
    let Registered { tenant, skills, .. } = worker;
    let wrong = |name: &String| {
        let pool = set.pools().iter().find(|pool| pool.name == *name && pool.is_for(tenant));
        let why = match pool {
            None => "there is no such pool".to_owned(),
            Some(pool) if !works_in(worker, pool) => {
                format!("it does not take the agent `{}` with these labels", skills.agent)
            }
            Some(_) => return None,
        };
        Some((name.clone(), why))
    };
    skills.pools.iter().filter_map(wrong).collect()
}

/// Refuses what is larger than it may be.
fn check(work: &Work) -> Result<(), Failure> {
    let Work { skills, process, leases, .. } = work;
    let labels = skills.labels.iter().flat_map(|(name, value)| [name, value]);
    let mut texts = [&skills.agent, process].into_iter().chain(&skills.pools).chain(&skills.capabilities);
    let long = |text: &String| text.len() > TEXT;
    if texts.any(long) || labels.into_iter().any(long) {
        return Err(Failure::Invalid(format!("a name of a worker is longer than {TEXT} bytes")));
    }
    let lists = [skills.pools.len(), skills.capabilities.len(), skills.labels.len()];
    if lists.iter().any(|length| *length > SEVERAL) || leases.len() > PARALLEL as usize {
        return Err(Failure::Invalid("too many pools, capabilities, labels or leases".to_owned()));
    }
    if skills.max_parallel == 0 || skills.max_parallel > PARALLEL {
        return Err(Failure::Invalid(format!("`maxParallel` is between 1 and {PARALLEL}")));
    }
    Ok(())
}
