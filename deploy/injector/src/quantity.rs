//! Quantities of Kubernetes: `500m`, `64Mi`, `1e3`.
//!
//! Source: Kubernetes API conventions, `resource.Quantity`. The API server writes them in another form than it was given, so
//! that two are compared by their value.

/// Thousandths of a quantity; nothing when it is none. Finer parts are rounded up, as the API server does.
#[must_use]
pub(crate) fn milli(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && part.is_empty())
        || part.len() > 18
        || whole.len() > 18
        || part.contains(['+', '-'])
    {
        return None;
    }
    let digits: i128 = format!("{whole}{part}").parse().ok()?;
    let (times, over) = factor(suffix)?;
    let below = 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?.checked_mul(over)?;
    let scaled = digits.checked_mul(times)?.checked_mul(1_000)?;
    let rest = i128::from(scaled.rem_euclid(below) != 0);
    scaled.div_euclid(below).checked_add(rest)
}

/// What a suffix multiplies by, and what it divides by.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let power = |list: [&str; 6], base: i128| {
        let at = u32::try_from(list.iter().position(|known| *known == suffix)?).ok()?;
        base.checked_pow(at.checked_add(1)?)
    };
    match suffix {
        "" => return Some((1, 1)),
        "m" => return Some((1, 1_000)),
        "u" => return Some((1, 1_000_000)),
        "n" => return Some((1, 1_000_000_000)),
        _ => {}
    }
    if let Some(times) = power(DECIMAL, 1_000).or_else(|| power(BINARY, 1_024)) {
        return Some((times, 1));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let ten = 10_i128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, ten) } else { (ten, 1) })
}

/// Whether two texts are the same quantity.
#[must_use]
pub(crate) fn same(one: &str, other: &str) -> bool {
    one == other || milli(one).is_some_and(|value| milli(other) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::{milli, same};

    #[test]
    fn quantities_are_compared_by_their_value() {
        for (one, other) in
            [("0.5", "500m"), ("1024Mi", "1Gi"), ("1e3", "1k"), ("2147483648", "2Gi"), ("1.5Gi", "1536Mi")]
        {
            assert!(same(one, other), "{one} {other}");
        }
        assert!(!same("1G", "1Gi"));
        assert_eq!(milli("1n"), Some(1), "rounded up");
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in
            ["", ".", "m", "1x", "1 Gi", "--1", "1e", "1e999999999999", "99999999999999999999", "1.-5", "Gi"]
        {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
