//! Refusals to MCP clients: HTTP 200, so that the session lives; clients were seen to drop it on 4xx.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::McpRefusal;

use super::body::facts;
use super::{Reply, headers};
use crate::request::Unread;

/// What a message is answered with.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'r> {
    /// The message's id as it stands in the request; none for a notification.
    pub id: Option<&'r [u8]>,
    /// Why it did not go.
    pub refusal: &'r Refusal,
    /// What the refusal was of.
    pub of: Of,
}

/// What a refusal was of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The message itself.
    Itself,
    /// Another one of its batch: it may go without that.
    Another,
}

/// The reply to refused messages: HTTP 200 with one answer for each that has an id (as it stands in the request),
/// in an array for a `batch`. Where none has one (notifications) it is HTTP 202 without a body, as for notifications
/// that were taken in. [`McpRefusal::Result`] is for `tools/call` alone: any other method has no result that could
/// tell of a refusal.
#[must_use]
pub fn mcp_reply(refused: &[Answer<'_>], batch: bool, style: McpRefusal) -> Reply {
    let answers: Vec<String> = refused
        .iter()
        .filter_map(|one| {
            let id = id_text(one.id?);
            Some(match style {
                McpRefusal::Result => answer(&id, "result", &tool_result(one)),
                McpRefusal::Error => answer(&id, "error", &error(one.refusal)),
            })
        })
        .collect();
    let headers = refused.first().map(|one| headers(one.refusal)).unwrap_or_default();
    answered(answers, batch, headers)
}

/// The reply to messages that could not be read: as [`mcp_reply`], with the error of JSON-RPC that says so.
#[must_use]
pub fn mcp_unread(unread: &Unread, refusal: &Refusal) -> Reply {
    let error = json!({"code": unread.code, "message": refusal.message(), "data": facts(refusal)});
    let id = |id: &Option<Vec<u8>>| id.as_deref().map_or_else(|| "null".to_owned(), id_text);
    let answers = unread.ids.iter().map(|one| answer(&id(one), "error", &error)).collect();
    answered(answers, unread.batch, headers(refusal))
}

fn answered(answers: Vec<String>, batch: bool, headers: Vec<(&'static str, String)>) -> Reply {
    let (status, body) = match (batch, answers.is_empty()) {
        (_, true) => (202, String::new()),
        (true, false) => (200, format!("[{}]", answers.join(","))),
        (false, false) => (200, answers.into_iter().next().unwrap_or_default()),
    };
    Reply { status, content_type: "application/json", headers, body: body.into_bytes() }
}

/// The reply to a request whose headers contradict its body: HTTP 400 and error -32020 (revision 2026-07-28,
/// Streamable HTTP). `id` is as it stands in the request, the refusal's reason from
/// [`crate::request::header_mismatch`].
#[must_use]
pub fn mcp_header_mismatch(id: Option<&[u8]>, refusal: &Refusal) -> Reply {
    let id = id.map_or_else(|| "null".to_owned(), id_text);
    let error = json!({"code": -32020, "message": refusal.message(), "data": facts(refusal)});
    Reply {
        status: 400,
        content_type: "application/json",
        headers: headers(refusal),
        body: answer(&id, "error", &error).into_bytes(),
    }
}

/// An error to whoever sent what could not be read.
pub(super) fn without_id(refusal: &Refusal) -> Value {
    json!({"jsonrpc": "2.0", "id": null, "error": error(refusal)})
}

/// An answer whose id stands as it came, however a number is written.
fn answer(id: &str, member: &str, value: &Value) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"{member}\":{value}}}")
}

/// The id, if it is JSON; else `null`, so that the answer is.
fn id_text(id: &[u8]) -> String {
    serde_json::from_slice::<&RawValue>(id).map_or_else(|_| "null".to_owned(), |raw| raw.get().to_owned())
}

fn error(refusal: &Refusal) -> Value {
    // Clear of -32768..-32000, which JSON-RPC and the MCP specification keep for themselves.
    let code = -31_000 - i32::from(refusal.code.status());
    json!({"code": code, "message": refusal.message(), "data": facts(refusal)})
}

fn tool_result(one: &Answer<'_>) -> Value {
    let refusal = one.refusal;
    let meta: Map<String, Value> = facts(refusal)
        .into_iter()
        .map(|(name, value)| (format!("sideguard.dev/{name}"), value))
        .chain([("sideguard.dev/decision".to_owned(), json!(super::decision(refusal.code)))])
        .collect();
    json!({
        "content": [{"type": "text", "text": for_the_model(one)}],
        "isError": true,
        // Revision 2026-07-28 asks for it; to the older ones it is a member like any unknown one.
        "resultType": "complete",
        "_meta": meta,
    })
}

/// What the model reads: short, and clear about whether to try again.
fn for_the_model(one: &Answer<'_>) -> String {
    let refusal = one.refusal;
    let (rule, code, reason) = (&refusal.rule, refusal.code.as_str(), &refusal.reason);
    if one.of == Of::Another {
        return format!(
            "Not sent: another call of the same batch was refused by `{rule}` ({code}). This one may be sent again \
             without that call."
        );
    }
    let then = match (&refusal.approval, super::retry_after(refusal), refusal.code) {
        (Some(id), _, Code::ApprovalRequired) => {
            format!("Approval {id} is pending; repeat the same call once it is given.")
        }
        (_, Some((seconds, _)), _) => format!("It may be tried again in {seconds} s."),
        _ => "Do not retry.".to_owned(),
    };
    let hint = refusal.hint.as_deref().map(|hint| format!(" {hint}.")).unwrap_or_default();
    format!("Blocked by `{rule}` ({code}): {reason}. {then}{hint}")
}
