//! Synthetic addresses and the names that they stand for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First address of 198.18.0.0/15, which is used nowhere (RFC 2544).
const V4: u32 = 0xc612_0000;
/// `fd53:6964:6567::/96`: a unique local prefix (RFC 4193).
const V6: u128 = 0xfd53_6964_6567 << 80;
/// Most names at once.
const MOST: u32 = 32_768;

/// One address for each name. When all are taken, the first that was not used lately is given anew.
#[derive(Debug, Default)]
pub struct Names {
    places: HashMap<String, u32>,
    taken: Vec<Taken>,
    hand: usize,
}

#[derive(Debug)]
struct Taken {
    name: String,
    used: bool,
}

impl Names {
    /// The addresses that stand for a name from now on.
    pub fn addresses(&mut self, name: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        if let Some(place) = self.places.get(name).copied() {
            if let Some(taken) = usize::try_from(place).ok().and_then(|place| self.taken.get_mut(place)) {
                taken.used = true;
            }
            return Some(at(place));
        }
        let place = match u32::try_from(self.taken.len()) {
            Ok(free) if free < MOST => {
                self.taken.push(Taken { name: name.to_owned(), used: false });
                free
            }
            _ => self.take_over(name)?,
        };
        self.places.insert(name.to_owned(), place);
        Some(at(place))
    }

    /// The name that an address stands for.
    pub fn name(&mut self, address: IpAddr) -> Option<&str> {
        let taken = self.taken.get_mut(usize::try_from(place(address)?).ok()?)?;
        taken.used = true;
        Some(&taken.name)
    }

    /// Whether an address is one that names are given.
    #[must_use]
    pub fn is_synthetic(address: IpAddr) -> bool {
        place(address).is_some()
    }

    /// A place that was not used since the hand last came by; after two rounds one is found.
    fn take_over(&mut self, name: &str) -> Option<u32> {
        for _ in 0..=self.taken.len().saturating_mul(2) {
            let at = self.hand;
            self.hand = if at.saturating_add(1) >= self.taken.len() { 0 } else { at.saturating_add(1) };
            let taken = self.taken.get_mut(at)?;
            if std::mem::take(&mut taken.used) {
                continue;
            }
            let former = std::mem::replace(taken, Taken { name: name.to_owned(), used: false });
            self.places.remove(&former.name);
            return u32::try_from(at).ok();
        }
        None
    }
}

fn at(place: u32) -> (Ipv4Addr, Ipv6Addr) {
    // The first address of a block is no host's.
    let number = place.saturating_add(1);
    (Ipv4Addr::from_bits(V4 | number), Ipv6Addr::from_bits(V6 | u128::from(number)))
}

fn place(address: IpAddr) -> Option<u32> {
    let number = match address.to_canonical() {
        IpAddr::V4(v4) => (v4.to_bits() >> 17 == V4 >> 17).then_some(v4.to_bits() & 0x1_ffff)?,
        IpAddr::V6(v6) => (v6.to_bits() >> 32 == V6 >> 32)
            .then(|| u32::try_from(v6.to_bits() & 0xffff_ffff).ok())
            .flatten()?,
    };
    number.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{MOST, Names};

    #[test]
    fn a_name_keeps_its_addresses_and_they_tell_it() {
        let mut names = Names::default();
        let (v4, v6) = names.addresses("a.example").expect("addresses");
        assert_eq!(names.addresses("a.example"), Some((v4, v6)));
        assert_ne!(names.addresses("b.example"), Some((v4, v6)));
        assert_eq!((v4.to_string().as_str(), v6.to_string().as_str()), ("198.18.0.1", "fd53:6964:6567::1"));
        assert_eq!(names.name(IpAddr::V4(v4)), Some("a.example"));
        assert_eq!(names.name(IpAddr::V6(v6)), Some("a.example"));
        assert_eq!(names.name("198.18.0.9".parse().expect("an address")), None);
        assert_eq!(names.name("198.20.0.1".parse().expect("an address")), None);
        assert_eq!(names.name("8.8.8.8".parse().expect("an address")), None);
    }

    #[test]
    fn a_flood_of_names_takes_no_more_room_and_spares_what_is_used() {
        let mut names = Names::default();
        let (kept, _) = names.addresses("kept.example").expect("addresses");
        for number in 0..MOST * 3 {
            names.addresses(&format!("n{number}.example")).expect("addresses");
            if number % 100 == 0 {
                assert_eq!(names.name(IpAddr::V4(kept)), Some("kept.example"), "after {number}");
            }
        }
        assert_eq!(names.taken.len(), usize::try_from(MOST).expect("small"));
        assert_eq!(names.places.len(), names.taken.len());
        for (name, place) in &names.places {
            assert_eq!(&names.taken[usize::try_from(*place).expect("small")].name, name);
        }
    }
}
