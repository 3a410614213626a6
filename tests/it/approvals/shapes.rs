//! Calls of every shape wait alike, and are answered in their callers' own words.

use harness::{Fake, Seen, Service, Sidecar, client, fake, model, setting};
use serde_json::{Value, json};

use super::{approve, pending};

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
