//! Calls that people have to say yes to: what is approved goes out, byte for byte, once, or not at all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::client::{self, Reply};
use harness::{Fake, Seen, Service, Sidecar, fake, model, setting};
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
        "{method} {path} HTTP/1.1\r\nhost: control\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
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
async fn two_people_have_to_say_yes_where_the_rule_says_two() {
    let terms = "holdSeconds: 0, quorum: 2, approvers: [team=finance, bob]";
    let (service, sidecar, tool) = scene("writer", terms).await;
    let path = path();
    let (alice, _) = key(&service, "alice", "approver", Some("default"), json!({"team": "finance"})).await;
    let (twin, _) = key(&service, "Alice", "operator", Some("default"), json!({"team": "finance"})).await;
    let (bob, _) = key(&service, "bob", "approver", None, json!({})).await;
    let (carol, _) = key(&service, "carol", "approver", Some("default"), json!({})).await;
    let (viewer, _) = key(&service, "victor", "viewer", None, json!({"team": "finance"})).await;
    let (requester, _) = key(&service, "writer", "operator", None, json!({"team": "finance"})).await;
    let id = asked(&sidecar, &tool, &path, "1").await;
    service.out(&["approve", &id, "--key-file", &alice]).await;
    for (who, why) in [
        (&alice, "answered already"),
        (&twin, "answered already"),
        (&carol, "names other approvers"),
        (&viewer, "may not"),
        (&requester, "own chain"),
    ] {
        let refused = service.run(&["approve", &id, "--key-file", who]).await;
        assert_eq!(refused.code, Some(1), "{who}: {}", refused.out);
        assert!(refused.err.contains(why), "{who}: {}", refused.err);
    }
    assert_eq!(asked(&sidecar, &tool, &path, "1").await, id, "one yes is not enough");
    assert!(service.out(&["approvals"]).await.contains("pending 1/2"));
    service.out(&["approve", &id, "--key-file", &bob]).await;
    assert_eq!(post(&sidecar, &tool, &path, "1").await.status, 200);
    let intent = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert_eq!(intent[0]["approved_by"], json!(["alice", "bob"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_that_asks_cannot_answer() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 0").await;
    let id = asked(&sidecar, &tool, &path(), "1").await;
    let identity = std::fs::read_to_string(sidecar.state().join("control.json")).expect("an identity");
    let identity: Value = serde_json::from_str(&identity).expect("JSON");
    let own = identity["key"].as_str().expect("a key");
    let route = format!("/v1/approvals/{id}");
    assert_eq!(api(&service, own, "POST", &route, r#"{"verdict":"approve"}"#).await.0, 403);
    assert_eq!(api(&service, own, "GET", "/v1/approvals", "").await.0, 403);
    // Nor use what is not granted, or granted for something else.
    let redeem =
        json!({"agent": "writer", "call": "x", "hash": "0".repeat(64), "policyDigest": "x"}).to_string();
    assert_eq!(api(&service, own, "POST", &format!("{route}/grant"), &redeem).await.0, 409);
    approve(&service, &id).await;
    assert_eq!(api(&service, own, "POST", &format!("{route}/grant"), &redeem).await.0, 409);
    assert_eq!(service.json(&["approvals", &id]).await["state"], "approved");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_no_the_same_call_is_refused_without_asking_for_a_while() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 20, cooldown: 2s").await;
    let path = path();
    let waiting = async { post(&sidecar, &tool, &path, "1").await };
    let denying = async {
        let id = pending(&service).await;
        service.out(&["deny", &id, "--reason", "not on a Friday"]).await;
        id
    };
    let (reply, id) = tokio::join!(waiting, denying);
    for reply in [reply, post(&sidecar, &tool, &path, "1").await] {
        assert_eq!((reply.status, &reply.json()["code"]), (403, &json!("policy_denied")), "{}", reply.text());
        assert!(reply.text().contains("denied by operator: not on a Friday"), "{}", reply.text());
        assert_eq!(reply.header("x-sideguard-approval-id"), id);
    }
    assert_eq!(service.json(&["approvals"]).await["items"], json!([]));
    // Another call asks at once, this one after the time.
    let denied = service.run(&["approve", &id]).await;
    assert!(denied.code == Some(1) && denied.err.contains("denied already"), "{}", denied.err);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let again = async { post(&sidecar, &tool, &path, "1").await };
    let approving = async { approve(&service, &pending(&service).await).await };
    let (reply, ()) = tokio::join!(again, approving);
    assert_eq!((reply.status, tool.seen().len()), (200, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_answers_or_uses_in_time_is_over() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 0, expires: 1s, valid: 1s").await;
    let path = path();
    let id = asked(&sidecar, &tool, &path, "1").await;
    approvals(&service, "expired", 1).await;
    let late = service.run(&["approve", &id]).await;
    assert!(late.code == Some(1) && late.err.contains("expired already"), "{}", late.err);
    let next = asked(&sidecar, &tool, &path, "1").await;
    assert_ne!(next, id);
    approve(&service, &next).await;
    approvals(&service, "expired", 2).await;
    assert_ne!(asked(&sidecar, &tool, &path, "1").await, next);
    assert_eq!(tool.seen().len(), 0);
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
async fn another_tenants_key_sees_nothing() {
    let (service, sidecar, tool) = scene("writer", "holdSeconds: 0").await;
    let id = asked(&sidecar, &tool, &path(), "1").await;
    let (file, key) = key(&service, "mallory", "approver", Some("acme"), json!({})).await;
    let none = service.json(&["approvals", "--status", "all", "--key-file", &file]).await;
    assert_eq!(none["items"], json!([]));
    let missing = "0".repeat(24);
    let route = |id: &str| format!("/v1/approvals/{id}");
    let answer = r#"{"verdict":"approve"}"#;
    for (method, body) in [("GET", ""), ("POST", answer)] {
        let (status, of_another) = api(&service, &key, method, &route(&id), body).await;
        let (_, of_none) = api(&service, &key, method, &route(&missing), body).await;
        assert_eq!(status, 404);
        assert_eq!(of_another.to_string().replace(&id, ""), of_none.to_string().replace(&missing, ""));
    }
    let (status, _) = api(&service, &key, "GET", &format!("/v1/approvals?after=default/{id}"), "").await;
    assert_eq!(status, 400);
    assert_eq!(service.json(&["approvals", &id]).await["state"], "pending");
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
    assert_eq!(reply.json()["code"], "budget_exhausted", "{}", reply.text());
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

/// Body of a call to the tool `wipe` of an MCP server.
fn wipe(id: u64, table: &str) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {
        "name": "wipe", "arguments": {"table": table}, "_meta": {"progressToken": id}}})
    .to_string()
}

/// A scene with upstreams of every dialect at one fake, in which tools named `wipe` and calls to models need an approval.
async fn governed(
    answer: impl Fn(&Seen) -> http::Response<fake::Body> + Send + Sync + 'static,
) -> (Service, Sidecar, Fake) {
    let (service, tool) = (Service::start(), Fake::start(None, answer).await);
    service
        .apply(
            "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: careful}\nspec:\n  default_decision: allow\n  rules:\n  \
             - {id: wipes, match: {tools: [wipe]}, decision: ask, reason: ask the owner, approval: {holdSeconds: 20, cooldown: 1m}}\n  \
             - {id: models, match: {points: [llm.request]}, decision: ask, approval: {holdSeconds: 20}}\n",
        )
        .await;
    let sidecar = service.sidecar("writer", &setting::upstreams(&tool)).await;
    service.all_stand(1, "current").await;
    (service, sidecar, tool)
}

fn mcp_server(seen: &Seen) -> http::Response<fake::Body> {
    let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let result = match asked["method"].as_str() {
        Some("tools/list") => json!({"tools": [{"name": "wipe", "inputSchema": {"type": "object"}}]}),
        _ => json!({"content": [{"type": "text", "text": "wiped"}]}),
    };
    model::json(json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mcp_call_waits_and_is_answered_in_its_own_words() {
    let (service, sidecar, tool) = governed(mcp_server).await;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let listed = client::post(&sidecar, "/db/mcp", list).await;
    assert_eq!(listed.json()["result"]["tools"][0]["name"], "wipe", "what can be asked for is seen");
    let waiting = async { client::post(&sidecar, "/db/mcp", wipe(2, "a")).await };
    let approving = async {
        let id = pending(&service).await;
        let shown = service.json(&["approvals", &id]).await;
        assert_eq!((&shown["tool"], &shown["arguments"]), (&json!("wipe"), &json!({"table": "a"})));
        approve(&service, &id).await;
    };
    let (reply, ()) = tokio::join!(waiting, approving);
    assert_eq!(
        (&reply.json()["id"], &reply.json()["result"]["content"][0]["text"]),
        (&json!(2), &json!("wiped"))
    );
    assert_eq!(&tool.seen()[1].body[..], wipe(2, "a").as_bytes());
    // Another time the answer is no: a result that the model reads.
    let waiting = async { client::post(&sidecar, "/db/mcp", wipe(3, "b")).await };
    let denying = async { service.out(&["deny", &pending(&service).await, "--reason", "never b"]).await };
    let (reply, _) = tokio::join!(waiting, denying);
    let result = &reply.json()["result"];
    assert_eq!((reply.status, &reply.json()["id"], &result["isError"]), (200, &json!(3), &json!(true)));
    let text = result["content"][0]["text"].as_str().expect("a text");
    assert!(text.contains("denied by operator: never b") && text.contains("Do not retry"), "{text}");
    // The same call has another number each time: it is the same all the same.
    let reply = client::post(&sidecar, "/db/mcp", wipe(4, "b")).await;
    assert_eq!(reply.json()["result"]["_meta"]["sideguard.dev/code"], "policy_denied");
    assert_eq!(tool.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mcp_call_with_another_number_uses_the_grant() {
    let (service, sidecar, tool) = governed(mcp_server).await;
    let first = tokio::select! {
        reply = client::post(&sidecar, "/db/mcp", wipe(2, "a")) => panic!("an answer: {}", reply.text()),
        id = pending(&service) => id,
    };
    approve(&service, &first).await;
    let reply = client::post(&sidecar, "/db/mcp", wipe(7, "a")).await;
    assert_eq!((&reply.json()["id"], tool.seen().len()), (&json!(7), 1), "{}", reply.text());
    // Calls of a batch cannot wait for people.
    let batch = format!("[{},{}]", wipe(8, "a"), wipe(9, "b"));
    let reply = client::post(&sidecar, "/db/mcp", batch).await;
    assert_eq!(
        reply.json()[0]["result"]["_meta"]["sideguard.dev/code"],
        "approval_required",
        "{}",
        reply.text()
    );
    assert_eq!(service.json(&["approvals"]).await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_answer_comes_after_the_wait() {
    let stream = [model::text("hel"), model::text("lo"), model::finish("stop"), model::usage(5, 2)].concat();
    let (service, sidecar, tool) = governed(move |_| model::stream(format!("{stream}{}", model::DONE))).await;
    let asked = model::ask("hi", r#","stream":true,"stream_options":{"include_usage":true}"#);
    let waiting = async { client::post(&sidecar, model::CHAT, asked.clone()).await };
    let approving = async {
        let id = pending(&service).await;
        assert_eq!(service.json(&["approvals", &id]).await["model"], "gpt-4o-mini");
        approve(&service, &id).await;
    };
    let (reply, ()) = tokio::join!(waiting, approving);
    assert_eq!((reply.status, tool.seen().len()), (200, 1), "{}", reply.text());
    assert!(reply.text().contains("hel") && reply.text().ends_with(model::DONE), "{}", reply.text());
    // And a no is the error that the SDK knows.
    let waiting = async { client::post(&sidecar, model::CHAT, model::ask("ho", r#","stream":true"#)).await };
    let denying = async { service.out(&["deny", &pending(&service).await]).await };
    let (reply, _) = tokio::join!(waiting, denying);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (403, &json!("policy_denied")));
}

const SECRET: &str = "a secret of more than sixteen bytes";

/// Signs as both sides of a webhook do.
fn sign(time: i64, body: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = ring::hmac::sign(&key, format!("{time}.{body}").as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A webhook's answer as it is sent.
async fn call_back(service: &Service, route: &str, time: i64, signature: &str, body: &str) -> (u16, Value) {
    let to = service.url().trim_start_matches("http://").parse().expect("an address");
    let head = format!(
        "POST {route} HTTP/1.1\r\nhost: control\r\nx-sideguard-timestamp: {time}\r\nx-sideguard-signature: v1={signature}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    answered(&client::raw(to, head.as_bytes()).await.expect("an answer"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_and_answers_with_its_signature() {
    // It takes a notification at the second attempt.
    let attempts = AtomicUsize::new(0);
    let hook = Fake::start(None, move |_| {
        let status = if attempts.fetch_add(1, Ordering::AcqRel) == 0 { 503 } else { 204 };
        http::Response::builder().status(status).body(fake::whole("")).expect("a reply")
    })
    .await;
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), format!("{SECRET}\n")).expect("a secret");
    let service = Service::with(&format!(
        "  approvals: {{webhooks: [{{url: \"{}/hook\", secret: {{file: \"{}\"}}}}]}}\n",
        hook.url(),
        secret.path().display()
    ));
    let tool = Fake::json("{}").await;
    service.apply(&ask("holdSeconds: 0")).await;
    let sidecar = service.sidecar("writer", "").await;
    service.all_stand(1, "current").await;
    let path = path();
    let id = asked(&sidecar, &tool, &path, r#"{"n":1}"#).await;
    harness::until("the webhook is told", || hook.seen().len() >= 2).await;
    let told = hook.seen()[1].clone();
    let header = |name: &str| told.headers[name].to_str().expect("a text").to_owned();
    let body = String::from_utf8_lossy(&told.body).into_owned();
    let time: i64 = header("x-sideguard-timestamp").parse().expect("seconds");
    assert_eq!(header("x-sideguard-signature"), format!("v1={}", sign(time, &body)));
    let told: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&told["approval"]["id"], &told["approval"]["arguments"]), (&json!(id), &json!({"n": 1})));
    let (route, nonce) = (told["answer"].as_str().expect("a path"), told["nonce"].as_str().expect("a nonce"));

    let yes = json!({"nonce": nonce, "verdict": "approve", "by": "dora"}).to_string();
    let good = sign(time, &yes);
    for (what, time, signature, body, wanted) in [
        ("no signature", time, String::new(), yes.clone(), 401),
        ("another body's", time, good.clone(), yes.replace("approve", "deny"), 401),
        ("another time's", time + 1, good.clone(), yes.clone(), 401),
        ("an old one", time - 301, sign(time - 301, &yes), yes.clone(), 400),
        ("another nonce", time, sign(time, &yes.replace(nonce, "0")), yes.replace(nonce, "0"), 400),
    ] {
        assert_eq!(call_back(&service, route, time, &signature, &body).await.0, wanted, "{what}");
    }
    let own = json!({"nonce": nonce, "verdict": "approve", "by": "writer"}).to_string();
    assert_eq!(call_back(&service, route, time, &sign(time, &own), &own).await.0, 403, "the requester");
    assert_eq!(service.json(&["approvals", &id]).await["state"], "pending");
    let (status, approval) = call_back(&service, route, time, &good, &yes).await;
    assert_eq!((status, &approval["state"]), (200, &json!("approved")), "{approval}");
    assert_eq!(call_back(&service, route, time, &good, &yes).await.0, 409, "the same again");
    assert_eq!(post(&sidecar, &tool, &path, r#"{"n":1}"#).await.status, 200);
    let intent = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert_eq!(intent[0]["approved_by"], json!(["webhook:dora"]));
    assert_eq!(call_back(&service, route, time, &good, &yes).await.0, 409, "the same after its use");
    // The answer to one does not fit another.
    let next = asked(&sidecar, &tool, &path, r#"{"n":1}"#).await;
    let route = format!("/v1/approvals/{next}/webhook");
    assert_eq!(call_back(&service, &route, time, &good, &yes).await.0, 400);
    assert_eq!(service.json(&["approvals", &next]).await["state"], "pending");
}
