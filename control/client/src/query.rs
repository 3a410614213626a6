//! Paths with names and values in them.

use std::fmt::Write;

/// A part of a path, or a value of a query, in which nothing has a meaning.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// A path with a query of the values that are there.
pub(crate) fn with_query(path: &str, values: &[(&str, Option<String>)]) -> String {
    let mut whole = path.to_owned();
    let mut before = '?';
    for (name, value) in values {
        if let Some(value) = value {
            whole.push(before);
            whole.push_str(name);
            whole.push('=');
            whole.push_str(&escaped(value));
            before = '&';
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::with_query;

    #[test]
    fn a_value_cannot_become_another_part_of_the_address() {
        let query =
            [("scope", Some("agent/a&b=c d#é".to_owned())), ("after", None), ("limit", Some("5".to_owned()))];
        assert_eq!(with_query("/v1/kills", &query), "/v1/kills?scope=agent%2Fa%26b%3Dc%20d%23%C3%A9&limit=5");
    }
}
