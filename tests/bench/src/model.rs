//! What is asked and what is answered: the bodies of the cases, and the stand-in model's replies.

use std::fmt::Write as _;

use memchr::memmem;
use serde_json::{Value, json};

use crate::clock;

/// Path of a chat completion at the model.
pub(crate) const PATH: &str = "/v1/chat/completions";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// A chat call of 1 KiB.
    Chat1k,
    /// A chat call of 32 KiB that declares tools.
    Chat32k,
    /// A chat call of 1 KiB whose answer is streamed.
    Stream,
    /// A chat call of 1 KiB over TLS that the proxy opens.
    Connect,
}

impl Case {
    /// All of them, in the order in which they are measured.
    pub(crate) const ALL: [Self; 4] = [Self::Chat1k, Self::Chat32k, Self::Stream, Self::Connect];

    /// Its name in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Chat1k => "chat_1k",
            Self::Chat32k => "chat_32k_tools",
            Self::Stream => "stream",
            Self::Connect => "connect_intercepted",
        }
    }

    /// Body of its request.
    pub(crate) fn body(self) -> String {
        match self {
            Self::Chat1k | Self::Connect => chat(1 << 10, 0, false),
            Self::Chat32k => chat(32 << 10, 40, false),
            Self::Stream => chat(1 << 10, 0, true),
        }
    }
}

/// A chat request of just `size` bytes: its text is as long as is needed.
fn chat(size: usize, tools: usize, stream: bool) -> String {
    const TEXT: &str = "Read the open tickets of this week, group them by cause, and say which come back. ";
    let tools: Vec<Value> = (0..tools).map(tool).collect();
    let body = |text: &str| {
        let mut body = json!({
            "model": "gpt-4o-mini",
            "messages": [
                {"role": "system", "content": "You are a careful research assistant."},
                {"role": "user", "content": text},
            ],
            "max_tokens": 256,
            "temperature": 0.2,
        });
        if !tools.is_empty() {
            body["tools"] = Value::Array(tools.clone());
            body["tool_choice"] = "auto".into();
        }
        if stream {
            body["stream"] = true.into();
        }
        body.to_string()
    };
    let missing = size.saturating_sub(body("").len());
    body(&TEXT.chars().cycle().take(missing).collect::<String>())
}

fn tool(number: usize) -> Value {
    json!({
        "type": "function",
        "function": {
            "name": format!("lookup_{number}"),
            "description": "Looks records up by field and value, newest first, at most as many as asked for.",
            "parameters": {
                "type": "object",
                "properties": {
                    "field": {"type": "string", "enum": ["id", "owner", "status"], "description": "which field"},
                    "value": {"type": "string", "description": "the value that it must have"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 100},
                },
                "required": ["field", "value"],
            },
        },
    })
}

/// Whether a request asks for a streamed answer, and for its usage.
pub(crate) fn asks_for_stream(body: &[u8]) -> Option<Streamed> {
    is_true(body, "stream").then(|| Streamed { usage: is_true(body, "include_usage") })
}

/// A streamed answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Streamed {
    /// Ends with a chunk that tells the usage.
    pub(crate) usage: bool,
}

/// Whether `"key": true` stands in the body. Not a parser: the stand-in must cost little beside the proxies.
fn is_true(body: &[u8], key: &str) -> bool {
    let key = format!("\"{key}\"");
    memmem::find_iter(body, &key).any(|at| {
        let rest = body.get(at + key.len()..).unwrap_or_default().trim_ascii_start();
        rest.strip_prefix(b":").is_some_and(|value| value.trim_ascii_start().starts_with(b"true"))
    })
}

/// The whole answer, about 1 KiB.
pub(crate) fn completion() -> String {
    json!({
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "The tickets fall into three groups. ".repeat(16)},
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 210,
            "completion_tokens": 128,
            "total_tokens": 338,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "system_fingerprint": "fp_bench",
    })
    .to_string()
}

