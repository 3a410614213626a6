//! JSON to what CEL works with, and back.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value as Cel;
use cel::objects::{Key, Map};
use serde_json::{Number, Value};
use sideguard_types::job::{DEEPEST, too_deep};

/// A JSON value as CEL has it.
pub(super) fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => number_to_cel(number),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(entries) => map(entries.iter().map(|(key, value)| (key.as_str(), to_cel(value)))),
    }
}

/// A map of CEL.
pub(super) fn map<'k>(entries: impl Iterator<Item = (&'k str, Cel)>) -> Cel {
    let map: HashMap<Key, Cel> = entries.map(|(key, value)| (Key::from(key), value)).collect();
    Cel::Map(Map { map: Arc::new(map) })
}

fn number_to_cel(number: &Number) -> Cel {
    if let Some(number) = number.as_i64() {
        return Cel::Int(number);
    }
    number.as_u64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or(f64::NAN)), Cel::UInt)
}

/// A value of CEL as JSON: moments as RFC 3339, spans as seconds with an `s`.
///
/// # Errors
/// When JSON has no such value.
pub(super) fn from_cel(value: &Cel) -> Result<Value, String> {
    Ok(match value {
        Cel::Null => Value::Null,
        Cel::Bool(value) => Value::Bool(*value),
        Cel::Int(number) => (*number).into(),
        Cel::UInt(number) => (*number).into(),
        Cel::Float(number) => Number::from_f64(*number).map(Value::Number).ok_or("a number is not finite")?,
        Cel::String(text) => Value::String(text.as_str().to_owned()),
        Cel::List(items) => items.iter().map(from_cel).collect::<Result<_, _>>()?,
        Cel::Map(map) => {
            let entry = |(key, value): (&Key, &Cel)| Ok((key.to_string(), from_cel(value)?));
            Value::Object(map.map.iter().map(entry).collect::<Result<_, String>>()?)
        }
        Cel::Timestamp(time) => Value::String(time.to_rfc3339()),
        Cel::Duration(span) => {
            let (seconds, millis) = (span.num_seconds(), span.subsec_millis().unsigned_abs());
            Value::String(if millis == 0 { format!("{seconds}s") } else { format!("{seconds}.{millis:03}s") })
        }
        other => return Err(format!("{} is nothing that JSON can say", other.type_of())),
    })
}

/// About how many bytes a value has.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len().saturating_add(2),
        Value::Array(items) => items.iter().fold(2, |sum, item| sum.saturating_add(weight(item))),
        Value::Object(entries) => entries.iter().fold(2, |sum, (key, value)| {
            sum.saturating_add(key.len()).saturating_add(3).saturating_add(weight(value))
        }),
    }
}

/// Most bytes that an expression or a value with expressions comes to.
pub(super) const LARGEST: usize = 1 << 20;

/// Refuses what is too large or too deep to be handed on.
pub(super) fn fits(value: &Value) -> Result<(), String> {
    if too_deep(value) {
        return Err(format!("it is nested deeper than {DEEPEST}"));
    }
    room(LARGEST, weight(value)).map(drop)
}

/// What is left of so many bytes.
pub(super) fn room(left: usize, bytes: usize) -> Result<usize, String> {
    left.checked_sub(bytes).ok_or_else(|| format!("it has more than {LARGEST} bytes"))
}
