//! Breakers and rates: what fails is left alone for a while, what runs away is held back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, model, setting};
use http::Response;
use serde_json::json;

/// An upstream that answers 503 while it is ill.
async fn ill() -> (Fake, Arc<AtomicBool>) {
    let ill = Arc::new(AtomicBool::new(true));
    let now = Arc::clone(&ill);
    let fake = Fake::start(None, move |_| {
        if now.load(Ordering::Acquire) {
            Response::builder().status(503).body(fake::whole("overloaded")).expect("a reply")
        } else {
            model::json(model::completion("ok", 5, 5))
        }
    })
    .await;
    (fake, ill)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_left_alone_probed_and_taken_back() {
    let (fake, ill) = ill().await;
    let spec = setting::upstreams(&fake).replace(
        "breakers: {agent: {repeats: 0}}",
        "breakers: {agent: {repeats: 0}, upstream: {failures: 3, cooldown: 1s}}",
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let chat = |number: usize| client::post(&sidecar, model::CHAT, model::ask(&format!("call {number}"), ""));
    for number in 0..3 {
        assert_eq!(chat(number).await.status, 503);
    }
    for number in 3..30 {
        let held = chat(number).await;
        assert_eq!((held.status, &held.json()["error"]["code"]), (503, &json!("breaker_tripped")));
        let wait: u64 = held.header("retry-after").parse().expect("seconds");
        assert!((1..=30).contains(&wait));
    }
    let tries = fake.seen().len();
    assert!((3..=4).contains(&tries), "{tries} attempts: three, and at most one probe");
    let breakers = setting::status(&sidecar).await["breakers"].clone();
    assert!(breakers[0]["breaker"].as_str().is_some_and(|name| name.ends_with("/gpt-4o-mini")), "{breakers}");

    ill.store(false, Ordering::Release);
    let mut healed = false;
    for number in 30..430 {
        healed = chat(number).await.status == 200;
        if healed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(healed, "it probes once the cooldown is over");
    assert_eq!(chat(1_000).await.status, 200);
    sidecar.recorded(|entry| entry["code"] == "breaker_healthy").await;
    let record = sidecar.record();
    let changes: Vec<&str> = setting::phase(&record, "control")
        .iter()
        .filter_map(|entry| entry["code"].as_str().filter(|code| code.starts_with("breaker_")))
        .map(|code| match code {
            "breaker_tripped" => "tripped",
            "breaker_probing" => "probing",
            "breaker_healthy" => "healthy",
            other => panic!("unknown change `{other}`"),
        })
        .collect();
    assert_eq!((changes.first(), changes.last()), (Some(&"tripped"), Some(&"healthy")), "{changes:?}");
    assert!(changes.contains(&"probing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_models_failures_do_not_hold_back_another() {
    let fake = Fake::start(None, |seen| {
        if String::from_utf8_lossy(&seen.body).contains("gpt-4o-mini") {
            Response::builder().status(500).body(fake::whole("no")).expect("a reply")
        } else {
            model::json(model::completion("ok", 5, 5))
        }
    })
    .await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);
    for number in 0..6 {
        client::post(&sidecar, model::CHAT, model::ask(&format!("call {number}"), "")).await;
    }
    let held = client::post(&sidecar, model::CHAT, model::ask("more", "")).await;
    assert_eq!(held.json()["error"]["code"], "breaker_tripped");
    let other = model::ask("more", "").replace("gpt-4o-mini", "gpt-4.1");
    assert_eq!(client::post(&sidecar, model::CHAT, other).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_cannot_be_reached_trips_as_well() {
    // A port that was free a moment ago: nobody listens there.
    let address = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .and_then(|port| port.local_addr())
        .expect("a port");
    let sidecar = Sidecar::start(&setting::at(&format!("http://{address}"), ""), &[("allow.yaml", ALLOW)]);
    let mut codes = Vec::new();
    for number in 0..7 {
        let reply = client::post(&sidecar, model::CHAT, model::ask(&format!("call {number}"), "")).await;
        codes.push((reply.status, reply.json()["error"]["code"].as_str().unwrap_or_default().to_owned()));
    }
    let (failed, held) = codes.split_at(5);
    assert!(
        failed.iter().all(|(status, code)| *status == 502 && code == "upstream_unreachable"),
        "{codes:?}"
    );
    assert!(held.iter().all(|(status, code)| *status == 503 && code == "breaker_tripped"), "{codes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_repeats_itself_without_end_is_stopped() {
    let fake = Fake::start(None, |_| model::json(model::completion("ok", 5, 5))).await;
    let spec = setting::upstreams(&fake).replace("repeats: 0", "repeats: 5, window: 60s, cooldown: 30s");
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    for _ in 0..5 {
        assert_eq!(client::post(&sidecar, model::CHAT, model::ask("again", "")).await.status, 200);
    }
    let sixth = client::post(&sidecar, model::CHAT, model::ask("again", "")).await;
    assert_eq!((sixth.status, &sixth.json()["error"]["code"]), (503, &json!("breaker_tripped")));
    assert_eq!(sixth.header("x-sideguard-rule"), "breaker/agent/tester");
    let other = client::post(&sidecar, model::CHAT, model::ask("something else", "")).await;
    assert_eq!(other.json()["error"]["code"], "breaker_tripped", "all of the agent's calls are held back");
    assert_eq!(fake.seen().len(), 5);
    let status = setting::status(&sidecar).await;
    assert_eq!(status["breakers"][0]["breaker"], "agent/tester");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rules_rate_lets_its_burst_through_and_says_when_to_come_back() {
    let fake = Fake::json("{}").await;
    let rule = "  rules: [{id: slow, match: {hosts: [127.0.0.1]}, decision: throttle, constraints: {rate: {calls: 3, per: 60s}}}]\n";
    let policy = setting::policy("rates", rule);
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("rates.yaml", &policy)]);
    for number in 0..3 {
        assert_eq!(client::gateway(&sidecar, "GET", &format!("/web/{number}"), &[], "").await.status, 200);
    }
    let fourth = client::gateway(&sidecar, "GET", "/web/4", &[], "").await;
    assert_eq!((fourth.status, &fourth.json()["code"]), (429, &json!("rate_limited")));
    assert_eq!(fourth.header("x-sideguard-rule"), "rates/slow");
    let wait: u64 = fourth.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait));
    assert_eq!(fake.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_burns_tokens_too_fast_is_held_back() {
    let fake = Fake::start(None, |_| model::json(model::completion("ok", 50, 50))).await;
    let spec =
        setting::upstreams(&fake).replace("repeats: 0", "repeats: 0, burn: 250, window: 60s, cooldown: 30s");
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    for number in 0..3 {
        let reply = client::post(&sidecar, model::CHAT, model::ask(&format!("call {number}"), "")).await;
        assert_eq!(reply.status, 200, "call {number}");
    }
    let held = client::post(&sidecar, model::CHAT, model::ask("more", "")).await;
    assert_eq!((held.status, &held.json()["error"]["code"]), (503, &json!("breaker_tripped")));
    assert_eq!(fake.seen().len(), 3);
    sidecar.recorded(|entry| entry["code"] == "breaker_tripped" && entry["phase"] == "control").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_file_stops_everything_and_its_removal_lets_go() {
    let fake = Fake::json("{}").await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);
    let call = || async { client::gateway(&sidecar, "GET", "/web/x", &[], "").await };
    assert_eq!(call().await.status, 200);
    std::fs::write(sidecar.state().join("kill"), "").expect("a file");
    sidecar.recorded(|entry| entry["code"] == "killed" && entry["phase"] == "control").await;
    let seen = fake.seen().len();
    let killed = call().await;
    assert_eq!((killed.status, &killed.json()["code"], fake.seen().len()), (403, &json!("killed"), seen));
    std::fs::remove_file(sidecar.state().join("kill")).expect("a file");
    sidecar.recorded(|entry| entry["code"] == "unkilled").await;
    assert_eq!(call().await.status, 200);
}
