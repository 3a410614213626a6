//! Bodies of refusals, one function a dialect.

use serde_json::{Map, Value, json};
use sideguard_types::refusal::{Code, Refusal};

use super::retry_after;

/// `error` as OpenAI's SDKs read it (`.code`, `.type`, `.param`).
pub(super) fn openai(refusal: &Refusal) -> Value {
    let kind = match refusal.code {
        Code::Unjudgeable if upstream(refusal) => "server_error",
        Code::PolicyDenied
        | Code::ScopeDenied
        | Code::ApprovalRequired
        | Code::Killed
        | Code::Fenced
        | Code::Unjudgeable => "permission_denied",
        Code::BudgetExhausted => "insufficient_quota",
        Code::RateLimited => "rate_limit_exceeded",
        Code::BodyTooLarge | Code::Malformed | Code::Unauthenticated => "invalid_request_error",
        Code::BreakerTripped
        | Code::PolicyUnavailable
        | Code::RecordUnavailable
        | Code::UpstreamUnreachable
        | Code::UpstreamTimeout => "server_error",
    };
    json!({"error": {
        "message": refusal.message(),
        "type": kind,
        "param": null,
        "code": refusal.code.as_str(),
        "sideguard": facts(refusal),
    }})
}

/// `error` as Anthropic's SDKs read it (`.type`, and `.error_code` from `details`).
pub(super) fn anthropic(refusal: &Refusal) -> Value {
    let kind = match refusal.code {
        Code::Unjudgeable if upstream(refusal) => "api_error",
        Code::PolicyDenied
        | Code::ScopeDenied
        | Code::ApprovalRequired
        | Code::Killed
        | Code::Fenced
        | Code::Unjudgeable => "permission_error",
        Code::BudgetExhausted => "billing_error",
        Code::RateLimited => "rate_limit_error",
        Code::BodyTooLarge => "request_too_large",
        Code::Malformed => "invalid_request_error",
        Code::Unauthenticated => "authentication_error",
        Code::UpstreamTimeout => "timeout_error",
        Code::BreakerTripped
        | Code::PolicyUnavailable
        | Code::RecordUnavailable
        | Code::UpstreamUnreachable => "api_error",
    };
    let mut details = facts(refusal);
    details.insert("error_code".to_owned(), json!(refusal.code.as_str()));
    json!({
        "type": "error",
        "error": {"type": kind, "message": refusal.message(), "details": details},
        "request_id": refusal.call,
    })
}

/// `google.rpc.Status` with an `ErrorInfo` (AIP-193).
pub(super) fn google(refusal: &Refusal) -> Value {
    let status = match refusal.code {
        Code::Unjudgeable if upstream(refusal) => "UNAVAILABLE",
        Code::PolicyDenied | Code::ScopeDenied | Code::Killed | Code::Fenced | Code::Unjudgeable => {
            "PERMISSION_DENIED"
        }
        Code::ApprovalRequired => "FAILED_PRECONDITION",
        Code::BudgetExhausted | Code::RateLimited => "RESOURCE_EXHAUSTED",
        Code::BodyTooLarge | Code::Malformed => "INVALID_ARGUMENT",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::UpstreamTimeout => "DEADLINE_EXCEEDED",
        Code::BreakerTripped
        | Code::PolicyUnavailable
        | Code::RecordUnavailable
        | Code::UpstreamUnreachable => "UNAVAILABLE",
    };
    let as_text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let metadata: Map<String, Value> =
        facts(refusal).into_iter().map(|(key, value)| (key, Value::from(as_text(value)))).collect();
    json!({"error": {
        "code": refusal.status,
        "message": refusal.message(),
        "status": status,
        "details": [{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": refusal.code.as_str().to_ascii_uppercase(),
            "domain": "sideguard.dev",
            "metadata": metadata,
        }],
    }})
}

/// A problem document (RFC 9457) with the facts as extension members.
pub(super) fn problem(refusal: &Refusal) -> Value {
    let code = refusal.code.as_str();
    let mut problem = facts(refusal);
    problem.insert("type".to_owned(), json!(format!("https://sideguard.dev/refusals/{code}")));
    problem.insert("title".to_owned(), json!(code.replace('_', " ")));
    problem.insert("status".to_owned(), json!(refusal.status));
    problem.insert("detail".to_owned(), json!(refusal.message()));
    Value::Object(problem)
}

/// Whether it is an upstream's answer that cannot be judged, and not a call.
const fn upstream(refusal: &Refusal) -> bool {
    refusal.status == 502
}

/// What every form tells besides its message: code, rule, reason, call, and what would help.
pub(super) fn facts(refusal: &Refusal) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut fact = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            facts.insert(name.to_owned(), value);
        }
    };
    fact("code", Some(json!(refusal.code.as_str())));
    fact("rule", Some(json!(*refusal.rule)));
    fact("reason", Some(json!(refusal.reason)));
    fact("decision_id", (!refusal.call.is_empty()).then(|| json!(refusal.call)));
    fact("hint", refusal.hint.as_ref().map(|hint| json!(hint)));
    fact("reset_at", refusal.reset_at.map(|time| json!(time.to_string())));
    fact("retry_after_ms", retry_after(refusal).map(|(_, millis)| json!(millis as u64)));
    fact("approval_id", refusal.approval.as_ref().map(|id| json!(id)));
    fact("approval_url", refusal.approval_url.as_ref().map(|url| json!(url)));
    fact("retry_with", (refusal.code == Code::ApprovalRequired).then(|| json!("same request")));
    facts
}
