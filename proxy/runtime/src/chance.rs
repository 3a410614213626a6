//! Chance for timing: what many do at the same moment, each does a little later than the others. Not for secrets.

use std::time::Duration;

use rand::Rng;

/// Any time from none up to `most`.
#[must_use]
pub fn within(most: Duration) -> Duration {
    most.mul_f64(rand::rng().random_range(0.0..1.0))
}

/// Any number below `end`; zero when that is zero.
#[must_use]
pub fn below(end: usize) -> usize {
    if end == 0 { 0 } else { rand::rng().random_range(0..end) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn chance_stays_within_its_bounds() {
        for _ in 0..1_000 {
            assert!(super::within(Duration::from_secs(1)) <= Duration::from_secs(1));
            assert!(super::below(3) < 3);
        }
        assert_eq!(super::below(0), 0);
    }
}
