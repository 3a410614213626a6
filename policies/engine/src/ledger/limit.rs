//! One limit of one budget, with its accounts.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use sideguard_types::resource::{self, BudgetScope, Metadata, Per, Unit, Window};
use sideguard_types::time::Timestamp;
use sideguard_types::units::{MicroUsd, ParseMoneyError};

use super::account::Account;
use super::{AccountView, Exhausted, Ledger, Subject, shown};
use crate::glob::{Case, Glob};

/// Bytes of a session's or model's name that tell accounts apart: an agent chooses these names, and must not
/// fill the memory with them. Longer names with the same beginning share an account.
const NAME_BYTES: usize = 256;
/// Fewest accounts at which idle ones are looked for.
const SWEEP_FROM: usize = 1_024;

/// A budget cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("budget `{budget}`, limit {index}: {fault}")]
pub struct LedgerError {
    /// Name of the budget.
    pub budget: String,
    /// Which of its limits, from 0.
    pub index: usize,
    /// What is wrong with it.
    #[source]
    pub fault: LimitFault,
}

/// What is wrong with a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitFault {
    /// The amount of dollars is not one.
    #[error(transparent)]
    Money(#[from] ParseMoneyError),
    /// The amount is not a whole number.
    #[error("`amount` is `{amount}`: {} needs a whole number", unit.as_str())]
    Amount {
        /// What is counted.
        unit: Unit,
        /// What stands there.
        amount: String,
    },
    /// A glob of the budget's scope is not one.
    #[error("scope: `{glob}`: {why}")]
    Glob {
        /// What stands there.
        glob: String,
        /// What is wrong with it.
        why: String,
    },
    /// Concurrency is about now, not about a time.
    #[error("`concurrency` has no window: remove `window`")]
    Window,
}

/// What a limit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) budget: String,
    pub(super) tenant: Option<String>,
    pub(super) scope: BudgetScope,
    pub(super) unit: Unit,
    pub(super) window: Option<Window>,
    pub(super) per: Option<Per>,
}

/// The globs of a scope, compiled.
#[derive(Debug, Clone)]
struct Scope {
    tenants: Vec<Glob>,
    agents: Vec<Glob>,
    labels: Vec<(String, Glob)>,
    models: Vec<Glob>,
    sessions: Vec<Glob>,
}

/// A limit and its accounts.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    /// How reservations name it, across reloads.
    pub(super) id: u64,
    /// What it is called where it is leased, the same in every ledger that has it.
    pub(super) name: Arc<str>,
    /// Whether another ledger keeps it and this one has leases.
    pub(super) leased: bool,
    pub(super) terms: Terms,
    scope: Scope,
    pub(super) amount: u64,
    accounts: HashMap<Box<str>, Account, ahash::RandomState>,
    /// Number of accounts at which idle ones are looked for.
    sweep_at: usize,
    swept: Timestamp,
}

impl Deref for Limit {
    type Target = Terms;

    fn deref(&self) -> &Terms {
        &self.terms
    }
}

impl Limit {
    pub(super) fn new(
        id: u64,
        metadata: &Metadata,
        scope: &BudgetScope,
        index: usize,
        limit: &resource::Limit,
    ) -> Result<Self, LedgerError> {
        let fault = |fault| LedgerError { budget: metadata.name.clone(), index, fault };
        if limit.unit == Unit::Concurrency && limit.window.is_some() {
            return Err(fault(LimitFault::Window));
        }
        let amount = parse(limit.unit, &limit.amount).map_err(fault)?;
        let compiled = Scope::new(scope).map_err(fault)?;
        let terms = Terms {
            budget: metadata.name.clone(),
            tenant: metadata.tenant.clone(),
            scope: scope.clone(),
            unit: limit.unit,
            window: limit.window,
            per: limit.per,
        };
        let accounts = HashMap::default();
        Ok(Self {
            id,
            name: Arc::default(),
            leased: false,
            terms,
            scope: compiled,
            amount,
            accounts,
            sweep_at: SWEEP_FROM,
            swept: Timestamp::default(),
        })
    }

