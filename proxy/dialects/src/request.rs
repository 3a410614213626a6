//! What a request asks for, and the places where policy may change it.

mod anthropic;
mod bound;
mod mcp;
mod model;
mod openai;
mod unread;

use crate::detect::Operation;
use crate::json::{self, JsonError, Kind, Member, Value};
pub use bound::InputBound;
pub use mcp::{McpMessage, McpRequest, header_mismatch};
pub use model::{CapName, Change, Changeable, ModelRequest};
pub use unread::Unread;

/// A request that was read.
#[derive(Debug, Clone)]
pub enum Request<'b> {
    /// A call to a model.
    Model(Box<ModelRequest<'b>>),
    /// Messages to an MCP server.
    Mcp(McpRequest<'b>),
    /// A request whose body says nothing that is understood here.
    Plain,
}

/// Why a request is not understood, and so cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Its body is not strict JSON.
    #[error("the body is {0}")]
    Json(#[from] JsonError),
    /// Its body is JSON of another shape than its operation has.
    #[error("{0}")]
    Shape(String),
}

/// Reads the body of a request for `op`.
///
/// # Errors
/// When the body is not strict JSON, lacks what its operation must have, or says something in a way that a
/// provider may understand otherwise.
///
/// ```
/// use sideguard_dialects::{detect::Operation, edit, request::{self, Change, Request}};
/// use sideguard_types::units::Tokens;
///
/// let body = br#"{"model":"gpt-x","messages":[],"max_tokens":900}"#;
/// let Request::Model(call) = request::read(Operation::Chat, body)? else { unreachable!() };
/// assert_eq!(call.output_cap, Some(Tokens(900)));
/// let change = Change { output_cap: Some(Tokens(64)), ..Change::default() };
/// let sent = edit::apply(body, call.edits(&change));
/// assert_eq!(sent, br#"{"model":"gpt-x","messages":[],"max_tokens":64}"#);
/// # Ok::<(), request::Unreadable>(())
/// ```
pub fn read(op: Operation, body: &[u8]) -> Result<Request<'_>, Unreadable> {
    // The `type` of each part tells pictures and files from text.
    let document = || json::read_noting(body, "type");
    let request = match op {
        Operation::Chat => openai::chat(&document()?)?,
        Operation::Responses => openai::responses(&document()?)?,
        Operation::Embeddings => openai::embeddings(&document()?)?,
        Operation::Messages | Operation::CountTokens => anthropic::messages(op, &document()?)?,
        Operation::Mcp => return mcp::read(json::read(body)?.root).map(Request::Mcp),
        Operation::ModelFree | Operation::Plain => return Ok(Request::Plain),
    };
    Ok(Request::Model(Box::new(request)))
}

/// A shape error about `name`.
fn wrong<T>(name: &str, must: &str) -> Result<T, Unreadable> {
    Err(Unreadable::Shape(format!("`{name}` {must}")))
}

/// A whole number; `null` counts as absent.
fn count(member: &Member<'_>) -> Result<Option<u64>, Unreadable> {
    match member.value.as_count() {
        Some(count) => Ok(Some(count)),
        None if member.value.is_null() => Ok(None),
        None => wrong(&member.key(), "must be a whole number that is not negative, in digits only"),
    }
}

/// `true` or `false`; `null` counts as `false`.
fn flag(member: &Member<'_>) -> Result<bool, Unreadable> {
    match member.value.as_bool() {
        Some(flag) => Ok(flag),
        None if member.value.is_null() => Ok(false),
        None => wrong(&member.key(), "must be `true` or `false`"),
    }
}

/// A name: a string that is not empty and has no control characters, which some servers cut or drop.
fn name<'b>(key: &str, value: Value<'b>) -> Result<std::borrow::Cow<'b, str>, Unreadable> {
    match value.as_str() {
        Some(name) if !name.is_empty() && !name.chars().any(char::is_control) => Ok(name),
        _ => wrong(key, "must be a name: a string that is not empty, without control characters"),
    }
}

/// Checks the sort of a member; `null` counts as absent, and then it is `false`.
fn is_given(member: &Member<'_>, kind: Kind) -> Result<bool, Unreadable> {
    match member.value.kind() {
        Kind::Null => Ok(false),
        given if given == kind => Ok(true),
        _ if kind == Kind::Array => wrong(&member.key(), "must be an array"),
        _ => wrong(&member.key(), "must be an object"),
    }
}

/// Refuses a key that some parsers take for one of `names` although it is spelled otherwise: servers written
/// in Go match keys without regard to case, the long s and the Kelvin sign included.
fn only_as_spelled(key: &str, names: &[&str]) -> Result<(), Unreadable> {
    // Nothing else folds to lower-case letters.
    if key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return Ok(());
    }
    let folded = || {
        key.chars().map(|c| match c {
            '\u{17F}' => 's',
            '\u{212A}' => 'k',
            c => c.to_ascii_lowercase(),
        })
    };
    match names.iter().find(|name| folded().eq(name.chars().map(|c| c.to_ascii_lowercase()))) {
        Some(name) if key != *name => wrong(key, &format!("may be taken for `{name}`: spell it so")),
        _ => Ok(()),
    }
}
