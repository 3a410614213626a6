//! The delegations that agents work under now, and which of them a call is made under: that of the job that it is made for,
//! where that is known; else those that came with its trace; else all that the agent has open.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sideguard_policy::chain::{Purse, Taken, Verified, Want};
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_types::call::Caller;
use sideguard_types::delegation::{Allowance, Correlation, OpenDelegation};
use sideguard_types::resource::{Correlate, DelegationSpec};
use sideguard_types::time::Timestamp;

/// Most delegations that are open at once; further work is refused.
const OPEN: usize = 10_000;
/// Most links that are remembered as used up; beyond that further work is refused.
const SEEN: usize = 200_000;

/// What an agent works on under a delegation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// A job, by its id.
    Job(String),
    /// A request that came in, by its id in the record.
    Request(String),
}

/// A delegation that an agent works under.
#[derive(Debug)]
pub(crate) struct Open {
    key: Key,
    /// The agent that works.
    holder: String,
    trace_id: Option<String>,
    pub(crate) verified: Verified,
    purse: Mutex<Purse>,
    since: Timestamp,
    /// Since when the work is answered.
    ended: Mutex<Option<Stopwatch>>,
}

/// The delegations that one call is made under.
#[derive(Debug, Clone)]
pub(crate) struct Under {
    /// How that is known.
    pub(crate) by: Correlation,
    pub(crate) open: Vec<Arc<Open>>,
}

/// What a call holds of a delegation's budget. Lost unsettled, it is charged in full.
#[derive(Debug)]
#[must_use]
pub(crate) struct Drawn {
    open: Arc<Open>,
    taken: Taken,
}

impl Drawn {
    /// Charges what was used and puts the rest back.
    pub(crate) fn settle(self, used: Want) {
        self.open.purse.lock().settle(self.taken, used);
    }
}

impl Open {
    /// Takes an amount out of its budget.
    ///
    /// # Errors
    /// The unit that does not fit.
    pub(crate) fn draw(self: &Arc<Self>, want: Want) -> Result<Drawn, &'static str> {
        let taken = self.purse.lock().take(want)?;
        Ok(Drawn { open: Arc::clone(self), taken })
    }

    /// What is left of its budget, in units that it limits.
    pub(crate) fn left(&self) -> Allowance {
        self.purse.lock().left()
    }

    /// A share of what is left, for work that is handed on.
    pub(crate) fn share(&self, wish: Allowance) -> Allowance {
        self.purse.lock().share(wish)
    }

    /// Ends its account, and tells what was used. Only for one that limits anything.
    pub(crate) fn close(&self) -> Want {
        self.purse.lock().close()
    }

    fn is_over(&self, grace: Duration) -> bool {
        // What is done for a job ends with it: nothing is left to be done in the background.
        let grace = if matches!(self.key, Key::Job(_)) { Duration::ZERO } else { grace };
        self.ended.lock().is_some_and(|ended| ended.elapsed() >= grace)
    }

    fn listed(&self) -> OpenDelegation {
        let hops = &self.verified.hops;
        let agents = hops.iter().map(|hop| hop.agent.clone()).chain([self.holder.clone()]);
        OpenDelegation {
            id: self.verified.link().to_owned(),
            agents: agents.collect(),
            links: hops.iter().map(|hop| hop.link.clone()).collect(),
            since: self.since,
            expires: self.verified.expires,
        }
    }
}

/// All that are open.
#[derive(Debug)]
pub(crate) struct Delegations {
    rules: DelegationSpec,
    /// When this process began: what was made before may have been used already.
    began: Timestamp,
    open: Mutex<HashMap<String, Vec<Arc<Open>>>>,
    /// Links that were used, until they expire.
    seen: Mutex<HashMap<String, Timestamp>>,
}

/// Why work is not taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    /// Its link was brought before.
    #[error("the chain was used already: each is good for one request")]
    Used,
    /// It may have been, before this process began.
    #[error("the chain was made before this sidecar began: it may have been used already")]
    Older,
    /// There is too much already.
    #[error("too many delegations are open here")]
    Full,
}

/// An agent works under a delegation for as long as this is kept, and a little longer.
#[derive(Debug)]
#[must_use = "the delegation ends when this is dropped"]
pub(crate) struct Guard(pub(crate) Arc<Open>);

impl Drop for Guard {
    fn drop(&mut self) {
        *self.0.ended.lock() = Some(Stopwatch::start());
    }
}

impl Delegations {
    pub(crate) fn new(rules: DelegationSpec) -> Self {
        Self { rules, began: clock::now(), open: Mutex::default(), seen: Mutex::default() }
    }

