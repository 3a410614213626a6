//! Which addresses a call may be led to: public ones, and those that the operator lists.
//!
//! Names in policy are names of services out there. A name that leads to the sidecar's own host, its network or a cloud's
//! metadata service is an attack (SSRF, DNS rebinding) until the operator says otherwise.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of address one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anywhere on the internet.
    Public,
    /// This host (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3), the unspecified address included.
    Loopback,
    /// This link (RFC 3927, RFC 4291), where clouds have their metadata services.
    LinkLocal,
    /// A private network: RFC 1918, RFC 4193, RFC 6598, RFC 6890.
    Private,
    /// No address of a single host: multicast, broadcast, benchmarks, reserved.
    Unusable,
}

impl Kind {
    /// As it is named in refusals.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Private => "private",
            Self::Unusable => "reserved",
        }
    }
}

/// Tells the kind of an address; one that carries an IPv4 address (mapped, NAT64, 6to4) is of that one's kind.
#[must_use]
pub fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => embedded(v6).map_or_else(|| kind_v6(v6), kind_v4),
    }
}

fn kind_v4(v4: Ipv4Addr) -> Kind {
    match v4.octets() {
        [127, ..] | [0, ..] => Kind::Loopback,
        // Azure's metadata service stands beside the link-local ones (learn.microsoft.com, "What is IP address
        // 168.63.129.16?", 2026-11).
        [169, 254, ..] | [168, 63, 129, 16] => Kind::LinkLocal,
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] | [192, 0, 0, _] => {
            Kind::Private
        }
        [198, 18 | 19, ..] | [224..=255, ..] => Kind::Unusable,
        _ => Kind::Public,
    }
}

fn kind_v6(v6: Ipv6Addr) -> Kind {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Kind::Loopback,
        [0xfe80..=0xfebf, ..] => Kind::LinkLocal,
        // Unique local and the deprecated site-local.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Kind::Private,
        // NAT64 within an operator's own network (RFC 8215): where the IPv4 address stands is the operator's to choose.
        [0x64, 0xff9b, 1, ..] => Kind::Private,
        // Only 2000::/3 is given out (IANA, 2026); Teredo hides an address of its own.
        [0x2001, 0, ..] => Kind::Unusable,
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Unusable,
    }
}

/// The IPv4 address that one of these forms leads to: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

/// Whether an address is one of this host's own, whatever its kind: only those can be bound to.
#[must_use]
pub fn is_own(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// A block of addresses, such as `10.0.0.0/8` or `fd00::/8`; one address is a block of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    base: IpAddr,
    bits: u8,
}

impl Block {
    /// Reads a block.
    ///
    /// # Errors
    /// When it is not an address, or address and length.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not an address or block such as `10.0.0.0/8`");
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { base, bits }).ok_or_else(bad)
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32_u32.saturating_sub(u32::from(self.bits));
                base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128_u32.saturating_sub(u32::from(self.bits));
                base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }

    /// Whether it is a block of IPv4 addresses.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.base.is_ipv4()
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// An address or block that may be reached although it is not public, at one port or at all:
/// `10.1.0.0/16`, `127.0.0.1:8000`, `[::1]:8000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exemption {
    block: Block,
    port: Option<u16>,
}

impl Exemption {
    /// Reads one.
    ///
    /// # Errors
    /// When it is not an address or block, with or without a port.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(block) = Block::parse(text) {
            return Ok(Self { block, port: None });
        }
        let bad = || {
            format!(
                "`{text}` is not an address, a block, or either with a port: `10.0.0.0/8`, `127.0.0.1:8000`"
            )
        };
        let (block, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let block = block.strip_prefix('[').and_then(|block| block.strip_suffix(']')).unwrap_or(block);
        let port: u16 = port.parse().map_err(|_| bad())?;
        Ok(Self { block: Block::parse(block).map_err(|_| bad())?, port: Some(port) })
    }

    /// One address at one port.
    #[must_use]
    pub const fn exactly(address: IpAddr, port: u16) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Self { block: Block { base: address, bits }, port: Some(port) }
    }

    /// Whether it lets an address and port pass.
    #[must_use]
    pub fn holds(&self, address: IpAddr, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.block.holds(address)
    }
}

#[cfg(test)]
mod tests {
    use super::{Block, Exemption, Kind, kind};

    #[test]
    fn no_spelling_of_an_inner_address_counts_as_public() {
        for (address, expected) in [
            ("8.8.8.8", Kind::Public),
            ("2606:4700::1111", Kind::Public),
            ("127.0.0.1", Kind::Loopback),
            ("127.9.9.9", Kind::Loopback),
            ("0.0.0.0", Kind::Loopback),
            ("::", Kind::Loopback),
            ("::1", Kind::Loopback),
            ("::ffff:127.0.0.1", Kind::Loopback),
            ("::127.0.0.1", Kind::Loopback),
            ("64:ff9b::7f00:1", Kind::Loopback),
            ("2002:7f00:1::", Kind::Loopback),
            ("169.254.169.254", Kind::LinkLocal),
            ("64:ff9b::a9fe:a9fe", Kind::LinkLocal),
            ("64:ff9b:1:2:3:4:a9fe:a9fe", Kind::Private),
            ("168.63.129.16", Kind::LinkLocal),
            ("fe80::1", Kind::LinkLocal),
            ("fd00:ec2::254", Kind::Private),
            ("fec0::1", Kind::Private),
            ("10.0.0.1", Kind::Private),
            ("172.31.255.1", Kind::Private),
            ("172.32.0.1", Kind::Public),
            ("192.168.1.1", Kind::Private),
            ("100.100.100.200", Kind::Private),
            ("192.0.0.192", Kind::Private),
            ("198.18.0.1", Kind::Unusable),
            ("224.0.0.1", Kind::Unusable),
            ("255.255.255.255", Kind::Unusable),
            ("ff02::1", Kind::Unusable),
            ("2001:0:1::1", Kind::Unusable),
            ("4000::1", Kind::Unusable),
        ] {
            assert_eq!(kind(address.parse().expect("an address")), expected, "{address}");
        }
    }

    #[test]
    fn blocks_and_ports_are_listed_as_written() {
        let block = Block::parse("10.1.0.0/16").expect("a block");
        assert!(block.holds("10.1.255.255".parse().expect("an address")));
        assert!(block.holds("::ffff:10.1.0.1".parse().expect("an address")));
        assert!(!block.holds("10.2.0.0".parse().expect("an address")));
        assert!(Block::parse("0.0.0.0/0").expect("a block").holds("9.9.9.9".parse().expect("an address")));
        let one = Exemption::parse("127.0.0.1:8000").expect("one");
        assert!(one.holds("127.0.0.1".parse().expect("an address"), 8000));
        assert!(!one.holds("127.0.0.1".parse().expect("an address"), 8001));
        assert!(!one.holds("127.0.0.2".parse().expect("an address"), 8000));
        assert!(Exemption::parse("[::1]:80").expect("one").holds("::1".parse().expect("an address"), 80));
        assert!(
            Exemption::parse("fd00::/8").expect("a block").holds("fd12::1".parse().expect("an address"), 1)
        );
        for bad in ["", "10.0.0.0/33", "host", "10.0.0.0:x", "::1:99999:", "10.0.0.0/8/9"] {
            assert!(Exemption::parse(bad).is_err(), "{bad}");
        }
    }
}
