//! Answers on their way back: clients that hang up are billed, and leave nothing behind.

mod tools;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::{RawFake, Sidecar, client, model, raw, setting};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

/// Open files and threads of a process.
fn held(pid: u32) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).expect("the process").count();
    (count("fd"), count("task"))
}

/// So many clients at once, each of which leaves after the first bytes of its answer.
async fn hang_up(sidecar: &Arc<Sidecar>, batch: usize, clients: usize) {
    let mut calls = JoinSet::new();
    for number in 0..clients {
        let sidecar = Arc::clone(sidecar);
        calls.spawn(async move {
            let ask =
                model::ask(&format!("client {number} of {batch}"), r#","stream":true,"max_tokens":200"#);
            let headers = [("content-type", "application/json")];
            let mut reply = client::gateway_open(&sidecar, "POST", model::CHAT, &headers, ask).await;
            assert_eq!(reply.status(), 200);
            let first = reply.body_mut().frame().await.expect("a part").expect("bytes");
            assert!(first.is_data());
        });
    }
    calls.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_that_hang_up_are_billed_and_leave_nothing_behind() {
    const BATCH: usize = 50;
    let open = Arc::new(Mutex::new(Vec::new()));
    let parts = Arc::clone(&open);
    let fake = Fake::start(None, move |_| {
        let (send, body) = fake::parts();
        for word in ["Once upon", " a time there was"] {
            send.try_send(model::text(word).into()).expect("room");
        }
        // It would go on, if anybody listened.
        parts.lock().push(send);
        fake::reply("text/event-stream", body)
    })
    .await;
    let budget = setting::budget("unit: tokens, amount: 100000000");
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let sidecar = Arc::new(sidecar);
    // What is made once, such as the tokenizer, is there after the first call.
    hang_up(&sidecar, 0, 1).await;
    setting::idle(&sidecar).await;
    let before = held(sidecar.pid());
    for batch in 1..=20 {
        hang_up(&sidecar, batch, BATCH).await;
    }
    let status = setting::idle(&sidecar).await;
    let outcomes = setting::outcomes(&sidecar, 1_001).await;
    let mut spent = 0;
    for outcome in &outcomes {
        assert_eq!(outcome["code"], "client_gone", "{outcome}");
        assert_eq!(outcome["usage"]["estimated"], true, "{outcome}");
        let tokens =
            |name: &str| outcome["usage"][name].as_u64().filter(|tokens| *tokens > 0).expect("some tokens");
        let settled = &outcome["budget"]["settled"];
        assert_eq!(settled["input"].as_u64(), Some(tokens("input")));
        assert_eq!(settled["output"].as_u64(), Some(tokens("output")));
        assert!(outcome["cost_usd"].as_str().is_some_and(|usd| usd != "0"));
        spent += tokens("input") + tokens("output");
    }
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let spent = spent as f64;
    assert_eq!(setting::account(&status), (spent, 0.0));
    assert_eq!(fake.seen().len(), 1_001);
    // Threads that count tokens go when they have had nothing to do for a while.
    let mut after = held(sidecar.pid());
    for _ in 0..400 {
        if after.0 <= before.0 && after.1 <= before.1 && fake.connections().open() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = held(sidecar.pid());
    }
    panic!(
        "files and threads: {before:?} before, {after:?} after; {} connections upstream",
        fake.connections().open()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_the_model_thinks_is_charged_what_was_held() {
    for begun in ["", "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"] {
        leave_early(begun).await;
    }
}

/// A client leaves an upstream that has answered no more than `begun`.
async fn leave_early(begun: &'static str) {
    let (send, mut asked) = tokio::sync::mpsc::channel(1);
    let fake = RawFake::start(move |mut tcp| {
        let send = send.clone();
        async move {
            raw::message(&mut tcp).await;
            tcp.write_all(begun.as_bytes()).await.expect("a write");
            send.send(()).await.expect("the test waits");
            raw::closed(&mut tcp).await;
        }
    })
    .await;
    let budget = setting::budget("unit: output_tokens, amount: 1000");
    let spec = setting::at(&fake.url(), "");
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW), ("budget.yaml", &budget)]);
    let mut tcp = tokio::net::TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let body = model::ask("think", r#","max_tokens":300"#);
    let length = body.len();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n",
        model::CHAT
    );
    tcp.write_all((head + &body).as_bytes()).await.expect("a write");
    asked.recv().await.expect("the call reaches the upstream");
    drop(tcp);
    let outcome = &setting::outcomes(&sidecar, 1).await[0];
    assert_eq!(outcome["code"], "client_gone");
    assert_eq!(outcome["budget"]["settled"]["output"], 300);
    assert_eq!(setting::account(&setting::idle(&sidecar).await), (300.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_judged_is_told_of_as_the_upstream_s() {
    let fake = Fake::start(None, |_| fake::reply("text/html", fake::whole("<html>maintenance</html>"))).await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);
    for (path, kind) in [(model::CHAT, "server_error"), ("/anthropic/v1/messages", "api_error")] {
        let asked = model::ask("hi", r#","max_tokens":9"#);
        let reply = client::post(&sidecar, path, asked).await;
        let error = &reply.json()["error"];
        let reason = error["sideguard"]["reason"].as_str().or(error["details"]["reason"].as_str());
        assert!(
            reason.is_some_and(|why| why.starts_with("the upstream's answer cannot be judged: ")),
            "{error}"
        );
        assert_eq!((reply.status, error["type"].as_str()), (502, Some(kind)));
        assert_eq!(reply.header("x-should-retry"), "false", "it would be charged again");
    }
    let outcomes = setting::outcomes(&sidecar, 2).await;
    assert!(outcomes.iter().all(|outcome| outcome["code"] == "unjudgeable"), "{outcomes:#?}");
}
