//! Prints how long reading a chat body takes: `cargo run --release --example read_speed`.

use std::hint::black_box;
use std::time::Instant;

use sideguard_dialects::detect::{Operation, detect};
use sideguard_dialects::json;
use sideguard_dialects::request::{self, Request};
use sideguard_types::resource::Dialect;

fn main() {
    for (label, size) in [("1 KiB", 1 << 10), ("32 KiB", 32 << 10)] {
        for (kind, text) in [
            ("prose", "The quick brown fox jumps over the lazy dog, and then it rests a while. "),
            ("code", "fn main() {\n    let name = \"world\";\n\tprintln!(\"hello {name}\");\n}\n"),
            ("chinese", "你好，世界。今天的天气很好，我们去公园散步吧。"),
        ] {
            let body = chat(text, size);
            let whole = nanos(|| drop(black_box(request::read(Operation::Chat, black_box(&body)))));
            let json = nanos(|| drop(black_box(json::read(black_box(&body)))));
            let Ok(Request::Model(call)) = request::read(Operation::Chat, &body) else { continue };
            let counted = nanos(|| {
                let _ = black_box(call.counted(black_box(&body)));
            });
            let detected = nanos(|| {
                drop(black_box(detect(
                    Some(("openai", Dialect::Openai)),
                    "POST",
                    "/v1/chat/completions",
                    Some("application/json"),
                    black_box(&body),
                )));
            });
            println!(
                "{label:>6} {kind:<8} {:>6} bytes: json {json:>6} ns, request {whole:>6} ns, detect {detected} ns, \
                 counted {counted} ns ({} of at most {} tokens)",
                body.len(),
                call.counted(&body),
                call.input.strict
            );
        }
    }
}

/// A chat of messages of about 600 bytes, with two tools.
fn chat(text: &str, size: usize) -> Vec<u8> {
    let mut messages = Vec::new();
    let mut length = 500;
    while length < size {
        let content: String = text.chars().cycle().take(600.min(size - length).max(1)).collect();
        length += content.len() + 40;
        messages.push(serde_json::json!({"role": "user", "content": content}));
    }
    let tool = |name: &str| {
        serde_json::json!({"type": "function", "function": {"name": name, "description": "Looks things up.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}}})
    };
    let body = serde_json::json!({"model": "gpt-x", "stream": true, "max_completion_tokens": 1024,
        "messages": messages, "tools": [tool("search"), tool("fetch")]});
    body.to_string().into_bytes()
}

/// The fastest of many rounds, in nanoseconds a call.
#[expect(clippy::disallowed_methods, reason = "measuring time is what this program is for")]
fn nanos(mut call: impl FnMut()) -> u128 {
    const CALLS: u32 = 200;
    let round = |_| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed().as_nanos() / u128::from(CALLS)
    };
    (0..50).map(round).min().unwrap_or_default()
}
