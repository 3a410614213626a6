//! Budgets as pure sums: what was spent, what is held, and whether a call still fits.
//!
//! A [`Ledger`] keeps one account for each limit and for each of what the limit is `per`. Before a call leaves,
//! [`Ledger::reserve`] holds the most that it may use in every account that it touches, or in none; afterwards
//! [`Ledger::settle`] charges what it did use and lets go of the rest. What is held counts as if it were spent,
//! so that what is settled and held never exceeds a limit as long as no call uses more than it reserved.
//!
//! A limit may be *leased* ([`Ledger::lease`]): another ledger keeps it for many of these, and this one spends only what that
//! one has granted.
//!
//! No locks, no clock, no I/O: the proxy puts a mutex round it, and time comes in.

mod account;
mod leased;
mod limit;
mod slice;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sideguard_types::audit::Amounts;
use sideguard_types::resource::{BudgetSpec, Metadata, Unit};
use sideguard_types::time::Timestamp;
use sideguard_types::units::MicroUsd;
use smallvec::SmallVec;

use account::Account;
pub use leased::{Told, Touched, Wish};
use limit::Limit;
pub use limit::{LedgerError, LimitFault};
use slice::Draws;

/// Who calls, and what: what a budget's scope looks at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Tenant's name.
    pub tenant: &'a str,
    /// Agent's name.
    pub agent: &'a str,
    /// Agent's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Session that the agent names.
    pub session: Option<&'a str>,
    /// Model's name.
    pub model: Option<&'a str>,
}

/// All accounts of all budgets.
///
/// ```
/// use sideguard_policy::ledger::{Ledger, Subject};
/// use sideguard_types::audit::Amounts;
/// use sideguard_types::resource::{BudgetSpec, Limit, Metadata, Unit};
/// use sideguard_types::time::Timestamp;
///
/// let limit = Limit { unit: Unit::OutputTokens, amount: "100".into(), window: None, per: None };
/// let spec = BudgetSpec { scope: Default::default(), limits: vec![limit], alerts: None };
/// let mut ledger = Ledger::new(&[(Metadata { name: "all".into(), ..Default::default() }, spec)])?;
///
/// let labels = Default::default();
/// let who = Subject { tenant: "default", agent: "researcher", labels: &labels, session: None, model: None };
/// let now = Timestamp(0);
/// let reserved = ledger.reserve(&who, Amounts { output: 80, ..Default::default() }, now)?;
/// assert!(ledger.reserve(&who, Amounts { output: 30, ..Default::default() }, now).is_err());
/// ledger.settle(reserved, Amounts { output: 50, ..Default::default() }, now);
/// assert_eq!(ledger.room(&who, now).output, Some(50));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    limits: Vec<Limit>,
    next_id: u64,
    /// How far [`Self::advance`] has come.
    elapsed: Duration,
}

/// What a call holds in the accounts that it touches. Give it back with [`Ledger::settle`] or
/// [`Ledger::cancel`]: one that is dropped stays held for as long as the ledger lives.
#[must_use = "a reservation that is dropped is never released"]
#[derive(Debug)]
pub struct Reservation {
    holds: SmallVec<[Hold; 4]>,
    at: Timestamp,
    thirsty: bool,
}

impl Reservation {
    /// Whether leases should be asked for before calls have to wait for them.
    #[must_use]
    pub const fn thirsty(&self) -> bool {
        self.thirsty
    }
}

#[derive(Debug)]
struct Hold {
    limit: u64,
    key: Box<str>,
    amount: u64,
    /// Whether what is used is counted by somebody else in this very account.
    elsewhere: bool,
    /// What was drawn from leases.
    draws: Draws,
}

