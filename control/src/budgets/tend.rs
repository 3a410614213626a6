//! What has to be done now and then: the time is kept, lost leases are charged, accounts are sampled, looked at for alerts,
//! and forgotten when nothing of them counts. Every service does it; what two do at once is done once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use sideguard_policy::ledger::{Touched, shown};
use sideguard_runtime::clock;
use sideguard_store::documents::{Document, Expect};
use sideguard_store::key::{Key, Prefix};
use sideguard_store::ledger::{Balance, MOST_EXPIRED};
use sideguard_store::{Store, StoreError};
use sideguard_types::control::budgets::Event;

use super::account::{ACCOUNTS, EVERY, Kept, account, place, space};
use super::rules::Rules;
use super::time::Moment;
use super::{Budgets, MOST_ACCOUNTS, clock_key, spent, write};
use crate::error::Failure;

/// How often it is done.
const TICK: Duration = Duration::from_secs(1);
/// How often an idle service keeps the time.
const IDLE: Duration = Duration::from_secs(30);
/// How long an account is marked before it is forgotten; far longer than [`super::PROMPT`].
const MARKED: Duration = Duration::from_secs(60);
/// Accounts of one page.
const PAGE: usize = 500;
/// Events that are kept of a tenant.
const EVENTS: u64 = 1_000;

/// The time that budgets had reached when it was kept last.
pub(super) async fn reached(store: &Store) -> Result<Moment, Failure> {
    let at = clock_key()?;
    match store.documents.get(clock::now(), &at).await? {
        Some(document) => {
            serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(at.to_string()))
        }
        None => Ok(Moment::default()),
    }
}

impl Budgets {
    /// Tends until the task is dropped.
    pub(crate) async fn tend(self: Arc<Self>, store: Store) {
        let mut pause = TICK;
        let mut looked = clock::Stopwatch::start();
        loop {
            tokio::time::sleep(TICK).await;
            let kept = self.keep_time(&store).await;
            let charged = self.expire(&store).await;
            for error in [kept.err(), charged.err()].into_iter().flatten() {
                tracing::warn!(%error, "budgets cannot be tended");
            }
            if looked.elapsed() < pause {
                continue;
            }
            match self.look(&store).await {
                // Many accounts are looked at less often: what is not sampled yet counts for longer, never shorter.
                Ok(accounts) => {
                    pause = TICK
                        * if accounts <= PAGE {
                            1
                        } else if accounts <= 10 * PAGE {
                            5
                        } else {
                            30
                        }
                }
                Err(error) => tracing::warn!(%error, "budgets cannot be looked at"),
            }
            looked = clock::Stopwatch::start();
        }
    }

    async fn keep_time(&self, store: &Store) -> Result<(), Failure> {
        let others = reached(store).await?;
        let now = self.now().max(others);
        {
            let mut time = self.time.lock();
            time.0 = time.0.max(now);
        }
        let due = if self.busy.swap(false, Ordering::Relaxed) { TICK / 2 } else { IDLE };
        if now.steady.since(others.steady).max(now.civil.since(others.civil)) < due {
            return Ok(());
        }
        let value = serde_json::to_vec(&now).map_err(|error| Failure::Invalid(error.to_string()))?;
        store.documents.put(clock::now(), &clock_key()?, Bytes::from(value), Expect::Any, None).await?;
        Ok(())
    }

    /// Charges lost leases. A service that has just come gives sidecars the time to tell what they spent meanwhile.
    async fn expire(&self, store: &Store) -> Result<(), Failure> {
        if self.started.elapsed() < self.life {
            return Ok(());
        }
        loop {
            let lost = store.ledger.expire(self.now().steady, MOST_EXPIRED).await?;
            for lease in &lost {
                tracing::warn!(lease = %lease.0, "a lease was not heard of in time: it is charged in full");
            }
            if lost.len() < MOST_EXPIRED {
                return Ok(());
            }
        }
    }

    /// Looks at all accounts, and tells how many there are.
    pub(super) async fn look(&self, store: &Store) -> Result<usize, Failure> {
        let rules = self.rules(store).await?;
        let limits = rules.by_name();
        let (mut count, mut seen) = (0, HashSet::new());
        for tenant in rules.tenants.iter().map(String::as_str).chain([EVERY]) {
            let (mut after, before) = (None, count);
            loop {
                let page = list(store, tenant, after.as_ref(), PAGE).await?;
                count += page.documents.len();
                self.look_at(store, (&rules, &limits), &page.documents).await?;
                seen.extend(page.documents.into_iter().map(|document| document.key));
                let Some(next) = page.next else { break };
                after = Some(next);
            }
            let mut crowded = self.crowded.lock();
            if count - before >= MOST_ACCOUNTS {
                crowded.insert(tenant.to_owned());
            } else {
                crowded.remove(tenant);
            }
        }
        // A limit of one account is shown before anything is spent of it.
        for limit in rules.ledger.all().filter(|limit| limit.per.is_none()) {
            let place = place(&limit)?;
            if !seen.contains(&place) {
                write(store, &place, &Kept::new(&limit), None).await?;
            }
        }
        Ok(count)
    }

