//! What one account of a leased limit may use: parts of leases that another ledger granted, drawn on one after the other.
//!
//! The other ledger holds what is granted here until it is told what was spent, and it charges a lease of which it hears
//! nothing in full. So it is enough that no more is drawn from a grant than it has, and that nothing is drawn from it after
//! its time.

use std::time::Duration;

use sideguard_types::time::Timestamp;
use smallvec::SmallVec;

use super::Told;

/// How long a refusal of the other ledger holds.
const AGAIN: Duration = Duration::from_millis(250);

/// What a reservation has drawn: lease and amount.
pub(super) type Draws = SmallVec<[(u64, u64); 2]>;

/// What one lease gives to the account.
#[derive(Debug, Clone)]
struct Grant {
    lease: u64,
    /// Nothing is drawn from here on, counted as [`super::Ledger::advance`] counts.
    until: Duration,
    /// Free to be drawn.
    left: u64,
    /// Drawn by calls under way.
    out: u64,
    /// Spent, and not yet told.
    used: u64,
}

/// The grants of one account, and what is known of the ledger that they come from.
#[derive(Debug, Default, Clone)]
pub(super) struct Slice {
    grants: Vec<Grant>,
    /// What the other ledger can still grant, as far as it has told.
    free: Option<u64>,
    pub(super) reset_at: Option<Timestamp>,
    /// Whether it is only what others hold that is in the way.
    pub(super) soon: bool,
    /// Until when it need not be asked for more than `free`: it has just said no.
    refused: Duration,
    /// Spent beyond all grants: the next ones pay for it.
    owed: u64,
    /// Drawn in the last period and in this one.
    drawn: [u64; 2],
    /// All that was charged here.
    pub(super) spent: u64,
}

impl Slice {
    /// What may be drawn now.
    pub(super) fn left(&self, now: Duration) -> u64 {
        self.grants
            .iter()
            .filter(|grant| now < grant.until)
            .fold(0, |sum, grant| sum.saturating_add(grant.left))
    }

    /// What calls under way hold.
    pub(super) fn out(&self) -> u64 {
        self.grants.iter().fold(0, |sum, grant| sum.saturating_add(grant.out))
    }

    /// What can be had at most: what is left here, and what the other ledger has as far as is known.
    pub(super) fn room(&self, amount: u64, now: Duration) -> u64 {
        let here = self.left(now);
        let most = amount.saturating_sub(self.out());
        self.free.map_or(most, |free| free.saturating_add(here).min(most)).saturating_sub(self.owed)
    }

    /// What the other ledger could still grant when it was last heard of; nothing is known before.
    pub(super) fn free(&self) -> Option<u64> {
        self.free
    }

    /// Whether nothing would be lost if it were forgotten.
    pub(super) fn is_idle(&self) -> bool {
        self.grants.is_empty() && self.owed == 0 && self.drawn == [0, 0]
    }

    /// Draws `amount`, or nothing; oldest grants first, so that they come to an end.
    pub(super) fn draw(&mut self, amount: u64, now: Duration) -> Option<Draws> {
        if self.left(now) < amount || self.owed > 0 {
            return None;
        }
        let (mut draws, mut wanted) = (Draws::new(), amount);
        for grant in self.grants.iter_mut().filter(|grant| now < grant.until && grant.left > 0) {
            let drawn = grant.left.min(wanted);
            if drawn == 0 {
                break;
            }
            grant.left = grant.left.saturating_sub(drawn);
            grant.out = grant.out.saturating_add(drawn);
            wanted = wanted.saturating_sub(drawn);
            draws.push((grant.lease, drawn));
        }
        self.drawn[1] = self.drawn[1].saturating_add(amount);
        Some(draws)
    }

