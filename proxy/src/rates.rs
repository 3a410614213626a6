//! Rate limits of rules (`constraints.rate`), one for each rule and agent: GCRA, by governor.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;
use sideguard_types::verdict::Rate;

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock>;

/// Limiters kept at once; beyond it all are forgotten, which lets at most one burst through twice.
const KEPT: usize = 16_384;

/// All limiters.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    limiters: Mutex<HashMap<Key, Arc<Limiter>>>,
}

/// A rule, an agent, and the rate: a rule whose rate changes gets a new limiter.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    rule: Arc<str>,
    agent: String,
    calls: u32,
    per: Duration,
    burst: u32,
}

impl Rates {
    /// Lets one call through, or says how long to wait.
    pub(crate) fn pass(&self, rule: &Arc<str>, agent: &str, rate: &Rate) -> Result<(), Duration> {
        let key = Key {
            rule: Arc::clone(rule),
            agent: agent.to_owned(),
            calls: rate.calls,
            per: rate.per.0,
            burst: rate.burst.unwrap_or(rate.calls),
        };
        let (Some(calls), Some(burst)) = (NonZeroU32::new(key.calls), NonZeroU32::new(key.burst)) else {
            return Err(Duration::from_secs(60));
        };
        let limiter = {
            let mut limiters = self.limiters.lock();
            if limiters.len() >= KEPT {
                limiters.clear();
            }
            let per = key.per;
            Arc::clone(limiters.entry(key).or_insert_with(|| {
                let each = per
                    .checked_div(calls.get())
                    .filter(|each| !each.is_zero())
                    .unwrap_or(Duration::from_nanos(1));
                let quota =
                    Quota::with_period(each).unwrap_or_else(|| Quota::per_second(calls)).allow_burst(burst);
                Arc::new(RateLimiter::direct(quota))
            }))
        };
        limiter.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sideguard_types::time::Span;
    use sideguard_types::verdict::Rate;

    use super::Rates;

    #[test]
    fn each_agent_has_its_own_burst() {
        let rates = Rates::default();
        let rate = Rate { calls: 2, per: Span(Duration::from_secs(3600)), burst: None };
        let rule = "doc/rule".into();
        for agent in ["a", "b"] {
            assert!(rates.pass(&rule, agent, &rate).is_ok());
            assert!(rates.pass(&rule, agent, &rate).is_ok());
            let wait = rates.pass(&rule, agent, &rate).expect_err("the burst is used up");
            assert!(wait > Duration::from_secs(1_000) && wait <= Duration::from_secs(1_800));
        }
    }
}
