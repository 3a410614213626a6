//! MCP messages that are refused because they cannot be read: whom to answer all the same.
//!
//! What is found here is never judged and never sent on; it only lets the answer reach the caller that waits for it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Unreadable;

/// Most answers that one unreadable batch gets.
const MOST: usize = 1024;

/// Who waits for an answer to a body that could not be read, and which error tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Whether it is an array.
    pub batch: bool,
    /// Ids as they stand, one for each answer; none where it is not known. Notifications get no answer.
    pub ids: Vec<Option<Vec<u8>>>,
    /// JSON-RPC's code: -32700 for what is not JSON, -32602 for wrong params, -32600 for everything else.
    pub code: i32,
}

/// A message, read as leniently as can be.
#[derive(Deserialize)]
struct Loose<'b> {
    #[serde(borrow, default)]
    id: Option<&'b RawValue>,
    #[serde(borrow, default)]
    method: Option<&'b RawValue>,
}

impl Unread {
    /// Looks for ids in a `body` that [`super::read`] refused for `why`.
    #[must_use]
    pub fn of(body: &[u8], why: &Unreadable) -> Self {
        let batch = body.trim_ascii_start().starts_with(b"[");
        let messages: Option<Vec<&RawValue>> = if batch {
            serde_json::from_slice(body).ok()
        } else {
            serde_json::from_slice(body).ok().map(|message| vec![message])
        };
        let Some(messages) = messages.filter(|messages| !messages.is_empty()) else {
            let code = if matches!(why, Unreadable::Json(_)) { -32700 } else { -32600 };
            return Self { batch: false, ids: vec![None], code };
        };
        let code = match why {
            Unreadable::Shape(what) if what.starts_with("`params") || what.starts_with("`arguments") => {
                -32602
            }
            Unreadable::Shape(_) | Unreadable::Json(_) => -32600,
        };
        let ids = messages.iter().take(MOST).filter_map(|message| waiting(message)).collect();
        Self { batch, ids, code }
    }
}

/// The id that the answer to `message` bears; `None` where nobody waits for one.
fn waiting(message: &RawValue) -> Option<Option<Vec<u8>>> {
    let Ok(loose) = serde_json::from_str::<Loose<'_>>(message.get()) else { return Some(None) };
    let usable = |id: &&RawValue| {
        id.get().starts_with(['"', '-']) || id.get().starts_with(|c: char| c.is_ascii_digit())
    };
    match (loose.id, loose.method) {
        (Some(id), _) => Some(Some(id).filter(usable).map(|id| id.get().as_bytes().to_vec())),
        (None, Some(_)) => None,
        (None, None) => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::{Unread, Unreadable};
    use crate::detect::Operation;

    fn of(body: &str) -> (bool, Vec<Option<String>>, i32) {
        let why = super::super::read(Operation::Mcp, body.as_bytes()).expect_err("unreadable");
        let Unread { batch, ids, code } = Unread::of(body.as_bytes(), &why);
        let text = |id: Vec<u8>| String::from_utf8(id).expect("text");
        (batch, ids.into_iter().map(|id| id.map(text)).collect(), code)
    }

    #[test]
    fn whoever_waits_is_answered_with_the_id_that_it_sent() {
        let id = |id: &str| vec![Some(id.to_owned())];
        let no_name = r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{}}"#;
        assert_eq!(of(no_name), (false, id("3"), -32602));
        let twice = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x","name":"y"}}"#;
        assert_eq!(of(twice), (false, id("\"a\""), -32600));
        assert_eq!(of(r#"{"id":3,"method":"x"}"#), (false, id("3"), -32600));
        assert_eq!(of(r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#), (false, vec![None], -32600));
        assert_eq!(of(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#), (false, vec![None], -32600));
        assert_eq!(of(r#"{"jsonrpc":"2.0","method":"tools/call","params":{}}"#), (false, vec![], -32602));
        assert_eq!(of(&format!("[{no_name},7]")), (true, vec![Some("3".to_owned()), None], -32602));
        for nothing in ["", "{", "not json", "\u{feff}{}"] {
            assert_eq!(of(nothing), (false, vec![None], -32700), "{nothing}");
        }
        assert_eq!(of("[]"), (false, vec![None], -32600));
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        assert!(of(&deep).1.len() == 1);
        assert!(matches!(super::super::read(Operation::Mcp, b"7"), Err(Unreadable::Shape(_))));
    }
}