    /// Charges what was used of `draws` and lets go of the rest. What was used beyond them is taken from what is left, or
    /// is owed.
    pub(super) fn settle(&mut self, draws: &Draws, used: u64) {
        self.spent = self.spent.saturating_add(used);
        let mut rest = used;
        for (lease, amount) in draws {
            let taken = rest.min(*amount);
            rest = rest.saturating_sub(taken);
            // A lease that is gone was charged in full.
            if let Some(grant) = self.grants.iter_mut().find(|grant| grant.lease == *lease) {
                grant.out = grant.out.saturating_sub(*amount);
                grant.used = grant.used.saturating_add(taken);
                grant.left = grant.left.saturating_add(amount.saturating_sub(taken));
            }
        }
        self.owed = self.owed.saturating_add(rest);
        self.pay();
    }

    fn pay(&mut self) {
        for grant in &mut self.grants {
            let paid = grant.left.min(self.owed);
            grant.left = grant.left.saturating_sub(paid);
            grant.used = grant.used.saturating_add(paid);
            self.owed = self.owed.saturating_sub(paid);
        }
    }

    /// Takes in what a lease gives.
    pub(super) fn grant(&mut self, lease: u64, amount: u64, until: Duration, free: u64) {
        self.grants.push(Grant { lease, until, left: amount, out: 0, used: 0 });
        (self.free, self.reset_at, self.soon) = (Some(free), None, false);
        self.pay();
    }

    /// Takes in that the other ledger has no more than `free`.
    pub(super) fn short(&mut self, told: &Told, now: Duration) {
        (self.free, self.soon, self.reset_at) = (Some(told.free), told.soon, told.reset_at);
        self.refused = now.saturating_add(AGAIN);
    }

    /// Whether there is a point in asking for `missing` more.
    pub(super) fn may_ask(&self, missing: u64, now: Duration) -> bool {
        now >= self.refused || self.free.is_none_or(|free| missing <= free)
    }

    /// A lease goes on until then.
    pub(super) fn renew(&mut self, lease: u64, until: Duration) {
        if let Some(grant) = self.grants.iter_mut().find(|grant| grant.lease == lease) {
            grant.until = grant.until.max(until);
        }
    }

    /// What is wanted at once: what two periods use.
    pub(super) fn size(&self) -> u64 {
        self.drawn[0].max(self.drawn[1]).saturating_mul(2)
    }

    /// Whether it should be filled up before it is empty.
    pub(super) fn is_low(&self, now: Duration) -> bool {
        self.left(now) < self.size() / 2 && now >= self.refused && self.free != Some(0)
    }

    /// What is missing for a call of `amount`.
    pub(super) fn missing(&self, amount: u64, now: Duration) -> u64 {
        amount.saturating_add(self.owed).saturating_sub(self.left(now))
    }

    /// A period is over.
    pub(super) fn turn_over(&mut self) {
        self.drawn = [self.drawn[1], 0];
    }

    /// What to tell of a lease: spent since the last time, and kept; with `all` nothing is kept that no call holds,
    /// otherwise what is more than [`size`](Self::size) goes back. `None` for a lease that is not here.
    pub(super) fn report(&mut self, lease: u64, all: bool, now: Duration) -> Option<(u64, u64)> {
        let surplus = if all { u64::MAX } else { self.left(now).saturating_sub(self.size()) };
        let grant = self.grants.iter_mut().find(|grant| grant.lease == lease)?;
        let back = grant.left.min(surplus);
        grant.left = grant.left.saturating_sub(back);
        Some((std::mem::take(&mut grant.used), grant.left.saturating_add(grant.out)))
    }

    /// Forgets a lease that is gone.
    pub(super) fn forget(&mut self, lease: u64) {
        self.grants.retain(|grant| grant.lease != lease);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Draws, Slice};

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_is_drawn_after_a_lease_is_over() {
        let mut slice = Slice::default();
        slice.grant(1, 10, seconds(30), 0);
        assert!(slice.draw(4, seconds(29)).is_some());
        assert!(slice.draw(4, seconds(30)).is_none());
        slice.renew(1, seconds(60));
        assert!(slice.draw(4, seconds(30)).is_some());
    }

