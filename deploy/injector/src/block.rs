//! Blocks of addresses, as far as one has to lie within another.

use std::net::IpAddr;

/// Addresses with a common beginning, such as `10.96.0.0/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    address: IpAddr,
    bits: u8,
}

impl Block {
    /// A block, or a single address.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // Neither a sign nor leading zeros: others read those otherwise.
            Some(bits) if bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => most,
        };
        (bits <= most).then_some(Self { address, bits })
    }

    /// Whether all of `other` is in this one.
    pub(crate) fn holds(self, other: Self) -> bool {
        self.bits <= other.bits
            && match (self.address, other.address) {
                (IpAddr::V4(own), IpAddr::V4(others)) => {
                    let differs = own.to_bits() ^ others.to_bits();
                    differs.checked_shr(u32::from(32 - self.bits)).unwrap_or(0) == 0
                }
                (IpAddr::V6(own), IpAddr::V6(others)) => {
                    let differs = own.to_bits() ^ others.to_bits();
                    differs.checked_shr(u32::from(128 - self.bits)).unwrap_or(0) == 0
                }
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::Block;

    fn holds(one: &str, other: &str) -> bool {
        Block::parse(one).expect("a block").holds(Block::parse(other).expect("a block"))
    }

    #[test]
    fn a_part_lies_within_and_the_whole_does_not() {
        assert!(holds("10.0.0.0/8", "10.1.0.0/16") && holds("10.0.0.0/8", "10.2.3.4"));
        assert!(holds("0.0.0.0/0", "203.0.113.1") && holds("fd00::/8", "fd01::1"));
        assert!(!holds("10.1.0.0/16", "10.0.0.0/8") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(!holds("0.0.0.0/0", "::/0") && !holds("::/0", "10.0.0.1"));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in
            ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "10.0.0.0/+8", "x/8", "10.0.0.0/8/8"]
        {
            assert!(Block::parse(text).is_none(), "{text}");
        }
    }
}
