//! What model servers and their callers say, as far as tests need it.

use std::fmt::Write as _;

use bytes::Bytes;
use http::Response;

use crate::fake::{self, Body};

/// Path of chat completions at upstream `openai`.
pub const CHAT: &str = "/openai/v1/chat/completions";
/// The end of a chat stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// A chat request with further members, such as `,"stream":true`.
#[must_use]
pub fn ask(prompt: &str, more: &str) -> String {
    format!(r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"{prompt}"}}]{more}}}"#)
}

/// A whole chat completion with its usage.
#[must_use]
pub fn completion(text: &str, input: u64, output: u64) -> String {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-mini","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{}}}}}"#,
        input + output
    )
}

/// An event of a chat stream: a delta (JSON) of choice 0.
#[must_use]
pub fn delta(delta: &str) -> String {
    chunk(&format!(r#"{{"index":0,"delta":{delta},"finish_reason":null}}"#), "null")
}

/// An event of a chat stream: a piece of text.
#[must_use]
pub fn text(text: &str) -> String {
    delta(&format!(r#"{{"content":"{text}"}}"#))
}

/// The last event of choice 0.
#[must_use]
pub fn finish(reason: &str) -> String {
    chunk(&format!(r#"{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}"#), "null")
}

/// The event with the usage of a chat stream.
#[must_use]
pub fn usage(input: u64, output: u64) -> String {
    let total = input + output;
    let usage = format!(r#"{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{total}}}"#);
    chunk("", &usage)
}

fn chunk(choices: &str, usage: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o-mini\",\
         \"choices\":[{choices}],\"usage\":{usage}}}\n\n"
    )
}

/// Events whose name is their type, as Responses and Messages stream them: each a JSON text with `type` first.
#[must_use]
pub fn named(events: &[&str]) -> String {
    events.iter().fold(String::new(), |mut out, data| {
        let name = data.split('"').nth(3).expect("type comes first");
        let _ = write!(out, "event: {name}\ndata: {data}\n\n");
        out
    })
}

/// A JSON reply.
#[must_use]
pub fn json(body: impl Into<Bytes>) -> Response<Body> {
    fake::reply("application/json", fake::whole(body))
}

/// A reply that streams these bytes.
#[must_use]
pub fn stream(body: impl Into<Bytes>) -> Response<Body> {
    fake::reply("text/event-stream", fake::whole(body))
}
