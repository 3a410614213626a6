//! What a whole (not streamed) answer says it used.

use sideguard_types::units::Tokens;
use sideguard_types::usage::Usage;

use crate::detect::Operation;
use crate::json::{self, Value};

/// Usage from the body of an answer to `op`. Never fails: what is absent, or is not a whole number, stays
/// unknown, which is not the same as zero.
#[must_use]
pub fn whole(op: Operation, body: &[u8]) -> Usage {
    let usage = json::read(body).ok().and_then(|document| document.root.get("usage"));
    match (op, usage) {
        (Operation::Chat, Some(usage)) => chat(usage),
        (Operation::Responses | Operation::ModelFree, Some(usage)) => responses(usage),
        (Operation::Messages, Some(usage)) => messages(usage),
        (Operation::Embeddings, Some(usage)) => Usage { output: Some(Tokens::ZERO), ..chat(usage) },
        // Free of charge, so that there is nothing to report.
        (Operation::CountTokens, _) => {
            Usage { input: Some(Tokens::ZERO), output: Some(Tokens::ZERO), ..Usage::default() }
        }
        _ => Usage::default(),
    }
}

/// A chat completion's `usage` object. Cached and reasoning tokens are parts of the whole, except at providers
/// (xAI) whose `total_tokens` shows that reasoning came on top.
#[must_use]
pub fn chat(usage: Value<'_>) -> Usage {
    let [input, stated, total, input_details, output_details, cache_hit] = usage.named([
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "prompt_cache_hit_tokens",
    ]);
    let [cached, cache_write] = within(input_details, ["cached_tokens", "cache_write_tokens"]);
    let [reasoning] = within(output_details, ["reasoning_tokens"]);
    let (input, stated) = (tokens(input), tokens(stated));
    let beyond_input =
        tokens(total).zip(input).map(|(total, Tokens(input))| Tokens(total.0.saturating_sub(input)));
    Usage {
        input,
        output: stated.map(|stated| stated.max(beyond_input.unwrap_or_default())),
        // DeepSeek names its cache hits otherwise.
        cached: cached.or(tokens(cache_hit)),
        cache_write,
        reasoning,
        estimated: false,
    }
}

/// A response's `usage` object; cached and reasoning tokens are parts of the whole.
#[must_use]
pub fn responses(usage: Value<'_>) -> Usage {
    let [input, output, input_details, output_details] =
        usage.named(["input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details"]);
    let [cached, cache_write] = within(input_details, ["cached_tokens", "cache_write_tokens"]);
    let [reasoning] = within(output_details, ["reasoning_tokens"]);
    Usage { input: tokens(input), output: tokens(output), cached, cache_write, reasoning, estimated: false }
}

/// A message's `usage` object. Anthropic's `input_tokens` leaves the cache out, so that its reads and writes
/// are added.
#[must_use]
pub fn messages(usage: Value<'_>) -> Usage {
    let [uncached, output, cached, cache_write, output_details] = usage.named([
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "output_tokens_details",
    ]);
    let (cached, cache_write) = (tokens(cached), tokens(cache_write));
    let [thinking, reasoning] = within(output_details, ["thinking_tokens", "reasoning_tokens"]);
    Usage {
        input: tokens(uncached)
            .map(|input| input.plus(cached.unwrap_or_default()).plus(cache_write.unwrap_or_default())),
        output: tokens(output),
        cached,
        cache_write,
        reasoning: thinking.or(reasoning),
        estimated: false,
    }
}

/// The counts of these names in an object within the usage.
fn within<const N: usize>(details: Option<Value<'_>>, names: [&str; N]) -> [Option<Tokens>; N] {
    details.map_or([None; N], |details| details.named(names)).map(tokens)
}

fn tokens(count: Option<Value<'_>>) -> Option<Tokens> {
    count?.as_count().map(Tokens)
}

#[cfg(test)]
mod tests {
    use sideguard_types::units::Tokens;
    use sideguard_types::usage::Usage;

    use super::{Operation, whole};

    fn parts(usage: Usage) -> [Option<u64>; 5] {
        [usage.input, usage.output, usage.cached, usage.cache_write, usage.reasoning].map(|t| t.map(|t| t.0))
    }

    #[test]
    fn each_dialect_is_read_to_the_token() {
        let table: [(Operation, &str, [Option<u64>; 5]); 11] = [
            (
                Operation::Chat,
                r#"{"usage":{"prompt_tokens":100,"completion_tokens":30,"total_tokens":130,
                   "prompt_tokens_details":{"cached_tokens":64,"cache_write_tokens":5},
                   "completion_tokens_details":{"reasoning_tokens":12}}}"#,
                [Some(100), Some(30), Some(64), Some(5), Some(12)],
            ),
            (
                Operation::Chat,
                r#"{"usage":{"prompt_tokens":0,"completion_tokens":0}}"#,
                [Some(0), Some(0), None, None, None],
            ),
            (Operation::Chat, r#"{"usage":null}"#, [None; 5]),
            (Operation::Chat, r#"{"choices":[]}"#, [None; 5]),
            (Operation::Chat, r#"{"usage":{"prompt_tokens":-1,"completion_tokens":2.5}}"#, [None; 5]),
            (
                Operation::Chat,
                r#"{"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,
                   "completion_tokens_details":{"reasoning_tokens":94}}}"#,
                [Some(32), Some(103), None, None, Some(94)],
            ),
            (
                Operation::Responses,
                r#"{"usage":{"input_tokens":7,"output_tokens":9,"input_tokens_details":{"cached_tokens":3},
                   "output_tokens_details":{"reasoning_tokens":4},"total_tokens":16}}"#,
                [Some(7), Some(9), Some(3), None, Some(4)],
            ),
            (
                Operation::Messages,
                r#"{"usage":{"input_tokens":10,"cache_creation_input_tokens":200,"cache_read_input_tokens":3000,
                   "output_tokens":5}}"#,
                [Some(3210), Some(5), Some(3000), Some(200), None],
            ),
            (
                Operation::Messages,
                r#"{"usage":{"input_tokens":10,"output_tokens":5}}"#,
                [Some(10), Some(5), None, None, None],
            ),
            (
                Operation::Embeddings,
                r#"{"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
                [Some(8), Some(0), None, None, None],
            ),
            (Operation::CountTokens, r#"{"input_tokens":2095}"#, [Some(0), Some(0), None, None, None]),
        ];
        for (op, body, expected) in table {
            assert_eq!(parts(whole(op, body.as_bytes())), expected, "{op:?} {body}");
        }
    }

    #[test]
    fn what_is_not_json_is_unknown_not_zero() {
        assert_eq!(whole(Operation::Chat, b"<html>").total(), None);
        assert_eq!(whole(Operation::Messages, b"").input, None::<Tokens>);
    }
}