/// A call does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    /// Name of the budget.
    pub budget: String,
    /// What ran out.
    pub unit: Unit,
    /// The limit, in the unit (dollars for `usd`).
    pub limit: String,
    /// What was spent of it.
    pub spent: String,
    /// What calls under way hold of it.
    pub held: String,
    /// What the call would have held.
    pub wanted: String,
    /// When it would fit if no other call came; absent when time alone does not help.
    pub reset_at: Option<Timestamp>,
    /// Whether it would fit if the calls under way used nothing: worth another try soon.
    pub soon: bool,
    /// Whether the call alone is larger than the limit.
    pub alone: bool,
    /// Whether it is not the sum that is too large: the limit has as many accounts as it may have
    /// ([`Ledger::MOST_ACCOUNTS`]), and the call would need one more.
    pub crowded: bool,
    /// Whether the limit is leased and its ledger may have more than is here.
    pub leased: bool,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, limit, spent, held, wanted, .. } = self;
        let unit = self.unit.as_str();
        if self.crowded {
            return write!(f, "budget `{budget}` has too many accounts for its {unit} to open one more");
        }
        write!(f, "budget `{budget}` allows {limit} {unit}: {spent} spent, {held} held, {wanted} wanted")?;
        match self.reset_at {
            Some(at) => write!(f, "; there is room again at {at}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Exhausted {}

/// What is left for a call, by unit; the smallest over all limits that it touches. `None` is without limit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Input and output tokens together.
    pub tokens: Option<u64>,
    /// Input tokens.
    pub input: Option<u64>,
    /// Output tokens.
    pub output: Option<u64>,
    /// Money.
    pub usd: Option<MicroUsd>,
    /// Calls.
    pub calls: Option<u64>,
    /// Calls at once.
    pub concurrency: Option<u64>,
}

/// One account, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountView {
    /// Name of the budget.
    pub budget: String,
    /// What is counted.
    pub unit: Unit,
    /// Whose account it is, such as `tenant/agent`; empty for the whole scope.
    pub key: String,
    /// The limit; see [`shown`] for how to print amounts.
    pub limit: u64,
    /// Spent in the window.
    pub spent: u64,
    /// Held by calls under way.
    pub held: u64,
    /// Of a leased limit: what leases still give; `spent` is then what was spent through this ledger since it was made.
    pub leased: Option<u64>,
    /// When all that is spent now will be free again; absent for limits without window and empty accounts.
    pub reset_at: Option<Timestamp>,
}

/// An amount of `unit` as users write it: dollars for `usd`, a whole number otherwise.
#[must_use]
pub fn shown(unit: Unit, amount: u64) -> String {
    match unit {
        Unit::Usd => MicroUsd(amount).to_string(),
        _ => amount.to_string(),
    }
}

impl Ledger {
    /// Most accounts that one limit may have. An account that holds nothing and whose spending is past is
    /// forgotten; one of a limit without window stays, so `per: session` should have a window.
    pub const MOST_ACCOUNTS: usize = 100_000;

    /// A ledger with empty accounts. A budget with a tenant is about that tenant's calls only.
    ///
    /// # Errors
    /// When an amount is not a number in its unit or `concurrency` has a window; names budget and limit.
    pub fn new(budgets: &[(Metadata, BudgetSpec)]) -> Result<Self, LedgerError> {
        let mut limits: Vec<Limit> = Vec::new();
        for (metadata, spec) in budgets {
            for (index, limit) in spec.limits.iter().enumerate() {
                limits.push(Limit::new(limits.len() as u64, metadata, &spec.scope, index, limit)?);
            }
        }
        leased::name(&mut limits);
        Ok(Self { next_id: limits.len() as u64, limits, elapsed: Duration::ZERO })
    }

    /// This ledger with the accounts of the limits that `old` has too: same budget, scope, unit, window and
    /// `per`; the amount may differ. Reservations that were made in `old` can be settled here.
    #[must_use]
    pub fn with_accounts_of(mut self, old: &Self) -> Self {
        let mut known: Vec<&Limit> = old.limits.iter().collect();
        (self.next_id, self.elapsed) = (old.next_id, old.elapsed);
        for limit in &mut self.limits {
            if let Some(at) = known.iter().position(|known| known.is_same(limit)) {
                limit.adopt(known.remove(at)); // removed: of two alike, each adopts its own
            } else {
                limit.id = self.next_id;
                self.next_id = self.next_id.saturating_add(1);
            }
        }
        self
    }

    /// Holds `want`, one call and one call at once in every account that the call touches, or nothing in any.
    ///
    /// # Errors
    /// With the first limit in the way, in the order of the budgets.
    pub fn reserve(
        &mut self,
        who: &Subject<'_>,
        want: Amounts,
        now: Timestamp,
    ) -> Result<Reservation, Box<Exhausted>> {
        self.hold(who, None, want, now)
    }

