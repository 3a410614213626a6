//! Refusals to MCP clients: HTTP 200, so that the session lives; clients were seen to drop it on 4xx.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::McpRefusal;

use super::body::facts;
use super::{Reply, headers};

/// The reply to refused messages: HTTP 200 with one answer for each that has an id (as it stands in the request),
/// in an array for a `batch`. Where none has one (notifications) the body is empty. [`McpRefusal::Result`] is
/// for `tools/call` alone: any other method has no result that could tell of a refusal.
#[must_use]
pub fn mcp_reply(refused: &[(Option<&[u8]>, &Refusal)], batch: bool, style: McpRefusal) -> Reply {
    let answers: Vec<String> = refused
        .iter()
        .filter_map(|(id, refusal)| {
            let id = id_text((*id)?);
            Some(match style {
                McpRefusal::Result => answer(&id, "result", &tool_result(refusal)),
                McpRefusal::Error => answer(&id, "error", &error(refusal)),
            })
        })
        .collect();
    let body = match (batch, answers.is_empty()) {
        (_, true) => String::new(),
        (true, false) => format!("[{}]", answers.join(",")),
        (false, false) => answers.into_iter().next().unwrap_or_default(),
    };
    Reply {
        status: 200,
        content_type: "application/json",
        headers: refused.first().map(|(_, refusal)| headers(refusal)).unwrap_or_default(),
        body: body.into_bytes(),
    }
}

/// The reply to a request whose headers contradict its body: HTTP 400 and error -32020 (revision 2026-07-28,
/// Streamable HTTP). `id` is as it stands in the request, `mismatch` from [`crate::request::header_mismatch`].
#[must_use]
pub fn mcp_header_mismatch(id: Option<&[u8]>, mismatch: &str) -> Reply {
    let id = id.map_or_else(|| "null".to_owned(), id_text);
    let body = answer(&id, "error", &json!({"code": -32020, "message": mismatch}));
    Reply {
        status: 400,
        content_type: "application/json",
        headers: vec![("x-sideguard-decision", "deny".to_owned()), ("x-should-retry", "false".to_owned())],
        body: body.into_bytes(),
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

fn tool_result(refusal: &Refusal) -> Value {
    let meta: Map<String, Value> = facts(refusal)
        .into_iter()
        .map(|(name, value)| (format!("sideguard.dev/{name}"), value))
        .chain([("sideguard.dev/decision".to_owned(), json!(super::decision(refusal.code)))])
        .collect();
    json!({
        "content": [{"type": "text", "text": for_the_model(refusal)}],
        "isError": true,
        // Revision 2026-07-28 asks for it; to the older ones it is a member like any unknown one.
        "resultType": "complete",
        "_meta": meta,
    })
}

/// What the model reads: short, and clear about whether to try again.
fn for_the_model(refusal: &Refusal) -> String {
    let then = match (&refusal.approval, super::retry_after(refusal), refusal.code) {
        (Some(id), _, Code::ApprovalRequired) => {
            format!("Approval {id} is pending; repeat the same call once it is given.")
        }
        (_, Some((seconds, _)), _) => format!("It may be tried again in {seconds} s."),
        _ => "Do not retry.".to_owned(),
    };
    let hint = refusal.hint.as_deref().map(|hint| format!(" {hint}.")).unwrap_or_default();
    format!("Blocked by `{}` ({}): {}. {then}{hint}", refusal.rule, refusal.code.as_str(), refusal.reason)
}
