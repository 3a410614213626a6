//! One account: sums over a window of time.

use std::collections::VecDeque;

use sideguard_types::resource::Window;
use sideguard_types::time::{Span, Timestamp};

use super::slice::Slice;

/// Parts of a rolling window. One part more is kept, so that a part is forgotten only when it is wholly outside:
/// the sum may be too large by one part, never too small.
const PARTS: i64 = 60;

/// What was spent and what is held.
#[derive(Debug, Default, Clone)]
pub(super) struct Account {
    pub(super) spent: Spent,
    pub(super) held: u64,
    /// Reservations that are not given back; while there are any, the account must stay.
    open: u32,
    /// What leases give, where the limit is leased.
    pub(super) slice: Slice,
}

impl Account {
    /// Whether nothing would be lost if the account were forgotten.
    pub(super) fn is_idle(&self, window: Option<Window>, now: Timestamp) -> bool {
        self.open == 0 && self.spent.at(window, now) == 0 && self.slice.is_idle()
    }

    pub(super) fn enter(&mut self) {
        self.open = self.open.saturating_add(1);
    }

    pub(super) fn leave(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    pub(super) fn hold(&mut self, amount: u64) {
        self.held = self.held.saturating_add(amount);
    }

    pub(super) fn release(&mut self, amount: u64) {
        self.held = self.held.saturating_sub(amount);
    }
}

/// What was spent in a window, in parts by time, oldest first; parts in which nothing was spent are left out.
#[derive(Debug, Default, Clone)]
pub(super) struct Spent {
    parts: VecDeque<Part>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    /// Which part of time it is; see [`part_of`].
    index: i64,
    sum: u64,
}

impl Spent {
    /// What counts at `now`.
    pub(super) fn at(&self, window: Option<Window>, now: Timestamp) -> u64 {
        let oldest = oldest(window, now);
        let live = self.parts.iter().filter(|part| part.index >= oldest);
        live.fold(0, |sum, part| sum.saturating_add(part.sum))
    }

    /// Spends `amount` at `now`.
    pub(super) fn add(&mut self, window: Option<Window>, amount: u64, now: Timestamp) {
        self.tidy(window, now);
        self.insert(window, amount, now);
    }

    /// Spends `amount` at a moment that may lie before others.
    pub(super) fn insert(&mut self, window: Option<Window>, amount: u64, at: Timestamp) {
        if amount == 0 {
            return;
        }
        let index = part_of(window, at);
        let place = self.parts.partition_point(|part| part.index < index);
        match self.parts.get_mut(place) {
            Some(part) if part.index == index => part.sum = part.sum.saturating_add(amount),
            _ => self.parts.insert(place, Part { index, sum: amount }),
        }
    }

    /// Takes back what was spent at `at`, as far as it still counts there.
    pub(super) fn remove(&mut self, window: Option<Window>, amount: u64, at: Timestamp) {
        let index = part_of(window, at);
        if let Some(part) = self.parts.iter_mut().find(|part| part.index == index) {
            part.sum = part.sum.saturating_sub(amount);
        }
    }

    /// Forgets what is past. What seems to lie ahead was spent before the clock was set back: it moves to now,
    /// so that it is past a window's length from here and not only when the clock is back where it was.
    pub(super) fn tidy(&mut self, window: Option<Window>, now: Timestamp) {
        let (oldest, current) = (oldest(window, now), part_of(window, now));
        while self.parts.front().is_some_and(|part| part.index < oldest) {
            self.parts.pop_front();
        }
        let mut ahead = 0_u64;
        while let Some(part) = self.parts.pop_back_if(|part| part.index > current) {
            ahead = ahead.saturating_add(part.sum);
        }
        self.insert(window, ahead, now);
    }

    /// When enough is past that no more than `most` counts; `None` when time does not help.
    pub(super) fn falls_to(&self, window: Option<Window>, most: u64, now: Timestamp) -> Option<Timestamp> {
        let (oldest, mut left) = (oldest(window, now), self.at(window, now));
        for part in self.parts.iter().filter(|part| part.index >= oldest) {
            if left <= most {
                break;
            }
            left = left.saturating_sub(part.sum);
            if left <= most {
                return end_of(window, part.index);
            }
        }
        None
    }
}

/// Index of the part of time that `at` lies in: a count of parts since 1970 for rolling windows, the first
/// moment for calendar ones, always the same without a window.
fn part_of(window: Option<Window>, at: Timestamp) -> i64 {
    match window {
        None => 0,
        Some(Window::Day) => at.day_start().0,
        Some(Window::Month) => at.month_start().0,
        Some(Window::Rolling(span)) => at.0.div_euclid(width(span)),
    }
}

/// Index of the oldest part that counts at `now`.
fn oldest(window: Option<Window>, now: Timestamp) -> i64 {
    let current = part_of(window, now);
    match window {
        Some(Window::Rolling(_)) => current.saturating_sub(PARTS),
        _ => current,
    }
}

/// When the part `index` stops counting.
fn end_of(window: Option<Window>, index: i64) -> Option<Timestamp> {
    match window? {
        Window::Day => Some(Timestamp(index).plus(std::time::Duration::from_secs(86_400))),
        Window::Month => Some(Timestamp(index).next_month_start()),
        Window::Rolling(span) => {
            let parts = index.saturating_add(PARTS).saturating_add(1);
            Some(Timestamp(parts.saturating_mul(width(span))))
        }
    }
}

/// Microseconds in a part of a rolling window, rounded up.
fn width(span: Span) -> i64 {
    let parts = u128::from(PARTS.unsigned_abs());
    i64::try_from(span.0.as_micros().div_ceil(parts)).unwrap_or(i64::MAX).max(1)
}
