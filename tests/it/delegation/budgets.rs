//! Budgets along a chain: what work under a link uses is bounded, counts for who handed it on, and counts in full where nobody
//! tells.

use std::time::Duration;

use harness::{Fake, Service, client, fake, model, setting};
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;

use super::{Deputy, REPEATS, RIGHTS, Work, ask, plain, trace, wait};

/// A budget for `a` of so many tokens, and one for everybody.
fn budget(tokens: u64) -> String {
    let head = "---\napiVersion: sideguard.dev/v1\nkind: Budget\nmetadata";
    format!(
        "{head}: {{name: own}}\nspec: {{scope: {{agents: [a]}}, limits: [{{unit: tokens, amount: {tokens}, window: 1h}}]}}\n\
         {head}: {{name: all}}\nspec: {{limits: [{{unit: tokens, amount: 100000, window: 1h}}]}}\n"
    )
}

/// Waits until control knows that so many tokens of a budget are spent.
async fn spent(service: &Service, budget: &str, tokens: &str) {
    let since = Stopwatch::start();
    loop {
        let known = service.json(&["budget"]).await;
        let mut accounts = known["items"].as_array().expect("a list").iter();
        let account = accounts.find(|account| account["budget"] == budget);
        if account.is_some_and(|account| account["spent"] == tokens) {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "never {tokens} of `{budget}`: {known:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn chatting() -> Fake {
    Fake::start(None, |_| model::json(model::completion("ok", 20, 30))).await
}

/// Chats as often as the request's path says, and answers with the statuses: whole, or as a stream where it ends in `s`.
fn chats() -> Box<Work> {
    Box::new(|sidecar, seen| {
        let times = seen.target.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        let trace = trace(seen);
        let mut statuses = String::new();
        for _ in 0..times {
            let headers = [("traceparent", trace.as_str()), ("content-type", "application/json")];
            let ask = model::ask(&sideguard_runtime::id::token(8), r#","max_tokens":30"#);
            let reply = wait(client::gateway(sidecar, "POST", model::CHAT, &headers, ask));
            statuses += &format!("{} {}\n", reply.status, reply.header("x-sideguard-rule"));
            if reply.status != 200 {
                statuses += &reply.text();
            }
        }
        if !seen.target.ends_with('s') {
            return plain(statuses);
        }
        let (sender, body) = fake::parts();
        sender.try_send(statuses.into()).expect("room");
        fake::reply("text/plain", body)
    })
}

/// What `a` was charged for a request, as its record tells.
fn settled(outcomes: &[Value]) -> Vec<u64> {
    let output = |entry: &Value| entry["budget"]["settled"]["output"].as_u64();
    outcomes.iter().filter_map(output).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deputy_uses_counts_for_whom_it_works_and_stays_within_the_link() {
    let (service, model) = (Service::start(), chatting().await);
    let rights = RIGHTS.replace("\"write:job.b.*\"", "\"write:job.b.*\", \"write:llm.*\"");
    service.apply(&format!("{rights}{}", budget(100_000))).await;
    let upstreams = setting::upstreams(&model).replace(REPEATS, "");
    let b = Deputy::start(&service, "b", &upstreams, chats()).await;
    let spec = format!("{}  delegation: {{budget: {{tokens: 1000, calls: 3}}}}\n", b.upstream("b"));
    let a = service.sidecar("a", &spec).await;
    service.all_stand(2, "current").await;
    // Its answer is whole: its sidecar tells what was used, and the rest is given back.
    let told = ask(&a, "/b/2", "").await;
    assert_eq!(told.text().matches("200 ").count(), 2, "{}", told.text());
    assert_eq!(told.header("x-sideguard-used"), "", "the receipt is for the sidecar alone");
    let handed = |entry: &Value| entry["phase"] == "outcome" && entry["point"] == "a2a.call";
    assert_eq!(settled(&a.recorded(handed).await), [100]);
    // A fourth call is one too many.
    let told = ask(&a, "/b/4", "").await.text();
    assert_eq!(told.matches("200 ").count(), 3, "{told}");
    assert!(told.contains("402 budget/delegation/"), "{told}");
    assert_eq!(settled(&a.recorded_times(2, handed).await), [100, 150]);
    // A stream ends after its head: nobody can tell in time, and all of it counts.
    assert!(ask(&a, "/b/1s", "").await.text().starts_with("200"));
    assert_eq!(settled(&a.recorded_times(3, handed).await), [100, 150, 1000]);
    // Six calls of fifty: once in what both share.
    spent(&service, "own", "1250").await;
    spent(&service, "all", "300").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_used_up_lets_no_more_work_be_handed_on() {
    let (service, model) = (Service::start(), chatting().await);
    service.apply(&format!("{RIGHTS}{}", budget(0))).await;
    let upstreams = setting::upstreams(&model).replace(REPEATS, "");
    let b = Deputy::start(&service, "b", &upstreams, chats()).await;
    let spec = format!("{}  delegation: {{budget: {{tokens: 1000}}}}\n", b.upstream("b"));
    let a = service.sidecar("a", &spec).await;
    service.all_stand(2, "current").await;
    let refused = ask(&a, "/b/1", "").await;
    assert_eq!(refused.status, 402, "{}", refused.text());
    assert_eq!(refused.json()["code"], json!("budget_exhausted"), "{}", refused.text());
    assert_eq!(b.process.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deputy_that_dies_may_have_used_counts_in_full() {
    let service = Service::start();
    service.apply(&format!("{RIGHTS}{}", budget(100_000))).await;
    let (sender, body) = fake::parts();
    let body = parking_lot::Mutex::new(Some(body));
    let work: Box<Work> = Box::new(move |_, _| {
        fake::reply("text/event-stream", body.lock().take().unwrap_or_else(|| fake::whole("")))
    });
    let b = Deputy::start(&service, "b", "", work).await;
    let spec = format!("{}  delegation: {{budget: {{tokens: 1000}}}}\n", b.upstream("b"));
    let a = service.sidecar("a", &spec).await;
    service.all_stand(2, "current").await;
    let answer = super::opened(&a, "/b/work").await;
    b.sidecar.signal("KILL");
    client::collect(answer).await;
    let handed = |entry: &Value| entry["phase"] == "outcome" && entry["point"] == "a2a.call";
    assert_eq!(settled(&a.recorded(handed).await), [1000]);
    drop(sender);
}
