//! The error events that make each dialect's SDKs raise with the code kept. A bare end of the stream looks like
//! success to them.

use bytes::Bytes;
use sideguard_types::refusal::Refusal;

use super::rebuild::quoted;
use crate::refuse::{Form, reply};

/// Ends a stream of chat completion chunks.
pub(super) fn chat(refusal: &Refusal) -> Bytes {
    format!("data: {}\n\n", error_body(Form::OpenAi, refusal)).into()
}

/// Ends a stream of message events.
pub(super) fn messages(refusal: &Refusal) -> Bytes {
    format!("event: error\ndata: {}\n\n", error_body(Form::Anthropic, refusal)).into()
}

/// What the events that end a stream of responses repeat of it: JSON text.
pub(super) struct Begun<'r> {
    pub(super) id: &'r str,
    pub(super) created_at: &'r str,
    pub(super) model: &'r str,
    pub(super) sequence: u64,
}

/// Ends a stream of response events. The SDKs raise on an `error` member only, their helpers want the response
/// to have ended, and the documented form of the error is flat: so all three are given.
pub(super) fn responses(refusal: &Refusal, begun: &Begun<'_>) -> Bytes {
    let Begun { id, created_at, model, sequence } = begun;
    let next = sequence.saturating_add(1);
    let code = quoted(refusal.code.as_str());
    let message = quoted(&refusal.message());
    let body = error_body(Form::OpenAi, refusal);
    let error = body.strip_prefix('{').and_then(|body| body.strip_suffix('}')).unwrap_or(r#""error":{}"#);
    format!(
        "event: response.failed\ndata: {{\"type\":\"response.failed\",\"sequence_number\":{sequence},\
         \"response\":{{\"id\":{id},\"object\":\"response\",\"created_at\":{created_at},\"status\":\"failed\",\
         \"error\":{{\"code\":{code},\"message\":{message}}},\"incomplete_details\":null,\"model\":{model},\
         \"output\":[],\"usage\":null}}}}\n\n\
         event: error\ndata: {{\"type\":\"error\",\"sequence_number\":{next},\"code\":{code},\
         \"message\":{message},\"param\":null,{error}}}\n\n"
    )
    .into()
}

fn error_body(form: Form, refusal: &Refusal) -> String {
    String::from_utf8_lossy(&reply(form, refusal).body).into_owned()
}
