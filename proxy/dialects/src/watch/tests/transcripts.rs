//! Streams as providers send them.

use super::Answer;

/// A chat stream of these deltas for choice 0, then `finish_reason` and `[DONE]`.
pub(super) fn chat(deltas: &[&str], finish_reason: &str) -> String {
    let delta = |delta: &&str| {
        chat_chunk(&format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}"#))
    };
    let deltas: String = deltas.iter().map(delta).collect();
    let finish = chat_chunk(&format!(
        r#"{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{finish_reason}"}}"#
    ));
    format!("{deltas}{finish}data: [DONE]\n\n")
}

pub(super) fn chat_chunk(choices: &str) -> String {
    chat_chunk_with(choices, "null")
}

pub(super) fn chat_chunk_with(choices: &str, usage: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-5\",\
         \"choices\":[{choices}],\"usage\":{usage}}}\n\n"
    )
}

pub(super) const CHAT_TEXT: [&str; 3] = [
    r#"{"role":"assistant","content":"","refusal":null}"#,
    r#"{"content":"Hello"}"#,
    r#"{"content":" \u4e16 \"all\""}"#,
];

pub(super) const CHAT_ONE: [&str; 4] = [
    r#"{"role":"assistant","content":null}"#,
    r#"{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"search","arguments":""}}]}"#,
    r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"q\":"}}]}"#,
    r#"{"tool_calls":[{"index":0,"function":{"arguments":"\"cats\"}"}}]}"#,
];

pub(super) const CHAT_TWO: [&str; 7] = [
    r#"{"role":"assistant","content":"Let me"}"#,
    r#"{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"search","arguments":""}}]}"#,
    r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"q\":"}}]}"#,
    r#"{"tool_calls":[{"index":0,"function":{"arguments":"\"cats\"}"}}]}"#,
    r#"{"tool_calls":[{"index":1,"id":"call_b","type":"function","function":{"name":"delete","arguments":""}}]}"#,
    r#"{"tool_calls":[{"index":1,"function":{"arguments":"{\"path\":\"/"}}]}"#,
    r#"{"tool_calls":[{"index":1,"function":{"arguments":"etc\"}"}}]}"#,
];

/// Text and both calls in one event, as fast servers send them.
pub(super) const CHAT_MIXED: [&str; 2] = [
    r#"{"role":"assistant","content":"On it.","tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"search","arguments":"{\"q\":\"cats\"}"}},{"index":1,"id":"call_b","type":"custom","custom":{"name":"delete","input":"rm /etc"}}]}"#,
    r#"{"content":" Done."}"#,
];

fn event(data: &str) -> String {
    let name = data.split('"').nth(3).expect("type comes first");
    format!("event: {name}\ndata: {data}\n\n")
}

/// A stream of named events whose type is their first member.
pub(super) fn named(events: &[&str]) -> String {
    events.iter().map(|data| event(data)).collect()
}

pub(super) const RESPONSE_CREATED: &str = r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","created_at":17,"status":"in_progress","model":"gpt-5","output":[],"usage":null}}"#;

