//! Circuit breakers. The state machine is pure: state, event and time in, state out.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use sideguard_types::resource::BreakerSpec;
use sideguard_types::time::Timestamp;

/// Breakers kept at once; beyond it, those that are healthy are forgotten.
const KEPT: usize = 4_096;
/// Longest time between a trip and the next probe, as a multiple of the configured one.
const MAX_BACKOFF: u32 = 10;

/// How an upstream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Calls pass; so many failed in a row.
    Healthy { failures: u32 },
    /// Calls are held back until then; tripped so often in a row.
    Tripped { until: Timestamp, trips: u32 },
    /// One call is on its way to see whether it works again; if it is never heard of, another may go then.
    Probing { until: Timestamp, trips: u32 },
}

/// What happens to a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A call wants to pass.
    Ask,
    /// A call that passed came back well.
    Worked,
    /// A call that passed failed.
    Failed,
}

/// What a breaker says to [`Event::Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Go.
    Pass,
    /// Not before then.
    Wait(Timestamp),
}

/// One step of a breaker.
pub(crate) fn step(state: State, event: Event, spec: &BreakerSpec, now: Timestamp) -> (State, Answer) {
    let backoff = |trips: u32| spec.cooldown.0.saturating_mul(trips.clamp(1, MAX_BACKOFF));
    let trip = |trips: u32| State::Tripped { until: now.plus(backoff(trips)), trips };
    match (state, event) {
        _ if spec.failures == 0 => (State::Healthy { failures: 0 }, Answer::Pass),
        (_, Event::Worked) => (State::Healthy { failures: 0 }, Answer::Pass),
        (State::Healthy { failures }, Event::Failed) if failures.saturating_add(1) >= spec.failures => {
            (trip(1), Answer::Pass)
        }
        (State::Healthy { failures }, Event::Failed) => {
            (State::Healthy { failures: failures.saturating_add(1) }, Answer::Pass)
        }
        (State::Healthy { .. }, Event::Ask) => (state, Answer::Pass),
        (State::Tripped { until, trips } | State::Probing { until, trips }, Event::Ask) if now >= until => (
            State::Probing { until: now.plus(backoff(trips).max(Duration::from_secs(30))), trips },
            Answer::Pass,
        ),
        (State::Tripped { until, .. } | State::Probing { until, .. }, Event::Ask) => {
            (state, Answer::Wait(until))
        }
        (State::Probing { trips, .. }, Event::Failed) => (trip(trips.saturating_add(1)), Answer::Pass),
        // A call that passed before the trip.
        (State::Tripped { .. }, Event::Failed) => (state, Answer::Pass),
    }
}

/// All breakers, by upstream and model.
#[derive(Debug, Default)]
pub(crate) struct Breakers {
    states: Mutex<HashMap<String, State, ahash::RandomState>>,
}

impl Breakers {
    /// Tells a breaker of an event. The second value is whether it tripped or healed by it.
    pub(crate) fn tell(
        &self,
        key: &str,
        event: Event,
        spec: &BreakerSpec,
        now: Timestamp,
    ) -> (Answer, Option<&'static str>) {
        let mut states = self.states.lock();
        let before = states.get(key).copied().unwrap_or(State::Healthy { failures: 0 });
        let (after, answer) = step(before, event, spec, now);
        let change = match (before, after) {
            (State::Tripped { .. }, State::Tripped { .. }) => None,
            (_, State::Tripped { .. }) => Some("tripped"),
            (State::Tripped { .. }, State::Probing { .. }) => Some("probing"),
            (State::Tripped { .. } | State::Probing { .. }, State::Healthy { .. }) => Some("healthy"),
            _ => None,
        };
        if after == (State::Healthy { failures: 0 }) {
            states.remove(key);
        } else {
            if states.len() >= KEPT {
                states.retain(|_, state| !matches!(state, State::Healthy { .. }));
            }
            // Beyond the bound only known ones are kept: an agent that makes up names fills no memory.
            if states.len() < KEPT || states.contains_key(key) {
                states.insert(key.to_owned(), after);
            }
        }
        (answer, change)
    }

    /// Every breaker that is not healthy, by key.
    pub(crate) fn troubled(&self) -> Vec<(String, State)> {
        self.states.lock().iter().map(|(key, state)| (key.clone(), *state)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use sideguard_types::resource::BreakerSpec;
    use sideguard_types::time::{Span, Timestamp};

    use super::{Answer, Event, State, step};

    fn spec() -> BreakerSpec {
        BreakerSpec { failures: 3, cooldown: Span(Duration::from_secs(5)) }
    }

    #[test]
    fn it_trips_probes_and_heals() {
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        let mut state = State::Healthy { failures: 0 };
        for _ in 0..3 {
            state = step(state, Event::Failed, &spec(), at(0)).0;
        }
        assert_eq!(step(state, Event::Ask, &spec(), at(1)).1, Answer::Wait(at(5)));
        let (probing, answer) = step(state, Event::Ask, &spec(), at(5));
        assert_eq!(answer, Answer::Pass);
        assert_eq!(step(probing, Event::Ask, &spec(), at(6)).1, Answer::Wait(at(35)), "one probe at a time");
        let (again, _) = step(probing, Event::Failed, &spec(), at(6));
        assert_eq!(again, State::Tripped { until: at(16), trips: 2 }, "each failed probe waits longer");
        assert_eq!(step(probing, Event::Worked, &spec(), at(6)).0, State::Healthy { failures: 0 });
    }

    proptest! {
        #[test]
        fn while_tripped_nothing_passes_and_it_never_stays_so_for_ever(events in proptest::collection::vec((0_u8..3, 0_i64..20), 1..200)) {
            let (mut state, mut now) = (State::Healthy { failures: 0 }, Timestamp(0));
            for (event, seconds) in events {
                now = now.plus(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
                let event = [Event::Ask, Event::Worked, Event::Failed][usize::from(event)];
                let before = state;
                let answer;
                (state, answer) = step(state, event, &spec(), now);
                if let (Event::Ask, State::Tripped { until, .. }) = (event, before) {
                    prop_assert_eq!(answer == Answer::Pass, now >= until);
                    prop_assert!(until <= now.plus(Duration::from_secs(50)));
                }
            }
        }
    }
}
