//! What a budget or a constraint makes of a request's output cap, and of a stream that goes beyond it.

use harness::fake::Fake;
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, model, setting};
use serde_json::{Value, json};

const MILLION: &str = "unit: tokens, amount: 1000000";

async fn sent(policies: &[(&str, &str)], body: &str) -> String {
    let fake = Fake::start(None, |_| model::json(model::completion("ok", 10, 5))).await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), policies);
    let reply = client::post(&sidecar, model::CHAT, body.to_owned()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    String::from_utf8_lossy(&fake.seen()[0].body).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_output_cap_is_put_in_and_nothing_else_changes() {
    let budget = setting::budget(MILLION);
    let asked = r#"{ "model":"unheard-of", "big": 12345678901234567890, "messages":[{"role":"user","content":"h\u00e9"}]}"#;
    let sent = sent(&[("allow.yaml", ALLOW), ("budget.yaml", &budget)], asked).await;
    let body: Value = serde_json::from_str(&sent).expect("JSON");
    let cap = body["max_completion_tokens"].as_u64().or_else(|| body["max_tokens"].as_u64());
    assert_eq!(cap, Some(16_384), "{sent}");
    let (head, tail) = asked.split_at(asked.len() - 1);
    assert!(
        sent.contains(head) || sent.contains(tail) && sent.contains(&asked[2..asked.len() - 1]),
        "{sent}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_that_is_too_large_is_lowered_in_its_place() {
    let rule = "  rules: [{id: small, match: {points: [llm.request]}, decision: allow_with_constraints, constraints: {max_output_tokens: 100}}]\n  default_decision: allow\n";
    let policy = setting::policy("small", rule);
    let asked = model::ask("hi", r#", "max_tokens" : 5000,"x":1"#);
    assert_eq!(sent(&[("small.yaml", &policy)], &asked).await, asked.replace("5000", "100"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_that_fits_goes_out_byte_for_byte() {
    let budget = setting::budget(MILLION);
    let asked = model::ask("hi", r#", "max_tokens":  50 "#);
    assert_eq!(sent(&[("allow.yaml", ALLOW), ("budget.yaml", &budget)], &asked).await, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_asked_for_in_streams_and_hidden_from_who_did_not_ask() {
    let answer =
        || [model::text("Hello"), model::finish("stop"), model::usage(10, 5), model::DONE.to_owned()];
    let fake = Fake::start(None, move |_| model::stream(answer().concat())).await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);

    let reply = client::post(&sidecar, model::CHAT, model::ask("hi", r#","stream":true"#)).await;
    let [text, finish, _, done] = answer();
    assert_eq!(reply.text(), [text, finish, done].concat());
    let asked = model::ask("hi", r#","stream":true,"stream_options":{"include_usage":true}"#);
    assert_eq!(client::post(&sidecar, model::CHAT, asked.clone()).await.text(), answer().concat());

    let seen = fake.seen();
    let body: Value = serde_json::from_slice(&seen[0].body).expect("JSON");
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
    assert_eq!(seen[1].body, asked);
    for outcome in setting::outcomes(&sidecar, 2).await {
        assert_eq!(outcome["usage"], json!({"input": 10, "output": 5}), "as reported, not estimated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_beyond_its_cap_is_cut_with_the_dialects_error() {
    let chat = || {
        (0..400).map(|_| model::text(&"wordy ".repeat(20))).collect::<String>()
            + &model::finish("stop")
            + model::DONE
    };
    let messages = || {
        let delta = format!(
            r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{}"}}}}"#,
            "wordy ".repeat(20)
        );
        let mut events = vec![
            r#"{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"stop_reason":null,"usage":{"input_tokens":10,"output_tokens":1}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        ];
        events.extend(std::iter::repeat_n(delta.as_str(), 400));
        model::named(&events)
    };
    let fake = Fake::start(None, move |seen| {
        model::stream(if seen.target.ends_with("messages") { messages() } else { chat() })
    })
    .await;
    let budget = setting::budget(MILLION);
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);

    let reply =
        client::post(&sidecar, model::CHAT, model::ask("hi", r#","stream":true,"max_tokens":50"#)).await;
    let text = reply.text();
    assert_eq!(reply.status, 200);
    assert!(text.len() < chat().len() / 2, "{} bytes came through", text.len());
    let last = text
        .trim_end()
        .rsplit("\n\n")
        .next()
        .and_then(|event| event.strip_prefix("data: "))
        .expect("an event");
    let last: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}"));
    assert_eq!(last["error"]["code"], "budget_exhausted", "{last}");
    assert!(!text.contains("[DONE]") && !text.contains(r#""finish_reason":"stop""#));

    let ask = r#"{"model":"claude-sonnet-4-5","max_tokens":50,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let reply = client::post(&sidecar, "/anthropic/v1/messages", ask).await;
    let text = reply.text();
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    assert!(last.starts_with("event: error\n") && last.contains("budget_exhausted"), "{last}");

    let status = setting::idle(&sidecar).await;
    let outcomes = setting::outcomes(&sidecar, 2).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome["code"] == "stream_cut").count(), 2, "{outcomes:#?}");
    for outcome in &outcomes {
        assert_eq!(outcome["usage"]["estimated"], true);
        assert!(outcome["usage"]["output"].as_u64().is_some_and(|output| output >= 50), "{outcome}");
    }
    assert!(setting::account(&status).0 >= 100.0);
}