    /// Uses a chain up: its last link is good once.
    ///
    /// # Errors
    /// When it was used, or may have been.
    pub(crate) fn once(&self, verified: &Verified, now: Timestamp) -> Result<(), NotTaken> {
        if verified.issued < self.began {
            return Err(NotTaken::Older);
        }
        let mut seen = self.seen.lock();
        if seen.contains_key(verified.link()) {
            return Err(NotTaken::Used);
        }
        if seen.len() >= SEEN {
            seen.retain(|_, expires| *expires > now);
        }
        if seen.len() >= SEEN {
            return Err(NotTaken::Full);
        }
        seen.insert(verified.link().to_owned(), verified.expires);
        Ok(())
    }

    /// Opens a delegation for an agent. `trace_id` is that of the request that brought the work.
    ///
    /// # Errors
    /// When too many are open.
    pub(crate) fn open(
        &self,
        key: Key,
        holder: &str,
        trace_id: Option<String>,
        verified: Verified,
    ) -> Result<Guard, NotTaken> {
        let mut all = self.open.lock();
        let grace = self.rules.grace.0;
        if all.values().map(Vec::len).sum::<usize>() >= OPEN {
            all.values_mut().for_each(|open| open.retain(|one| !one.is_over(grace)));
            all.retain(|_, open| !open.is_empty());
            if all.values().map(Vec::len).sum::<usize>() >= OPEN {
                return Err(NotTaken::Full);
            }
        }
        let open = Arc::new(Open {
            key,
            holder: holder.to_owned(),
            trace_id,
            purse: Mutex::new(Purse::new(verified.budget)),
            verified,
            since: clock::now(),
            ended: Mutex::new(None),
        });
        let own = all.entry(holder.to_owned()).or_default();
        // Of a job that comes again the last try is over.
        own.retain(|before| before.key != open.key);
        own.push(Arc::clone(&open));
        Ok(Guard(open))
    }

    /// The delegations that a call of `agent` is made under; none when it has none open. `job` is the one that it is made for,
    /// where that is certain.
    pub(crate) fn of(&self, agent: &str, job: Option<&str>, trace_id: Option<&str>) -> Option<Under> {
        let mut all = self.open.lock();
        let open = all.get_mut(agent)?;
        open.retain(|one| !one.is_over(self.rules.grace.0));
        if open.is_empty() {
            all.remove(agent);
            return None;
        }
        let those = |fits: &dyn Fn(&Open) -> bool| -> Vec<Arc<Open>> {
            open.iter().filter(|one| fits(one)).cloned().collect()
        };
        if let Some(job) = job {
            let found = those(&|one| matches!(&one.key, Key::Job(own) if own == job));
            // A job that came with no chain was a person's: the agent does it in its own right.
            return (!found.is_empty()).then_some(Under { by: Correlation::Job, open: found });
        }
        if let (Some(trace), Correlate::Trace) = (trace_id, self.rules.correlation) {
            let found = those(&|one| one.trace_id.as_deref() == Some(trace));
            if !found.is_empty() {
                return Some(Under { by: Correlation::Trace, open: found });
            }
        }
        let all = those(&|_| true);
        let by = match all.as_slice() {
            [only] if matches!(only.key, Key::Job(_)) => Correlation::Job,
            _ => Correlation::Meet,
        };
        Some(Under { by, open: all })
    }

    /// Whether a trace is believed where it says what a call belongs to.
    pub(crate) fn believes_traces(&self) -> bool {
        self.rules.correlation == Correlate::Trace
    }

    /// The newest that are open, at most so many.
    pub(crate) fn newest(&self, most: usize) -> Vec<OpenDelegation> {
        let mut listed: Vec<OpenDelegation> = {
            let all = self.open.lock();
            let open = all.values().flatten().filter(|one| !one.is_over(self.rules.grace.0));
            open.map(|one| one.listed()).collect()
        };
        listed.sort_by_key(|one| std::cmp::Reverse(one.since));
        listed.truncate(most);
        listed
    }
}

impl Under {
    /// The caller, with the chain that it works under.
    pub(crate) fn place(&self, caller: &Caller) -> Caller {
        let mut placed = caller.clone();
        for open in &self.open {
            for hop in open.verified.hops.iter() {
                if !placed.chain.contains(&hop.agent) {
                    placed.chain.push(hop.agent.clone());
                }
            }
            placed.delegations.push(Arc::clone(&open.verified.hops));
        }
        placed
    }

    /// What is left of all budgets, in units that any of them limits.
    pub(crate) fn left(&self) -> Allowance {
        let left = self.open.iter().map(|open| open.left());
        left.fold(Allowance::default(), sideguard_policy::chain::within)
    }

