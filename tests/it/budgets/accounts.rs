//! What is charged to whom, for how much, and what stays of it after a restart.

use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, model, setting};
use http::Response;
use serde_json::{Value, json};

/// Answers by what the prompt asks for: no usage, an error, or a completion of 20 and 10 tokens.
async fn moody() -> Fake {
    Fake::start(None, |seen| {
        let asked = String::from_utf8_lossy(&seen.body);
        if asked.contains("no usage") {
            let whole = model::completion("one two three four five six seven", 0, 0);
            return model::json(whole.split(",\"usage\"").next().expect("a body").to_owned() + "}");
        }
        if asked.contains("fail") {
            return Response::builder().status(500).body(fake::whole("no")).expect("a reply");
        }
        model::json(model::completion("ok", 20, 10))
    })
    .await
}

async fn ask(sidecar: &Sidecar, prompt: &str, session: &str) -> client::Reply {
    let headers = [("content-type", "application/json"), ("x-sideguard-session", session)];
    client::gateway(sidecar, "POST", model::CHAT, &headers, model::ask(prompt, r#","max_tokens":100"#)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_charged_is_the_same_after_kill_9() {
    let fake = moody().await;
    let budget = setting::budget("unit: tokens, amount: 100000, window: 30d");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let mut calls = Vec::new();
    for prompt in ["a", "b", "no usage c", "fail d", "e"] {
        calls.push(ask(&sidecar, prompt, "s").await.header("x-sideguard-call"));
    }
    let outcomes = setting::outcomes(&sidecar, 5).await;
    let outcome =
        |index: usize| outcomes.iter().find(|outcome| outcome["call"] == *calls[index]).expect("its outcome");
    let charged = |index: usize| {
        let settled = &outcome(index)["budget"]["settled"];
        settled["input"].as_u64().zip(settled["output"].as_u64()).map(|(input, output)| input + output)
    };
    assert_eq!((charged(0), charged(1), charged(4)), (Some(30), Some(30), Some(30)));
    assert_eq!(charged(3), Some(0), "providers do not charge for errors");
    assert_eq!(outcome(2)["usage"]["estimated"], true);
    assert!(charged(2).is_some_and(|tokens| (10..100).contains(&tokens)), "{}", outcome(2));
    let before = setting::account(&setting::idle(&sidecar).await);
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let sum = (0..5).filter_map(charged).sum::<u64>() as f64;
    assert_eq!(before, (sum, 0.0));
    let sidecar = sidecar.again();
    assert_eq!(setting::account(&setting::status(&sidecar).await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_has_an_account_of_its_own() {
    let fake = moody().await;
    let budget = setting::budget("unit: calls, amount: 2, per: session");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    for (session, status) in [("one", 200), ("one", 200), ("one", 402), ("two", 200), ("one", 402)] {
        assert_eq!(ask(&sidecar, "hi", session).await.status, status, "{session}");
    }
    let sidecar = sidecar.again();
    for (session, status) in [("one", 402), ("two", 200), ("two", 402)] {
        assert_eq!(ask(&sidecar, "hi", session).await.status, status, "{session} after a restart");
    }
    assert!(fake.seen().iter().all(|seen| !seen.headers.contains_key("x-sideguard-session")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_budget_has_the_status_that_is_asked_for_and_is_never_retried() {
    let fake = moody().await;
    let budget = setting::budget("unit: calls, amount: 0, window: day");
    for status in [403, 422, 429] {
        let spec = format!("{}  refusals: {{budgetStatus: {status}}}\n", setting::upstreams(&fake));
        let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
        let reply = ask(&sidecar, "hi", "s").await;
        assert_eq!((reply.status, reply.header("x-should-retry").as_str()), (status, "false"));
        assert_eq!(reply.json()["error"]["code"], "budget_exhausted");
        assert!(reply.header("retry-after").is_empty());
    }
    assert_eq!(fake.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn mcp_callers_are_told_of_budgets_and_rates_in_their_own_form() {
    let fake = Fake::start(None, |_| model::json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)).await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{}}}"#;
    let spec = format!("{}  refusals: {{mcp: error}}\n", setting::upstreams(&fake));
    let budget = setting::budget("unit: calls, amount: 1");
    let rate = "  rules: [{id: slow, match: {tools: [read]}, decision: throttle, constraints: {rate: {calls: 1, per: 30s}}}]\n";
    let rate = setting::policy("rates", rate);
    for (second, code) in
        [(("budget.yaml", budget.as_str()), -31_402), (("rate.yaml", rate.as_str()), -31_429)]
    {
        let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW), second]);
        assert_eq!(client::post(&sidecar, "/db/mcp", call).await.json()["result"], json!({}));
        let refused = client::post(&sidecar, "/db/mcp", call).await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (200, &json!(code)));
    }
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_upstream_breaks_off_ends_in_an_error_and_is_billed() {
    let fake = harness::RawFake::start(|mut tcp| async move {
        harness::raw::message(&mut tcp).await;
        let event = model::text("Once upon a time there was");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let reply = format!("{head}{:x}\r\n{event}\r\n", event.len());
        tokio::io::AsyncWriteExt::write_all(&mut tcp, reply.as_bytes()).await.expect("a write");
    })
    .await;
    let budget = setting::budget("unit: tokens, amount: 100000");
    let sidecar =
        Sidecar::start(&setting::at(&fake.url(), ""), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let reply = client::post(&sidecar, model::CHAT, model::ask("hi", r#","stream":true"#)).await;
    let text = reply.text();
    let last = text.trim_end().rsplit("\n\n").next().and_then(|event| event.strip_prefix("data: "));
    let last: Value = serde_json::from_str(last.expect("an event")).expect("JSON");
    assert_eq!(last["error"]["code"], "upstream_unreachable", "{text}");
    assert!(text.contains("Once upon"));
    let outcome = &setting::outcomes(&sidecar, 1).await[0];
    assert_eq!(
        (&outcome["code"], &outcome["usage"]["estimated"]),
        (&json!("upstream_unreachable"), &json!(true))
    );
    assert!(outcome["budget"]["settled"]["output"].as_u64().is_some_and(|output| output >= 5), "{outcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_as_many_calls_as_it_holds() {
    let fake = Fake::start(None, |_| model::json("[]")).await;
    let budget = setting::budget("unit: calls, amount: 5");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let batch = |calls: u64| {
        let call =
            |id| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "read"}});
        let ping = json!({"jsonrpc": "2.0", "id": "p", "method": "ping"});
        Value::from_iter((0..calls).map(call).chain([ping])).to_string()
    };
    let refused = client::post(&sidecar, "/db/mcp", batch(6)).await;
    assert!(refused.text().contains("budget_exhausted"), "{}", refused.text());
    assert_eq!(fake.seen().len(), 0);
    assert_eq!(client::post(&sidecar, "/db/mcp", batch(3)).await.text(), "[]");
    assert_eq!(
        setting::account(&setting::idle(&sidecar).await).0,
        3.0,
        "what was refused counts for nothing"
    );
    let sidecar = sidecar.again();
    assert_eq!(setting::account(&setting::status(&sidecar).await).0, 3.0);
    let refused = client::post(&sidecar, "/db/mcp", batch(3)).await;
    assert!(refused.text().contains("budget_exhausted"), "{}", refused.text());
    assert_eq!(client::post(&sidecar, "/db/mcp", batch(2)).await.text(), "[]");
    assert_eq!(fake.seen().len(), 2);
}
