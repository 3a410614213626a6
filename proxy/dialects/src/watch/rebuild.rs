//! JSON with some of it changed and the rest as it was.

use crate::json::{Member, Value};

/// What becomes of a member.
pub(super) enum Change {
    Keep,
    Drop,
    Set(String),
}

/// The object with its members changed as `change` says, and those of `added` that it did not have. Values are
/// JSON text.
pub(super) fn object<'v>(
    object: Value<'v>,
    mut change: impl FnMut(&Member<'v>) -> Change,
    added: &[(&str, String)],
) -> String {
    let mut members: Vec<String> = Vec::new();
    for member in object.members() {
        let key = || quoted(&member.key());
        match change(&member) {
            Change::Keep => members.push(format!("{}:{}", key(), member.value.raw())),
            Change::Set(value) => members.push(format!("{}:{value}", key())),
            Change::Drop => {}
        }
    }
    for (key, value) in added {
        if object.get(key).is_none() {
            members.push(format!("{}:{value}", quoted(key)));
        }
    }
    format!("{{{}}}", members.join(","))
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