    /// As [`reserve`](Self::reserve), for a call by which `who` has `deputy` do work of up to `want`: what that uses is
    /// counted where the deputy calls, so that an account that both touch holds the call alone.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_for(
        &mut self,
        who: &Subject<'_>,
        deputy: &Subject<'_>,
        want: Amounts,
        now: Timestamp,
    ) -> Result<Reservation, Box<Exhausted>> {
        self.hold(who, Some(deputy), want, now)
    }

    fn hold(
        &mut self,
        who: &Subject<'_>,
        deputy: Option<&Subject<'_>>,
        want: Amounts,
        now: Timestamp,
    ) -> Result<Reservation, Box<Exhausted>> {
        let mut holds: SmallVec<[Hold; 4]> = SmallVec::new();
        let elapsed = self.elapsed;
        for limit in self.limits.iter_mut().filter(|limit| limit.covers(who)) {
            let key = limit.key(who);
            let elsewhere = deputy.is_some_and(|deputy| limit.covers(deputy) && limit.key(deputy) == key);
            let amount = amount_of(limit.unit, &if elsewhere { Amounts::default() } else { want });
            limit.check(&key, amount, now, elapsed)?;
            holds.push(Hold { limit: limit.id, key, amount, elsewhere, draws: Draws::new() });
        }
        let mut thirsty = false;
        for hold in &mut holds {
            let Some(limit) = self.limits.iter_mut().find(|limit| limit.id == hold.limit) else { continue };
            let leased = limit.leased;
            limit.change(&hold.key, |limit, account| {
                account.enter();
                if leased {
                    hold.draws = account.slice.draw(hold.amount, elapsed).unwrap_or_default();
                    thirsty |= account.slice.is_low(elapsed);
                    return;
                }
                match limit.unit {
                    // A call counts from the moment it is let through, not from its end.
                    Unit::Calls => account.spent.add(limit.window, hold.amount, now),
                    _ => account.hold(hold.amount),
                }
            });
        }
        Ok(Reservation { holds, at: now, thirsty })
    }

    /// What is left for a call. A call that wants no more than this is not sure to fit unless the ledger stays
    /// locked in between.
    #[must_use]
    pub fn room(&self, who: &Subject<'_>, now: Timestamp) -> Room {
        let mut room = Room::default();
        for limit in self.limits.iter().filter(|limit| limit.covers(who)) {
            let left = limit.left(&limit.key(who), now, self.elapsed);
            let lesser = |old: &mut Option<u64>| *old = Some(old.map_or(left, |old| old.min(left)));
            match limit.unit {
                Unit::Tokens => lesser(&mut room.tokens),
                Unit::InputTokens => lesser(&mut room.input),
                Unit::OutputTokens => lesser(&mut room.output),
                Unit::Calls => lesser(&mut room.calls),
                Unit::Concurrency => lesser(&mut room.concurrency),
                Unit::Usd => {
                    room.usd = Some(room.usd.map_or(MicroUsd(left), |old| old.min(MicroUsd(left))));
                }
            }
        }
        room
    }

    /// Charges what the call used and lets go of what it held. What it used beyond its reservation is charged
    /// as well, even above the limit.
    pub fn settle(&mut self, reservation: Reservation, used: Amounts, now: Timestamp) {
        for hold in &reservation.holds {
            let used = if hold.elsewhere { Amounts::default() } else { used };
            self.change(hold, |limit, leased, account| {
                account.leave();
                match limit.unit {
                    _ if leased => account.slice.settle(&hold.draws, leased::spent(limit.unit, &used)),
                    Unit::Calls => {}
                    Unit::Concurrency => account.release(hold.amount),
                    unit => {
                        account.release(hold.amount);
                        account.spent.add(limit.window, amount_of(unit, &used), now);
                    }
                }
            });
        }
    }

    /// Lets go of all that a call held because it never left: it does not count as a call either.
    pub fn cancel(&mut self, reservation: Reservation) {
        for hold in &reservation.holds {
            self.change(hold, |limit, leased, account| {
                account.leave();
                match limit.unit {
                    _ if leased => account.slice.settle(&hold.draws, 0),
                    Unit::Calls => account.spent.remove(limit.window, hold.amount, reservation.at),
                    _ => account.release(hold.amount),
                }
            });
        }
    }

    /// Charges a call that is known from the record, when sums are built anew after a restart: `at` is when it
    /// was settled.
    pub fn restore(&mut self, who: &Subject<'_>, used: Amounts, at: Timestamp) {
        for limit in self.limits.iter_mut().filter(|limit| limit.covers(who)) {
            // What was spent of leases is for the ledger to say that they come from.
            if limit.unit == Unit::Concurrency || limit.leased {
                continue;
            }
            let (key, amount) = (limit.key(who), amount_of(limit.unit, &used));
            let window = limit.window;
            if let Some(account) = limit.account(&key, at) {
                account.spent.insert(window, amount, at);
            }
        }
    }

    /// All accounts that hold or have spent something, in the order of the budgets, then by key.
    #[must_use]
    pub fn snapshot(&self, now: Timestamp) -> Vec<AccountView> {
        self.limits.iter().flat_map(|limit| limit.views(now, self.elapsed)).collect()
    }

    /// Applies `change` to the account that `hold` is in, unless its limit is gone.
    fn change(&mut self, hold: &Hold, change: impl FnOnce(&limit::Terms, bool, &mut Account)) {
        if let Some(limit) = self.limits.iter_mut().find(|limit| limit.id == hold.limit) {
            let leased = limit.leased;
            limit.change(&hold.key, |terms, account| change(terms, leased, account));
        }
    }
}

/// What `amounts` are in `unit`; each set of amounts is one call.
fn amount_of(unit: Unit, amounts: &Amounts) -> u64 {
    match unit {
        Unit::Tokens => amounts.input.saturating_add(amounts.output),
        Unit::InputTokens => amounts.input,
        Unit::OutputTokens => amounts.output,
        Unit::Usd => amounts.usd.0,
        Unit::Calls | Unit::Concurrency => 1,
    }
}
