//! An account as control keeps it beside the store's ledger: how much was spent in all at which time.
//!
//! The ledger's sum only grows. What was spent in a window is the sum now less the sum when the window began, and for that
//! the newest sample from before will do: it is never too large. So a hold that may bring the sum to `amount` plus that
//! sample keeps every window of the length below `amount`, whatever else is held or settled in between.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sideguard_policy::ledger::Touched;
use sideguard_store::key::Key;
use sideguard_types::resource::{Unit, Window};
use sideguard_types::time::Timestamp;

use super::time::{end_of, start_of};
use crate::error::Failure;
use crate::signer::hex;

/// Most samples of an account.
const MOST_POINTS: usize = 240;
/// Parts of a rolling window between samples.
const PARTS: u32 = 60;
/// Time between samples of other accounts.
const SPACING: std::time::Duration = std::time::Duration::from_secs(60);

/// The sum at a moment, or a little before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Point {
    #[serde(rename = "t")]
    pub(super) time: Timestamp,
    #[serde(rename = "s")]
    pub(super) spent: u64,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) limit: String,
    pub(super) budget: String,
    pub(super) unit: Unit,
    pub(super) key: String,
    /// Names the account of the ledger: another one after it was forgotten.
    pub(super) epoch: String,
    pub(super) points: Vec<Point>,
    /// The highest share at which an alert was raised in this window, in thousandths.
    #[serde(default)]
    pub(super) alert: Option<u32>,
    #[serde(default)]
    pub(super) alerts: u64,
    /// Since when it is about to be forgotten, unless somebody takes this away.
    #[serde(default)]
    pub(super) closing: Option<Timestamp>,
}

/// Namespace of what belongs to budgets of all tenants. No tenant can be called so. It is not that of the desired state,
/// which is read anew at every change of it.
pub(super) const EVERY: &str = "sideguard.budgets";

/// The namespace of a limit's accounts.
pub(super) fn space(tenant: Option<&str>) -> &str {
    tenant.unwrap_or(EVERY)
}

fn named(tenant: &str, path: &str) -> Result<Key, Failure> {
    Key::new(tenant, path).map_err(|error| Failure::Invalid(error.to_string()))
}

/// Path below which the accounts of a tenant are.
pub(super) const ACCOUNTS: &str = "budgets/accounts";

/// Where an account is kept.
pub(super) fn place(limit: &Touched<'_>) -> Result<Key, Failure> {
    let key = hex(&Sha256::digest(limit.key.as_bytes()));
    let key = key.get(..32).unwrap_or_default();
    named(space(limit.tenant), &format!("{ACCOUNTS}/{}/{key}", limit.limit))
}

/// The ledger's account for what is kept at `place`.
pub(super) fn account(place: &Key, epoch: &str) -> Result<Key, Failure> {
    let path = place.path().trim_start_matches(ACCOUNTS);
    named(place.tenant(), &format!("budgets/sums{path}/{epoch}"))
}

impl Kept {
    pub(super) fn new(limit: &Touched<'_>) -> Self {
        Self {
            limit: limit.limit.to_string(),
            budget: limit.budget.to_owned(),
            unit: limit.unit,
            key: limit.key.to_string(),
            epoch: sideguard_runtime::id::token(8).to_ascii_lowercase(),
            points: Vec::new(),
            alert: None,
            alerts: 0,
            closing: None,
        }
    }

    /// The sum when the window began that ends at `now`, or less.
    pub(super) fn base(&self, window: Option<Window>, now: Timestamp) -> u64 {
        let Some(start) = start_of(window, now) else { return 0 };
        self.points.iter().rev().find(|point| point.time <= start).map_or(0, |point| point.spent)
    }

    /// Takes a sample when it is time for one. `spent` was read before `now`.
    pub(super) fn sample(&mut self, window: Option<Window>, now: Timestamp, spent: u64) -> bool {
        let last = self.points.last();
        if last.map_or(0, |last| last.spent) == spent {
            return false;
        }
        if last.is_some_and(|last| now < last.time.plus(spacing(window))) {
            return false;
        }
        self.points.push(Point { time: now, spent });
        self.tidy(window, now);
        true
    }

    /// Forgets what no window needs, and every other sample of a calendar's when there are too many.
    fn tidy(&mut self, window: Option<Window>, now: Timestamp) {
        let needed = start_of(window, now)
            .and_then(|start| self.points.iter().rposition(|point| point.time <= start))
            .unwrap_or_default();
        self.points.drain(..needed);
        if self.points.len() > MOST_POINTS {
            let (mut at, last) = (0_usize, self.points.len() - 1);
            self.points.retain(|_| {
                let keep = at == 0 || at == last || at.is_multiple_of(2);
                at += 1;
                keep
            });
        }
    }

    /// When the sum of the window has fallen so far that `most` may be spent or held of a sum of `all`; `None` when time
    /// does not help.
    pub(super) fn falls(&self, window: Option<Window>, now: Timestamp, most: u64, all: u64) -> Option<Timestamp> {
        let enough = all.checked_sub(most)?;
        match window? {
            Window::Day | Window::Month => end_of(window, now),
            Window::Rolling(_) => {
                let point = self.points.iter().find(|point| point.spent >= enough);
                // What is not sampled yet will be sampled soon.
                end_of(window, point.map_or(now, |point| point.time))
            }
        }
    }
}

fn spacing(window: Option<Window>) -> std::time::Duration {
    match window {
        Some(Window::Rolling(span)) => span.0 / PARTS,
        _ => SPACING,
    }
}
