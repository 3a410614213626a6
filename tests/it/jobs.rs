//! Jobs at control: taken, judged, given to workers, followed to their end. The workers here are the test's own words on the
//! wire; real ones are in `workers.rs`.

use std::time::Duration;

use harness::client::{self, Reply};
use harness::sidecar::ALLOW;
use harness::{Backend, Service};
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;

harness::on_every_store! {
    a_job_goes_to_a_worker_and_its_result_comes_back
    a_worker_that_falls_silent_loses_its_jobs_and_its_say
    what_must_not_be_done_twice_is_dead_lettered
    policy_is_asked_at_every_step
    people_say_yes_to_a_job_once
    a_key_of_its_own_makes_a_job_one_job
    what_is_nested_too_deep_is_not_kept
    tenants_see_their_own_jobs_alone
}

/// A pool whose silent workers are lost soon.
const POOL: &str = "\
apiVersion: sideguard.dev/v1
kind: WorkerPool
metadata: {name: crm}
spec:
  topics: [\"job.crm.*\"]
  backoff: {base: 100ms, max: 100ms}
  heartbeat: {stale: 2s, dead: 5s}
";

/// A worker in the test's own hands.
struct Worker {
    url: String,
    key: String,
    process: String,
    pools: Vec<&'static str>,
}

impl Worker {
    async fn new(service: &Service, tenant: &str) -> Self {
        let token = service.out(&["token", "--tenant", tenant]).await;
        let id = sideguard_runtime::id::token(8);
        let body = json!({ "token": token.trim(), "sidecar": id }).to_string();
        let kind = [("content-type", "application/json")];
        let enrolled = client::direct(service.url(), "POST", "/v1/enrol", &kind, &body).await;
        assert_eq!(enrolled.status, 200, "{}", enrolled.text());
        let key = enrolled.json()["key"].as_str().expect("a key").to_owned();
        Self { url: service.url().to_owned(), key, process: id, pools: vec!["crm"] }
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, &body.to_string()).await
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        let bearer = format!("Bearer {}", self.key);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        client::direct(&self.url, method, path, &headers, body).await
    }

    async fn work(&self, leases: &[(&str, u64)]) -> Value {
        let leases: Vec<Value> =
            leases.iter().map(|(job, epoch)| json!({ "job": job, "epoch": epoch })).collect();
        let skills = json!({
            "agent": "enricher", "pools": self.pools, "capabilities": ["mail"], "maxParallel": 2,
        });
        let told = self
            .post("/v1/work", &json!({ "skills": skills, "process": self.process, "leases": leases }))
            .await;
        assert_eq!(told.status, 200, "{}", told.text());
        told.json()
    }

    /// Works until it is given a job: its id and the lease's number.
    async fn given(&self) -> (String, u64) {
        let since = Stopwatch::start();
        loop {
            let told = self.work(&[]).await;
            if let Some(job) = told["jobs"].as_array().and_then(|jobs| jobs.first()) {
                assert!(told["leaseMs"].as_u64().is_some_and(|lease| lease > 1_000), "{told}");
                let id = job["job"]["id"].as_str().expect("an id").to_owned();
                return (id, job["epoch"].as_u64().expect("a number"));
            }
            assert!(since.elapsed() < Duration::from_secs(20), "no job came");
        }
    }

    async fn start(&self, job: &str, epoch: u64) -> u16 {
        self.post(&format!("/v1/jobs/{job}/start"), &json!({ "epoch": epoch })).await.status
    }

    async fn end(&self, job: &str, epoch: u64, outcome: &Value) -> u16 {
        let body = json!({ "epoch": epoch, "outcome": outcome });
        self.post(&format!("/v1/jobs/{job}/result"), &body).await.status
    }
}

async fn submit(service: &Service, words: &[&str]) -> Value {
    service.json(&[&["job", "submit"], words].concat()).await
}

async fn job(service: &Service, id: &str) -> Value {
    service.json(&["job", "get", id]).await
}

