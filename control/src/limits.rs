//! What one client, or all together, may ask for: rates of requests, questions held, streams open.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;
use sideguard_types::resource::ControlLimits;

/// How many seconds' worth of requests may come at once.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// Addresses and keys that are told apart; when there are more, those that have been quiet are forgotten, and if all are busy
/// the newcomers share one rate.
const KNOWN: usize = 50_000;
/// When to ask again for a place among those that wait.
const AGAIN: Duration = Duration::from_secs(5);

type Rates<K> = RateLimiter<K, HashMapStateStore<K>, DefaultClock>;

/// The limits of a service, and how far each client is from them.
#[derive(Debug)]
pub(crate) struct Limits {
    keys: Rates<String>,
    addresses: Rates<u128>,
    held: Arc<Mutex<HashMap<String, u32>>>,
    most_held: u32,
    most_held_by_key: u32,
}

/// Too much was asked; it may be asked again after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany(pub(crate) Duration);

/// A place among those that wait, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    held: Arc<Mutex<HashMap<String, u32>>>,
    key: String,
}

/// Name under which all places are counted; no key's hash is empty.
const ALL: &str = "";

impl Limits {
    pub(crate) fn new(limits: &ControlLimits) -> Self {
        let quota = |rate: NonZeroU32| Quota::per_second(rate).allow_burst(rate.saturating_mul(BURST));
        Self {
            keys: RateLimiter::hashmap(quota(limits.key_rate)),
            addresses: RateLimiter::hashmap(quota(limits.address_rate)),
            held: Arc::default(),
            most_held: limits.held,
            most_held_by_key: limits.held_by_key,
        }
    }

    /// Counts a request of a key, by its hash.
    pub(crate) fn key(&self, hash: &str) -> Result<(), TooMany> {
        check(&self.keys, hash.to_owned(), String::new())
    }

    /// Counts a request without a good key. Addresses of IPv6 are told apart by their network of 64 bits: one host has all
    /// of it.
    pub(crate) fn address(&self, address: IpAddr) -> Result<(), TooMany> {
        let whose = match address.to_canonical() {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits() >> 64 << 64 | 1 << 63,
        };
        check(&self.addresses, whose, u128::MAX)
    }

    /// Takes a place for a question that is held or a stream.
    pub(crate) fn hold(&self, hash: &str) -> Result<Place, TooMany> {
        let mut held = self.held.lock();
        let count = |held: &HashMap<String, u32>, key: &str| held.get(key).copied().unwrap_or_default();
        let (all, own) = (count(&held, ALL), count(&held, hash));
        if all >= self.most_held || own >= self.most_held_by_key {
            return Err(TooMany(AGAIN));
        }
        held.insert(ALL.to_owned(), all.saturating_add(1));
        held.insert(hash.to_owned(), own.saturating_add(1));
        drop(held);
        Ok(Place { held: Arc::clone(&self.held), key: hash.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        for key in [ALL, &self.key] {
            match held.get_mut(key) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(held.remove(key)),
            }
        }
    }
}

fn check<K: Hash + Eq + Clone>(rates: &Rates<K>, whose: K, strangers: K) -> Result<(), TooMany> {
    let crowded = rates.len() >= KNOWN && {
        rates.retain_recent();
        rates.len() >= KNOWN
    };
    let whose = if crowded { strangers } else { whose };
    rates.check_key(&whose).map_err(|until| TooMany(until.wait_time_from(DefaultClock::default().now())))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU32;

    use sideguard_types::resource::ControlLimits;

    use super::Limits;

    fn limits() -> Limits {
        Limits::new(&ControlLimits {
            key_rate: NonZeroU32::MIN,
            address_rate: NonZeroU32::MIN,
            held: 3,
            held_by_key: 2,
            ..ControlLimits::default()
        })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_client_does_not_use_up_what_another_may_ask() {
        let limits = limits();
        let many = (0..100).filter(|_| limits.key("a").is_ok()).count();
        assert_eq!(many, 10);
        assert!(limits.key("b").is_ok());
        assert!(limits.key("a").is_err_and(|wait| wait.0.as_millis() > 0));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let limits = limits();
        let hosts = (0..100).map(|host| address(&format!("2001:db8::{host:x}")));
        assert_eq!(hosts.filter(|host| limits.address(*host).is_ok()).count(), 10);
        assert!(limits.address(address("2001:db8:0:1::1")).is_ok());
        assert!((0..10).all(|_| limits.address(address("192.0.2.1")).is_ok()));
        assert!(limits.address(address("::ffff:192.0.2.1")).is_err(), "the same address, written otherwise");
    }

    #[test]
    fn places_are_given_back() {
        let limits = limits();
        let (one, two) = (limits.hold("a").expect("a place"), limits.hold("a").expect("a place"));
        assert!(limits.hold("a").is_err(), "two are one key's most");
        let three = limits.hold("b").expect("a place");
        assert!(limits.hold("c").is_err(), "three are the most of all");
        drop(one);
        assert!(limits.hold("c").is_ok());
        drop((two, three));
        assert!(limits.held.lock().is_empty());
    }
}
