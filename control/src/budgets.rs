//! Budgets of the fleet: sidecars draw on leases, and what is settled and outstanding never exceeds a limit.
//!
//! The store's ledger has one account for each limit and each of what it is `per`; a lease holds part of one or several of
//! them, of all or of none. A sidecar spends from its leases without asking, tells what it spent, and is charged in full
//! for a lease of which it says nothing in time. Limits come from the generation in force, tenants from the sidecar's key:
//! a sidecar only says for whose calls it asks. [`account`] says how windows are counted, [`time`] by which clock.
//!
//! What a lost sidecar holds is out of reach until its leases expire: at most what its leases hold, for at most twice the
//! time that a lease may be drawn on.

mod account;
mod rules;
mod tend;
#[cfg(test)]
mod tests;
mod time;
mod view;

pub(crate) use view::Wanted;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sideguard_policy::ledger::{Subject, Touched};
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_store::documents::{Expect, Revision};
use sideguard_store::key::Key;
use sideguard_store::ledger::{Balance, Hold, LeaseId, Line, Standing, Turn};
use sideguard_store::{Store, StoreError};
use sideguard_types::control::budgets::{Answer, Ask, LeaseStanding, MOST_LINES, MOST_TURNS, Turned, Turns};
use sideguard_types::resource::Unit;
use sideguard_types::time::Timestamp;

use crate::desired;
use crate::error::Failure;
use crate::keys::Principal;
use account::Kept;
use rules::Rules;
use time::Moment;

/// Longest time between looking at an account and holding some of it: an account is forgotten only much later.
const PROMPT: Duration = Duration::from_secs(10);
/// Shortest and longest time for which a lease may be drawn on.
const LIFE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// Most accounts of a tenant, as far as the last look has seen.
const MOST_ACCOUNTS: usize = 200_000;
/// Longest name that a sidecar may say, in bytes, and most labels.
const LONGEST: usize = 1_024;
const MOST_LABELS: usize = 256;

/// Budgets of the fleet, as one service knows them.
#[derive(Debug)]
pub(crate) struct Budgets {
    /// For how long a lease may be drawn on.
    life: Duration,
    time: Mutex<(Moment, Stopwatch)>,
    rules: Mutex<Option<Arc<Rules>>>,
    started: Stopwatch,
    /// Whether anything was granted or told since the time was kept.
    busy: AtomicBool,
    /// Tenants with so many accounts that no more are opened: agents choose the names of sessions.
    crowded: Mutex<HashSet<String>>,
}

/// An account that is asked for.
struct Asked<'a> {
    limit: Touched<'a>,
    kept: Kept,
    account: Key,
    least: u64,
    want: u64,
}

impl Budgets {
    /// Budgets as the store knows them, with leases to be drawn on for `life`.
    pub(crate) async fn open(store: &Store, life: Duration) -> Result<Self, Failure> {
        let reached = tend::reached(store).await?;
        let now = (Moment::start(reached, clock::now()), Stopwatch::start());
        Ok(Self {
            life: life.clamp(*LIFE.start(), *LIFE.end()),
            time: Mutex::new(now),
            rules: Mutex::new(None),
            started: Stopwatch::start(),
            busy: AtomicBool::new(false),
            crowded: Mutex::default(),
        })
    }

    /// Now, by the clocks of budgets.
    fn now(&self) -> Moment {
        let mut time = self.time.lock();
        let (reached, since) = *time;
        *time = (reached.later(since.elapsed(), clock::now()), Stopwatch::start());
        time.0
    }

    /// The limits in force.
    async fn rules(&self, store: &Store) -> Result<Arc<Rules>, Failure> {
        let now = clock::now();
        let number = desired::number(store, now).await?;
        if let Some(known) = self.rules.lock().clone().filter(|known| known.generation == number) {
            return Ok(known);
        }
        let head = desired::head(store, now).await?;
        let rules = Arc::new(Rules::read(store, now, &head.kept).await?);
        *self.rules.lock() = Some(Arc::clone(&rules));
        Ok(rules)
    }

