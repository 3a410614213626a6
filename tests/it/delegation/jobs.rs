//! Work that is handed on as a job: whoever does it may do what its submitter may do too, and no more.

use std::time::Duration;

use harness::client;
use harness::{Fake, Service, Sidecar};
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;

use super::{REPEATS, RIGHTS, ask, call};

/// `a` reads and may hand on cleaning; `b` may do everything and cleans. Jobs of people are done in `b`'s own right.
const CLEANING: &str = "\
---
apiVersion: sideguard.dev/v1
kind: WorkerPool
metadata: {name: cleaners}
spec: {topics: [\"job.crm.*\"], agents: [b]}
---
apiVersion: sideguard.dev/v1
kind: Agent
metadata: {name: a}
spec: {capabilities: [\"read:*\", \"write:job.crm.tidy\"]}
";

async fn next(worker: &Sidecar) -> Value {
    let since = Stopwatch::start();
    loop {
        let reply = client::gateway(worker, "GET", "/jobs/next?wait=10", &[], "").await;
        if reply.status == 200 {
            return reply.json();
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{}", reply.text());
    }
}

async fn done(worker: &Sidecar, job: &Value) {
    let target = format!("/jobs/{}/result", job["id"].as_str().expect("an id"));
    let kind = [("content-type", "application/json")];
    assert_eq!(client::gateway(worker, "POST", &target, &kind, "true").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_for_a_job_is_done_under_its_submitters_rights() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    let rights =
        RIGHTS.replacen("kind: Agent\nmetadata: {name: a}", "kind: Agent\nmetadata: {name: unused}", 1);
    service.apply(&format!("{rights}{CLEANING}")).await;
    let a = service.sidecar("a", REPEATS).await;
    let b = service.sidecar("b", &format!("{REPEATS}  worker: {{pools: [cleaners]}}\n")).await;
    let words = r#"{"topic":"job.crm.tidy","input":{"customer":4}}"#;
    let submitted = ask(&a, "/jobs", words).await;
    assert_eq!(submitted.status, 201, "{}", submitted.text());
    let job = next(&b).await;
    let url = format!("{}/customers/4", tool.url());
    assert_eq!(call(&b, "GET", &url, None).await.status, 200, "both may read");
    let refused = call(&b, "DELETE", &url, None).await;
    assert_eq!(refused.status, 403);
    let reason = refused.text();
    assert!(reason.contains("scope_denied") && reason.contains("a → b"), "{reason}");
    let entries = b.recorded_times(1, |entry| entry["code"] == "scope_denied").await;
    assert_eq!((&entries[0]["correlation"], &entries[0]["job"]), (&json!("job"), &job["id"]));
    assert_eq!(entries[0]["chain"], json!(["a"]));
    done(&b, &job).await;

    // What `a` may not do itself it may not have done either.
    let denied =
        client::gateway(&a, "POST", "/jobs", &[], r#"{"topic":"job.crm.delete","input":null}"#).await;
    assert_eq!(denied.status, 403, "{}", denied.text());
    // A person's job is done in the worker's own right.
    service.out(&["job", "submit", "job.crm.tidy"]).await;
    let job = next(&b).await;
    assert_eq!(call(&b, "DELETE", &url, None).await.status, 200);
    done(&b, &job).await;
    assert_eq!(tool.seen().iter().filter(|seen| seen.method == "DELETE").count(), 1);
}
