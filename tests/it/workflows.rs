//! Workflows end to end: the shipped example, with a worker and a person, while control is killed again and again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::Service;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sideguard_client::{Client, ClientError};
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::secret::Secret;
use sideguard_runtime::tasks;
use sideguard_types::control::approvals::State;
use sideguard_types::control::jobs::{Ended, Outcome, Skills, Start, Work};
use sideguard_types::control::{Enrol, TokenRequest};
use sideguard_types::workflow::{Run, RunState};

/// Longest time of a run.
const PATIENCE: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(5);
const INPUT: &str = r#"{"order": "A-17", "items": ["lamp", "desk"], "total": 1200}"#;

fn example() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/workflows/order.yaml");
    std::fs::read_to_string(file).expect("the example")
}

/// A worker that speaks to control as a sidecar does. What it has begun to tell it tells until it is taken.
struct Worker {
    client: Client,
    fails: Vec<&'static str>,
    /// Whether it waits, with a job under way, until control was killed.
    waits: AtomicBool,
    /// Whether control is killed with each job under way.
    kills: bool,
    seen: Mutex<Vec<(String, Value)>>,
}

impl Worker {
    async fn begin(service: &Service, fails: &[&'static str], kills: bool) -> (Arc<Self>, tasks::Owned) {
        let operator = client(service);
        let request = TokenRequest { tenant: None, agent: Some("shop".to_owned()), seconds: None };
        let token = operator.token(&request).await.expect("a token");
        let enrol = Enrol { token: token.token, sidecar: "worker-1".to_owned(), key: None };
        let enrolled = operator.enrol(&enrol).await.expect("a key");
        let client = operator.with_key(&Secret::new(enrolled.key)).expect("a client");
        let worker = Arc::new(Self {
            client,
            fails: fails.to_vec(),
            waits: AtomicBool::new(false),
            kills,
            seen: Mutex::default(),
        });
        let own = Arc::clone(&worker);
        let task = tasks::spawn("worker", async move { own.works().await });
        (worker, tasks::Owned::new(&task))
    }

    async fn works(&self) {
        let skills = Skills {
            agent: "shop".to_owned(),
            pools: vec!["shop".to_owned()],
            max_parallel: 8,
            ..Skills::default()
        };
        let work = Work { skills, process: "p".to_owned(), leases: Vec::new(), draining: false };
        loop {
            let Ok(told) = self.client.work(&work, SOON).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            for assignment in told.jobs {
                let (job, epoch) = (assignment.job, assignment.epoch);
                if !said(|| self.client.start_job(&job.id, Start { epoch }, SOON)).await {
                    continue;
                }
                self.waits.store(self.kills, Ordering::SeqCst);
                self.seen.lock().push((job.spec.topic.clone(), job.spec.input.clone()));
                let outcome = match self.fails.contains(&job.spec.topic.as_str()) {
                    true => Outcome::Failed { message: "no luck".to_owned(), retry: false },
                    false => Outcome::Succeeded(json!({ "done": job.spec.topic })),
                };
                while self.waits.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let ended = Ended { epoch, outcome };
                said(|| self.client.end_job(&job.id, &ended, SOON)).await;
            }
        }
    }

    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (topic, input) in &*self.seen.lock() {
            let item = input["item"].as_str().unwrap_or_default();
            *counts.entry(format!("{topic} {item}").trim().to_owned()).or_insert(0) += 1;
        }
        counts
    }
}

