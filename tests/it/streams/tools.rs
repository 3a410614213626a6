//! Tool calls inside a model's answer: judged before the agent gets them, in every dialect, streamed and whole.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, model, setting};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};

const SEED: &str = include_str!("../../../policies/bundles/safety.yaml");
const POLICIES: [(&str, &str); 2] = [("allow.yaml", ALLOW), ("safety.yaml", SEED)];
const RESPONSES: &str = "/openai/v1/responses";
const MESSAGES: &str = "/anthropic/v1/messages";
/// The tool that the seed lets pass, and the one that it does not.
const TOOLS: [&str; 2] = ["search", "drop_table"];

/// A chat stream of some text and one call.
fn chat(tool: &str) -> String {
    let start = format!(
        r#"{{"tool_calls":[{{"index":0,"id":"call_a","type":"function","function":{{"name":"{tool}","arguments":""}}}}]}}"#
    );
    let pieces = [
        model::text("Let me"),
        model::delta(&start),
        model::delta(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"q\":"}}]}"#),
        model::delta(r#"{"tool_calls":[{"index":0,"function":{"arguments":"\"cats\"}"}}]}"#),
        model::finish("tool_calls"),
        model::usage(10, 5),
    ];
    pieces.concat() + model::DONE
}

fn item(tool: &str) -> String {
    format!(
        r#"{{"id":"fc_1","type":"function_call","status":"completed","call_id":"call_a","name":"{tool}","arguments":"{{\"q\":\"cats\"}}"}}"#
    )
}

fn response(tool: &str) -> String {
    format!(
        r#"{{"id":"resp_1","object":"response","created_at":17,"status":"completed","model":"gpt-5","output":[{}],"usage":{{"input_tokens":7,"output_tokens":9,"total_tokens":16}}}}"#,
        item(tool)
    )
}

fn responses(tool: &str) -> String {
    let begun = item(tool).replace("completed", "in_progress").replace(r#"{\"q\":\"cats\"}"#, "");
    let events = [
        r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","created_at":17,"status":"in_progress","model":"gpt-5","output":[],"usage":null}}"#.to_owned(),
        format!(r#"{{"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{begun}}}"#),
        r#"{"type":"response.function_call_arguments.delta","sequence_number":2,"item_id":"fc_1","output_index":0,"delta":"{\"q\":\"cats\"}"}"#.to_owned(),
        r#"{"type":"response.function_call_arguments.done","sequence_number":3,"item_id":"fc_1","output_index":0,"arguments":"{\"q\":\"cats\"}"}"#.to_owned(),
        format!(r#"{{"type":"response.output_item.done","sequence_number":4,"output_index":0,"item":{}}}"#, item(tool)),
        format!(r#"{{"type":"response.completed","sequence_number":5,"response":{}}}"#, response(tool)),
    ];
    model::named(&events.each_ref().map(String::as_str))
}

fn messages(tool: &str) -> String {
    let start = format!(
        r#"{{"type":"content_block_start","index":1,"content_block":{{"type":"tool_use","id":"toolu_a","name":"{tool}","input":{{}}}}}}"#
    );
    model::named(&[
        r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"stop_reason":null,"usage":{"input_tokens":10,"output_tokens":1}}}"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Let me"}}"#,
        r#"{"type":"content_block_stop","index":0}"#,
        &start,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"q\":\"cats\"}"}}"#,
        r#"{"type":"content_block_stop","index":1}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":9}}"#,
        r#"{"type":"message_stop"}"#,
    ])
}

/// What the fake answers to a request at `path`.
fn answer(path: &str, tool: &str, streamed: bool) -> String {
    match (path, streamed) {
        ("/v1/chat/completions", true) => chat(tool),
        ("/v1/chat/completions", false) => format!(
            r#"{{ "id":"c","object":"chat.completion","model":"gpt-5","choices":[{{"index":0,"message":{{"role":"assistant","content":null,"tool_calls":[{{"id":"call_a","type":"function","function":{{"name":"{tool}","arguments":"{{\"q\":\"cats\"}}"}}}}]}},"finish_reason":"tool_calls"}}],"usage":{{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}} }}"#
        ),
        ("/v1/responses", true) => responses(tool),
        ("/v1/responses", false) => response(tool),
        (_, true) => messages(tool),
        (_, false) => format!(
            r#"{{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{{"type":"tool_use","id":"toolu_a","name":"{tool}","input":{{"q":"cats"}}}}],"stop_reason":"tool_use","stop_sequence":null,"usage":{{"input_tokens":10,"output_tokens":9}}}}"#
        ),
    }
}

