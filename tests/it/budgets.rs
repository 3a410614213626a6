//! Budgets hold, whatever comes at once and whatever ends in between.

mod accounts;
mod caps;

use std::sync::Arc;

use harness::fake::{self, Fake, Seen};
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, model, setting};
use http::Response;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A fake that answers each chat with 20 input tokens and 50 output tokens, or as many as the request allows.
async fn chatting() -> Fake {
    Fake::start(None, |seen| model::json(model::completion("ok", 20, cap(seen).unwrap_or(50).min(50)))).await
}

/// The output cap in a request that reached the upstream.
fn cap(seen: &Seen) -> Option<u64> {
    let body: Value = serde_json::from_slice(&seen.body).expect("a JSON body");
    body["max_completion_tokens"].as_u64().or_else(|| body["max_tokens"].as_u64())
}

/// Status and code of the replies to so many chats at once, each with a prompt of its own.
async fn at_once(sidecar: &Arc<Sidecar>, count: usize, more: &'static str) -> Vec<(u16, String)> {
    let mut calls = JoinSet::new();
    for number in 0..count {
        let sidecar = Arc::clone(sidecar);
        calls.spawn(async move {
            let reply =
                client::post(&sidecar, model::CHAT, model::ask(&format!("call {number}"), more)).await;
            let code = reply.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
            (reply.status, code)
        });
    }
    calls.join_all().await
}

