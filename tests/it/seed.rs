//! The seed policy, as it is shipped, on real traffic.

use harness::fake::Fake;
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, model, setting};
use serde_json::json;

const SEED: &str = include_str!("../../policies/bundles/safety.yaml");
const REASON: &str = "Destructive operations blocked by policy";

fn call(tool: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool, "arguments": {}}})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_denies_a_delete_and_a_drop_with_its_reason_and_leaves_the_rest_alone() {
    let fake = Fake::start(None, |_| model::json(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#)).await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("safety.yaml", SEED)]);

    let delete = client::gateway(&sidecar, "DELETE", "/web/customers/4", &[], "").await;
    assert_eq!((delete.status, delete.header("x-should-retry")), (403, "false".to_owned()));
    assert_eq!(delete.json()["reason"], REASON);
    assert_eq!(delete.json()["code"], "policy_denied");
    assert_eq!(delete.header("x-sideguard-rule"), "safety/block-destructive");

    let drop = client::post(&sidecar, "/db/mcp", call("drop_table")).await;
    assert_eq!((drop.status, &drop.json()["result"]["isError"]), (200, &json!(true)));
    assert!(drop.json()["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains(REASON)));
    assert_eq!(fake.seen().len(), 0, "nothing of either leaves");

    assert_eq!(client::gateway(&sidecar, "GET", "/web/customers/4", &[], "").await.status, 200);
    assert_eq!(client::post(&sidecar, "/web/customers", "{}").await.status, 200);
    assert_eq!(client::post(&sidecar, "/db/mcp", call("read_rows")).await.json()["result"], json!({}));
    assert_eq!(fake.seen().len(), 3);

    let denials = || sidecar.record().iter().filter(|entry| entry["decision"] == "deny").count();
    harness::until("both refusals are on record", || denials() == 2).await;
    let record = sidecar.record();
    let denied: Vec<_> = record.iter().filter(|entry| entry["decision"] == "deny").collect();
    assert_eq!(denied.len(), 2);
    for entry in &denied {
        assert_eq!(
            (&entry["phase"], &entry["rule"]),
            (&json!("decision"), &json!("safety/block-destructive"))
        );
        assert_eq!((&entry["reason"], &entry["code"]), (&json!(REASON), &json!("policy_denied")));
    }
    assert_eq!(denied[1]["target"]["tool"], "drop_table");
    assert_eq!(setting::phase(&record, "intent").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_the_seed_denies_everything_and_says_what_would_let_it_pass() {
    let fake = Fake::json("{}").await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("safety.yaml", SEED)]);
    let read = client::gateway(&sidecar, "GET", "/web/customers", &[], "").await;
    assert_eq!(read.status, 403);
    let reason = read.json()["reason"].to_string();
    assert!(reason.contains("no rule matched") && reason.contains("decision: allow"), "{reason}");
    let chat = client::post(&sidecar, model::CHAT, model::ask("hi", "")).await;
    assert_eq!((chat.status, &chat.json()["error"]["code"]), (403, &json!("policy_denied")));
    let tool = client::post(&sidecar, "/db/mcp", call("read_rows")).await;
    assert_eq!(tool.json()["result"]["isError"], true);
    assert_eq!(fake.seen().len(), 0);
}
