//! What a verdict does beside yes and no: modes, approval, constraints.

use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, model, raw, setting};
use serde_json::{Value, json};

fn mcp(arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0", "id":1,"method":"tools/call","params":{{"name":"send_mail","arguments":{arguments}}}}}"#
    )
}

/// A policy of one rule with constraints, and everything else allowed.
fn constrain(constraints: &str) -> String {
    let rule = format!(
        "  rules: [{{id: limit, match: {{}}, decision: allow_with_constraints, constraints: {{{constraints}}}}}]\n  default_decision: allow\n"
    );
    setting::policy("constrain", &rule)
}

#[tokio::test(flavor = "multi_thread")]
async fn warn_and_shadow_let_pass_and_tell() {
    let fake = Fake::json("{}").await;
    for mode in ["warn", "shadow"] {
        let rule = format!(
            "  mode: {mode}\n  rules: [{{id: no, match: {{methods: [DELETE]}}, decision: deny, reason: too bold}}]\n"
        );
        let policy = setting::policy("strict", &rule);
        let sidecar =
            Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("strict.yaml", &policy)]);
        let reply = client::gateway(&sidecar, "DELETE", "/web/x", &[], "").await;
        assert_eq!((reply.status, reply.header("x-sideguard-decision").as_str()), (200, "allow"));
        let told = if mode == "warn" { "deny by strict/no" } else { "" };
        assert_eq!(reply.header("x-sideguard-would"), told);
        let record = sidecar.record();
        let intent = &setting::phase(&record, "intent")[0];
        assert_eq!((&intent["mode"], &intent["decision"]), (&json!(mode), &json!("allow")));
        assert!(
            intent["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("would deny by `strict/no`: too bold"))
        );
        let usual = client::gateway(&sidecar, "GET", "/web/x", &[], "").await;
        assert!(usual.header("x-sideguard-would").is_empty());
    }
    assert_eq!(fake.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_approval_waits_for_it() {
    let fake = Fake::json("{}").await;
    let rule = "  rules: [{id: ask, match: {methods: [DELETE]}, decision: require_approval, reason: ask the owner}]\n";
    let policy = setting::policy("careful", rule);
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("careful.yaml", &policy)]);
    let reply = client::gateway(&sidecar, "DELETE", "/web/x", &[], "").await;
    assert_eq!((reply.status, &reply.json()["code"]), (403, &json!("approval_required")));
    assert_eq!(
        (reply.header("x-sideguard-decision").as_str(), reply.header("x-should-retry").as_str()),
        ("require_approval", "false")
    );
    assert_eq!(reply.json()["reason"], "ask the owner");
    assert_eq!(fake.seen().len(), 0);
    let decided = sidecar.recorded(|entry| entry["phase"] == "decision").await;
    assert_eq!(decided[0]["decision"], "require_approval");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_set_and_taken_out_and_the_rest_stays_as_it_came() {
    let fake = Fake::start(None, |_| model::json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)).await;
    let policy = constrain("set_args: {dry_run: true, to: ops}, drop_args: [bcc]");
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("limit.yaml", &policy)]);
    let asked = mcp(r#"{ "to":"all",  "n": 12345678901234567890123, "bcc":["x"], "body":"h\u00e9" }"#);
    let reply = client::post(&sidecar, "/db/mcp", asked).await;
    assert_eq!(reply.header("x-sideguard-decision"), "allow_with_constraints", "{}", reply.text());
    let sent = String::from_utf8_lossy(&fake.seen()[0].body).into_owned();
    assert!(sent.starts_with(r#"{"jsonrpc":"2.0", "id":1,"method":"tools/call""#), "{sent}");
    assert!(
        sent.contains(r#""n": 12345678901234567890123"#)
            && sent.contains(r#""body":"h\u00e9""#)
            && !sent.contains("bcc"),
        "{sent}"
    );
    assert!(
        sent.contains(r#""to":"ops""#)
            && sent.contains(r#""dry_run":true"#)
            && !sent.contains(r#""to":"all""#),
        "{sent}"
    );
    // What cannot be carried out does not pass.
    let plain = client::post(&sidecar, "/web/mail", r#"{"to":"all"}"#).await;
    assert_eq!((plain.status, &plain.json()["code"]), (403, &json!("unjudgeable")));
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_replaced_in_its_place() {
    let fake = Fake::start(None, |_| model::json(model::completion("ok", 5, 5))).await;
    let policy = constrain("model: gpt-4.1-nano");
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("limit.yaml", &policy)]);
    let asked = model::ask("about gpt-4o-mini", r#", "x" :1"#);
    assert_eq!(client::post(&sidecar, model::CHAT, asked.clone()).await.status, 200);
    let expected = asked.replacen("\"gpt-4o-mini\"", "\"gpt-4.1-nano\"", 1);
    assert_eq!(fake.seen()[0].body, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_are_blacked_out_before_they_leave() {
    let fake = Fake::start(None, |_| model::json(model::completion("ok", 5, 5))).await;
    let policy = constrain("redact: [aws-key]");
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("limit.yaml", &policy)]);
    let asked = model::ask("use AKIAIOSFODNN7REALKEY please", "");
    assert_eq!(client::post(&sidecar, model::CHAT, asked.clone()).await.status, 200);
    let note = "note: AKIAIOSFODNN7REALKEY";
    let plain = client::gateway(&sidecar, "PUT", "/web/note", &[("content-type", "text/plain")], note).await;
    assert_eq!(plain.status, 200);
    let seen = fake.seen();
    assert_eq!(seen[0].body, asked.replace("AKIAIOSFODNN7REALKEY", "[redacted aws-key]"));
    assert_eq!(seen[1].body, "note: [redacted aws-key]");
    assert_eq!(seen[1].headers["content-length"], seen[1].body.len().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_takes_too_long_is_ended() {
    let fake = Fake::start(None, |seen| {
        let (send, body) = fake::parts();
        // Kept open for as long as the fake lives: nothing ever comes.
        std::mem::forget(send);
        fake::reply(if seen.target.contains("chat") { "text/event-stream" } else { "application/json" }, body)
    })
    .await;
    let policy = constrain("timeout: 300ms");
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("limit.yaml", &policy)]);
    let chat = client::post(&sidecar, model::CHAT, model::ask("hi", r#","stream":true"#)).await;
    assert!(chat.text().contains(r#""code":"upstream_timeout""#), "{}", chat.text());
    let embed = r#"{"model":"text-embedding-3-small","input":"hi"}"#;
    let whole = client::post(&sidecar, "/openai/v1/embeddings", embed).await;
    assert_eq!((whole.status, &whole.json()["error"]["code"]), (504, &json!("upstream_timeout")));
    let plain = tokio::time::timeout(
        std::time::Duration::from_secs(10),
        client::gateway(&sidecar, "GET", "/web/slow", &[], ""),
    )
    .await;
    assert!(plain.is_ok(), "a plain answer ends as well");
    setting::idle(&sidecar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_cut() {
    let long = || model::text(&"long ".repeat(100)) + &model::finish("stop") + model::DONE;
    let fake = Fake::start(None, move |seen| {
        if seen.target.contains("chat") {
            return model::stream(long());
        }
        if seen.target.contains("known") {
            return model::json(vec![b'x'; 5_000]);
        }
        let (send, body) = fake::parts();
        send.try_send(vec![b'x'; 150].into()).expect("room");
        send.try_send(vec![b'y'; 150].into()).expect("room");
        fake::reply("text/plain", body)
    })
    .await;
    let policy = constrain("max_output_bytes: 200");
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("limit.yaml", &policy)]);
    let chat = client::post(&sidecar, model::CHAT, model::ask("hi", r#","stream":true"#)).await;
    let text = chat.text();
    let event: Value = serde_json::from_str(text.trim().trim_start_matches("data: "))
        .unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(event["error"]["code"], "policy_denied");
    let known = client::gateway(&sidecar, "GET", "/web/known", &[], "").await;
    assert_eq!((known.status, &known.json()["code"]), (403, &json!("policy_denied")), "told before the head");
    assert_eq!(known.header("x-sideguard-call"), known.json()["decision_id"].as_str().expect("a call"));
    let request = "GET /web/endless HTTP/1.1\r\nHost: h\r\n\r\n";
    let (unknown, closed) = raw::exchange(sidecar.outbound(), request.as_bytes()).await;
    assert!(closed && unknown.starts_with("HTTP/1.1 200 ") && !unknown.contains("\r\n0\r\n"), "{unknown}");
    let body = unknown.split_once("\r\n\r\n").expect("a head").1;
    assert_eq!(body.matches(['x', 'y']).count(), 200, "what the rule leaves: {unknown}");
    let outcomes = setting::outcomes(&sidecar, 3).await;
    for (point, code) in
        [("llm.request", "policy_denied"), ("tool.call", "policy_denied"), ("tool.call", "output_cut")]
    {
        assert!(
            outcomes.iter().any(|outcome| outcome["point"] == point && outcome["code"] == code),
            "{outcomes:#?}"
        );
    }
}