    #[test]
    fn what_was_used_beyond_all_grants_is_paid_by_the_next() {
        let mut slice = Slice::default();
        slice.grant(1, 10, seconds(30), 0);
        let draws = slice.draw(10, seconds(0)).expect("it fits");
        slice.settle(&draws, 25);
        assert_eq!(slice.report(1, false, seconds(0)), Some((10, 0)));
        assert_eq!(slice.missing(1, seconds(0)), 16);
        slice.grant(2, 20, seconds(30), 0);
        assert_eq!((slice.left(seconds(0)), slice.report(2, true, seconds(0))), (5, Some((15, 0))));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Grant(u64),
        Draw(u64),
        Settle(usize, u64),
        Report(usize, bool),
        Lose(usize),
        Wait(u64),
        Renew(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0_u64..50).prop_map(Step::Grant),
            5 => (0_u64..20).prop_map(Step::Draw),
            4 => (any::<usize>(), 0_u64..20).prop_map(|(which, used)| Step::Settle(which, used)),
            3 => (any::<usize>(), any::<bool>()).prop_map(|(which, all)| Step::Report(which, all)),
            1 => any::<usize>().prop_map(Step::Lose),
            2 => (0_u64..20).prop_map(Step::Wait),
            2 => any::<usize>().prop_map(Step::Renew),
        ]
    }

    proptest! {
        /// The other ledger, as the store keeps it: what it holds for each lease, and what it was told of. A report never
        /// speaks of more than is held, and what calls have and use is never more than what was granted.
        #[test]
        fn no_more_is_told_or_drawn_than_was_granted(steps in proptest::collection::vec(step(), 0..200)) {
            let (mut slice, mut now) = (Slice::default(), seconds(0));
            let mut held: Vec<(u64, u64, Duration)> = Vec::new();
            let mut open: Vec<(Draws, u64)> = Vec::new();
            let (mut granted, mut told, mut lost, mut back, mut next) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
            let mut used_in_all = 0_u64;
            for step in steps {
                match step {
                    Step::Grant(amount) => {
                        next += 1;
                        slice.grant(next, amount, now + seconds(30), 0);
                        held.push((next, amount, now + seconds(30)));
                        granted += amount;
                    }
                    Step::Draw(amount) => {
                        let live: u64 = held.iter().filter(|(_, _, until)| now < *until).map(|(_, held, _)| held).sum();
                        if let Some(draws) = slice.draw(amount, now) {
                            prop_assert!(amount <= live);
                            prop_assert_eq!(draws.iter().map(|(_, drawn)| drawn).sum::<u64>(), amount);
                            open.push((draws, amount));
                        }
                    }
                    Step::Settle(which, used) if !open.is_empty() => {
                        let (draws, amount) = open.swap_remove(which % open.len());
                        slice.settle(&draws, used.min(amount));
                        used_in_all += used.min(amount);
                    }
                    Step::Report(which, all) if !held.is_empty() => {
                        let at = which % held.len();
                        let (lease, has, _) = held[at];
                        let (spent, keep) = slice.report(lease, all, now).expect("it is there");
                        prop_assert!(spent + keep <= has, "{} spent, {} kept of {}", spent, keep, has);
                        told += spent;
                        back += has - spent - keep;
                        held[at].1 = keep;
                    }
                    Step::Lose(which) if !held.is_empty() => {
                        let (lease, has, _) = held.swap_remove(which % held.len());
                        slice.forget(lease);
                        lost += has;
                    }
                    Step::Renew(which) if !held.is_empty() => {
                        let at = which % held.len();
                        held[at].2 = now + seconds(30);
                        slice.renew(held[at].0, held[at].2);
                    }
                    Step::Wait(some) => now += seconds(some),
                    Step::Settle(..) | Step::Report(..) | Step::Lose(_) | Step::Renew(_) => {}
                }
                let outstanding: u64 = held.iter().map(|(_, held, _)| held).sum();
                prop_assert_eq!(told + lost + back + outstanding, granted);
                let under_way: u64 = open.iter().map(|(_, amount)| amount).sum();
                prop_assert!(used_in_all + under_way <= granted - back, "more is used than was ever held");
            }
        }
    }
}
