//! Messages to an MCP server: JSON-RPC 2.0, one or a batch.
//! Source: the Model Context Protocol, revisions 2024-11-05 to 2026-07-28.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value as Json;

use super::{Unreadable, name, only_as_spelled, wrong};
use crate::edit::Edit;
use crate::json::{Kind, Value};

/// Longest batch, in messages: each is judged, recorded and answered on its own.
const MOST: usize = 100;
/// Members that decide what a message does: no other spelling of them is let through.
const MESSAGE: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS: [&str; 5] = ["name", "arguments", "uri", "_meta", "task"];

/// What one POST carries.
#[derive(Debug, Clone)]
pub struct McpRequest<'b> {
    /// Whether it is an array (only revision 2025-03-26 has batches).
    pub batch: bool,
    /// The messages in order; one when it is not a batch, never none.
    pub messages: Vec<McpMessage<'b>>,
}

/// One JSON-RPC message.
#[derive(Debug, Clone)]
pub struct McpMessage<'b> {
    /// Its id as it stands (`7`, `"a"`); none for a notification.
    pub id: Option<&'b [u8]>,
    /// Its method; none for the answer to a request of the server's.
    pub method: Option<Cow<'b, str>>,
    /// Name of the tool that a `tools/call` calls.
    pub tool: Option<Cow<'b, str>>,
    /// Arguments of a `tools/call`: a JSON object; none when absent or `null`.
    pub args: Option<&'b [u8]>,
    /// What `Mcp-Name` must say: the tool, the prompt of a `prompts/get`, the URI of a `resources/read`.
    pub target: Option<Cow<'b, str>>,
    /// Revision that the message itself names, in `_meta` (2026-07-28 on) or, for `initialize`, in its params.
    pub protocol_version: Option<Cow<'b, str>>,
    /// Its place in the body.
    pub span: Range<usize>,
    places: Places<'b>,
}

/// Where a tool's arguments are or would be.
#[derive(Debug, Clone, Default)]
struct Places<'b> {
    params: Option<Value<'b>>,
    /// The value of `arguments`, which may be `null`.
    arguments: Option<Value<'b>>,
}

pub(super) fn read(root: Value<'_>) -> Result<McpRequest<'_>, Unreadable> {
    let batch = root.kind() == Kind::Array;
    let messages: Vec<_> =
        if batch { root.elements().map(message).collect::<Result<_, _>>()? } else { vec![message(root)?] };
    if messages.is_empty() {
        return wrong("body", "must not be an empty batch");
    }
    if messages.len() > MOST {
        return wrong("body", "is a batch of more than 100 messages");
    }
    Ok(McpRequest { batch, messages })
}

impl McpMessage<'_> {
    /// Whether the server will answer it.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.id.is_some() && self.method.is_some()
    }

    /// The splices that blank out what differs each time that a client sends the same again: the id, and the token that
    /// progress is told by, which clients make from it. `body` is what the message was read from.
    #[must_use]
    pub fn without_numbers(&self, body: &[u8]) -> Vec<Edit> {
        let token = self.places.params.and_then(|params| params.get("_meta")?.get("progressToken"));
        let id = self.id.and_then(|id| {
            let start = (id.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
            let end = start.checked_add(id.len())?;
            (end <= body.len()).then_some(start..end)
        });
        token.map(|token| token.span()).into_iter().chain(id).map(|place| Edit::replace(place, "0")).collect()
    }

    /// The splices that set and take out arguments of a `tools/call` by their top-level keys. A key in both is
    /// set. Everything else stays byte for byte; nothing to change gives no splice.
    #[must_use]
    pub fn edits(&self, set: &BTreeMap<String, Json>, drop: &[String]) -> Vec<Edit> {
        let Some(params) = self.places.params.filter(|_| self.tool.is_some()) else { return Vec::new() };
        match self.places.arguments {
            Some(object) if object.kind() == Kind::Object => argument_edits(object, set, drop),
            _ if set.is_empty() => Vec::new(),
            Some(null) => vec![Edit::replace(null.span(), object_of(set))],
            // A `tools/call` has a `name`, so that there is a member for the comma to stand before.
            None => vec![Edit::insert(params.span().start + 1, format!("\"arguments\":{},", object_of(set)))],
        }
    }
}

/// Says how the headers `Mcp-Method` and `Mcp-Name` contradict the body, if they do. A header that is absent
/// contradicts nothing here: whether it must be there is up to the revision. Values may be written as
/// `=?base64?...?=`. Source: revision 2026-07-28, Streamable HTTP.
#[must_use]
pub fn header_mismatch(
    messages: &[McpMessage<'_>],
    mcp_method: Option<&str>,
    mcp_name: Option<&str>,
) -> Option<String> {
    if mcp_method.is_none() && mcp_name.is_none() {
        return None;
    }
    let [message] = messages else {
        return Some(
            "headers `Mcp-Method` and `Mcp-Name` do not go with a batch: send one message".to_owned(),
        );
    };
    let differs = |header: &str, given: Option<&str>, body: Option<&str>| {
        let given = given?;
        let shown = body.unwrap_or("nothing");
        let Some(value) = header_value(given) else {
            return Some(format!("header `{header}` is not valid base64 of UTF-8 text"));
        };
        (Some(&*value) != body)
            .then(|| format!("header `{header}` says `{value}` but the body says `{shown}`"))
    };
    differs("Mcp-Method", mcp_method, message.method.as_deref())
        .or_else(|| differs("Mcp-Name", mcp_name, message.target.as_deref()))
}

fn header_value(value: &str) -> Option<Cow<'_, str>> {
    let value = value.trim_matches([' ', '\t']);
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(encoded) => BASE64_STANDARD
            .decode(encoded)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .map(Cow::Owned),
        None => Some(Cow::Borrowed(value)),
    }
}

