//! Workers: an agent gets jobs from its sidecar and tells it how they ended; what it does for a job that was taken away stays
//! without effect.

mod commands;

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use harness::client::{self, Reply};
use harness::relay::Line;
use harness::sidecar::ALLOW;
use harness::{Fake, Relay, Service, Sidecar, fake};
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::tasks;

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
/// What lets everything pass, with that pool.
pub(crate) static POLICY: LazyLock<String> = LazyLock::new(|| format!("{ALLOW}\n---\n{POOL}"));
/// Longest time that a silent worker's jobs are waited for elsewhere.
const LOST: Duration = Duration::from_secs(30);

pub(crate) async fn service() -> Service {
    let service = Service::start();
    service.apply(&POLICY).await;
    service
}

async fn worker(service: &Service, parallel: u32) -> Sidecar {
    let spec = format!("  worker: {{pools: [crm], maxParallel: {parallel}}}\n");
    let sidecar = service.sidecar("enricher", &spec).await;
    governed(&sidecar).await;
    sidecar
}

async fn governed(sidecar: &Sidecar) {
    let since = Stopwatch::start();
    while client::admin(sidecar, "/readyz").await.status != 200 {
        assert!(since.elapsed() < Duration::from_secs(20), "never ready: {}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn submit(service: &Service, words: &[&str]) -> String {
    let job = service.json(&[&["job", "submit"], words].concat()).await;
    job["id"].as_str().expect("an id").to_owned()
}

/// Waits until a job is in a state.
pub(crate) async fn stands(service: &Service, id: &str, state: &str) -> Value {
    let since = Stopwatch::start();
    loop {
        let job = service.json(&["job", "get", id]).await;
        if job["state"] == state {
            return job;
        }
        assert!(since.elapsed() < LOST, "never {state}: {job:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The next job of a sidecar's agent.
async fn next(sidecar: &Sidecar) -> Value {
    let since = Stopwatch::start();
    loop {
        let reply = client::gateway(sidecar, "GET", "/jobs/next?wait=10", &[], "").await;
        if reply.status == 200 {
            return reply.json();
        }
        assert_eq!(reply.status, 204, "{}", reply.text());
        assert!(since.elapsed() < LOST, "no job came: {}", sidecar.log());
    }
}

async fn tell(sidecar: &Sidecar, id: &str, what: &str, body: &Value) -> Reply {
    client::post(sidecar, &format!("/jobs/{id}/{what}"), body.to_string()).await
}

async fn call(sidecar: &Sidecar, tool: &Fake, headers: &[(&str, &str)]) -> Reply {
    client::absolute(sidecar, "POST", &format!("{}/effect", tool.url()), headers, "{}").await
}

fn code(reply: &Reply) -> String {
    reply.json()["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_agent_gets_jobs_and_tells_how_they_ended() {
    let (service, tool) = (service().await, Fake::json("{}").await);
    let sidecar = worker(&service, 1).await;
    let id = submit(&service, &["job.crm.enrich", "--input", r#"{"customer": 7}"#]).await;
    let job = next(&sidecar).await;
    assert_eq!((&job["id"], &job["input"]), (&json!(id), &json!({ "customer": 7 })));
    assert_eq!((&job["topic"], &job["attempt"]), (&json!("job.crm.enrich"), &json!(1)));
    assert!(job["traceparent"].as_str().is_some_and(|trace| trace.len() == 55), "{job}");
    let none = client::gateway(&sidecar, "GET", "/jobs/next?wait=0", &[], "").await;
    assert_eq!(none.status, 204, "it has no room");
    let listed = client::gateway(&sidecar, "GET", "/jobs", &[], "").await.json();
    assert_eq!(listed["items"][0]["id"], json!(id));
    assert_eq!(tell(&sidecar, &id, "progress", &json!({ "done": 3 })).await.status, 204);
    assert_eq!(stands(&service, &id, "running").await["progress"], json!({ "done": 3 }));
    // What it calls meanwhile is on record as done for the job.
    assert_eq!(call(&sidecar, &tool, &[]).await.status, 200);
    let recorded = sidecar.recorded(|entry| entry["phase"] == "outcome" && entry["job"] == json!(id)).await;
    assert_eq!(recorded.len(), 1);
    for _ in 0..2 {
        let told = tell(&sidecar, &id, "result", &json!({ "name": "Ann" })).await;
        assert_eq!(told.status, 204, "an answer can get lost: {}", told.text());
    }
    assert_eq!(stands(&service, &id, "succeeded").await["result"], json!({ "name": "Ann" }));

    // What is large has a place of its own at control, which the agent does not have to know.
    let long = json!("é".repeat(20_000));
    let id = submit(&service, &["job.crm.enrich", "--input", &long.to_string()]).await;
    assert_eq!(next(&sidecar).await["input"], long);
    assert_eq!(tell(&sidecar, &id, "result", &long).await.status, 204);
    assert_eq!(
        client::gateway(&sidecar, "GET", &format!("/jobs/{id}"), &[], "").await.json()["result"],
        long
    );

    let id = submit(&service, &["job.crm.enrich", "--retries", "1"]).await;
    for attempt in 1..=2 {
        let job = next(&sidecar).await;
        assert_eq!((&job["id"], &job["attempt"]), (&json!(id), &json!(attempt)));
        let told = tell(&sidecar, &id, "failure", &json!({ "message": "no line", "retry": true })).await;
        assert_eq!(told.status, 204, "{}", told.text());
    }
    assert_eq!(stands(&service, &id, "failed").await["message"], "no line");
    assert_eq!(tell(&sidecar, "0123", "result", &json!(1)).await.status, 404);
    assert_eq!(tell(&sidecar, &id, "failure", &json!({ "retry": true })).await.status, 204, "told before");
    assert_eq!(client::gateway(&sidecar, "GET", "/jobs/next?wait=61", &[], "").await.status, 400);
    assert_eq!(client::gateway(&sidecar, "PUT", "/jobs/next", &[], "").await.status, 405);
}

#[tokio::test]
async fn a_worker_that_was_stopped_makes_no_call_for_a_job_that_it_lost() {
    let (service, tool) = (service().await, Fake::json("{}").await);
    let (zombie, other) = (worker(&service, 1).await, worker(&service, 1).await);
    let id = submit(&service, &["job.crm.enrich", "--idempotent"]).await;
    assert_eq!(next(&zombie).await["id"], json!(id));
    assert_eq!(call(&zombie, &tool, &[]).await.status, 200);
    zombie.signal("STOP");
    // Its next call waits in the kernel's queue.
    let url = format!("{}/effect", tool.url());
    let at = zombie.outbound();
    let early = tasks::spawn("early", async move { client::absolute_at(at, "POST", &url, &[], "{}").await });
    assert_eq!(next(&other).await["id"], json!(id), "it goes to another worker");
    let before = tool.seen().len();
    zombie.signal("CONT");
    let refused = early.await.expect("a reply");
    assert_eq!((refused.status, code(&refused).as_str()), (403, "fenced"), "{}", refused.text());
    assert_eq!(refused.header("x-should-retry"), "false");
    let later = call(&zombie, &tool, &[]).await;
    assert_eq!((later.status, code(&later).as_str()), (403, "fenced"), "{}", later.text());
    let rejected = tell(&zombie, &id, "result", &json!("stale")).await;
    assert_eq!((rejected.status, code(&rejected).as_str()), (409, "fenced"), "{}", rejected.text());
    assert_eq!(tool.seen().len(), before, "nothing reached the tool");
    assert_eq!(tell(&other, &id, "result", &json!("fresh")).await.status, 204);
    assert_eq!(stands(&service, &id, "succeeded").await["result"], "fresh");
    // It has let go: it calls as itself, and gets the next job.
    assert_eq!(call(&zombie, &tool, &[]).await.status, 200);
    assert_eq!(tell(&zombie, &id, "result", &json!("stale")).await.status, 409, "and is told the same again");
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_fences_itself_and_cuts_what_is_under_way() {
    let service = service().await;
    let (parts, body) = fake::parts();
    let body = parking_lot::Mutex::new(Some(body));
    let tool = Fake::start(None, move |_| {
        let body = body.lock().take().unwrap_or_else(|| fake::whole("{}"));
        fake::reply("application/octet-stream", body)
    })
    .await;
    let relay = Relay::start(&[service.url()]).await;
    let spec = "  worker: {pools: [crm]}\n";
    let sidecar = service.sidecar_at(&relay.url(), "", "enricher", spec).await;
    governed(&sidecar).await;
    let id = submit(&service, &["job.crm.enrich", "--idempotent"]).await;
    assert_eq!(next(&sidecar).await["id"], json!(id));
    let stream = client::gateway_open(&sidecar, "GET", "/jobs", &[], "").await;
    assert_eq!(stream.status(), 200);
    let streamed = call(&sidecar, &tool, &[]);
    let cut = async {
        harness::until("the tool answers", || tool.seen().len() == 1).await;
        parts.send("first".into()).await.expect("a tool that sends");
        relay.set(Line::Silent);
        let since = Stopwatch::start();
        loop {
            let reply = call(&sidecar, &tool, &[]).await;
            if reply.status == 403 {
                assert_eq!(code(&reply), "fenced", "{}", reply.text());
                assert!(reply.text().contains("could not be renewed"), "{}", reply.text());
                return;
            }
            assert!(since.elapsed() < LOST, "never fenced");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The agent sees its answer broken off.
    let (broken, ()) = tokio::join!(streamed, cut);
    assert!(broken.body.is_empty(), "the answer has no proper end: {}", broken.text());
    sidecar.recorded(|entry| entry["phase"] == "outcome" && entry["code"] == "fenced").await;
    // A result that nobody hears is not lost.
    relay.set(Line::Whole);
    let told = tell(&sidecar, &id, "result", &json!(1)).await;
    assert!(matches!(told.status, 204 | 409), "{}", told.text());
}

#[tokio::test]
async fn of_several_jobs_a_call_belongs_to_the_one_whose_trace_it_is_in() {
    let (service, tool) = (service().await, Fake::json("{}").await);
    let sidecar = worker(&service, 2).await;
    for _ in 0..2 {
        submit(&service, &["job.crm.enrich"]).await;
    }
    let (one, two) = (next(&sidecar).await, next(&sidecar).await);
    let trace = |job: &Value| job["traceparent"].as_str().expect("a trace").to_owned();
    let (taken, kept) = (one["id"].as_str().expect("an id"), trace(&two));
    assert_eq!(call(&sidecar, &tool, &[]).await.status, 200, "either may go on");
    service.out(&["job", "cancel", taken]).await;
    let since = Stopwatch::start();
    while call(&sidecar, &tool, &[("traceparent", &trace(&one))]).await.status != 403 {
        assert!(since.elapsed() < LOST, "never fenced");
    }
    assert_eq!(call(&sidecar, &tool, &[("traceparent", &kept)]).await.status, 200);
    let unknown = call(&sidecar, &tool, &[]).await;
    assert_eq!((unknown.status, code(&unknown).as_str()), (403, "fenced"), "{}", unknown.text());
    assert_eq!(tell(&sidecar, taken, "failure", &json!({ "message": "so be it" })).await.status, 409);
    assert_eq!(call(&sidecar, &tool, &[]).await.status, 200, "only the other one is left");
    sidecar.recorded_times(2, |entry| entry["job"] == two["id"] && entry["phase"] == "outcome").await;
}

#[tokio::test]
async fn a_worker_that_drains_gives_back_what_nobody_has_and_lets_the_rest_end() {
    let service = service().await;
    let mut sidecar = worker(&service, 2).await;
    let running = submit(&service, &["job.crm.enrich"]).await;
    assert_eq!(next(&sidecar).await["id"], json!(running));
    // The agent was just here: the sidecar takes one more.
    let waiting = submit(&service, &["job.crm.enrich"]).await;
    stands(&service, &waiting, "dispatched").await;
    sidecar.signal("TERM");
    let back = stands(&service, &waiting, "pending").await;
    assert_eq!(back["events"].as_array().and_then(|all| all.last()).expect("a step")["reason"], "given_back");
    assert_eq!(client::gateway(&sidecar, "GET", "/jobs/next?wait=5", &[], "").await.status, 503);
    assert_eq!(tell(&sidecar, &running, "result", &json!("done")).await.status, 204);
    stands(&service, &running, "succeeded").await;
    let since = Stopwatch::start();
    while sidecar.ended().is_none() {
        assert!(since.elapsed() < LOST, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(sidecar.ended().is_some_and(|status| status.success()));
}

#[tokio::test]
async fn an_agent_submits_jobs_under_policy_and_sees_its_own_alone() {
    let service = service().await;
    service
        .apply("version: v1\nrules:\n  - {id: no-drops, match: {topics: [\"job.*.drop_all\"], points: [job.submit]}, decision: deny, reason: never}\n")
        .await;
    let sidecar = worker(&service, 1).await;
    let stranger = service.sidecar("other", "").await;
    governed(&stranger).await;
    let outer = submit(&service, &["job.crm.enrich"]).await;
    assert_eq!(next(&sidecar).await["id"], json!(outer));
    let since = Stopwatch::start();
    let refused = loop {
        let refused = client::post(&sidecar, "/jobs", r#"{"topic": "job.crm.drop_all", "input": {}}"#).await;
        if refused.status == 403 || since.elapsed() > LOST {
            break refused;
        }
    };
    assert_eq!((refused.status, code(&refused).as_str()), (403, "policy_denied"), "{}", refused.text());
    let made = client::post(&sidecar, "/jobs", r#"{"topic": "job.crm.mail", "input": {"to": 7}}"#).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    assert_eq!((&made["by"]["name"], &made["by"]["job"]), (&json!("enricher"), &json!(outer)));
    let path = format!("/jobs/{}", made["id"].as_str().expect("an id"));
    assert_eq!(
        client::gateway(&sidecar, "GET", &path, &[], "").await.json()["spec"]["topic"],
        "job.crm.mail"
    );
    for method in ["GET", "DELETE"] {
        assert_eq!(client::gateway(&stranger, method, &path, &[], "").await.status, 404, "{method}");
    }
    let taken_back = client::gateway(&sidecar, "DELETE", &path, &[], "").await;
    assert_eq!((taken_back.status, &taken_back.json()["state"]), (200, &json!("cancelled")));
    assert_eq!(
        client::gateway(&stranger, "GET", "/jobs/next", &[], "").await.status,
        404,
        "it has no worker"
    );
    for body in [r#"{"topic": "crm"}"#, r#"{"topic": "job.crm.x", "agent": "boss"}"#, "[]"] {
        assert_eq!(client::post(&sidecar, "/jobs", body).await.status, 400, "{body}");
    }
    let submitted =
        sidecar.recorded(|entry| entry["point"] == "job.submit" && entry["phase"] == "outcome").await;
    assert_eq!((&submitted[0]["topic"], &submitted[0]["job"]), (&json!("job.crm.mail"), &json!(outer)));
}

#[tokio::test]
async fn only_the_workers_own_agent_gets_its_jobs() {
    let service = service().await;
    let spec = "  agents: [{agent: {name: other}, listen: \"127.0.0.1:0\"}]\n  worker: {pools: [crm], agent: other}\n";
    let sidecar = service.sidecar("enricher", spec).await;
    governed(&sidecar).await;
    let refused = client::gateway(&sidecar, "GET", "/jobs/next", &[], "").await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "scope_denied"), "{}", refused.text());
    let id = submit(&service, &["job.crm.enrich"]).await;
    let refused = tell(&sidecar, &id, "result", &json!(1)).await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "scope_denied"), "{}", refused.text());
}

#[tokio::test]
async fn the_example_agent_does_jobs() {
    let service = service().await;
    let sidecar = worker(&service, 1).await;
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/jobs/agent.py");
    let mut agent = tokio::process::Command::new("python3")
        .arg(agent)
        .env("SIDEGUARD_JOBS_URL", format!("http://{}/jobs", sidecar.outbound()))
        .kill_on_drop(true)
        .spawn()
        .expect("python3");
    let id = submit(&service, &["job.crm.enrich", "--input", r#"{"customer": 7, "steps": 1}"#]).await;
    let done = stands(&service, &id, "succeeded").await;
    assert_eq!(done["result"], json!({ "customer": 7, "name": "Customer 7", "steps": 1 }));
    assert_eq!(done["progress"], json!({ "step": 1, "of": 1 }));
    agent.kill().await.expect("its end");
}