/// Tells something until it is taken; false when it is refused.
async fn said<F: Future<Output = Result<(), ClientError>>>(tell: impl Fn() -> F) -> bool {
    let since = Stopwatch::start();
    loop {
        match tell().await {
            Ok(()) => return true,
            Err(ClientError::Refused(problem)) if problem.status == 409 => return false,
            Err(error) => assert!(since.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn client(service: &Service) -> Client {
    Client::new(service.url(), Some(Secret::new(service.key())), None).expect("a client")
}

/// Where everything of a run stands: another one of these is another boundary.
fn boundary(run: &Run) -> String {
    let steps = run.steps.iter().map(|step| {
        let works: Vec<String> =
            step.works.iter().map(|work| format!("{}{}", work.state.as_str(), work.job.is_some())).collect();
        format!("{}{works:?}", step.state.as_str())
    });
    let undo = run.undo.iter().map(|undo| format!("{}{}", undo.work.state.as_str(), undo.work.job.is_some()));
    steps.chain(undo).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_survives_kill_9_of_control_at_every_boundary_that_is_seen() {
    let mut service = Service::start();
    service.apply(&example()).await;
    let (worker, _task) = Worker::begin(&service, &["job.shop.ship"], true).await;
    let id = service.out(&["workflow", "run", "order", "--input", INPUT]).await;
    let id = id.split(' ').next().expect("an id").to_owned();
    let (since, mut kills, mut before, mut asked) = (Stopwatch::start(), 0, String::new(), 0);
    let run = loop {
        assert!(since.elapsed() < PATIENCE, "it does not end: {before}");
        let Ok(run) = client(&service).run(&id).await else { continue };
        if run.state.is_over() {
            break run;
        }
        let now = boundary(&run);
        if now != before || worker.waits.load(Ordering::SeqCst) {
            before = now;
            kills += 1;
            service = service.again();
            worker.waits.store(false, Ordering::SeqCst);
            continue;
        }
        let pending = client(&service).approvals(Some(State::Pending), &Default::default()).await;
        for approval in pending.map(|page| page.items).unwrap_or_default() {
            asked += 1;
            service.out(&["approve", &approval.id, "--reason", "as agreed"]).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(run.state, RunState::Compensated, "{run:#?}");
    // How many are seen from outside depends on the machine; a unit test kills the driver at each of its writes.
    assert!(kills >= 5, "killed {kills} times only");
    assert_eq!(asked, 1);
    let once = [
        "job.shop.charge",
        "job.shop.refund",
        "job.shop.release desk",
        "job.shop.release lamp",
        "job.shop.reserve desk",
        "job.shop.reserve lamp",
        "job.shop.ship",
    ];
    let once: BTreeMap<String, usize> = once.iter().map(|name| ((*name).to_owned(), 1)).collect();
    assert_eq!(worker.counts(), once, "after {kills} kills each job was done once");
    let shown = service.out(&["workflow", "get", &id, "-o", "wide"]).await;
    for line in ["State:     compensated", "reserve[0]", "undone", "asked"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_run_look_at_cancel_and_repeat_runs() {
    let service = Service::start();
    service.apply(&example()).await;
    let (worker, _task) = Worker::begin(&service, &[], false).await;
    let small = INPUT.replace("1200", "12");
    let ran = service.json(&["workflow", "run", "order", "--input", &small, "--wait"]).await;
    assert_eq!(
        (ran["state"].as_str(), &ran["output"]["charge"]),
        (Some("succeeded"), &json!({ "done": "job.shop.charge" }))
    );
    assert_eq!(worker.counts()["job.shop.charge"], 1);
    let id = ran["id"].as_str().expect("an id");
    let again = service.json(&["workflow", "rerun", id, "--from", "ship", "--wait"]).await;
    assert_eq!((again["state"].as_str(), again["rerunOf"].as_str()), (Some("succeeded"), Some(id)));
    assert_eq!((worker.counts()["job.shop.charge"], worker.counts()["job.shop.ship"]), (1, 2));
    let waits = service.out(&["workflow", "run", "order", "--input", INPUT]).await;
    let waits = waits.split(' ').next().expect("an id").to_owned();
    let since = Stopwatch::start();
    while !service.out(&["approvals"]).await.contains("workflow/order") {
        assert!(since.elapsed() < SOON * 2, "nobody is asked");
    }
    let ended = service
        .run(&["workflow", "cancel", &waits, "--compensate", "--reason", "ordered twice", "--wait"])
        .await;
    assert!(ended.out.contains("compensated") && ended.code == Some(0), "{} {}", ended.out, ended.err);
    assert!(service.run(&["approvals"]).await.err.contains("nothing found"), "nobody is asked any more");
    let listed = service.json(&["workflow", "get"]).await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3));
    let refused = service.run(&["workflow", "run", "order", "--input", "{}"]).await;
    assert_eq!(refused.code, Some(64), "{}", refused.err);
    assert!(refused.err.contains("the input `order` is missing"), "{}", refused.err);
    assert_eq!(service.run(&["workflow", "cancel", &waits]).await.code, Some(1));
    assert!(service.out(&["get", "workflows"]).await.contains("items,order,total"));
}

#[tokio::test]
async fn a_workflow_is_validated_without_a_server() {
    let service = Service::start();
    let file = service.dir().join("w.yaml");
    std::fs::write(&file, example()).expect("a file");
    let path = file.to_str().expect("a path");
    assert_eq!(service.out(&["workflow", "validate", path]).await, "1 workflow is sound\n");
    std::fs::write(&file, example().replace("needs: [large]", "needs: [large, ship]")).expect("a file");
    let found = service.run(&["workflow", "validate", path]).await;
    assert_eq!(found.code, Some(1));
    assert!(found.out.contains("the steps need one another: `charge` → `ship` → `charge`"), "{}", found.out);
    let refused = service.run(&["apply", "-f", path]).await;
    assert_eq!(refused.code, Some(64), "{}", refused.err);
}
