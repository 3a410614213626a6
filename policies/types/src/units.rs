//! Units that must not be mixed up: tokens and money. All arithmetic is checked or saturating.

use std::fmt;
use std::iter::Sum;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A number of model tokens.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokens(pub u64);

impl Tokens {
    /// No tokens.
    pub const ZERO: Self = Self(0);

    /// The sum, held at the largest value instead of wrapping.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The product, held at the largest value instead of wrapping.
    #[must_use]
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Sum for Tokens {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::plus)
    }
}

/// Money in millionths of a US dollar; written and read as a decimal string of dollars (`"0.0125"`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroUsd(pub u64);

/// Micro-dollars in a dollar.
const MICRO: u64 = 1_000_000;

impl MicroUsd {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// The sum, held at the largest value instead of wrapping.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Reads a decimal number of dollars with at most six places (`5`, `0.25`, `1_000.5` is refused).
    ///
    /// # Errors
    /// When the text is not such a number or is too large.
    pub fn parse(text: &str) -> Result<Self, ParseMoneyError> {
        let bad = || ParseMoneyError(text.to_owned());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() && fraction.is_empty()
            || fraction.len() > 6
            || !digits(whole)
            || !digits(fraction)
        {
            return Err(bad());
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
        let fraction: u64 = format!("{fraction:0<6}").parse().map_err(|_| bad())?;
        whole.checked_mul(MICRO).and_then(|micro| micro.checked_add(fraction)).map(Self).ok_or_else(bad)
    }
}

/// The text is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount of US dollars: write digits with at most six decimal places, such as `0.25`")]
pub struct ParseMoneyError(String);

impl MicroUsd {
    /// Hands the amount on in digits. Every record holds several: the formatter would be slow.
    fn in_digits<R>(self, take: impl FnOnce(&str) -> R) -> R {
        // 14 digits of dollars, the point, 6 of millionths.
        let mut digits = [b'0'; 21];
        let mut at = digits.len();
        let mut put = |digit: u8| {
            at = at.saturating_sub(1);
            if let Some(place) = digits.get_mut(at) {
                *place = digit;
            }
        };
        let digit = |number: u64| b'0' + u8::try_from(number % 10).unwrap_or_default();
        let (mut whole, mut fraction, mut places) = (self.0 / MICRO, self.0 % MICRO, 6);
        if fraction > 0 {
            while fraction % 10 == 0 {
                fraction /= 10;
                places -= 1;
            }
            for _ in 0..places {
                put(digit(fraction));
                fraction /= 10;
            }
            put(b'.');
        }
        loop {
            put(digit(whole));
            whole /= 10;
            if whole == 0 {
                break;
            }
        }
        take(digits.get(at..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default())
    }
}

impl fmt::Display for MicroUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.in_digits(|digits| f.write_str(digits))
    }
}

impl Sum for MicroUsd {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::plus)
    }
}

impl Serialize for MicroUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.in_digits(|digits| serializer.serialize_str(digits))
    }
}

impl<'de> Deserialize<'de> for MicroUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{MicroUsd, Tokens};

    #[test]
    fn money_reads_what_it_writes() {
        for (text, micro) in [
            ("0", 0),
            ("5", 5_000_000),
            ("0.25", 250_000),
            ("0.000001", 1),
            ("12.5", 12_500_000),
            ("100.00001", 100_000_010),
            ("18446744073709.551615", u64::MAX),
        ] {
            assert_eq!(MicroUsd::parse(text), Ok(MicroUsd(micro)));
            assert_eq!(MicroUsd(micro).to_string(), text);
        }
    }

    #[test]
    fn what_is_not_money_is_refused() {
        for text in ["", ".", "-1", "1.0000001", "1e3", "1_000", "99999999999999999999", "$1"] {
            assert!(MicroUsd::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sums_do_not_wrap() {
        assert_eq!(Tokens(u64::MAX).plus(Tokens(1)), Tokens(u64::MAX));
        assert_eq!(Tokens(u64::MAX).times(2), Tokens(u64::MAX));
        assert_eq!(MicroUsd(u64::MAX).plus(MicroUsd(1)), MicroUsd(u64::MAX));
    }
}
