//! Identifiers made here: unique, and sortable by time.

use rand::Rng;
use sideguard_types::time::Timestamp;

/// An id of 24 hex digits: 12 of the time in milliseconds, 12 of chance.
#[must_use]
pub fn new(now: Timestamp) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let millis = u64::try_from(now.0.div_euclid(1_000)).unwrap_or(0);
    let chance: u64 = rand::rng().random();
    let digits = (u128::from(millis & 0xffff_ffff_ffff) << 48) | u128::from(chance & 0xffff_ffff_ffff);
    let mut id = String::with_capacity(24);
    for place in (0..24).rev() {
        let nibble = usize::try_from((digits >> (place * 4)) & 0xf).unwrap_or(0);
        id.push(char::from(HEX.get(nibble).copied().unwrap_or(b'0')));
    }
    id
}

/// A random token of `bytes` bytes, in hex.
#[must_use]
pub fn token(bytes: usize) -> String {
    let mut rng = rand::rng();
    (0..bytes).map(|_| format!("{:02x}", rng.random::<u8>())).collect()
}

#[cfg(test)]
mod tests {
    use sideguard_types::time::Timestamp;

    #[test]
    fn ids_sort_by_time_and_do_not_repeat() {
        let (early, late) = (super::new(Timestamp(1_000_000)), super::new(Timestamp(2_000_000)));
        assert_eq!(early.len(), 24);
        assert!(early < late);
        assert_ne!(super::new(Timestamp(1_000_000)), early);
    }
}
