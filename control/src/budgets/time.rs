//! Time as budgets count it. It never goes back, whatever becomes of the machine's clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sideguard_types::resource::Window;
use sideguard_types::time::Timestamp;

/// A moment by two clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// By the stop-watch since the service started: a step of the machine's clock does not move it. Leases and rolling
    /// windows are counted by it.
    pub(crate) steady: Timestamp,
    /// By the calendar. When the machine's clock is set back this goes on at half its pace until the other is there again,
    /// so that no day or month begins twice.
    pub(crate) civil: Timestamp,
}

impl Moment {
    /// The first moment of a service: not before what was reached earlier.
    pub(super) fn start(reached: Self, wall: Timestamp) -> Self {
        Self { steady: reached.steady.max(wall), civil: reached.civil.max(wall) }
    }

    /// The moment `passed` later, when the machine's clock shows `wall`.
    pub(super) fn later(self, passed: Duration, wall: Timestamp) -> Self {
        let civil = if wall >= self.civil { wall } else { self.civil.plus(passed / 2).max(self.civil) };
        Self { steady: self.steady.plus(passed), civil }
    }

    /// The later of both, clock by clock.
    pub(super) fn max(self, other: Self) -> Self {
        Self { steady: self.steady.max(other.steady), civil: self.civil.max(other.civil) }
    }

    /// The moment as a window counts.
    pub(super) const fn of(self, window: Option<Window>) -> Timestamp {
        match window {
            Some(Window::Rolling(_)) => self.steady,
            _ => self.civil,
        }
    }

    /// What a window's time is on the machine's clock, which shows `wall`.
    pub(super) fn shown(self, window: Option<Window>, at: Timestamp, wall: Timestamp) -> Timestamp {
        match window {
            Some(Window::Rolling(_)) => Timestamp(at.0.saturating_add(wall.0.saturating_sub(self.steady.0))),
            _ => at,
        }
    }
}

/// By how much the clocks of two services may differ: they tell each other the time once a second.
const SKEW: Duration = Duration::from_secs(2);

/// The first moment that counts at `now`; `None` when all do.
pub(super) fn start_of(window: Option<Window>, now: Timestamp) -> Option<Timestamp> {
    match window? {
        Window::Day => Some(now.day_start()),
        Window::Month => Some(now.month_start()),
        Window::Rolling(span) => {
            let back = i64::try_from((span.0 + SKEW).as_micros()).unwrap_or(i64::MAX);
            Some(Timestamp(now.0.saturating_sub(back)))
        }
    }
}

/// When what was spent up to `at` stops counting; `None` for never.
pub(super) fn end_of(window: Option<Window>, at: Timestamp) -> Option<Timestamp> {
    match window? {
        Window::Day => Some(at.day_start().plus(Duration::from_secs(86_400))),
        Window::Month => Some(at.next_month_start()),
        Window::Rolling(span) => Some(at.plus(span.0 + SKEW)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sideguard_types::time::Timestamp;

    use super::Moment;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn a_clock_that_jumps_moves_no_rolling_window_and_begins_no_day_twice() {
        let second = Duration::from_secs(1);
        let start = Moment::start(Moment::default(), Timestamp(10 * HOUR));
        let ahead = start.later(second, Timestamp(15 * HOUR));
        assert_eq!(ahead.steady, start.steady.plus(second));
        assert_eq!(ahead.civil, Timestamp(15 * HOUR));
        let back = ahead.later(second, Timestamp(10 * HOUR));
        assert_eq!(back.civil, ahead.civil.plus(second / 2), "never back, at half the pace");
        let mut now = back;
        for passed in 1..=10 {
            now = now.later(Duration::from_secs(3_600), Timestamp((10 + passed) * HOUR));
        }
        assert_eq!(now.civil, Timestamp(20 * HOUR), "in the end it is the machine's clock again");
        let again = Moment::start(now, Timestamp(0));
        assert_eq!(again, now, "a restart with the clock set back goes on from where it was");
    }
}
