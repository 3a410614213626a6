//! Calls that people have to say yes to: what is approved goes out, byte for byte, once, or not at all.

mod people;
mod shapes;
mod webhook;

use std::time::Duration;

use harness::client::{self, Reply};
use harness::{Fake, Service, Sidecar};
use serde_json::{Value, json};

/// A policy under which every POST needs an approval with these terms.
fn ask(terms: &str) -> String {
    format!(
        "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {{name: careful}}\nspec:\n  default_decision: allow\n  \
         rules: [{{id: ask, match: {{methods: [POST]}}, decision: require_approval, reason: ask the owner, approval: {{{terms}}}}}]\n"
    )
}

/// A service, a sidecar of `agent`, and what it calls, with the policy in force.
async fn scene(agent: &str, terms: &str) -> (Service, Sidecar, Fake) {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(&ask(terms)).await;
    let sidecar = service.sidecar(agent, "").await;
    service.all_stand(1, "current").await;
    (service, sidecar, tool)
}

fn path() -> String {
    format!("/{}", sideguard_runtime::id::token(8))
}

async fn post(sidecar: &Sidecar, to: &Fake, path: &str, body: &str) -> Reply {
    let headers = [("content-type", "application/json")];
    client::absolute(sidecar, "POST", &format!("{}{path}", to.url()), &headers, body.to_owned()).await
}

/// The approvals of a state, once there are so many.
async fn approvals(service: &Service, state: &str, count: usize) -> Vec<Value> {
    for _ in 0..200 {
        let known = service.json(&["approvals", "--status", state]).await;
        let items = known["items"].as_array().expect("a list").clone();
        if items.len() >= count {
            return items;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("fewer than {count} {state}: {:#}", service.json(&["approvals", "--status", "all"]).await);
}

async fn pending(service: &Service) -> String {
    let items = approvals(service, "pending", 1).await;
    items[0]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_call_goes_out_once_while_it_waits() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 20").await;
    let (path, body) = (path(), r#"{"to": "all",  "n": 1}"#);
    let waiting = async { post(&sidecar, &tool, &path, body).await };
    let approving = async {
        let id = pending(&service).await;
        let shown = service.json(&["approvals", &id]).await;
        assert_eq!((&shown["arguments"], &shown["path"]), (&json!({"to": "all", "n": 1}), &json!(path)));
        assert_eq!((&shown["agent"], &shown["rule"]), (&json!("writer"), &json!("careful/ask")));
        assert_eq!(tool.seen().len(), 0, "nothing leaves before somebody has said yes");
        service.out(&["approve", &id, "--reason", "fine"]).await;
        id
    };
    let (reply, id) = tokio::join!(waiting, approving);
    assert_eq!(
        (reply.status, reply.header("x-sideguard-decision").as_str()),
        (200, "allow"),
        "{}",
        reply.text()
    );
    let seen = tool.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].body[..], seen[0].target.as_str()), (body.as_bytes(), path.as_str()));
    let intent = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert_eq!((&intent[0]["approval"], &intent[0]["approved_by"]), (&json!(id), &json!(["operator"])));
    let used = service.json(&["approvals", &id]).await;
    assert_eq!((&used["state"], &used["used"]["call"]), (&json!("consumed"), &intent[0]["call"]));
    assert_eq!((&used["votes"][0]["by"], &used["votes"][0]["reason"]), (&json!("operator"), &json!("fine")));
}

/// A request to control's interface with a key: status and JSON.
async fn api(service: &Service, key: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let to = service.url().trim_start_matches("http://").parse().expect("an address");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    answered(&client::raw(to, head.as_bytes()).await.expect("an answer"))
}