/// Sums of what outcomes settled: tokens, and micro-dollars.
fn settled(outcomes: &[Value]) -> (u64, u64) {
    outcomes.iter().fold((0, 0), |(tokens, micro), entry| {
        let settled = &entry["budget"]["settled"];
        let count = |name: &str| settled[name].as_u64().expect("a number");
        let usd: f64 = settled["usd"].as_str().expect("an amount").parse().expect("a number");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let usd = (usd * 1e6).round() as u64;
        (tokens + count("input") + count("output"), micro + usd)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_calls_at_once_a_budget_for_10_lets_10_through() {
    let fake = chatting().await;
    let budget = setting::budget("unit: calls, amount: 10");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let sidecar = Arc::new(sidecar);
    let replies = at_once(&sidecar, 200, "").await;
    assert_eq!(replies.iter().filter(|(status, _)| *status == 200).count(), 10);
    assert_eq!(
        replies.iter().filter(|(status, code)| *status == 402 && code == "budget_exhausted").count(),
        190
    );
    assert_eq!(fake.seen().len(), 10);
    let record = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert_eq!(record.len(), 10);
    assert_eq!(setting::account(&setting::idle(&sidecar).await), (10.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_calls_at_once_what_is_settled_and_held_never_exceeds_the_tokens() {
    const LIMIT: u64 = 4_000;
    let fake = chatting().await;
    let budget = setting::budget("unit: tokens, amount: 4000");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let sidecar = Arc::new(sidecar);
    let highest = Arc::new(Mutex::new(0.0_f64));
    let mut looking = JoinSet::new();
    looking.spawn({
        let (sidecar, highest) = (Arc::clone(&sidecar), Arc::clone(&highest));
        async move {
            loop {
                let (spent, held) = setting::account(&setting::status(&sidecar).await);
                let mut highest = highest.lock();
                *highest = highest.max(spent + held);
            }
        }
    });
    let mut replies = Vec::new();
    for _ in 0..2 {
        replies.extend(at_once(&sidecar, 100, r#","max_tokens":100"#).await);
    }
    let (spent, held) = setting::account(&setting::idle(&sidecar).await);
    looking.abort_all();
    let admitted = replies.iter().filter(|(status, _)| *status == 200).count();
    let (tokens, _) = settled(&setting::outcomes(&sidecar, admitted).await);
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let (limit, tokens) = (LIMIT as f64, tokens as f64);
    assert_eq!((spent, held), (tokens, 0.0), "the record and the account agree");
    let highest = *highest.lock();
    assert!(highest > 0.0 && highest <= limit && spent <= limit, "{highest} held at most, {spent} spent");
    assert_eq!(admitted, fake.seen().len());
    assert!((20..200).contains(&admitted), "{admitted}");
    assert!(replies.iter().all(|(status, code)| *status == 200
        || *status == 402 && code == "budget_exhausted"
        || *status == 429 && code == "rate_limited"));
}

#[tokio::test(flavor = "multi_thread")]
async fn money_runs_out_to_the_cent() {
    let fake = chatting().await;
    // A tenth of a cent for each token: a call of 70 tokens costs 7 cents.
    let spec = format!(
        "{}  prices: [{{model: \"gpt-4o*\", input: 1000, output: 1000}}]\n",
        setting::upstreams(&fake)
    );
    let budget = setting::budget("unit: usd, amount: 1.00, window: 30d");
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let mut passed = 0;
    let refused = loop {
        let reply = client::post(&sidecar, model::CHAT, model::ask(&format!("call {passed}"), "")).await;
        if reply.status != 200 {
            break reply;
        }
        passed += 1;
        assert!(reply.header("x-sideguard-budget-remaining").starts_with("usd="), "{:?}", reply.headers);
        assert!(passed < 30, "a dollar is spent long ago");
    };
    assert!(passed >= 8, "{passed}");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (402, &json!("budget_exhausted")));
    assert_eq!(refused.header("x-should-retry"), "false");
    assert!(refused.header("x-sideguard-reset-at").starts_with("20"), "{:?}", refused.headers);
    assert!(refused.header("retry-after").is_empty());
    let spent = setting::account(&setting::idle(&sidecar).await).0;
    let (_, micro) = settled(&setting::outcomes(&sidecar, passed).await);
    assert!(micro <= 1_000_000 && micro > 600_000, "{micro}");
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let dollars = micro as f64 / 1e6;
    assert!((spent - dollars).abs() < 1e-9, "{spent} {dollars}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_at_once_than_allowed_are_told_to_come_back_soon() {
    let open = Arc::new(Mutex::new(Vec::new()));
    let parts = Arc::clone(&open);
    let fake = Fake::start(None, move |_| {
        let (send, body) = fake::parts();
        parts.lock().push(send);
        Response::new(body)
    })
    .await;
    let budget = setting::budget("unit: concurrency, amount: 1");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let first = client::gateway_open(&sidecar, "GET", "/web/slow", &[], "").await;
    let second = client::gateway(&sidecar, "GET", "/web/second", &[], "").await;
    assert_eq!((second.status, &second.json()["code"]), (429, &json!("rate_limited")));
    let wait: u64 = second.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait));
    assert_eq!(fake.seen().len(), 1);
    open.lock().clear();
    assert_eq!(client::collect(first).await.status, 200);
    setting::idle(&sidecar).await;
    let third = client::gateway_open(&sidecar, "GET", "/web/third", &[], "").await;
    assert_eq!(third.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_gives_no_new_budget() {
    let fake = chatting().await;
    let budget = setting::budget("unit: calls, amount: 3");
    let mut sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    for (number, expected) in [200, 200, 200, 402].into_iter().enumerate() {
        if number == 2 {
            sidecar = sidecar.again();
        }
        let reply = client::post(&sidecar, model::CHAT, model::ask(&format!("call {number}"), "")).await;
        assert_eq!(reply.status, expected, "call {number}");
    }
    assert_eq!(fake.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_cut_by_kill_9_is_charged_in_full() {
    let open = Arc::new(Mutex::new(Vec::new()));
    let parts = Arc::clone(&open);
    let fake = Fake::start(None, move |_| {
        let (send, body) = fake::parts();
        parts.lock().push(send);
        fake::reply("application/json", body)
    })
    .await;
    let budget = setting::budget("unit: output_tokens, amount: 1000");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let sidecar = Arc::new(sidecar);
    let mut calls = JoinSet::new();
    calls.spawn({
        let sidecar = Arc::clone(&sidecar);
        // The sidecar dies before it can answer: whatever this ends in does not matter.
        async move {
            let tcp = tokio::net::TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
            let body = model::ask("hang", r#","max_tokens":400"#);
            let head = format!(
                "POST {} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                model::CHAT,
                body.len()
            );
            let mut tcp = tcp;
            tokio::io::AsyncWriteExt::write_all(&mut tcp, head.as_bytes()).await.expect("a write");
            tcp
        }
    });
    let _tcp = calls.join_next().await.expect("a call").expect("a connection");
    harness::until("the call reaches the upstream", || fake.seen().len() == 1).await;
    let sidecar = Arc::into_inner(sidecar).expect("no other owner").again();
    assert_eq!(setting::account(&setting::idle(&sidecar).await), (400.0, 0.0));
    let reply = client::post(&sidecar, model::CHAT, model::ask("again", r#","max_tokens":2000"#));
    let waiting = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        harness::until("the second call reaches the upstream", || fake.seen().len() == 2).await;
    });
    tokio::select! {
        _ = reply => panic!("the fake does not answer"),
        waited = waiting => waited.expect("in time"),
    }
    assert_eq!(cap(&fake.seen()[1]), Some(600), "only what is left may be used");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_after_the_other_never_meets_what_the_one_before_held() {
    let fake = Fake::start(None, |seen| {
        if !seen.target.contains("chat") {
            return model::json("{}");
        }
        let events = [model::text("Hi"), model::finish("stop"), model::usage(20, 1), model::DONE.to_owned()];
        model::stream(events.concat())
    })
    .await;
    // Each call holds all that is left until it is settled.
    let budget = setting::budget("unit: tokens, amount: 8000");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    for number in 0..100 {
        let ask = model::ask(&format!("call {number}"), r#","stream":true"#);
        let reply = client::post(&sidecar, model::CHAT, ask).await;
        assert_eq!(reply.status, 200, "stream {number}: {}", reply.text());
    }
    let budget = setting::budget("unit: concurrency, amount: 1");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    for number in 0..100 {
        let reply = client::gateway(&sidecar, "GET", &format!("/web/{number}"), &[], "").await;
        assert_eq!(reply.status, 200, "call {number}: {}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_says_what_is_left_once_it_is_charged() {
    let fake = Fake::start(None, |_| model::json(model::completion("ok", 12, 6))).await;
    let sidecar = Sidecar::start(
        &setting::upstreams(&fake),
        &[
            ("allow.yaml", ALLOW),
            ("b.yaml", &setting::budget("unit: tokens, amount: 400, window: 1h, per: agent")),
        ],
    );
    let ask = model::ask("hi", r#","max_completion_tokens":50"#);
    let reply = client::post(&sidecar, "/openai/v1/chat/completions", ask).await;
    assert_eq!(
        (reply.status, reply.header("x-sideguard-budget-remaining").as_str()),
        (200, "tokens=382"),
        "{}",
        reply.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_in_the_background_is_charged_what_was_held() {
    let queued =
        r#"{"id":"resp_1","object":"response","status":"queued","model":"gpt-5","output":[],"usage":null}"#;
    let fake = Fake::start(None, move |_| model::json(queued.to_owned())).await;
    let budget = setting::budget("unit: tokens, amount: 100000, window: 1h, per: agent");
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("b.yaml", &budget)]);
    for (background, spent) in [("true", 5000.0..6000.0), ("false", 5000.0..6000.0)] {
        let ask =
            format!(r#"{{"model":"gpt-5","input":"hi","background":{background},"max_output_tokens":5000}}"#);
        let reply = client::post(&sidecar, "/openai/v1/responses", ask).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let (charged, held) = setting::account(&setting::status(&sidecar).await);
        assert!(spent.contains(&charged) && held == 0.0, "{background}: {charged} {held}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_call_that_is_larger_than_the_whole_budget_is_told_so() {
    let fake = Fake::start(None, |_| model::json(model::completion("ok", 900, 50))).await;
    let budget = setting::budget("unit: tokens, amount: 1000, window: 1h, per: agent");
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("b.yaml", &budget)]);
    let ask = |words: usize| model::ask(&"word ".repeat(words), r#","max_completion_tokens":20"#);
    for (words, status, alone) in [(1, 200, false), (60, 402, false), (1200, 402, true)] {
        let reply = client::post(&sidecar, "/openai/v1/chat/completions", ask(words)).await;
        let text = reply.text();
        assert_eq!((reply.status, text.contains("larger than the whole budget")), (status, alone), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_an_upstream_took_and_did_not_answer_is_charged_what_was_held() {
    let upstream = harness::RawFake::start(|mut tcp| async move {
        harness::raw::message(&mut tcp).await;
    })
    .await;
    let budget = setting::budget("unit: tokens, amount: 1000, window: 1h, per: agent");
    let sidecar =
        Sidecar::start(&setting::at(&upstream.url(), ""), &[("allow.yaml", ALLOW), ("b.yaml", &budget)]);
    let ask = model::ask("hi", r#","max_completion_tokens":500"#);
    let reply = client::post(&sidecar, "/openai/v1/chat/completions", ask).await;
    assert_eq!(reply.status, 502, "{}", reply.text());
    let (spent, held) = setting::account(&setting::status(&sidecar).await);
    assert!(spent >= 500.0 && held == 0.0, "{spent} {held}");
}
