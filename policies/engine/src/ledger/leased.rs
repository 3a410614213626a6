//! Limits that another ledger keeps for many of these: what to ask it for, what it grants, and what to tell it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sideguard_types::audit::Amounts;
use sideguard_types::resource::{Metadata, Per, Unit, Window};
use sideguard_types::time::Timestamp;

use super::limit::Limit;
use super::slice::Slice;
use super::{Ledger, Subject, amount_of};

/// A limit that a call falls under, and the account in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched<'a> {
    /// Name of the limit, the same in every ledger that has it.
    pub limit: &'a Arc<str>,
    /// Name of its budget.
    pub budget: &'a str,
    /// Tenant of the budget; absent for one of all tenants.
    pub tenant: Option<&'a str>,
    /// What is counted.
    pub unit: Unit,
    /// What has an account of its own.
    pub per: Option<Per>,
    /// In what time.
    pub window: Option<Window>,
    /// How much.
    pub amount: u64,
    /// Whose account, as in [`super::AccountView::key`].
    pub key: Box<str>,
}

/// What to ask of the ledger that keeps a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The limit's name.
    pub limit: Arc<str>,
    /// The account.
    pub key: Box<str>,
    /// What the call cannot do without.
    pub least: u64,
    /// What would be good to have.
    pub want: u64,
}

/// Why the other ledger grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// What it has left.
    pub free: u64,
    /// Whether it is only what others hold that is in the way.
    pub soon: bool,
    /// When there is room again, if nobody else comes.
    pub reset_at: Option<Timestamp>,
}

/// What is charged in an account of a leased limit.
pub(super) fn spent(unit: Unit, used: &Amounts) -> u64 {
    if unit == Unit::Concurrency { 0 } else { amount_of(unit, used) }
}

/// Names limits after what they say, whatever their amount; alike ones are counted.
pub(super) fn name(limits: &mut [Limit]) {
    let mut seen: HashMap<Vec<u8>, u64> = HashMap::new();
    for limit in limits {
        let mut text = Vec::new();
        let window = limit.window.map(|window| window.to_string()).unwrap_or_default();
        // Maps of strings have no way to fail.
        let scope = serde_json::to_string(&limit.terms.scope).unwrap_or_default();
        let per = format!("{:?}", limit.per);
        let tenant = limit.tenant.as_deref().map_or_else(|| "*".to_owned(), |tenant| format!("={tenant}"));
        for part in [&*tenant, &limit.budget, &scope, limit.unit.as_str(), &window, &per] {
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let alike = seen.entry(text.clone()).or_default();
        text.extend_from_slice(&alike.to_be_bytes());
        *alike = alike.saturating_add(1);
        let digest = Sha256::digest(&text);
        limit.name = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>().into();
    }
}

impl Ledger {
    /// This ledger with the limits of some budgets leased: they have no room but what [`Self::grant`] gives.
    #[must_use]
    pub fn lease(mut self, budgets: impl Fn(&Metadata) -> bool) -> Self {
        for limit in &mut self.limits {
            let metadata =
                Metadata { name: limit.budget.clone(), tenant: limit.tenant.clone(), ..Metadata::default() };
            limit.leased = budgets(&metadata);
        }
        self
    }

    /// Whether any limit is leased.
    #[must_use]
    pub fn leases(&self) -> bool {
        self.limits.iter().any(|limit| limit.leased)
    }

    /// Time goes on to `elapsed` since some start, by a clock that never goes back: leases end by it.
    pub fn advance(&mut self, elapsed: Duration) {
        self.elapsed = self.elapsed.max(elapsed);
    }

    /// All limits that a call falls under, leased or not.
    pub fn touched<'a>(&'a self, who: &'a Subject<'_>) -> impl Iterator<Item = Touched<'a>> {
        self.limits.iter().filter(|limit| limit.covers(who)).map(|limit| shown(limit, limit.key(who)))
    }

    /// All limits, with no account.
    pub fn all(&self) -> impl Iterator<Item = Touched<'_>> {
        self.limits.iter().map(|limit| shown(limit, Box::default()))
    }

    /// What is missing for `waiting` calls of at least `need` each, in the accounts that have too little or will soon. Empty
    /// when nothing is.
    pub fn wishes(
        &mut self,
        who: &Subject<'_>,
        need: Option<Amounts>,
        waiting: u64,
        now: Timestamp,
    ) -> Vec<Wish> {
        let elapsed = self.elapsed;
        let mut wishes = Vec::new();
        for limit in self.limits.iter_mut().filter(|limit| limit.leased && limit.covers(who)) {
            let key = limit.key(who);
            let amount = need.map_or(0, |need| amount_of(limit.unit, &need));
            let Some(slice) = limit.account(&key, now).map(|account| &account.slice) else { continue };
            let missing = slice.missing(amount, elapsed);
            if missing == 0 && !slice.is_low(elapsed) {
                continue;
            }
            let all = slice.missing(amount.saturating_mul(waiting.max(1)), elapsed);
            let want = all.max(missing.saturating_add(slice.size().saturating_sub(slice.left(elapsed))));
            wishes.push(Wish {
                limit: Arc::clone(&limit.name),
                key,
                least: missing,
                want: want.max(missing),
            });
        }
        wishes
    }

    /// Takes in what the lease `lease` gives to an account until `until` (see [`Self::advance`]), and what is left there
    /// beside it.
    pub fn grant(&mut self, lease: u64, line: (&str, &str), amount: u64, until: Duration, free: u64) {
        if let Some(slice) = self.slice(line) {
            slice.grant(lease, amount, until, free);
        }
    }

    /// Takes in that there is too little.
    pub fn short(&mut self, line: (&str, &str), told: Told) {
        let elapsed = self.elapsed;
        if let Some(slice) = self.slice(line) {
            slice.short(&told, elapsed);
        }
    }

    /// What to tell of a lease's line: what was spent since the last time, and what is kept of it. With `all` nothing is
    /// kept but what calls hold. `None` when the account is gone.
    pub fn report(&mut self, lease: u64, line: (&str, &str), all: bool) -> Option<(u64, u64)> {
        let elapsed = self.elapsed;
        self.slice(line)?.report(lease, all, elapsed)
    }

    /// A lease's line goes on until then.
    pub fn renew(&mut self, lease: u64, line: (&str, &str), until: Duration) {
        if let Some(slice) = self.slice(line) {
            slice.renew(lease, until);
        }
    }

    /// A lease's line is gone.
    pub fn forget(&mut self, lease: u64, line: (&str, &str)) {
        if let Some(slice) = self.slice(line) {
            slice.forget(lease);
        }
    }

    /// A period is over: what was drawn in the last two says how much is kept and asked for.
    pub fn turn_over(&mut self) {
        self.limits
            .iter_mut()
            .filter(|limit| limit.leased)
            .flat_map(Limit::slices)
            .for_each(Slice::turn_over);
    }

    fn slice(&mut self, (limit, key): (&str, &str)) -> Option<&mut Slice> {
        let limit = self.limits.iter_mut().find(|known| known.leased && *known.name == *limit)?;
        limit.slice(key)
    }
}

fn shown(limit: &Limit, key: Box<str>) -> Touched<'_> {
    Touched {
        limit: &limit.name,
        budget: &limit.budget,
        tenant: limit.tenant.as_deref(),
        unit: limit.unit,
        per: limit.per,
        window: limit.window,
        amount: limit.amount,
        key,
    }
}
