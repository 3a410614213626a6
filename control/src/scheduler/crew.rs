//! Who has room for which job. Counts go down as a plan gives jobs out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sideguard_policy::pool::{Pool, has_all};
use sideguard_types::job::{Hold, Job};

use super::{Registered, View};

/// All workers that may be given jobs, with their room.
#[derive(Debug)]
pub(super) struct Crew<'v> {
    view: View<'v>,
    sessions: HashMap<(&'v str, &'v str), u64>,
    tenants: BTreeMap<&'v str, Tenant<'v>>,
    /// Jobs under way, by the pool's place in the view.
    pools: Vec<u32>,
    /// The pools that take a topic, by their places in the view.
    takers: HashMap<(&'v str, &'v str), Vec<usize>>,
}

#[derive(Debug, Default)]
struct Tenant<'v> {
    slots: Vec<Slot<'v>>,
    under_way: usize,
    room: u32,
}

/// A worker with what it has.
#[derive(Debug)]
struct Slot<'v> {
    worker: &'v Registered,
    held: u32,
    /// The pools that it works in, by their places in the view.
    pools: Vec<usize>,
}

/// What workers look at in a job: of two of one kind a worker takes both or neither.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind<'j> {
    tenant: &'j str,
    topic: &'j str,
    requires: &'j [String],
    placement: &'j BTreeMap<String, String>,
    by: &'j str,
    chain: &'j [String],
}

impl<'j> Kind<'j> {
    pub(super) fn of(job: &'j Job) -> Self {
        let Job { tenant, spec, by, .. } = job;
        Self {
            tenant,
            topic: &spec.topic,
            requires: &spec.requires,
            placement: &spec.placement,
            by: &by.name,
            chain: &by.chain,
        }
    }
}

impl<'v> Crew<'v> {
    pub(super) fn new(view: &View<'v>) -> Self {
        let View { now, pools, workers, jobs, stopped } = *view;
        let live = workers.iter().filter(|worker| !worker.dead);
        let mut crew = Self {
            view: *view,
            sessions: live
                .clone()
                .map(|worker| ((worker.tenant.as_str(), worker.id.as_str()), worker.session))
                .collect(),
            tenants: BTreeMap::new(),
            pools: vec![0; pools.len()],
            takers: HashMap::new(),
        };
        let mut held: HashMap<(&str, &str), u32> = HashMap::new();
        for job in jobs {
            crew.know(job);
            let Some(hold) = job.hold.as_ref().filter(|_| job.state.is_leased()) else { continue };
            *held.entry((job.tenant.as_str(), hold.worker.as_str())).or_default() += 1;
            crew.tenants.entry(job.tenant.as_str()).or_default().under_way += 1;
            let own = pools.iter().position(|pool| pool.name == hold.pool && pool.is_for(&job.tenant));
            if let Some(count) = own.and_then(|at| crew.pools.get_mut(at)) {
                *count += 1;
            }
        }
        for worker in live.filter(|worker| worker.fresh > now && !worker.draining && !worker.drained) {
            let Registered { id, tenant, skills, .. } = &**worker;
            if stopped.iter().any(|scope| scope.holds(tenant, &skills.agent)) {
                continue;
            }
            let held = held.get(&(tenant.as_str(), id.as_str())).copied().unwrap_or(0);
            let own = pools.iter().enumerate().filter(|(_, pool)| works_in(worker, pool));
            let slot = Slot { worker, held, pools: own.map(|(at, _)| at).collect() };
            let of = crew.tenants.entry(tenant.as_str()).or_default();
            of.room = of.room.saturating_add(slot.room());
            of.slots.push(slot);
        }
        crew
    }

    /// Finds the pools of a job, once for each topic.
    fn know(&mut self, job: &'v Job) {
        let (tenant, topic) = (job.tenant.as_str(), job.spec.topic.as_str());
        let pools = self.view.pools;
        self.takers.entry((tenant, topic)).or_insert_with(|| {
            let takes = pools.iter().enumerate().filter(|(_, pool)| pool.takes(tenant, topic));
            takes.map(|(at, _)| at).collect()
        });
    }

