//! The only place that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use sideguard_types::time::Timestamp;

/// The present moment, by the system's clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// A running stop-watch, unaffected by changes of the system's clock. It goes on while the machine sleeps.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Duration);

/// Time since the machine was started, sleep included: what no change of the system's clock disturbs.
#[must_use]
pub fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Stopwatch {
    /// Starts one.
    #[must_use]
    pub fn start() -> Self {
        Self(uptime())
    }

    /// Time since it was started.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        uptime().saturating_sub(self.0)
    }

    /// One that was started so much later, but not after now.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by).min(uptime()))
    }

    /// Whole microseconds since it was started.
    #[must_use]
    pub fn micros(self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