    async fn look_at(
        &self,
        store: &Store,
        (rules, limits): (&Rules, &HashMap<&str, Touched<'_>>),
        documents: &[Document],
    ) -> Result<(), Failure> {
        let mut known = Vec::with_capacity(documents.len());
        for document in documents {
            let kept: Kept = serde_json::from_slice(&document.value)
                .map_err(|_| Failure::Broken(document.key.to_string()))?;
            let Some(limit) = limits.get(&*kept.limit) else { continue };
            let account = account(&document.key, &kept.epoch)?;
            known.push((document, kept, limit, account));
        }
        let accounts: Vec<Key> = known.iter().map(|(.., account)| account.clone()).collect();
        // In this order: a sample must not be larger than the sum was at its time.
        let balances = store.ledger.balance(&accounts).await?;
        let now = self.now();
        for ((document, kept, limit, account), balance) in known.into_iter().zip(balances) {
            self.look_at_one(store, rules, (document, kept), (limit, &account, balance), now).await?;
        }
        Ok(())
    }

    async fn look_at_one(
        &self,
        store: &Store,
        rules: &Rules,
        (document, mut kept): (&Document, Kept),
        (limit, account, balance): (&Touched<'_>, &Key, Balance),
        now: Moment,
    ) -> Result<(), Failure> {
        let (window, at) = (limit.window, now.of(limit.window));
        let before = kept.clone();
        kept.sample(window, at, balance.spent);
        let used = spent(limit, &kept, at, balance);
        let share = reached_share(rules, limit, used);
        let alert = share.filter(|share| kept.alert.is_none_or(|raised| *share > raised));
        kept.alerts = kept.alerts.saturating_add(u64::from(alert.is_some()));
        kept.alert = share;
        let idle = limit.per.is_some() && used == 0 && balance.held == 0;
        match kept.closing {
            Some(since) if idle && at.since(since) > MARKED => {
                let gone =
                    store.documents.delete(clock::now(), &document.key, Expect::Revision(document.revision));
                match gone.await {
                    Ok(_) => return Ok(store.ledger.forget(account).await.map(drop)?),
                    Err(StoreError::Conflict { .. }) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            Some(_) if !idle => kept.closing = None,
            None if idle => kept.closing = Some(at),
            Some(_) | None => {}
        }
        if kept != before
            && write(store, &document.key, &kept, Some(document.revision)).await?
            && let Some(share) = alert
        {
            raise(store, limit, share, used).await?;
        }
        Ok(())
    }
}

/// Accounts of a tenant.
pub(super) async fn list(
    store: &Store,
    tenant: &str,
    after: Option<&Key>,
    limit: usize,
) -> Result<sideguard_store::documents::Page, Failure> {
    let scope = Prefix::new(tenant, ACCOUNTS).map_err(|error| Failure::Invalid(error.to_string()))?;
    Ok(store.documents.list(clock::now(), &scope.into(), after, limit).await?)
}

/// The highest share with an alert that is reached, in thousandths.
fn reached_share(rules: &Rules, limit: &Touched<'_>, used: u64) -> Option<u32> {
    let reached = |share: &u32| u128::from(used) * 1000 >= u128::from(limit.amount) * u128::from(*share);
    let shares = rules.alerts.get(&**limit.limit)?;
    shares.iter().rev().find(|share| used > 0 && reached(share)).copied()
}

async fn raise(store: &Store, limit: &Touched<'_>, share: u32, used: u64) -> Result<(), Failure> {
    let event = Event {
        time: clock::now(),
        event: "alert".to_owned(),
        budget: limit.budget.to_owned(),
        unit: limit.unit,
        key: limit.key.to_string(),
        share: f64::from(share) / 1000.0,
        spent: shown(limit.unit, used),
        limit: shown(limit.unit, limit.amount),
    };
    tracing::warn!(
        tenant = space(limit.tenant),
        budget = limit.budget,
        unit = limit.unit.as_str(),
        key = &*event.key,
        share = event.share,
        spent = event.spent,
        limit = event.limit,
        "a budget has reached a share with an alert"
    );
    let at = Key::new(space(limit.tenant), "budgets/events")
        .map_err(|error| Failure::Invalid(error.to_string()))?;
    let line = Bytes::from(serde_json::to_vec(&event).map_err(|error| Failure::Invalid(error.to_string()))?);
    for _ in 0..8 {
        let end = store.journal.end(&at).await?;
        match store.journal.append(&at, end, vec![line.clone()]).await {
            Ok(end) => return Ok(store.journal.truncate_before(&at, end.saturating_sub(EVENTS)).await?),
            // Somebody else's event came first.
            Err(StoreError::Fork { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

// Whoever has read an account before it was marked has held some of it by then, or gives up.
const _: () = assert!(MARKED.as_secs() > super::PROMPT.as_secs() * 2);
