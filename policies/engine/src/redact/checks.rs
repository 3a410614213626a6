//! What a pattern cannot say: check digits and ranges that were never given out.

/// A payment card's number: Luhn's check digit (ISO/IEC 7812-1), and not one digit over and over.
pub(super) fn card(bytes: &[u8]) -> bool {
    let digits: Vec<u32> = digits(bytes).collect();
    if !(13..=19).contains(&digits.len()) || digits.iter().all(|digit| digits.first() == Some(digit)) {
        return false;
    }
    let sum = digits.iter().rev().enumerate().fold(0_u32, |sum, (index, digit)| {
        let doubled = if index % 2 == 1 { digit.saturating_mul(2) } else { *digit };
        sum.saturating_add(if doubled > 9 { doubled.saturating_sub(9) } else { doubled })
    });
    sum.is_multiple_of(10)
}

/// An international bank account number: remainder 1 modulo 97 (ISO 13616-1, ISO/IEC 7064).
pub(super) fn iban(bytes: &[u8]) -> bool {
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b' ').collect();
    if !(15..=34).contains(&text.len()) {
        return false;
    }
    let (head, tail) = text.split_at_checked(4).unwrap_or_default();
    let remainder = tail.iter().chain(head).try_fold(0_u32, |remainder, byte| {
        let value = char::from(*byte).to_digit(36)?;
        let shifted = remainder.saturating_mul(if value > 9 { 100 } else { 10 });
        Some(shifted.saturating_add(value) % 97)
    });
    remainder == Some(1)
}

/// A US social security number: no part all zeros, area not 666 and below 900 (SSA, "Social Security Number
/// Randomization").
pub(super) fn ssn(bytes: &[u8]) -> bool {
    let mut parts = bytes
        .split(|byte| *byte == b'-')
        .map(|part| digits(part).fold(0_u32, |n, d| n.saturating_mul(10).saturating_add(d)));
    let (area, group, serial) = (parts.next(), parts.next(), parts.next());
    matches!((area, group, serial), (Some(1..=665 | 667..=899), Some(1..), Some(1..)))
}

fn digits(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.iter().filter_map(|byte| char::from(*byte).to_digit(10))
}
