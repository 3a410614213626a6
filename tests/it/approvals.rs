//! Calls that people have to say yes to: what is approved goes out, byte for byte, once, or not at all.

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