    /// Takes an amount out of every budget, or out of none.
    ///
    /// # Errors
    /// The link whose budget it does not fit, and the unit.
    pub(crate) fn draw(&self, want: Want) -> Result<Vec<Drawn>, (String, &'static str)> {
        let mut drawn = Vec::with_capacity(self.open.len());
        for open in &self.open {
            match open.draw(want) {
                Ok(one) => drawn.push(one),
                Err(unit) => {
                    drawn.into_iter().for_each(|one: Drawn| one.settle(Want::default()));
                    return Err((open.verified.link().to_owned(), unit));
                }
            }
        }
        Ok(drawn)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use sideguard_policy::chain::{Verified, Want};
    use sideguard_runtime::clock;
    use sideguard_types::call::Caller;
    use sideguard_types::delegation::{Allowance, Chain, Correlation, Hop, Rights};
    use sideguard_types::resource::{Correlate, DelegationSpec};
    use sideguard_types::time::{Span, Timestamp};

    use super::{Delegations, Key, NotTaken};

    fn rules(correlation: Correlate) -> DelegationSpec {
        DelegationSpec { grace: Span(Duration::ZERO), correlation, ..DelegationSpec::default() }
    }

    fn chain(link: &str, agent: &str) -> Verified {
        let expires = clock::now().plus(Duration::from_secs(60));
        let hop = Hop {
            link: link.to_owned(),
            issuer: "s".to_owned(),
            agent: agent.to_owned(),
            rights: Rights::default(),
            expires,
        };
        Verified {
            chain: Arc::new(Chain { links: Vec::new() }),
            hops: Arc::new([hop]),
            budget: Allowance { calls: Some(1), ..Allowance::default() },
            issued: clock::now(),
            expires,
        }
    }

    fn request(id: &str) -> Key {
        Key::Request(id.to_owned())
    }

    #[test]
    fn a_call_is_told_apart_by_job_then_by_trace_and_else_all_hold() {
        let all = Delegations::new(rules(Correlate::Trace));
        assert!(all.of("b", None, Some("t")).is_none(), "in its own right");
        let open = |key, trace: Option<&str>, link, agent| {
            all.open(key, "b", trace.map(str::to_owned), chain(link, agent)).expect("opened")
        };
        let _one = open(request("1"), Some("t1"), "l1", "a");
        let two = open(request("2"), Some("t2"), "l2", "root");
        let _three = open(Key::Job("j".to_owned()), None, "l3", "planner");
        let found = |job: Option<&str>, trace: Option<&str>| {
            let under = all.of("b", job, trace).expect("some are open");
            (under.by, under.place(&Caller::default()).chain.join(" "))
        };
        assert_eq!(found(Some("j"), Some("t1")), (Correlation::Job, "planner".to_owned()));
        assert_eq!(found(None, Some("t2")), (Correlation::Trace, "root".to_owned()));
        assert_eq!(found(None, Some("other")), (Correlation::Meet, "a root planner".to_owned()));
        assert!(all.of("b", Some("other"), None).is_none(), "a job that nobody delegated");
        assert!(all.of("c", None, None).is_none(), "another agent's are not its own");
        drop(two);
        assert_eq!(found(None, Some("t2")), (Correlation::Meet, "a planner".to_owned()));
    }

    #[test]
    fn an_agent_that_is_not_trusted_to_tell_is_held_to_all() {
        let all = Delegations::new(rules(Correlate::Meet));
        let _one = all.open(request("1"), "b", Some("t1".to_owned()), chain("l1", "a")).expect("opened");
        let _two = all.open(request("2"), "b", Some("t2".to_owned()), chain("l2", "c")).expect("opened");
        assert_eq!(all.of("b", None, Some("t1")).expect("open").open.len(), 2);
    }

    #[test]
    fn a_chain_is_good_once_and_not_from_before_the_start() {
        let all = Delegations::new(rules(Correlate::Trace));
        let one = chain("l1", "a");
        assert_eq!(all.once(&one, clock::now()), Ok(()));
        assert_eq!(all.once(&one, clock::now()), Err(NotTaken::Used));
        let old = Verified { issued: Timestamp(1), ..chain("l2", "a") };
        assert_eq!(all.once(&old, clock::now()), Err(NotTaken::Older));
    }

    #[test]
    fn a_call_under_several_is_charged_to_each_or_to_none() {
        let all = Delegations::new(rules(Correlate::Trace));
        let call = Want { calls: 1, ..Want::default() };
        let one = all.open(request("1"), "b", None, chain("l1", "a")).expect("opened");
        let _two = all.open(request("2"), "b", None, chain("l2", "c")).expect("opened");
        let under = all.of("b", None, None).expect("open");
        let first = one.0.draw(call).expect("room");
        assert_eq!(under.draw(call).err(), Some(("l1".to_owned(), "calls")));
        first.settle(Want::default());
        assert_eq!(under.draw(call).expect("room").len(), 2);
        assert_eq!(under.left().calls, Some(0));
    }
}
