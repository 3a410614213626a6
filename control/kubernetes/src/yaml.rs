//! JSON as YAML that people can read, with the way to what stands on each line.

use serde_json::Value;

/// A text, and what its lines are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text; ends with a line feed.
    pub text: String,
    places: Vec<String>,
}

impl Written {
    /// The way to what stands on a line (from 1), such as `spec.rules[0].match`.
    #[must_use]
    pub fn place(&self, line: usize) -> Option<&str> {
        line.checked_sub(1).and_then(|at| self.places.get(at)).map(String::as_str)
    }
}

/// Writes a value in block style. What reads as another type without quotes has quotes.
#[must_use]
pub fn write(value: &Value) -> Written {
    let mut written = Written { text: String::new(), places: Vec::new() };
    for Line { text, place } in lines(value, "") {
        written.text.push_str(&text);
        written.text.push('\n');
        written.places.push(place);
    }
    written
}

struct Line {
    text: String,
    place: String,
}

fn lines(value: &Value, place: &str) -> Vec<Line> {
    if let Some(text) = flat(value) {
        return vec![Line { text, place: place.to_owned() }];
    }
    let mut all = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let dot = if place.is_empty() { "" } else { "." };
        let place = format!("{place}{dot}{key}");
        let key = scalar(key);
        if let Some(value) = flat(value) {
            all.push(Line { text: format!("{key}: {value}"), place });
            continue;
        }
        all.push(Line { text: format!("{key}:"), place: place.clone() });
        all.extend(lines(value, &place).into_iter().map(|line| behind("  ", line)));
    }
    for (at, item) in value.as_array().into_iter().flatten().enumerate() {
        let mut item = lines(item, &format!("{place}[{at}]")).into_iter();
        all.extend(item.next().map(|line| behind("- ", line)));
        all.extend(item.map(|line| behind("  ", line)));
    }
    all
}

fn behind(indent: &str, Line { text, place }: Line) -> Line {
    Line { text: format!("{indent}{text}"), place }
}

/// What fits on the line of its key.
fn flat(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::String(text) => Some(scalar(text)),
        Value::Array(items) => items.is_empty().then(|| "[]".to_owned()),
        Value::Object(fields) => fields.is_empty().then(|| "{}".to_owned()),
    }
}

/// A text without quotes where nobody can take it for anything else.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    // Words that some version of YAML reads as something else.
    let word = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    if first && text.chars().all(plain) && !word.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // Not printable, by YAML 1.2.2, section 5.1, or a break in YAML 1.1.
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::write;

    #[test]
    fn a_line_leads_to_what_stands_on_it() {
        let written =
            write(&json!({"spec": {"rules": [{"id": "a", "match": {"topics": ["x.*"]}}, {"id": "b"}]}}));
        let expected =
            "spec:\n  rules:\n    - id: a\n      match:\n        topics:\n          - \"x.*\"\n    - id: b\n";
        assert_eq!(written.text, expected);
        assert_eq!(written.place(6), Some("spec.rules[0].match.topics[0]"));
        assert_eq!(written.place(7), Some("spec.rules[1].id"));
        assert_eq!((written.place(0), written.place(8)), (None, None));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            "(true|no|~|null|1e3|0x1|-|: |# a| a|\\*a|&b|2026-11-27)".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".{0,8}", inner, 0..5)
                    .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(value in value()) {
            let written = write(&json!({"root": value}));
            let read: Value = serde_saphyr::from_str(&written.text).expect("YAML");
            prop_assert_eq!(&read["root"], &value);
            prop_assert_eq!(written.text.lines().count(), written.places.len());
        }
    }
}