fn message(object: Value<'_>) -> Result<McpMessage<'_>, Unreadable> {
    if object.kind() != Kind::Object {
        return wrong("message", "must be an object");
    }
    let mut read = McpMessage {
        id: None,
        method: None,
        tool: None,
        args: None,
        target: None,
        protocol_version: None,
        span: object.span(),
        places: Places::default(),
    };
    let (mut version, mut answer) = (false, false);
    for member in object.members() {
        let key = member.key();
        only_as_spelled(&key, &MESSAGE)?;
        match &*key {
            "jsonrpc" => version = member.value.as_str().is_some_and(|version| version == "2.0"),
            "id" if matches!(member.value.kind(), Kind::String | Kind::Number | Kind::Null) => {
                read.id = Some(member.value.raw().as_bytes());
            }
            "id" => return wrong("id", "must be a string or a number"),
            "method" => read.method = Some(name("method", member.value)?),
            "params" => read.places.params = Some(member.value),
            "result" | "error" => answer = true,
            _ => {}
        }
    }
    if !version {
        return wrong("jsonrpc", "must be `2.0`");
    }
    match (&read.method, answer) {
        (Some(_), false) => params(&mut read)?,
        (None, true) => {}
        _ => return wrong("method", "must be there, or else a `result` or `error`, and not both"),
    }
    Ok(read)
}

/// Reads the params of a request or notification.
fn params(message: &mut McpMessage<'_>) -> Result<(), Unreadable> {
    let method = message.method.as_deref().unwrap_or_default();
    let target = match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        _ => None,
    };
    for member in message.places.params.into_iter().flat_map(|params| params.members()) {
        let key = member.key();
        only_as_spelled(&key, &PARAMS)?;
        match &*key {
            key if Some(key) == target => {
                message.target = Some(name(&format!("params.{key}"), member.value)?);
            }
            "arguments" if method == "tools/call" => message.places.arguments = Some(member.value),
            "protocolVersion" if method == "initialize" => message.protocol_version = member.value.as_str(),
            "_meta" => {
                let version = member.value.get("io.modelcontextprotocol/protocolVersion");
                message.protocol_version = version.and_then(|version| version.as_str());
            }
            _ => {}
        }
    }
    if method != "tools/call" {
        return Ok(());
    }
    match &message.target {
        Some(tool) => message.tool = Some(tool.clone()),
        None => return wrong("params.name", "is missing: name the tool"),
    }
    match message.places.arguments {
        Some(arguments) if arguments.kind() == Kind::Object => {
            message.args = Some(arguments.raw().as_bytes());
        }
        Some(arguments) if !arguments.is_null() => return wrong("params.arguments", "must be an object"),
        _ => {}
    }
    Ok(())
}

fn argument_edits(object: Value<'_>, set: &BTreeMap<String, Json>, drop: &[String]) -> Vec<Edit> {
    let members: Vec<_> = object.members().map(|member| (member.key(), member)).collect();
    let is_dropped = |key: &str| drop.iter().any(|dropped| dropped == key) && !set.contains_key(key);
    let last_kept = members.iter().rposition(|(key, _)| !is_dropped(key));
    let mut edits = Vec::new();
    let following = members.iter().skip(1).map(|(_, next)| Some(next.span().start)).chain([None]);
    for (i, ((key, member), next)) in members.iter().zip(following).enumerate() {
        if let Some(value) = set.get(&**key) {
            edits.push(Edit::replace(member.value.span(), value.to_string()));
        } else if let Some(next) = next.filter(|_| is_dropped(key) && last_kept.is_some_and(|last| i < last))
        {
            edits.push(Edit::replace(member.span().start..next, ""));
        }
    }
    // What is dropped at the end goes with the comma before it; what is new comes in its place.
    let kept_end = last_kept.and_then(|last| members.get(last)).map(|(_, member)| member.span().end);
    let end = members.last().map(|(_, member)| member.span().end);
    let tail_start = kept_end.or_else(|| members.first().map(|(_, member)| member.span().start));
    let inside = object.span().start + 1;
    let tail = tail_start.unwrap_or(inside)..end.unwrap_or(inside);
    let new = set.iter().filter(|(key, _)| !members.iter().any(|(known, _)| known == *key));
    let new: Vec<_> = new.map(|(key, value)| format!("{}:{value}", Json::from(key.as_str()))).collect();
    let comma = if kept_end.is_some() && !new.is_empty() { "," } else { "" };
    if !tail.is_empty() || !new.is_empty() {
        edits.push(Edit::replace(tail, format!("{comma}{}", new.join(","))));
    }
    edits
}

fn object_of(set: &BTreeMap<String, Json>) -> String {
    let members: Vec<_> =
        set.iter().map(|(key, value)| format!("{}:{value}", Json::from(key.as_str()))).collect();
    format!("{{{}}}", members.join(","))
}