/// One event of text, stamped with the time at which it is made: see [`Stamps`].
pub(crate) fn event() -> String {
    let mut event = String::with_capacity(220);
    let head = r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"#;
    let body = r#""model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{"content":" a few words"#;
    let _written = write!(event, "{head}{body} @{};\"}},\"finish_reason\":null}}]}}\n\n", clock::now());
    event
}

/// The events that end a stream.
pub(crate) fn last_events(streamed: &Streamed) -> String {
    let chunk = |rest: &str| {
        let head = r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"#;
        format!("{head}\"model\":\"gpt-4o-mini-2024-07-18\",{rest}}}\n\n")
    };
    let mut events = chunk(r#""choices":[{"index":0,"delta":{},"finish_reason":"stop"}]"#);
    if streamed.usage {
        let usage = r#""usage":{"prompt_tokens":210,"completion_tokens":80,"total_tokens":290}"#;
        events += &chunk(&format!("\"choices\":[],{usage}"));
    }
    events + "data: [DONE]\n\n"
}

/// Finds the stamps of [`event`] in a body that arrives piece by piece.
#[derive(Default)]
pub(crate) struct Stamps {
    seen: usize,
}

impl Stamps {
    /// The stamps in `body` that were not complete before; `body` must only have grown.
    pub(crate) fn new_ones(&mut self, body: &[u8]) -> Vec<u64> {
        let mut found = Vec::new();
        while let Some((stamp, end)) = next_stamp(body, self.seen) {
            self.seen = end;
            found.extend(stamp);
        }
        found
    }
}

/// The first complete stamp from `from` on, and where it ends; no number when what stands there is not one.
fn next_stamp(body: &[u8], from: usize) -> Option<(Option<u64>, usize)> {
    let rest = body.get(from..)?;
    let start = memchr::memchr(b'@', rest)? + 1;
    let length = memchr::memchr(b';', rest.get(start..)?)?;
    let digits = std::str::from_utf8(rest.get(start..start + length)?).ok();
    Some((digits.and_then(|digits| digits.parse().ok()), from + start + length))
}

#[cfg(test)]
mod tests {
    use super::{Case, Stamps, Streamed, asks_for_stream, completion, event, last_events};

    #[test]
    fn bodies_have_their_size() {
        for (case, size) in [(Case::Chat1k, 1 << 10), (Case::Chat32k, 32 << 10), (Case::Stream, 1 << 10)] {
            assert_eq!(case.body().len(), size, "{}", case.name());
        }
        assert!((900..1200).contains(&completion().len()), "{}", completion().len());
    }

    #[test]
    fn a_stream_is_made_only_when_asked_for() {
        assert_eq!(asks_for_stream(Case::Chat32k.body().as_bytes()), None);
        assert_eq!(asks_for_stream(Case::Stream.body().as_bytes()), Some(Streamed { usage: false }));
        let spaced = br#"{"stream" : true, "stream_options": {"include_usage": true}}"#;
        assert_eq!(asks_for_stream(spaced), Some(Streamed { usage: true }));
        assert_eq!(asks_for_stream(br#"{"stream":false}"#), None);
    }

    #[test]
    fn every_event_is_json() {
        let stream = event() + &last_events(&Streamed { usage: true });
        for data in stream.split("\n\n").filter_map(|event| event.strip_prefix("data: ")) {
            assert!(data == "[DONE]" || serde_json::from_str::<serde_json::Value>(data).is_ok(), "{data}");
        }
    }

    #[test]
    fn stamps_are_found_once_wherever_the_body_is_split() {
        let body = format!("{}{}data: [DONE]\n\n", event(), event());
        let whole = Stamps::default().new_ones(body.as_bytes());
        assert_eq!(whole.len(), 2);
        for split in 0..=body.len() {
            let mut stamps = Stamps::default();
            let mut found = stamps.new_ones(&body.as_bytes()[..split]);
            found.extend(stamps.new_ones(body.as_bytes()));
            assert_eq!(found, whole);
        }
    }
}