fn answered(text: &str) -> (u16, Value) {
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let (_, body) = text.split_once("\r\n\r\n").expect("a body");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A new key, in a file for `--key-file`, and itself.
async fn key(
    service: &Service,
    name: &str,
    role: &str,
    tenant: Option<&str>,
    labels: Value,
) -> (String, String) {
    let body = json!({"name": name, "role": role, "tenant": tenant, "labels": labels}).to_string();
    let (status, made) = api(service, &service.key(), "POST", "/v1/keys", &body).await;
    assert_eq!(status, 200, "{made}");
    let key = made["key"].as_str().expect("a key").to_owned();
    let file = service.dir().join(format!("{name}.key"));
    std::fs::write(&file, &key).expect("a file");
    (file.display().to_string(), key)
}

async fn approve(service: &Service, id: &str) {
    service.out(&["approve", id]).await;
}

/// Asks, is refused at once, and gives the approval's id.
async fn asked(sidecar: &Sidecar, tool: &Fake, path: &str, body: &str) -> String {
    let reply = post(sidecar, tool, path, body).await;
    assert_eq!((reply.status, &reply.json()["code"]), (403, &json!("approval_required")), "{}", reply.text());
    let id = reply.header("x-sideguard-approval-id");
    assert!(!id.is_empty(), "{}", reply.text());
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_wait_the_same_call_passes_once_and_then_asks_anew() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 1").await;
    let path = path();
    let reply = post(&sidecar, &tool, &path, "1").await;
    let (told, id) = (reply.json(), reply.header("x-sideguard-approval-id"));
    assert_eq!(
        (reply.status, &told["code"], &told["reason"]),
        (403, &json!("approval_required"), &json!("ask the owner"))
    );
    assert_eq!(reply.header("x-should-retry"), "false");
    assert_eq!((&told["approval_id"], &told["retry_with"]), (&json!(id), &json!("same request")));
    let url = told["approval_url"].as_str().expect("a URL");
    assert!(url.starts_with(service.url()) && url.ends_with(&id), "{url}");
    approve(&service, &id).await;
    assert_eq!(post(&sidecar, &tool, &path, "1").await.status, 200);
    let next = asked(&sidecar, &tool, &path, "1").await;
    assert_ne!(next, id);
    assert_eq!(tool.seen().len(), 1);
    let table = service.out(&["approvals"]).await;
    assert!(table.starts_with("ID") && table.contains(&next) && !table.contains(&id), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_bring_one_grant_at_once_one_passes() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 0").await;
    let twin = service.sidecar("writer", "").await;
    service.all_stand(2, "current").await;
    for _ in 0..3 {
        let (path, before) = (path(), tool.seen().len());
        let id = asked(&sidecar, &tool, &path, "1").await;
        approve(&service, &id).await;
        let calls = (0..24).map(|number| {
            let through = if number % 2 == 0 { &sidecar } else { &twin };
            post(through, &tool, &path, "1")
        });
        let statuses: Vec<u16> =
            futures_util::future::join_all(calls).await.into_iter().map(|reply| reply.status).collect();
        let passed = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!((passed, tool.seen().len() - before), (1, 1), "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 403)), "{statuses:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_differs_asks_anew() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 0").await;
    let path = path();
    let id = asked(&sidecar, &tool, &path, r#"{"n":1}"#).await;
    approve(&service, &id).await;
    assert_ne!(asked(&sidecar, &tool, &path, r#"{"n":2}"#).await, id);
    assert_ne!(asked(&sidecar, &tool, &path, r#"{"n":1} "#).await, id);
    assert_ne!(asked(&sidecar, &tool, &format!("{path}?force=1"), r#"{"n":1}"#).await, id);
    let url = format!("{}{path}", tool.url());
    for headers in [
        [("content-type", "text/plain"), ("x-request-id", "1")],
        [("content-type", "application/json"), ("x-http-method-override", "DELETE")],
        [("content-type", "application/json"), ("authorization", "Bearer canary-of-another")],
    ] {
        let reply = client::absolute(&sidecar, "POST", &url, &headers, r#"{"n":1}"#).await;
        assert_eq!(reply.status, 403, "{headers:?}");
        assert_ne!(reply.header("x-sideguard-approval-id"), id, "{headers:?}");
    }
    let other = service.sidecar("another", "").await;
    service.all_stand(2, "current").await;
    assert_ne!(asked(&other, &tool, &path, r#"{"n":1}"#).await, id, "another agent");
    assert_eq!(tool.seen().len(), 0);
    // What clients number their attempts by makes no difference.
    let headers =
        [("content-type", "application/json"), ("x-request-id", "2"), ("x-stainless-retry-count", "1")];
    let reply = client::absolute(&sidecar, "POST", &url, &headers, r#"{"n":1}"#).await;
    assert_eq!((reply.status, tool.seen().len()), (200, 1));
    let all = service.out(&["approvals", "--status", "all", "-o", "json"]).await;
    assert!(!all.contains("canary"), "credentials are shown to nobody");
    let shown = approvals(&service, "pending", 6).await;
    for one in shown {
        let whole = service.out(&["approvals", one["id"].as_str().expect("an id")]).await;
        assert!(!whole.contains("canary"), "{whole}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_with_the_policy_that_asked() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 20").await;
    // While the call waits.
    let (first, body) = (path(), "1");
    let waiting = async { post(&sidecar, &tool, &first, body).await };
    let changing = async {
        let id = pending(&service).await;
        service.apply(&ask("holdSeconds: 0")).await;
        service.all_stand(1, "current").await;
        approve(&service, &id).await;
        id
    };
    let (reply, id) = tokio::join!(waiting, changing);
    assert_eq!(reply.status, 403);
    assert!(reply.text().contains("policy has changed"), "{}", reply.text());
    // When the call comes again.
    let reply = post(&sidecar, &tool, &first, body).await;
    assert!(reply.text().contains("policy has changed") && reply.text().contains(&id), "{}", reply.text());
    let anew = reply.header("x-sideguard-approval-id");
    assert_ne!(anew, id);
    assert_eq!(service.json(&["approvals", &id]).await["state"], "expired");
    // A catalog belongs to the policy.
    approve(&service, &anew).await;
    service
        .apply(
            "apiVersion: sideguard.dev/v1\nkind: ToolCatalog\nmetadata: {name: tools}\nspec:\n  \
             tools: [{tool: send_mail, server: db, topic: job.mail.send, verb: write}]\n",
        )
        .await;
    service.all_stand(1, "current").await;
    assert_ne!(asked(&sidecar, &tool, &first, body).await, anew);
    // A denial in the meantime.
    let last = asked(&sidecar, &tool, &first, body).await;
    approve(&service, &last).await;
    service
        .apply("apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: no}\nspec:\n  rules: [{id: no, match: {methods: [POST]}, decision: deny}]\n")
        .await;
    service.all_stand(1, "current").await;
    assert_eq!(post(&sidecar, &tool, &first, body).await.json()["code"], "policy_denied");
    assert_eq!(tool.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_outlives_restarts_and_is_good_once() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 0").await;
    let path = path();
    let id = asked(&sidecar, &tool, &path, "1").await;
    let service = service.again();
    approve(&service, &id).await;
    let (service, sidecar) = (service.again(), sidecar.again());
    assert_eq!(post(&sidecar, &tool, &path, "1").await.status, 200);
    let (service, sidecar) = (service.again(), sidecar.again());
    assert_ne!(asked(&sidecar, &tool, &path, "1").await, id);
    assert_eq!(tool.seen().len(), 1);
    assert_eq!(service.json(&["approvals", &id]).await["state"], "consumed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_waiting_while_control_is_restarted() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 30").await;
    let path = path();
    let waiting = async { post(&sidecar, &tool, &path, "1").await };
    let approving = async {
        let id = pending(&service).await;
        let service = service.again();
        approve(&service, &id).await;
        service
    };
    let (reply, _service) = tokio::join!(waiting, approving);
    assert_eq!((reply.status, tool.seen().len()), (200, 1), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_calls_share_one_question_and_one_grant() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 20").await;
    let path = path();
    let calls = futures_util::future::join_all((0..6).map(|_| post(&sidecar, &tool, &path, "1")));
    let approving = async {
        let id = pending(&service).await;
        approve(&service, &id).await;
    };
    let (replies, ()) = tokio::join!(calls, approving);
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    let passed = statuses.iter().filter(|status| **status == 200).count();
    // One that came when the grant was used up already asks anew: that is not answered and ends in a refusal as well.
    assert_eq!((passed, tool.seen().len()), (1, 1), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_or_a_budget_that_is_used_up_stops_what_was_approved() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 20").await;
    let budget = "apiVersion: sideguard.dev/v1\nkind: Budget\nmetadata: {name: few}\nspec:\n  scope: {agents: [writer]}\n  limits: [{unit: calls, amount: 1, window: 1d}]\n";
    service.apply(budget).await;
    service.all_stand(1, "current").await;
    let path = path();
    let waiting = async { post(&sidecar, &tool, &path, "1").await };
    let killing = async {
        let id = pending(&service).await;
        service.out(&["kill", "agent/writer"]).await;
        harness::until("the kill is heard", || sidecar.record().iter().any(|entry| entry["code"] == "kills"))
            .await;
        approve(&service, &id).await;
        id
    };
    let (reply, id) = tokio::join!(waiting, killing);
    assert_eq!(reply.json()["code"], "killed", "{}", reply.text());
    service.out(&["unkill", "agent/writer"]).await;
    let url = format!("{}/read", tool.url());
    let mut spent = 0;
    while client::absolute(&sidecar, "GET", &url, &[], "").await.status != 200 {
        spent += 1;
        assert!(spent < 200, "the agent goes on");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    // The grant is there still, and the budget is not.
    let reply = post(&sidecar, &tool, &path, "1").await;
    assert_eq!(reply.json()["rule"], "budget/few", "{}", reply.text());
    assert_eq!(
        service.json(&["approvals", &id]).await["state"],
        "approved",
        "nothing left: nothing is used up"
    );
    assert_eq!(tool.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_wait_and_not_the_question() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 30").await;
    let path = path();
    let id = tokio::select! {
        reply = post(&sidecar, &tool, &path, "1") => panic!("an answer: {}", reply.text()),
        id = async {
            let id = pending(&service).await;
            // By now the sidecar knows it too.
            service.out(&["approvals", &id]).await;
            id
        } => id,
    };
    let left = sidecar.recorded(|entry| entry["code"] == "client_gone").await;
    assert_eq!(left[0]["approval"], json!(id));
    approve(&service, &id).await;
    assert_eq!(tool.seen().len(), 0);
    assert_eq!(post(&sidecar, &tool, &path, "1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_killed_at_any_moment_sends_what_was_approved_once_at_most() {
    let (service, mut sidecar, tool) = scene("writer", "holdSeconds: 20").await;
    for round in 0..8_u64 {
        let (path, before) = (path(), tool.seen().len());
        let url = format!("{}{path}", tool.url());
        let outbound = sidecar.outbound();
        let head = format!("POST {url} HTTP/1.1\r\nhost: {}\r\ncontent-length: 1\r\n\r\n1", tool.address());
        let waiting = sideguard_runtime::tasks::spawn("call", async move {
            // It is cut off, or answered just before.
            client::raw(outbound, head.as_bytes()).await
        });
        let id = pending(&service).await;
        let words = ["approve", &id];
        let approving = service.run(&words);
        let killing = async {
            tokio::time::sleep(Duration::from_millis(15 * round)).await;
            sidecar.kill();
        };
        let (approved, ()) = tokio::join!(approving, killing);
        assert_eq!(approved.code, Some(0), "{}", approved.err);
        let _ = waiting.await;
        sidecar = sidecar.again();
        let sent = tool.seen().len() - before;
        assert!(sent <= 1, "{sent} in round {round}");
        // The same call again: it uses the grant where there is one left, and asks anew where there is none.
        let state = service.json(&["approvals", &id]).await["state"].clone();
        let again = async { post_plain(&sidecar, &url).await };
        let looking = async { if state == "approved" { None } else { Some(pending(&service).await) } };
        let status = tokio::select! {
            status = again => status,
            Some(anew) = looking => {
                assert_ne!(anew, id);
                service.out(&["deny", &anew]).await;
                0
            }
        };
        let sent = tool.seen().len() - before;
        let wanted = usize::from(state == "approved");
        assert!(
            sent <= 1 && (wanted == 0 || (status, sent) == (200, 1)),
            "{state}: {status} {sent} in round {round}"
        );
    }
}

/// The call that the test above sends in bytes of its own.
async fn post_plain(sidecar: &Sidecar, url: &str) -> u16 {
    client::absolute(sidecar, "POST", url, &[], "1").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_stops_tells_those_who_wait() {
    let (service, mut sidecar, tool) = scene("writer", "holdSeconds: 300").await;
    let path = path();
    let url = format!("{}{path}", tool.url());
    let call = client::absolute(&sidecar, "POST", &url, &[], "1");
    let waiting =
        async { tokio::time::timeout(Duration::from_secs(15), call).await.expect("an answer at once") };
    let stopping = async {
        let id = pending(&service).await;
        sidecar.signal("TERM");
        id
    };
    let (reply, id) = tokio::join!(waiting, stopping);
    assert_eq!((reply.status, reply.header("x-sideguard-approval-id")), (403, id));
    let mut looks = 0;
    while sidecar.ended().is_none() {
        looks += 1;
        assert!(looks < 200, "it does not end");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_calls_wait_and_only_so_many_questions_are_open() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 60").await;
    let same = path();
    let mut calls: Vec<_> = (0..136).map(|_| Box::pin(post(&sidecar, &tool, &same, "1"))).collect();
    // There are 128 places: 8 calls are told at once that they would have to wait.
    let mut told = Vec::new();
    while told.len() < 8 {
        let (reply, _, rest) = futures_util::future::select_all(calls).await;
        calls = rest;
        told.push(reply);
    }
    let id = pending(&service).await;
    for reply in &told {
        assert_eq!(
            (reply.status, reply.header("x-sideguard-approval-id")),
            (403, id.clone()),
            "{}",
            reply.text()
        );
    }
    approve(&service, &id).await;
    let statuses: Vec<u16> =
        futures_util::future::join_all(calls).await.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(tool.seen().len(), 1);
    // Of different calls 50 may be open.
    service.apply(&ask("holdSeconds: 0")).await;
    service.all_stand(1, "current").await;
    for number in 0..50 {
        asked(&sidecar, &tool, &path(), &number.to_string()).await;
    }
    let reply = post(&sidecar, &tool, &path(), "1").await;
    assert!(reply.status == 403 && reply.text().contains("50 approvals are pending"), "{}", reply.text());
    assert_eq!(reply.header("x-sideguard-approval-id"), "");
}
