//! Approvals of calls that are made for others: whom the agent that it began with names says yes or no, and nobody of the
//! chain does.

use std::time::Duration;

use harness::{Fake, Service};
use serde_json::json;
use sideguard_runtime::clock::Stopwatch;

use super::{Deputy, RIGHTS, ask, obedient};

async fn key(service: &Service, name: &str, flags: &[&str]) -> String {
    let key = service.new_key(&[&[name, "--role", "approver"], flags].concat()).await;
    let file = service.dir().join(format!("{name}.key"));
    std::fs::write(&file, key).expect("a file");
    file.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_names_who_approves_and_nobody_of_the_chain_can() {
    let (service, crm) = (Service::start(), Fake::json("{}").await);
    let rights = RIGHTS.replace(
        "metadata: {name: r}\nspec: {capabilities: [\"admin:*\"]}",
        "metadata: {name: r}\nspec: {capabilities: [\"admin:*\"], approvers: [alice, \"agent=b\", r]}",
    );
    let rule = "---\napiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: careful}\nspec:\n  default_decision: allow\n  \
                rules: [{id: ask, match: {methods: [DELETE]}, decision: require_approval, reason: ask, approval: {holdSeconds: 20, approvers: [bob]}}]\n";
    service.apply(&format!("{rights}{rule}")).await;
    let b = Deputy::start(&service, "b", "", obedient(format!("{}/x", crm.url()))).await;
    let r = service.sidecar("r", &b.upstream("b")).await;
    service.all_stand(2, "current").await;
    let alice = key(&service, "alice", &[]).await;
    let bob = key(&service, "bob", &[]).await;
    let own = key(&service, "r", &[]).await;
    let speaker = key(&service, "carol", &["-l", "agent=b"]).await;
    let approving = async {
        let since = Stopwatch::start();
        let id = loop {
            let known = service.json(&["approvals", "--status", "pending"]).await;
            if let Some(id) = known["items"][0]["id"].as_str() {
                break id.to_owned();
            }
            assert!(since.elapsed() < Duration::from_secs(15), "nobody is asked");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let shown = service.json(&["approvals", &id]).await;
        assert_eq!((&shown["chain"], &shown["agent"]), (&json!(["r"]), &json!("b")));
        for (who, why) in [(&bob, "names other approvers"), (&own, "own chain"), (&speaker, "own chain")] {
            let refused = service.run(&["approve", &id, "--key-file", who]).await;
            assert!(
                refused.code == Some(1) && refused.err.contains(why),
                "{who}: {}{}",
                refused.out,
                refused.err
            );
        }
        service.out(&["approve", &id, "--key-file", &alice]).await;
    };
    let (reply, ()) = tokio::join!(ask(&r, "/b/work", "DELETE"), approving);
    assert!(reply.text().starts_with("200"), "{}", reply.text());
    assert_eq!(crm.seen().len(), 1);
}