/// A model server whose answer calls the tool that the request's prompt names.
async fn server() -> Fake {
    Fake::start(None, |seen| {
        let asked = String::from_utf8_lossy(&seen.body);
        let tool = TOOLS.into_iter().find(|tool| asked.contains(tool)).expect("a tool in the prompt");
        let streamed = asked.contains(r#""stream":true"#);
        let body = answer(&seen.target, tool, streamed);
        if streamed { model::stream(body) } else { model::json(body) }
    })
    .await
}

/// Requests in each dialect: path below the sidecar, path at the fake, body.
fn requests(tool: &str, streamed: bool) -> [(&'static str, &'static str, String); 3] {
    let stream = if streamed { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" };
    let plain = if streamed { r#","stream":true"# } else { "" };
    [
        (model::CHAT, "/v1/chat/completions", model::ask(tool, stream)),
        (RESPONSES, "/v1/responses", format!(r#"{{"model":"gpt-5","input":"{tool}"{plain}}}"#)),
        (
            MESSAGES,
            "/v1/messages",
            format!(
                r#"{{"model":"claude-sonnet-4-5","max_tokens":900,"messages":[{{"role":"user","content":"{tool}"}}]{plain}}}"#
            ),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_call_arrives_byte_for_byte_and_is_on_record() {
    let fake = server().await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &POLICIES);
    for streamed in [true, false] {
        for (path, at, body) in requests("search", streamed) {
            let reply = client::post(&sidecar, path, body).await;
            assert_eq!(reply.text(), answer(at, "search", streamed), "{path}, streamed: {streamed}");
            let call = reply.header("x-sideguard-call");
            let judged =
                sidecar.recorded(|entry| entry["call"] == *call && entry["point"] == "llm.tool_call").await;
            assert_eq!((judged.len(), &judged[0]["decision"]), (1, &json!("allow")), "{path}");
            assert_eq!(judged[0]["target"]["tool"], "search");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_is_replaced_by_words_that_name_the_rule() {
    let fake = server().await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &POLICIES);
    for streamed in [true, false] {
        for (path, _, body) in requests("drop_table", streamed) {
            let reply = client::post(&sidecar, path, body).await;
            let text = reply.text();
            assert_eq!(reply.status, 200);
            assert!(
                text.contains("safety/block-destructive") && text.contains("Destructive operations blocked"),
                "{text}"
            );
            for part in ["call_a", "toolu_a", r#"\"cats\""#, "tool_use\"", "function_call_arguments"] {
                assert!(!text.contains(part), "{path}, streamed: {streamed}: `{part}` in {text}");
            }
            let end = if path == MESSAGES { "end_turn" } else { "completed" };
            assert!(text.contains(end) || text.contains(r#""finish_reason":"stop""#), "{path}: {text}");
            let call = reply.header("x-sideguard-call");
            let judged =
                sidecar.recorded(|entry| entry["call"] == *call && entry["point"] == "llm.tool_call").await;
            assert_eq!(
                (&judged[0]["decision"], &judged[0]["rule"]),
                (&json!("deny"), &json!("safety/block-destructive"))
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_can_be_an_error_that_the_sdk_raises() {
    let fake = server().await;
    let spec = format!("{}  refusals: {{toolCall: error}}\n", setting::upstreams(&fake));
    let sidecar = Sidecar::start(&spec, &POLICIES);
    for (path, _, body) in requests("drop_table", true) {
        let reply = client::post(&sidecar, path, body).await;
        let text = reply.text();
        let last = text.trim_end().rsplit("\n\n").next().expect("an event");
        let data: Value = last
            .lines()
            .find_map(|line| line.strip_prefix("data: "))
            .and_then(|data| serde_json::from_str(data).ok())
            .expect("JSON");
        let code =
            if path == MESSAGES { &data["error"]["details"]["error_code"] } else { &data["error"]["code"] };
        assert_eq!((reply.status, code), (200, &json!("policy_denied")), "{last}");
        assert!(path == model::CHAT || last.starts_with("event: error\n"), "{last}");
        assert!(!text.contains("cats") && !text.contains("[DONE]"), "{text}");
    }
    for (path, _, body) in requests("drop_table", false) {
        let reply = client::post(&sidecar, path, body).await;
        let data = reply.json();
        let code =
            if path == MESSAGES { &data["error"]["details"]["error_code"] } else { &data["error"]["code"] };
        assert_eq!((reply.status, code), (403, &json!("policy_denied")));
        assert_eq!(reply.header("x-should-retry"), "false");
    }
}

/// The bytes that have arrived until `wanted` is among them.
async fn arrived(body: &mut Incoming, wanted: &str) -> String {
    let mut all = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&all).contains(wanted) {
            let frame = body.frame().await.expect("more to come").expect("bytes");
            all.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .unwrap_or_else(|_| panic!("`{wanted}` does not arrive"));
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_not_delayed_and_a_call_is_on_record_before_its_first_byte_is_out() {
    let open = Arc::new(Mutex::new(Vec::new()));
    let parts = Arc::clone(&open);
    let fake = Fake::start(None, move |_| {
        let (send, body) = fake::parts();
        parts.lock().push(send);
        fake::reply("text/event-stream", body)
    })
    .await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &POLICIES);
    let headers = [("content-type", "application/json")];
    let ask = model::ask("hi", r#","stream":true,"stream_options":{"include_usage":true}"#);
    let mut reply = client::gateway_open(&sidecar, "POST", model::CHAT, &headers, ask).await;
    let send = open.lock().pop().expect("the request");
    let events: Vec<String> = chat("search").split_inclusive("\n\n").map(str::to_owned).collect();
    let [text, start, first, second, rest @ ..] = events.as_slice() else { panic!("seven events") };
    let give = |event: &str| {
        let (send, event) = (send.clone(), Bytes::from(event.to_owned()));
        async move { send.send(event).await.expect("a reader") }
    };
    // Each wait here can only end if what was sent before it passed while nothing else came.
    give(text).await;
    assert_eq!(arrived(reply.body_mut(), "Let me").await, *text);
    give(start).await;
    give(first).await;
    give(&model::delta(r#"{"content":" see"}"#)).await;
    let judged = || sidecar.record().iter().filter(|entry| entry["point"] == "llm.tool_call").count();
    assert_eq!(judged(), 0, "half a call cannot be judged");
    give(second).await;
    for event in rest {
        give(event).await;
    }
    drop(send);
    let released = arrived(reply.body_mut(), "call_a").await;
    assert_eq!(judged(), 1, "on record when its first bytes are out: {released}");
}