    /// Grants a lease.
    pub(crate) async fn hold(&self, store: &Store, who: &Principal, ask: Ask) -> Result<Answer, Failure> {
        let tenant = who.tenant.as_deref().ok_or(Failure::Forbidden("hold a lease: it is of no tenant"))?;
        if ask.lines.is_empty() || ask.lines.len() > MOST_LINES {
            return Err(Failure::Invalid(format!("a lease has 1 to {MOST_LINES} lines")));
        }
        let (rules, since) = (self.rules(store).await?, Stopwatch::start());
        let subject = &ask.subject;
        who.speaks_for(&subject.agent)?;
        check(subject)?;
        let subject = Subject {
            tenant,
            agent: &subject.agent,
            labels: &subject.labels,
            session: subject.session.as_deref(),
            model: subject.model.as_deref(),
        };
        let mut asked = Vec::with_capacity(ask.lines.len());
        for line in &ask.lines {
            let limit = rules.ledger.touched(&subject).find(|limit| **limit.limit == line.limit);
            let limit = limit.ok_or_else(|| {
                Failure::Conflict(format!("no limit `{}` in force covers the call", line.limit))
            })?;
            let (kept, account) = self.kept(store, &limit).await?;
            asked.push(Asked { limit, kept, account, least: line.least, want: line.want.max(line.least) });
        }
        let id = lease(tenant, &who.name, &ask.lease)?;
        let answer = self.grant(store, &id, &asked).await?;
        if since.elapsed() > PROMPT {
            store.ledger.close(&id, &vec![0; asked.len()]).await?;
            return Err(Failure::Conflict("the store took too long: ask again".to_owned()));
        }
        Ok(answer)
    }