    /// Whether `other` counts the same, whatever its amount.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.terms == other.terms && self.leased == other.leased
    }

    /// Takes over the accounts of the limit that this one replaces.
    pub(super) fn adopt(&mut self, old: &Self) {
        let name = Arc::clone(&self.name);
        *self = Self { amount: self.amount, name, ..old.clone() };
    }

    /// Whether the limit is about a call.
    pub(super) fn covers(&self, who: &Subject<'_>) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| tenant == who.tenant) && self.scope.covers(who)
    }

    /// Which account a call belongs to. What the agent chooses stands last, so that it cannot name another's.
    pub(super) fn key(&self, who: &Subject<'_>) -> Box<str> {
        let Subject { tenant, agent, .. } = who;
        match self.per {
            None => Box::default(),
            Some(Per::Tenant) => (*tenant).into(),
            Some(Per::Agent) => [tenant, "/", agent].concat().into(),
            Some(Per::Session) => [tenant, "/", agent, "/", start_of(who.session)].concat().into(),
            Some(Per::Model) => start_of(who.model).to_ascii_lowercase().into(),
        }
    }

    /// Whether `want` more fits into the account `key`.
    pub(super) fn check(
        &mut self,
        key: &str,
        want: u64,
        now: Timestamp,
        elapsed: Duration,
    ) -> Result<(), Box<Exhausted>> {
        if self.leased {
            return self.check_slice(key, want, now, elapsed);
        }
        let window = self.window;
        let account = self.account(key, now).map(|account| {
            // What is past is forgotten before others take its place: it must not count again when the clock
            // is set back.
            account.spent.tidy(window, now);
            &*account
        });
        let crowded = account.is_none();
        let spent = account.map_or(0, |account| account.spent.at(window, now));
        let held = account.map_or(0, |account| account.held);
        let all = spent.saturating_add(held).saturating_add(want);
        // A sum that does not fit into the type does not fit into the limit either.
        if !crowded && all <= self.amount && all < u64::MAX {
            return Ok(());
        }
        let free = self.amount.checked_sub(held.saturating_add(want));
        let reset_at = self
            .accounts
            .get(key)
            .zip(free)
            .and_then(|(account, most)| account.spent.falls_to(window, most, now));
        let text = |amount| shown(self.unit, amount);
        Err(Box::new(Exhausted {
            budget: self.budget.clone(),
            unit: self.unit,
            limit: text(self.amount),
            spent: text(spent),
            held: text(held),
            wanted: text(want),
            reset_at,
            soon: crowded || spent.saturating_add(want) <= self.amount,
            alone: want > self.amount,
            crowded,
            leased: false,
        }))
    }

    /// Whether leases give `want` to the account `key`.
    fn check_slice(
        &mut self,
        key: &str,
        want: u64,
        now: Timestamp,
        elapsed: Duration,
    ) -> Result<(), Box<Exhausted>> {
        let account = self.account(key, now).map(|account| &account.slice);
        let crowded = account.is_none();
        let missing = account.map_or(want, |slice| slice.missing(want, elapsed));
        if !crowded && missing == 0 {
            return Ok(());
        }
        let may_ask = account.is_some_and(|slice| slice.may_ask(missing, elapsed));
        let held = account.map_or(0, |slice| slice.left(elapsed).saturating_add(slice.out()));
        let free = account.and_then(super::slice::Slice::free);
        let reset_at = account.and_then(|slice| slice.reset_at);
        // Before anything is known of the other ledger, it may have room soon.
        let soon = crowded || free.is_none() || account.is_some_and(|slice| slice.soon);
        let spent = self.amount.saturating_sub(held).saturating_sub(free.unwrap_or(self.amount));
        let text = |amount| shown(self.unit, amount);
        Err(Box::new(Exhausted {
            budget: self.budget.clone(),
            unit: self.unit,
            limit: text(self.amount),
            spent: text(spent),
            held: text(held),
            wanted: text(want),
            reset_at,
            soon: soon && want <= self.amount,
            alone: want > self.amount,
            crowded,
            leased: may_ask && want <= self.amount,
        }))
    }

    /// What is left in the account `key`; of a leased one also what can still be had, as far as is known.
    pub(super) fn left(&self, key: &str, now: Timestamp, elapsed: Duration) -> u64 {
        if self.leased {
            return self
                .accounts
                .get(key)
                .map_or(self.amount, |account| account.slice.room(self.amount, elapsed));
        }
        self.accounts.get(key).map_or(self.amount, |account| {
            let spent = account.spent.at(self.window, now);
            self.amount.saturating_sub(spent).saturating_sub(account.held)
        })
    }

    /// The account `key`, opened if need be; `None` when there are too many.
    pub(super) fn account(&mut self, key: &str, now: Timestamp) -> Option<&mut Account> {
        if !self.accounts.contains_key(key) {
            self.sweep(now);
            if self.accounts.len() >= Ledger::MOST_ACCOUNTS {
                return None;
            }
            self.accounts.insert(key.into(), Account::default());
        }
        self.accounts.get_mut(key)
    }

    /// The slice of the account `key`, of a leased limit.
    pub(super) fn slice(&mut self, key: &str) -> Option<&mut super::slice::Slice> {
        self.accounts.get_mut(key).map(|account| &mut account.slice)
    }

    /// All slices.
    pub(super) fn slices(&mut self) -> impl Iterator<Item = &mut super::slice::Slice> {
        self.accounts.values_mut().map(|account| &mut account.slice)
    }

    /// Applies `change` to the account `key`.
    pub(super) fn change(&mut self, key: &str, change: impl FnOnce(&Terms, &mut Account)) {
        if let Some(account) = self.accounts.get_mut(key) {
            change(&self.terms, account);
        }
    }

    /// Accounts that hold or have spent something.
    pub(super) fn views(&self, now: Timestamp, elapsed: Duration) -> Vec<AccountView> {
        let view = |key: &str, account: &Account| AccountView {
            budget: self.budget.clone(),
            unit: self.unit,
            key: key.to_owned(),
            limit: self.amount,
            spent: if self.leased { account.slice.spent } else { account.spent.at(self.window, now) },
            held: if self.leased { account.slice.out() } else { account.held },
            leased: self.leased.then(|| account.slice.left(elapsed)),
            reset_at: account.spent.falls_to(self.window, 0, now),
        };
        let mut views: Vec<_> = self
            .accounts
            .iter()
            .map(|(key, account)| view(key, account))
            .filter(|view| view.spent > 0 || view.held > 0)
            .collect();
        views.sort_by(|a, b| a.key.cmp(&b.key));
        views
    }

    /// How many accounts there are.
    #[cfg(test)]
    pub(super) fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// Forgets idle accounts, when there are twice as many as were left the last time; at the bound, where that
    /// may not help, no more than once a second.
    fn sweep(&mut self, now: Timestamp) {
        const AGAIN: i64 = 1_000_000;
        if self.accounts.len() < self.sweep_at {
            return;
        }
        let recent = now.0.saturating_sub(self.swept.0).saturating_abs() < AGAIN;
        if recent && self.accounts.len() >= Ledger::MOST_ACCOUNTS {
            return;
        }
        let window = self.terms.window;
        self.accounts.retain(|_, account| !account.is_idle(window, now));
        self.sweep_at = self.accounts.len().saturating_mul(2).clamp(SWEEP_FROM, Ledger::MOST_ACCOUNTS);
        self.swept = now;
    }
}

