//! Counts of recent calls by key, in bounded memory: for rules with `velocity` and for runaway agents.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use sideguard_types::call::Velocity;
use sideguard_types::time::Timestamp;

/// Slots that a window is divided into: counts are exact to one slot, never too low.
const SLOTS: usize = 16;
/// Keys that are counted at once. Beyond it the least recently used half is forgotten.
const KEYS: usize = 65_536;

/// One key's calls.
#[derive(Debug, Clone, Default)]
struct Ring {
    counts: [u64; SLOTS],
    /// Number of the slot counted last, since 1970.
    last: i64,
}

impl Ring {
    fn add(&mut self, slot: i64, amount: u64) -> u64 {
        let passed = slot.saturating_sub(self.last).max(0);
        let slots = i64::try_from(SLOTS).unwrap_or(i64::MAX);
        for ahead in 0..passed.min(slots) {
            let index = usize::try_from((self.last + 1 + ahead).rem_euclid(slots)).unwrap_or(0);
            self.counts[index] = 0;
        }
        self.last = self.last.max(slot);
        let index = usize::try_from(self.last.rem_euclid(slots)).unwrap_or(0);
        self.counts[index] = self.counts[index].saturating_add(amount);
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// Counts by key.
#[derive(Debug, Default)]
pub struct Counters {
    rings: Mutex<HashMap<(u64, u64), Ring, ahash::RandomState>>,
}

impl Counters {
    /// Adds `amount` under `key` and returns the sum over the last `window`.
    pub fn add(&self, key: u64, amount: u64, window: Duration, now: Timestamp) -> u64 {
        let width = u64::try_from(window.as_micros()).unwrap_or(u64::MAX).div_ceil(SLOTS as u64 - 1).max(1);
        let slot = now.0.div_euclid(i64::try_from(width).unwrap_or(i64::MAX));
        let mut rings = self.rings.lock();
        if rings.len() >= KEYS && !rings.contains_key(&(key, width)) {
            let mut ages: Vec<i64> = rings
                .iter()
                .map(|((_, width), ring)| ring.last.saturating_mul(i64::try_from(*width).unwrap_or(i64::MAX)))
                .collect();
            ages.sort_unstable();
            let middle = ages.get(ages.len() / 2).copied().unwrap_or(0);
            rings.retain(|(_, width), ring| {
                ring.last.saturating_mul(i64::try_from(*width).unwrap_or(i64::MAX)) > middle
            });
        }
        let ring = rings.entry((key, width)).or_insert_with(|| Ring { counts: [0; SLOTS], last: slot });
        ring.add(slot, amount)
    }
}

impl Velocity for Counters {
    fn count(&self, key: u64, window: Duration, now: Timestamp) -> u64 {
        self.add(key, 1, window, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sideguard_types::time::Timestamp;

    use super::{Counters, KEYS};

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_count_never_misses_a_call_of_its_window() {
        let counters = Counters::default();
        let window = Duration::from_secs(60);
        for second in 0..60 {
            let seen = counters.add(1, 1, window, Timestamp(second * SECOND));
            assert_eq!(seen, u64::try_from(second).expect("small") + 1);
        }
        assert!(counters.add(1, 1, window, Timestamp(200 * SECOND)) == 1, "old calls are forgotten");
    }

    #[test]
    fn memory_is_bounded() {
        let counters = Counters::default();
        for key in 0..(KEYS as u64 * 2) {
            counters.add(key, 1, Duration::from_secs(60), Timestamp(i64::try_from(key).expect("small")));
        }
        assert!(counters.rings.lock().len() <= KEYS);
    }

    #[test]
    fn a_clock_that_goes_back_counts_on() {
        let counters = Counters::default();
        counters.add(1, 1, Duration::from_secs(60), Timestamp(500 * SECOND));
        assert_eq!(counters.add(1, 1, Duration::from_secs(60), Timestamp(100 * SECOND)), 2);
    }
}