    fn takers<'c>(&'c self, job: &'c Job) -> &'c [usize] {
        let known: &HashMap<(&str, &str), Vec<usize>> = &self.takers;
        known.get(&(job.tenant.as_str(), job.spec.topic.as_str())).map(Vec::as_slice).unwrap_or_default()
    }

    /// The first pool that takes a job.
    pub(super) fn pool(&self, job: &Job) -> Option<&'v Pool> {
        self.takers(job).first().and_then(|at| self.view.pools.get(*at))
    }

    /// Whether a lease's worker has no such lease any more.
    pub(super) fn is_lost(&self, tenant: &str, hold: &Hold) -> bool {
        self.sessions.get(&(tenant, hold.worker.as_str())) != Some(&hold.session)
    }

    pub(super) fn has_room(&self, tenant: &str) -> bool {
        self.tenants.get(tenant).is_some_and(|tenant| tenant.room > 0)
    }

    pub(super) fn under_way(&self, tenant: &str) -> usize {
        self.tenants.get(tenant).map_or(0, |tenant| tenant.under_way)
    }

    /// Takes a place for a job: with the least loaded worker that can do it, if possible not the one that had it last.
    pub(super) fn take(&mut self, job: &Arc<Job>) -> Option<(String, String)> {
        let by = [&job.by.name].into_iter().chain(&job.by.chain);
        let killed = |agent: &String| self.view.stopped.iter().any(|scope| scope.holds(&job.tenant, agent));
        if by.into_iter().any(killed) {
            return None;
        }
        let before = job.hold.as_ref().map(|hold| hold.worker.as_str());
        let tenant = self.tenants.get(job.tenant.as_str())?;
        let places = tenant.slots.iter().enumerate().filter_map(|(at, slot)| {
            let pool = self.free_pool(slot, job)?;
            let load = u64::from(slot.held) * 1_000 / u64::from(slot.worker.skills.max_parallel.max(1));
            let again = before == Some(slot.worker.id.as_str());
            Some(((again, load, slot.held, slot.worker.id.as_str()), at, pool))
        });
        let (_, at, pool) = places.min_by(|one, other| one.0.cmp(&other.0))?;
        let tenant = self.tenants.get_mut(job.tenant.as_str())?;
        let slot = tenant.slots.get_mut(at)?;
        slot.held += 1;
        tenant.room = tenant.room.saturating_sub(1);
        tenant.under_way += 1;
        if let Some(count) = self.pools.get_mut(pool) {
            *count += 1;
        }
        Some((slot.worker.id.clone(), self.view.pools.get(pool)?.name.clone()))
    }

    /// A pool by which a worker can do a job now.
    fn free_pool(&self, slot: &Slot<'_>, job: &Job) -> Option<usize> {
        let skills = &slot.worker.skills;
        let able = job.spec.requires.iter().all(|wanted| skills.capabilities.contains(wanted));
        if slot.room() == 0 || !able || !has_all(&skills.labels, &job.spec.placement) {
            return None;
        }
        let free = |at: &&usize| {
            let (Some(pool), Some(count)) = (self.view.pools.get(**at), self.pools.get(**at)) else {
                return false;
            };
            slot.pools.contains(at)
                && !pool.spec.drain
                && pool.spec.max_parallel.is_none_or(|most| *count < most)
        };
        self.takers(job).iter().find(free).copied()
    }
}

impl Slot<'_> {
    fn room(&self) -> u32 {
        self.worker.skills.max_parallel.saturating_sub(self.held)
    }
}

/// Whether a worker wants to work in a pool that takes it.
pub(crate) fn works_in(worker: &Registered, pool: &Pool) -> bool {
    let Registered { tenant, skills, .. } = worker;
    skills.pools.contains(&pool.name) && pool.admits(tenant, &skills.agent, &skills.labels)
}
