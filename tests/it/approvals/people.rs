//! Who may answer, how often, and for how long an answer holds.

use std::time::Duration;

use serde_json::{Value, json};

use super::{api, approvals, approve, asked, key, path, pending, post, scene};

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
