//! People who are told, and answer, by a signed webhook.

use std::sync::atomic::{AtomicUsize, Ordering};

use harness::{Fake, Service, client, fake};
use serde_json::{Value, json};

use super::{answered, ask, asked, path, post};

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
        "POST {route} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-sideguard-timestamp: {time}\r\nx-sideguard-signature: v1={signature}\r\n\
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