/// Waits until a job is in a state.
async fn stands(service: &Service, id: &str, state: &str) -> Value {
    let since = Stopwatch::start();
    loop {
        let job = job(service, id).await;
        if job["state"] == state {
            return job;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "never {state}: {job:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn with_pool(backend: Backend) -> (Service, Worker) {
    let service = Service::on(backend);
    service.apply(&format!("{ALLOW}\n---\n{POOL}")).await;
    let worker = Worker::new(&service, "default").await;
    (service, worker)
}

async fn a_job_goes_to_a_worker_and_its_result_comes_back(backend: Backend) {
    let (service, worker) = with_pool(backend).await;
    let made =
        submit(&service, &["job.crm.enrich", "--input", r#"{"customer": 7}"#, "--requires", "mail"]).await;
    assert_eq!(made["state"], "pending");
    let (id, epoch) = worker.given().await;
    assert_eq!(made["id"].as_str(), Some(id.as_str()));
    assert_eq!(worker.end(&id, epoch, &json!({ "succeeded": 1 })).await, 204, "even before it was started");
    assert_eq!(worker.end(&id, epoch, &json!({ "succeeded": 1 })).await, 204, "an answer can get lost");
    let done = stands(&service, &id, "succeeded").await;
    assert_eq!((&done["result"], &done["attempts"]), (&json!(1), &json!(1)));

    // A large input and result have places of their own.
    let long = "é".repeat(20_000);
    submit(&service, &["job.crm.enrich", "--input", &json!(long).to_string()]).await;
    let (id, epoch) = worker.given().await;
    assert_eq!(worker.start(&id, epoch).await, 204);
    assert_eq!(worker.start(&id, epoch).await, 204, "an answer can get lost");
    assert_eq!(worker.start(&id, epoch + 1).await, 409);
    assert_eq!(stands(&service, &id, "running").await["hold"]["agent"], "enricher");
    assert_eq!(worker.end(&id, epoch, &json!({ "succeeded": long })).await, 204);
    let done = stands(&service, &id, "succeeded").await;
    assert_eq!(done["largeResult"]["bytes"], 40_002);
    for part in ["input", "result"] {
        let text = service.out(&["job", "get", &id, "--only", part]).await;
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), json!(long));
    }

    // What a worker says that failed is tried again as often as the job says.
    submit(&service, &["job.crm.enrich", "--retries", "1"]).await;
    let failed = json!({ "failed": { "message": "no line", "retry": true } });
    for _ in 0..2 {
        let (id, epoch) = worker.given().await;
        assert_eq!(worker.end(&id, epoch, &failed).await, 204);
    }
    let listed = service.out(&["job", "get", "--status", "failed"]).await;
    assert!(listed.contains("job.crm.enrich") && listed.contains("failed"), "{listed}");
    let shown = service.out(&["get", "workers"]).await;
    assert!(shown.contains("enricher") && shown.contains("live"), "{shown}");
}

async fn a_worker_that_falls_silent_loses_its_jobs_and_its_say(backend: Backend) {
    let (service, worker) = with_pool(backend).await;
    let other = Worker::new(&service, "default").await;
    submit(&service, &["job.crm.enrich", "--idempotent"]).await;
    let (id, epoch) = worker.given().await;
    assert_eq!(worker.start(&id, epoch).await, 204);
    // The one is silent from now on, the other works.
    let (again, newer) = other.given().await;
    assert!(again == id && newer > epoch, "{again} {newer}");
    assert_eq!(worker.end(&id, epoch, &json!({ "succeeded": "stale" })).await, 409);
    let told = worker.work(&[(&id, epoch)]).await;
    assert_eq!(told["over"], json!([{ "job": id, "epoch": epoch }]), "{told}");
    assert_eq!(other.start(&id, newer).await, 204);
    assert_eq!(other.end(&id, newer, &json!({ "succeeded": "fresh" })).await, 204);
    let done = stands(&service, &id, "succeeded").await;
    assert_eq!(done["result"], "fresh");
    let reasons: Vec<&str> = done["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter_map(|event| event["reason"].as_str())
        .collect();
    assert!(reasons.contains(&"worker_lost"), "{done:#}");
}

async fn what_must_not_be_done_twice_is_dead_lettered(backend: Backend) {
    let (service, worker) = with_pool(backend).await;
    submit(&service, &["job.crm.enrich"]).await;
    let (id, epoch) = worker.given().await;
    assert_eq!(worker.start(&id, epoch).await, 204);
    // A new process of the same worker knows nothing of it.
    let anew = Worker {
        process: "anew".to_owned(),
        url: worker.url.clone(),
        key: worker.key.clone(),
        pools: worker.pools.clone(),
    };
    anew.work(&[]).await;
    let dead = stands(&service, &id, "dead_lettered").await;
    assert_eq!(dead["reason"], "not_idempotent");
    assert!(service.out(&["dlq", "list"]).await.contains(&id));
    // People decide.
    service.out(&["dlq", "retry", &id]).await;
    let (again, epoch) = anew.given().await;
    assert_eq!(again, id);
    assert_eq!(anew.start(&id, epoch).await, 204);
    assert_eq!(service.out(&["job", "cancel", &id]).await, format!("{id} cancelled\n"));
    assert_eq!(anew.end(&id, epoch, &json!({ "succeeded": 1 })).await, 409, "it was taken back");
}

async fn policy_is_asked_at_every_step(backend: Backend) {
    let (service, worker) = with_pool(backend).await;
    service
        .apply(
            "version: v1\nrules:\n  - {id: no-drops, match: {topics: [\"job.*.drop\"], points: [job.submit]}, decision: deny, reason: never}\n  \
             - {id: no-mail, match: {topics: [job.crm.mail], points: [job.dispatch]}, decision: deny, reason: not today}\n  \
             - {id: no-secrets, match: {points: [job.result], content: {patterns: [\"hush\"]}}, decision: deny, reason: it tells too much}\n",
        )
        .await;
    let refused = service.run(&["job", "submit", "job.crm.drop"]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("submit_denied") && refused.err.contains("never"), "{}", refused.err);
    let made = submit(&service, &["job.crm.mail"]).await;
    worker.work(&[]).await;
    let denied = stands(&service, made["id"].as_str().expect("an id"), "denied").await;
    assert_eq!(denied["reason"], "dispatch_denied");
    submit(&service, &["job.crm.enrich"]).await;
    let (id, epoch) = worker.given().await;
    assert_eq!(worker.end(&id, epoch, &json!({ "succeeded": "hush" })).await, 204);
    let failed = stands(&service, &id, "failed").await;
    assert_eq!((&failed["reason"], &failed["result"]), (&json!("result_denied"), &Value::Null));
    // Nobody's policy: nothing is taken.
    let empty = Service::on(backend);
    let refused = empty.run(&["job", "submit", "job.crm.enrich"]).await;
    assert!(refused.code == Some(1) && refused.err.contains("nothing is applied"), "{}", refused.err);
}

async fn people_say_yes_to_a_job_once(backend: Backend) {
    let (service, worker) = with_pool(backend).await;
    service
        .apply("version: v1\nrules:\n  - {id: ask, match: {topics: [job.crm.refund], points: [job.submit]}, decision: require_approval, reason: money}\n")
        .await;
    let made = submit(&service, &["job.crm.refund", "--input", "12"]).await;
    assert_eq!(made["state"], "approval_required", "{made:#}");
    let (id, approval) = (made["id"].as_str().expect("an id"), made["approval"].as_str().expect("an id"));
    let shown = service.out(&["approvals", approval]).await;
    assert!(shown.contains("job.crm.refund") && shown.contains("12"), "{shown}");
    let alice = service.new_key(&["alice", "--role", "approver"]).await;
    let answer = async |approval: &str, verdict: &str| {
        let body = json!({ "verdict": verdict, "reason": "so" }).to_string();
        let answered = service.ask(&alice, "POST", &format!("/v1/approvals/{approval}"), &body).await;
        assert_eq!(answered.status, 200, "{}", answered.text());
    };
    answer(approval, "approve").await;
    let (given, epoch) = worker.given().await;
    assert_eq!(given, id);
    assert_eq!(worker.end(id, epoch, &json!({ "succeeded": 1 })).await, 204);
    let taken = submit(&service, &["job.crm.refund", "--input", "14"]).await;
    service.out(&["job", "cancel", taken["id"].as_str().expect("an id")]).await;
    let asked = service.ask(&alice, "GET", "/v1/approvals?state=pending", "").await;
    assert_eq!(asked.json()["items"], json!([]), "nobody is asked about what was taken back");
    let denied = submit(&service, &["job.crm.refund", "--input", "13"]).await;
    answer(denied["approval"].as_str().expect("an id"), "deny").await;
    let over = stands(&service, denied["id"].as_str().expect("an id"), "denied").await;
    assert_eq!(over["reason"], "approval_denied");
}

async fn a_key_of_its_own_makes_a_job_one_job(backend: Backend) {
    let (service, _) = with_pool(backend).await;
    let words = ["job.crm.enrich", "--idempotency-key", "order-7"];
    let first = submit(&service, &words).await;
    assert_eq!(submit(&service, &words).await["id"], first["id"]);
    let other = submit(&service, &["job.crm.enrich", "--idempotency-key", "order-8"]).await;
    assert_ne!(other["id"], first["id"]);
    for words in [
        &["job.crm"][..],
        &["Job.crm.enrich"],
        &["job.crm.enrich", "--input", "{"],
        &["job.crm.enrich", "--priority", "10"],
        &["job.crm.enrich", "--idempotency-key", "run/0/x/0/1"],
        &["job.crm.enrich", "--input", &nested(65)],
    ] {
        let ran = service.run(&[&["job", "submit"], words].concat()).await;
        assert_ne!(ran.code, Some(0), "{words:?}");
    }
}

/// JSON that is nested so deep.
fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

async fn what_is_nested_too_deep_is_not_kept(backend: Backend) {
    let (service, worker) = with_pool(backend).await;
    for (depth, state) in [(64, "succeeded"), (65, "failed")] {
        let made = submit(&service, &["job.crm.enrich", "--input", &nested(64)]).await;
        let (id, epoch) = worker.given().await;
        assert_eq!(made["id"].as_str(), Some(id.as_str()));
        let body = format!("{{\"epoch\": {epoch}, \"outcome\": {{\"succeeded\": {}}}}}", nested(depth));
        let said = worker.ask("POST", &format!("/v1/jobs/{id}/result"), &body).await;
        assert_eq!(said.status, 204, "{}", said.text());
        stands(&service, &id, state).await;
    }
}

async fn tenants_see_their_own_jobs_alone(backend: Backend) {
    let (service, _) = with_pool(backend).await;
    let acme = submit(&service, &["job.crm.enrich", "--tenant", "acme"]).await;
    let (own, stranger) = (Worker::new(&service, "acme").await, Worker::new(&service, "umbrella").await);
    let (id, epoch) = own.given().await;
    assert_eq!(acme["id"].as_str(), Some(id.as_str()));
    for (path, body) in [
        (format!("/v1/jobs/{id}/start"), json!({ "epoch": epoch })),
        (format!("/v1/jobs/{id}/result"), json!({ "epoch": epoch, "outcome": { "succeeded": 1 } })),
    ] {
        assert_eq!(stranger.post(&path, &body).await.status, 409, "{path}");
    }
    let seen = stranger.ask("GET", &format!("/v1/jobs/{id}"), "").await;
    assert_eq!(seen.status, 404, "{}", seen.text());
    assert_eq!(stranger.work(&[(&id, epoch)]).await["over"][0]["job"], id.as_str());
    assert_eq!(own.end(&id, epoch, &json!({ "succeeded": 1 })).await, 204);
}
