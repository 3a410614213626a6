//! Counters for tests and explanations.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use sideguard_types::call::Velocity;
use sideguard_types::time::Timestamp;

/// Counts exactly, in memory of one thread, and forgets nothing that is still inside its window.
#[derive(Debug, Clone, Default)]
pub struct Counters(RefCell<HashMap<u64, Vec<Timestamp>>>);

impl Velocity for Counters {
    fn count(&self, key: u64, window: Duration, now: Timestamp) -> u64 {
        let mut all = self.0.borrow_mut();
        let times = all.entry(key).or_default();
        times.retain(|time| now.since(*time) < window);
        times.push(now);
        u64::try_from(times.len()).unwrap_or(u64::MAX)
    }
}