impl Scope {
    fn new(scope: &BudgetScope) -> Result<Self, LimitFault> {
        // As in policies; providers take a model's name in any case, and it must not lead past a budget.
        let glob = |glob: &String| {
            Glob::parse(glob, Case::Folded).map_err(|why| LimitFault::Glob { glob: glob.clone(), why })
        };
        let globs = |list: &[String]| list.iter().map(glob).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            tenants: globs(&scope.tenants)?,
            agents: globs(&scope.agents)?,
            labels: scope
                .labels
                .iter()
                .map(|(label, value)| Ok((label.clone(), glob(value)?)))
                .collect::<Result<_, LimitFault>>()?,
            models: globs(&scope.models)?,
            sessions: globs(&scope.sessions)?,
        })
    }

    fn covers(&self, who: &Subject<'_>) -> bool {
        let any = |globs: &[Glob], name: Option<&str>| {
            globs.is_empty() || name.is_some_and(|name| globs.iter().any(|glob| glob.matches(name)))
        };
        let label =
            |(label, glob): &(String, Glob)| who.labels.get(label).is_some_and(|value| glob.matches(value));
        any(&self.tenants, Some(who.tenant))
            && any(&self.agents, Some(who.agent))
            && any(&self.models, who.model)
            && any(&self.sessions, who.session)
            && self.labels.iter().all(label)
    }
}

fn parse(unit: Unit, amount: &str) -> Result<u64, LimitFault> {
    match unit {
        Unit::Usd => Ok(MicroUsd::parse(amount)?.0),
        _ => amount.parse().map_err(|_| LimitFault::Amount { unit, amount: amount.to_owned() }),
    }
}

/// The part of a name that an agent chose which tells accounts apart.
fn start_of(name: Option<&str>) -> &str {
    let name = name.unwrap_or_default();
    name.get(..name.floor_char_boundary(NAME_BYTES)).unwrap_or(name)
}
