//! The ledger: accounts of whole amounts, and leases that hold part of them until it is spent or given back.
//!
//! For each account, what is spent and what leases hold never exceed the limit that a hold was given. A lease that is
//! not settled in time is charged in full: its holder may have spent it all and died before saying so.

use std::fmt;

use async_trait::async_trait;
use sideguard_types::time::Timestamp;

use crate::error::StoreError;
use crate::key::Key;

/// The largest amount, in the unit of its account; a larger limit or wish means this. Lua, in which the shared store
/// counts, holds whole numbers up to here exactly.
pub const MOST: u64 = (1 << 53) - 1;
/// The most lines of a lease.
pub const MOST_LINES: usize = 64;

/// The name of a lease. It is the caller's: a hold repeated under the same name holds once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub Key);

/// What a lease is to hold of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The account; an unknown one starts empty.
    pub account: Key,
    /// What may be spent and held of it in all.
    pub limit: u64,
    /// What the lease would like.
    pub want: u64,
    /// What it cannot do without, at most `want`.
    pub least: u64,
}

/// The answer to a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// The lease holds this much, line by line.
    Held {
        /// Between `least` and `want` each.
        granted: Vec<u64>,
    },
    /// An account has too little left, and nothing is held.
    Short {
        /// The first such account.
        account: Key,
        /// What it has left.
        free: u64,
    },
}

/// One settlement of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Counts the settlements of the lease from 1 on: one that is not above the last changes nothing.
    pub number: u64,
    /// What was spent since the last settlement, line by line.
    pub spent: Vec<u64>,
    /// What the lease is to go on holding, line by line; the rest is given back.
    pub keep: Vec<u64>,
    /// When the lease now ends.
    pub expires: Timestamp,
}

/// How a lease stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It holds this much.
    Open {
        /// The last settlement; 0 before the first.
        turn: u64,
        /// What it holds, line by line.
        held: Vec<u64>,
    },
    /// It was closed, was charged when its time was over, or never was.
    Gone,
}

/// How an account stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// What was spent.
    pub spent: u64,
    /// What leases hold.
    pub held: u64,
}

/// Accounts and leases.
#[async_trait]
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Holds all of `lines` until `expires`, or nothing. A repeated hold answers with what the lease holds. Leases
    /// whose time is over count as held until [`Self::expire`] charges them.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when there are no lines or too many, an account comes twice, `least` exceeds `want`,
    /// or the lease exists with other accounts; when the store is away, closed or broken.
    async fn hold(&self, lease: &LeaseId, lines: &[Line], expires: Timestamp) -> Result<Hold, StoreError>;

    /// Charges what was spent, keeps what is to be kept and gives the rest back. A turn that was settled already
    /// changes nothing and answers with how the lease stands.
    ///
    /// # Errors
    /// [`StoreError::Beyond`] when a line would spend and keep more than is held; [`StoreError::Invalid`] when the
    /// number of lines is not the lease's; when the store is away, closed or broken.
    async fn settle(&self, lease: &LeaseId, turn: &Turn) -> Result<Standing, StoreError>;

    /// Charges what was spent since the last settlement, gives the rest back and ends the lease. Does nothing when
    /// the lease is gone.
    ///
    /// # Errors
    /// As [`Self::settle`].
    async fn close(&self, lease: &LeaseId, spent: &[u64]) -> Result<(), StoreError>;

    /// Ends up to `limit` leases whose time was over at `now`, charging all that they hold.
    ///
    /// # Errors
    /// When the store is away, closed or broken.
    async fn expire(&self, now: Timestamp, limit: usize) -> Result<Vec<LeaseId>, StoreError>;

    /// How `accounts` stand, in their order; nothing spent or held for unknown ones.
    ///
    /// # Errors
    /// When the store is away, closed or broken.
    async fn balance(&self, accounts: &[Key]) -> Result<Vec<Balance>, StoreError>;

    /// Forgets an account whose window is over, and tells whether it is gone: not while leases hold some of it.
    ///
    /// # Errors
    /// When the store is away, closed or broken.
    async fn forget(&self, account: &Key) -> Result<bool, StoreError>;
}

/// Refuses lines that no store takes, and brings amounts down to [`MOST`].
pub(crate) fn check(lines: &[Line]) -> Result<Vec<Line>, StoreError> {
    if lines.is_empty() || lines.len() > MOST_LINES {
        return Err(StoreError::Invalid(format!("a lease has 1 to {MOST_LINES} lines, not {}", lines.len())));
    }
    for (at, line) in lines.iter().enumerate() {
        if line.least > line.want {
            return Err(StoreError::Invalid(format!("`least` exceeds `want` for `{}`", line.account)));
        }
        if lines.iter().take(at).any(|other| other.account == line.account) {
            return Err(StoreError::Invalid(format!("account `{}` comes twice in a lease", line.account)));
        }
    }
    let most = |amount: u64| amount.min(MOST);
    // A `least` above MOST cannot be met, as no account has so much left: it stays above what can be free.
    Ok(lines
        .iter()
        .map(|line| Line {
            account: line.account.clone(),
            limit: most(line.limit),
            want: most(line.want),
            least: line.least.min(MOST + 1),
        })
        .collect())
}

/// The error for a lease that exists with other accounts.
pub(crate) fn other_lines(lease: &LeaseId) -> StoreError {
    StoreError::Invalid(format!("lease `{}` has other lines", lease.0))
}

/// Refuses amounts that no lease can hold.
pub(crate) fn check_turn(lease: &LeaseId, spent: &[u64], keep: &[u64]) -> Result<(), StoreError> {
    if spent.len() != keep.len() || spent.is_empty() || spent.len() > MOST_LINES {
        return Err(other_lines(lease));
    }
    if spent.iter().chain(keep).any(|amount| *amount > MOST) {
        return Err(StoreError::Invalid(format!("an amount of `{}` exceeds {MOST}", lease.0)));
    }
    Ok(())
}
