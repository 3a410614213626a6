//! The one table from a refusal to the bytes that the caller's own library understands.
//!
//! Statuses and headers follow what real SDKs were seen to do: a final refusal is not retried by any of them,
//! and a reply that asks for a retry says when.

mod body;
mod mcp;

use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::Dialect;

use crate::detect::Operation;
pub use mcp::{Answer, Of, mcp_header_mismatch, mcp_reply, mcp_unread};

/// Form of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `{"error":{..}}` of OpenAI and compatible servers.
    OpenAi,
    /// `{"type":"error",..}` of Anthropic.
    Anthropic,
    /// `{"error":{"code":403,"status":..}}` of Google (`google.rpc.Status` as JSON).
    Google,
    /// A JSON-RPC error without id, with the refusal's own HTTP status: for what is refused before its messages are
    /// looked at. For messages see [`mcp_reply`] and [`mcp_unread`].
    Mcp,
    /// `application/problem+json` (RFC 9457), for everything else.
    Problem,
}

impl Form {
    /// The form for requests of `op`; where that says nothing, the one of the governed upstream (name and
    /// dialect, as for [`crate::detect::detect`]). For a request that cannot be judged `op` is `Plain`.
    #[must_use]
    pub fn of(op: Operation, governed: Option<(&str, Dialect)>) -> Self {
        match (op, governed) {
            (Operation::Chat | Operation::Responses | Operation::Embeddings, _) => Self::OpenAi,
            (Operation::Messages | Operation::CountTokens, _) => Self::Anthropic,
            (Operation::Mcp, _) => Self::Mcp,
            (Operation::ModelFree | Operation::Plain, Some(("gemini" | "vertex", _))) => Self::Google,
            (Operation::ModelFree | Operation::Plain, Some((_, Dialect::Openai))) => Self::OpenAi,
            (Operation::ModelFree | Operation::Plain, Some((_, Dialect::Anthropic))) => Self::Anthropic,
            (Operation::ModelFree | Operation::Plain, _) => Self::Problem,
        }
    }
}

/// A reply, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `content-type`.
    pub content_type: &'static str,
    /// The other headers: lower-case names, values of visible ASCII and spaces.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The reply that tells of `refusal` in `form`.
#[must_use]
pub fn reply(form: Form, refusal: &Refusal) -> Reply {
    let mut headers = headers(refusal);
    let (content_type, body) = match form {
        Form::OpenAi => ("application/json", body::openai(refusal)),
        Form::Anthropic => {
            headers.push(("request-id", header_safe(&refusal.call)));
            ("application/json", body::anthropic(refusal))
        }
        Form::Google => ("application/json", body::google(refusal)),
        Form::Mcp => ("application/json", mcp::without_id(refusal)),
        Form::Problem => ("application/problem+json", body::problem(refusal)),
    };
    Reply { status: refusal.status, content_type, headers, body: body.to_string().into_bytes() }
}

/// Whole seconds and milliseconds after which the same call may go through: only for what recovers soon, and
/// never longer than an SDK is willing to wait.
fn retry_after(refusal: &Refusal) -> Option<(u64, u128)> {
    let longest = match refusal.code {
        Code::RateLimited => 60,
        Code::BreakerTripped => 30,
        _ => return None,
    };
    let millis = refusal.retry_after?.as_millis();
    let seconds = u64::try_from(millis.div_ceil(1000)).ok()?.max(1);
    (seconds <= longest).then_some((seconds, millis))
}

fn headers(refusal: &Refusal) -> Vec<(&'static str, String)> {
    let mut headers = vec![("x-sideguard-decision", decision(refusal.code).to_owned())];
    match retry_after(refusal) {
        Some((seconds, millis)) => {
            headers.push(("retry-after", seconds.to_string()));
            headers.push(("retry-after-ms", millis.to_string()));
        }
        // An upstream's failure is not a decision: the SDK's own retries are as good as without a sidecar.
        None if matches!(refusal.code, Code::UpstreamUnreachable | Code::UpstreamTimeout) => {}
        None => headers.push(("x-should-retry", "false".to_owned())),
    }
    let mut named = |name, value: &str| {
        if !value.is_empty() {
            headers.push((name, header_safe(value)));
        }
    };
    named("x-sideguard-rule", &refusal.rule);
    named("x-sideguard-call", &refusal.call);
    named("x-sideguard-reset-at", &refusal.reset_at.map(|time| time.to_string()).unwrap_or_default());
    named("x-sideguard-approval-id", refusal.approval.as_deref().unwrap_or_default());
    match refusal.status {
        401 => named("www-authenticate", "Bearer realm=\"sideguard\""),
        407 => named("proxy-authenticate", "Basic realm=\"sideguard\""),
        _ => {}
    }
    headers
}

/// The decision as the header says it.
fn decision(code: Code) -> &'static str {
    match code {
        Code::ApprovalRequired => "require_approval",
        Code::RateLimited => "throttle",
        Code::UpstreamUnreachable | Code::UpstreamTimeout => "allow",
        Code::PolicyDenied
        | Code::ScopeDenied
        | Code::BudgetExhausted
        | Code::BreakerTripped
        | Code::Killed
        | Code::Fenced
        | Code::Unjudgeable
        | Code::BodyTooLarge
        | Code::Malformed
        | Code::PolicyUnavailable
        | Code::RecordUnavailable
        | Code::Unauthenticated => "deny",
    }
}

/// A header's value: what is not visible ASCII or a space becomes `?`; at most 256 bytes.
fn header_safe(text: &str) -> String {
    let safe = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    text.trim().chars().take(256).map(safe).collect()
}