    async fn grant(&self, store: &Store, id: &LeaseId, asked: &[Asked<'_>]) -> Result<Answer, Failure> {
        let accounts: Vec<Key> = asked.iter().map(|asked| asked.account.clone()).collect();
        let (now, balances) = (self.now(), store.ledger.balance(&accounts).await?);
        let mut lines = Vec::with_capacity(asked.len());
        let mut frees = Vec::with_capacity(asked.len());
        for (one, balance) in asked.iter().zip(&balances) {
            let window = one.limit.window;
            let limit =
                one.limit.amount.saturating_add(base(&one.limit, &one.kept, now.of(window), *balance));
            let free = limit.saturating_sub(balance.spent.saturating_add(balance.held));
            // The less there is, the smaller the parts: what one sidecar keeps is what others lack.
            let want = one.want.min(free / 4).max(one.least);
            frees.push(free);
            lines.push(Line { account: one.account.clone(), limit, want, least: one.least });
        }
        self.busy.store(true, Ordering::Relaxed);
        // What no call waits for is granted only where there is plenty: an idle slice is what others lack.
        let scarce = lines.iter().position(|line| line.want == 0);
        if let Some(at) = scarce.filter(|_| asked.iter().all(|one| one.least == 0))
            && let (Some(one), Some(balance), Some(free)) = (asked.get(at), balances.get(at), frees.get(at))
        {
            return Ok(short_of(one, *balance, *free, now));
        }
        let expires = now.steady.plus(self.life * 2);
        match store.ledger.hold(id, &lines, expires).await? {
            Hold::Held { granted } => {
                let free = frees.iter().zip(&granted).map(|(free, granted)| free.saturating_sub(*granted));
                Ok(Answer::Held { free: free.collect(), granted, millis: millis(self.life) })
            }
            Hold::Short { account, free } => {
                let short = asked.iter().zip(&balances).find(|(one, _)| one.account == account);
                let (one, balance) = short.ok_or_else(|| Failure::Broken(account.to_string()))?;
                Ok(short_of(one, *balance, free, now))
            }
        }
    }

    /// What is kept of an account; made when it is new.
    async fn kept(&self, store: &Store, limit: &Touched<'_>) -> Result<(Kept, Key), Failure> {
        let place = account::place(limit)?;
        for _ in 0..8 {
            let (kept, revision) = match read(store, &place).await? {
                Some((kept, revision)) if kept.closing.is_some() => {
                    (Kept { closing: None, ..kept }, Some(revision))
                }
                Some((kept, _)) => {
                    let account = account::account(&place, &kept.epoch)?;
                    return Ok((kept, account));
                }
                None if self.crowded.lock().contains(place.tenant()) => {
                    return Err(Failure::Conflict(format!(
                        "tenant `{}` has {MOST_ACCOUNTS} accounts: idle ones of limits with a window are soon forgotten",
                        place.tenant()
                    )));
                }
                None => (Kept::new(limit), None),
            };
            // Whoever else was faster has done the same.
            write(store, &place, &kept, revision).await?;
        }
        Err(Failure::Conflict("the account is changed by many at once: ask again".to_owned()))
    }

    /// Takes in what a sidecar tells of its leases.
    pub(crate) async fn turn(&self, store: &Store, who: &Principal, told: Turns) -> Result<Turned, Failure> {
        let tenant = who.tenant.as_deref().ok_or(Failure::Forbidden("hold a lease: it is of no tenant"))?;
        if told.turns.len() > MOST_TURNS {
            return Err(Failure::Invalid(format!("more than {MOST_TURNS} turns at once")));
        }
        let mut standings = Vec::with_capacity(told.turns.len());
        for turn in told.turns {
            let id = lease(tenant, &who.name, &turn.lease)?;
            let settled = if turn.keep.iter().all(|keep| *keep == 0) {
                store.ledger.close(&id, &turn.spent).await.map(|()| Standing::Gone)
            } else {
                let expires = self.now().steady.plus(self.life * 2);
                let turn = Turn { number: turn.number, spent: turn.spent, keep: turn.keep, expires };
                store.ledger.settle(&id, &turn).await
            };
            standings.push(match settled {
                Ok(Standing::Open { .. }) => LeaseStanding::Open,
                Ok(Standing::Gone) => LeaseStanding::Gone,
                Err(StoreError::Beyond { .. } | StoreError::Invalid(_)) => LeaseStanding::Beyond,
                Err(error) => return Err(error.into()),
            });
        }
        Ok(Turned { standings, millis: millis(self.life) })
    }
}

fn short_of(asked: &Asked<'_>, balance: Balance, free: u64, now: Moment) -> Answer {
    let Asked { limit, kept, least, .. } = asked;
    let window = limit.window;
    let at = now.of(window);
    let spent = balance.spent.saturating_sub(base(limit, kept, at, balance));
    let soon = spent.saturating_add(*least) <= limit.amount;
    let most = limit.amount.saturating_sub(*least);
    let reset_at = kept
        .falls(window, at, most, balance.spent.saturating_add(balance.held))
        .map(|at| now.shown(window, at, clock::now()));
    Answer::Short { limit: limit.limit.to_string(), free, soon, reset_at }
}

/// Refuses a subject that no sidecar has.
fn check(subject: &sideguard_types::control::budgets::Subject) -> Result<(), Failure> {
    let labels = subject.labels.iter().flat_map(|(label, value)| [label, value]);
    let names = [&subject.agent].into_iter().chain(&subject.session).chain(&subject.model).chain(labels);
    if subject.labels.len() > MOST_LABELS || names.into_iter().any(|name| name.len() > LONGEST) {
        return Err(Failure::Invalid(format!(
            "a name of the subject is longer than {LONGEST} bytes, or it has more than {MOST_LABELS} labels"
        )));
    }
    Ok(())
}

/// What was spent in a window.
fn spent(limit: &Touched<'_>, kept: &Kept, now: Timestamp, balance: Balance) -> u64 {
    balance.spent.saturating_sub(base(limit, kept, now, balance))
}

/// The sum that does not count any more. Calls at once are never spent: what a lost lease was charged is over with it.
fn base(limit: &Touched<'_>, kept: &Kept, now: Timestamp, balance: Balance) -> u64 {
    if limit.unit == Unit::Concurrency { balance.spent } else { kept.base(limit.window, now) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A sidecar's lease: it can name no other's.
fn lease(tenant: &str, sidecar: &str, name: &str) -> Result<LeaseId, Failure> {
    if name.contains('/') {
        return Err(Failure::Invalid(format!("`{name}` is no name of a lease")));
    }
    let key = Key::new(tenant, &format!("leases/{sidecar}/{name}"));
    key.map(LeaseId).map_err(|error| Failure::Invalid(error.to_string()))
}

async fn read(store: &Store, place: &Key) -> Result<Option<(Kept, Revision)>, Failure> {
    let Some(document) = store.documents.get(clock::now(), place).await? else { return Ok(None) };
    let kept = serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(place.to_string()))?;
    Ok(Some((kept, document.revision)))
}

/// Writes what is kept of an account; not when somebody else was faster.
async fn write(store: &Store, place: &Key, kept: &Kept, revision: Option<Revision>) -> Result<bool, Failure> {
    let value = serde_json::to_vec(kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    let expect = revision.map_or(Expect::Absent, Expect::Revision);
    match store.documents.put(clock::now(), place, Bytes::from(value), expect, None).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Where the time is kept that was reached.
fn clock_key() -> Result<Key, Failure> {
    Key::new(account::EVERY, "clock").map_err(|error| Failure::Invalid(error.to_string()))
}
