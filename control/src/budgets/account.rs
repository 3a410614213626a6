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
    pub(super) fn falls(
        &self,
        window: Option<Window>,
        now: Timestamp,
        most: u64,
        all: u64,
    ) -> Option<Timestamp> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use sideguard_types::resource::{Unit, Window};
    use sideguard_types::time::{Span, Timestamp};

    use super::super::time::Moment;
    use super::Kept;

    const LIMIT: u64 = 100;

    fn empty() -> Kept {
        Kept {
            limit: String::new(),
            budget: String::new(),
            unit: Unit::Tokens,
            key: String::new(),
            epoch: String::new(),
            points: Vec::new(),
            alert: None,
            alerts: 0,
            closing: None,
        }
    }

    const fn seconds(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn the_sum_of_a_window_is_never_too_small() {
        let minute = Some(Window::Rolling(Span(Duration::from_secs(60))));
        let mut kept = empty();
        assert!(kept.sample(minute, seconds(100), 30));
        assert!(!kept.sample(minute, seconds(101), 30), "nothing has changed");
        assert!(kept.sample(minute, seconds(110), 70));
        assert_eq!(kept.base(minute, seconds(120)), 0);
        assert_eq!(kept.base(minute, seconds(163)), 30);
        assert_eq!(kept.base(minute, seconds(173)), 70);
        assert_eq!(kept.falls(minute, seconds(120), 50, 70), Some(seconds(162)), "the first 30 are past");
        assert_eq!(kept.falls(minute, seconds(120), 0, 70), Some(seconds(172)));
        let day = Some(Window::Day);
        let mut kept = empty();
        assert!(kept.sample(day, seconds(86_000), 30));
        assert!(kept.sample(day, seconds(86_399), 40));
        assert_eq!((kept.base(day, seconds(86_399)), kept.base(day, seconds(86_400))), (0, 40));
    }

    #[test]
    fn samples_do_not_grow_without_bound_and_the_first_of_a_window_stays() {
        let month = Some(Window::Month);
        let mut kept = empty();
        for minute in 0..10_000_i64 {
            kept.sample(month, seconds(minute * 60), u64::try_from(minute).unwrap_or_default() + 1);
        }
        assert!(kept.points.len() <= super::MOST_POINTS + 1);
        assert_eq!(kept.points.first().map(|point| point.spent), Some(1));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Hold(u64),
        /// Some of what a lease holds is really spent, at a sidecar.
        Use(usize, u64),
        /// A sidecar tells.
        Tell(usize, bool),
        /// A lease is charged in full. Its sidecar has stopped using it.
        Lose(usize),
        Sample,
        Wait(u64),
        Jump(i64),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (1_u64..40).prop_map(Step::Hold),
            5 => (any::<usize>(), 0_u64..40).prop_map(|(which, amount)| Step::Use(which, amount)),
            4 => (any::<usize>(), any::<bool>()).prop_map(|(which, close)| Step::Tell(which, close)),
            1 => any::<usize>().prop_map(Step::Lose),
            3 => Just(Step::Sample),
            4 => prop_oneof![0_u64..20, 0_u64..5_000].prop_map(Step::Wait),
            1 => (-100_000_i64..100_000).prop_map(Step::Jump),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        /// The store's ledger as it is (a sum, what is held, and a check against a limit), control's samples, and sidecars
        /// that spend when they like and tell late: no window of true time has more than the limit in it, and no day of
        /// the ledger either, however the machine's clock jumps.
        #[test]
        fn no_window_has_more_than_the_limit(steps in proptest::collection::vec(step(), 0..300), rolling in any::<bool>()) {
            let span = Duration::from_secs(60);
            let window = Some(if rolling { Window::Rolling(Span(span)) } else { Window::Day });
            let (mut truth, mut offset) = (seconds(1_000_000), 0_i64);
            let wall = |truth: Timestamp, offset: i64| Timestamp((truth.0 + offset * 1_000_000).max(0));
            let mut now = Moment::start(Moment::default(), wall(truth, offset));
            let (mut kept, mut sum) = (empty(), 0_u64);
            // What is held for a lease, and what of it was used and not told.
            let mut leases: Vec<(u64, u64)> = Vec::new();
            // When something was really spent: true time, day of the ledger, amount.
            let mut uses: Vec<(Timestamp, Timestamp, u64)> = Vec::new();
            for step in steps {
                let at = now.of(window);
                match step {
                    Step::Hold(want) => {
                        let held: u64 = leases.iter().map(|(held, _)| held).sum();
                        if sum + held + want <= LIMIT + kept.base(window, at) {
                            leases.push((want, 0));
                        }
                    }
                    Step::Use(which, amount) if !leases.is_empty() => {
                        let which = which % leases.len();
                        let (held, used) = &mut leases[which];
                        let amount = amount.min(*held - *used);
                        *used += amount;
                        uses.push((truth, now.civil.day_start(), amount));
                    }
                    Step::Tell(which, close) if !leases.is_empty() => {
                        let which = which % leases.len();
                        let (held, used) = &mut leases[which];
                        sum += *used;
                        (*held, *used) = (*held - *used, 0);
                        if close {
                            leases.swap_remove(which);
                        }
                    }
                    Step::Lose(which) if !leases.is_empty() => sum += leases.swap_remove(which % leases.len()).0,
                    Step::Use(..) | Step::Tell(..) | Step::Lose(_) => {}
                    Step::Sample => drop(kept.sample(window, at, sum)),
                    Step::Wait(passed) => {
                        truth = truth.plus(Duration::from_secs(passed));
                        now = now.later(Duration::from_secs(passed), wall(truth, offset));
                    }
                    Step::Jump(by) => {
                        offset = by;
                        now = now.later(Duration::ZERO, wall(truth, offset));
                    }
                    // Without a jump in between: how long it took, only the machine's clock tells.
                    Step::Restart if offset == 0 => now = Moment::start(now, wall(truth, offset)),
                    Step::Restart => {}
                }
                let inside = |one: &&(Timestamp, Timestamp, u64)| {
                    if rolling { truth.since(one.0) < span } else { one.1 == now.civil.day_start() }
                };
                let spent: u64 = uses.iter().filter(inside).map(|(.., amount)| amount).sum();
                prop_assert!(spent <= LIMIT, "{} in the window", spent);
                let shown = sum - kept.base(window, now.of(window));
                prop_assert!(shown >= spent.saturating_sub(leases.iter().map(|(held, _)| held).sum()));
            }
        }
    }
}