/// A message, then two calls, of which the second is `delete`.
pub(super) const RESPONSE_TWO: [&str; 14] = [
    RESPONSE_CREATED,
    r#"{"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{"id":"msg_1","type":"message","status":"in_progress","role":"assistant","content":[]}}"#,
    r#"{"type":"response.output_text.delta","sequence_number":2,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hello"}"#,
    r#"{"type":"response.output_item.done","sequence_number":3,"output_index":0,"item":{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello"}]}}"#,
    r#"{"type":"response.output_item.added","sequence_number":4,"output_index":1,"item":{"id":"fc_1","type":"function_call","status":"in_progress","call_id":"call_a","name":"search","arguments":""}}"#,
    r#"{"type":"response.function_call_arguments.delta","sequence_number":5,"item_id":"fc_1","output_index":1,"delta":"{\"q\":"}"#,
    r#"{"type":"response.function_call_arguments.delta","sequence_number":6,"item_id":"fc_1","output_index":1,"delta":"\"cats\"}"}"#,
    r#"{"type":"response.function_call_arguments.done","sequence_number":7,"item_id":"fc_1","output_index":1,"arguments":"{\"q\":\"cats\"}"}"#,
    r#"{"type":"response.output_item.done","sequence_number":8,"output_index":1,"item":{"id":"fc_1","type":"function_call","status":"completed","call_id":"call_a","name":"search","arguments":"{\"q\":\"cats\"}"}}"#,
    r#"{"type":"response.output_item.added","sequence_number":9,"output_index":2,"item":{"id":"fc_2","type":"function_call","status":"in_progress","call_id":"call_b","name":"delete","arguments":""}}"#,
    r#"{"type":"response.function_call_arguments.delta","sequence_number":10,"item_id":"fc_2","output_index":2,"delta":"{\"path\":\"/etc\"}"}"#,
    r#"{"type":"response.function_call_arguments.done","sequence_number":11,"item_id":"fc_2","output_index":2,"arguments":"{\"path\":\"/etc\"}"}"#,
    r#"{"type":"response.output_item.done","sequence_number":12,"output_index":2,"item":{"id":"fc_2","type":"function_call","status":"completed","call_id":"call_b","name":"delete","arguments":"{\"path\":\"/etc\"}"}}"#,
    r#"{"type":"response.completed","sequence_number":13,"response":{"id":"resp_1","object":"response","created_at":17,"status":"completed","model":"gpt-5","output":[{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello"}]},{"id":"fc_1","type":"function_call","status":"completed","call_id":"call_a","name":"search","arguments":"{\"q\":\"cats\"}"},{"id":"fc_2","type":"function_call","status":"completed","call_id":"call_b","name":"delete","arguments":"{\"path\":\"/etc\"}"}],"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":3},"output_tokens":9,"output_tokens_details":{"reasoning_tokens":4},"total_tokens":16}}}"#,
];

/// A message of text and two calls, the second one `delete` with a whole input.
pub(super) const MESSAGE_TWO: [&str; 14] = [
    r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-5","content":[],"stop_reason":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":200,"cache_read_input_tokens":3000,"output_tokens":1}}}"#,
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
    r#"{"type":"ping"}"#,
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
    r#"{"type":"content_block_stop","index":0}"#,
    r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_a","name":"search","input":{}}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"q\":"}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\"cats\"}"}}"#,
    r#"{"type":"content_block_stop","index":1}"#,
    r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_b","name":"delete","input":{"path":"/etc"}}}"#,
    r#"{"type":"content_block_stop","index":2}"#,
    r#"{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":89}}"#,
    r#"{"type":"message_stop"}"#,
];

/// Every transcript, with a name.
pub(super) fn all() -> Vec<(&'static str, Answer, String)> {
    let usage = chat_chunk_with("", r#"{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#);
    let with_usage = chat(&CHAT_TEXT, "stop").replace("data: [DONE]", &format!("{usage}data: [DONE]"));
    vec![
        ("chat text", Answer::Chat, chat(&CHAT_TEXT, "stop")),
        ("chat text, usage", Answer::Chat, with_usage),
        (
            "chat text, CRLF",
            Answer::Chat,
            format!(": hi\n\n{}", chat(&CHAT_TEXT, "stop")).replace('\n', "\r\n"),
        ),
        ("chat one call", Answer::Chat, chat(&CHAT_ONE, "tool_calls")),
        ("chat two calls", Answer::Chat, chat(&CHAT_TWO, "tool_calls")),
        ("chat two calls, CR", Answer::Chat, chat(&CHAT_TWO, "tool_calls").replace('\n', "\r")),
        ("chat mixed", Answer::Chat, chat(&CHAT_MIXED, "tool_calls")),
        ("responses", Answer::Responses, named(&RESPONSE_TWO)),
        ("responses, only the last event", Answer::Responses, named(&RESPONSE_TWO[13..])),
        ("messages", Answer::Messages, named(&MESSAGE_TWO)),
        ("messages, CRLF", Answer::Messages, named(&MESSAGE_TWO).replace('\n', "\r\n")),
    ]
}
