//! Budgets of a fleet: what is settled and outstanding never exceeds a limit, whatever becomes of sidecars, of control and
//! of the lines between them.

use std::sync::Arc;
use std::time::Duration;

use harness::sidecar::ALLOW;
use harness::{Fake, Relay, Service, Sidecar, client, model, setting};
use serde_json::Value;
use sideguard_runtime::clock::Stopwatch;
use tokio::task::JoinSet;

/// Leases that are soon over.
const SHORT: &str = "  lease: 2s\n";

async fn chatting() -> Fake {
    Fake::start(None, |seen| {
        if seen.target.contains("chat") { model::json(model::completion("ok", 20, 30)) } else { model::json("{}") }
    })
    .await
}

/// A sidecar whose agent has labels, once it has policy.
async fn joined(service: &Service, url: &str, agent: &str, fake: &Fake) -> Sidecar {
    let sidecar = service.sidecar_at(url, "", agent, &setting::upstreams(fake)).await;
    harness::until("a generation is in force", || sidecar.log().contains("new policy in force")).await;
    sidecar
}

async fn web(sidecar: &Sidecar) -> (u16, String) {
    let reply = client::gateway(sidecar, "GET", &format!("/web/{}", sideguard_runtime::id::token(8)), &[], "").await;
    let code = reply.header("x-sideguard-decision");
    (reply.status, format!("{code} {}", reply.text()))
}

async fn chat(sidecar: &Sidecar, most: u64) -> u16 {
    let ask = model::ask(&sideguard_runtime::id::token(8), &format!(r#","max_tokens":{most}"#));
    client::post(sidecar, model::CHAT, ask).await.status
}

/// All accounts, as control tells of them.
async fn accounts(service: &Service) -> Vec<Value> {
    let known = service.json(&["budget"]).await;
    known["items"].as_array().expect("a list").clone()
}

fn amount(account: &Value, name: &str) -> u64 {
    let text = account[name].as_str().unwrap_or_else(|| panic!("no {name} in {account:#}"));
    text.parse().unwrap_or_else(|_| panic!("{text} in {account:#}"))
}

/// Sums of one unit: spent, held, limit.
async fn sums(service: &Service, budget: &str, unit: &str) -> (u64, u64, u64) {
    let accounts = accounts(service).await;
    let own = accounts.iter().find(|account| account["budget"] == budget && account["unit"] == unit);
    let own = own.unwrap_or_else(|| panic!("no {unit} of {budget} in {accounts:#?}"));
    (amount(own, "spent"), amount(own, "held"), amount(own, "limit"))
}

/// Waits until leases hold nothing, and returns what is spent.
async fn settled(service: &Service, budget: &str, unit: &str) -> u64 {
    let since = Stopwatch::start();
    loop {
        let (spent, held, limit) = sums(service, budget, unit).await;
        assert!(spent + held <= limit, "{spent} spent and {held} held of {limit}");
        if held == 0 {
            return spent;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{held} of {unit} still held");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn calls(amount: u64) -> String {
    setting::budget(&format!("unit: calls, amount: {amount}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_spend_one_budget_once() {
    let (service, fake) = (Service::with(SHORT), chatting().await);
    service.apply(&format!("{ALLOW}---\n{}", calls(10))).await;
    let sidecars = [
        joined(&service, service.url(), "a", &fake).await,
        joined(&service, service.url(), "b", &fake).await,
    ];
    let mut passed = 0;
    for round in 0..20 {
        for sidecar in &sidecars {
            let (status, text) = web(sidecar).await;
            assert!([200, 402, 429].contains(&status), "{round}: {status} {text}");
            passed += u64::from(status == 200);
        }
    }
    assert_eq!(passed, 10);
    assert_eq!(fake.seen().len(), 10);
    assert_eq!(settled(&service, "all", "calls").await, 10);
}
