//! Runs over a store, with jobs that a worker does and a person who answers; and whoever drives them is killed everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sideguard_runtime::{clock, tasks};
use sideguard_store::documents::{Changes, Document, Documents, Edit, Page, Revision};
use sideguard_store::key::{Key, Scope};
use sideguard_store::{Store, StoreError};
use sideguard_types::control::approvals::{Answer, Said, State};
use sideguard_types::control::jobs::{Ended, Outcome, Skills, Work};
use sideguard_types::control::workflows::{Cancel, Rerun, Start};
use sideguard_types::control::{Apply, Text};
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Run, RunState, StepState};

use super::{Wanted, cancel, drive, list, one, rerun, start};
use crate::api::Control;
use crate::api::tests::control_over;
use crate::approvals;
use crate::desired::{self, Wish};
use crate::error::Failure;
use crate::keys::{Principal, Role};

const EXAMPLE: &str = include_str!("../../../deploy/examples/workflows/order.yaml");
/// Longest time of one run in a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens outside of runs: a worker, a person, and what they saw.
struct Outside {
    control: Arc<Control>,
    /// Topics whose jobs fail.
    fails: Vec<&'static str>,
    /// Topic and input of each job that was begun.
    seen: Mutex<Vec<(String, Value)>>,
    asked: Mutex<Vec<String>>,
    verdict: Said,
    _tasks: Mutex<Vec<tasks::Owned>>,
    _dir: tempfile::TempDir,
}

fn operator() -> Principal {
    Principal::new("ada", Role::Operator, None)
}

impl Outside {
    async fn start(verdict: Said, fails: &[&'static str]) -> Arc<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        let documents = vec![Text { name: "order.yaml".to_owned(), text: EXAMPLE.to_owned() }];
        let apply = Wish::Apply(Apply { documents, dry_run: false, prune: None, expect: None });
        desired::change(&store, clock::now(), &operator(), apply).await.expect("it is applied");
        let control = control_over(store).await;
        control.waiting.look(&control.store).await.expect("a generation");
        let outside = Arc::new(Self {
            control: Arc::clone(&control),
            fails: fails.to_vec(),
            seen: Mutex::default(),
            asked: Mutex::default(),
            verdict,
            _tasks: Mutex::default(),
            _dir: dir,
        });
        let board = tasks::spawn("jobs", Arc::clone(&control.jobs).follow());
        let plan = Arc::clone(&control.jobs).reconcile(Arc::clone(&control.waiting), "outside".to_owned());
        let plan = tasks::spawn("reconcile", plan);
        let own = Arc::clone(&outside);
        let worker = tasks::spawn("worker", async move { own.works().await });
        let own = Arc::clone(&outside);
        let person = tasks::spawn("person", async move { own.answers().await });
        *outside._tasks.lock() = [&board, &plan, &worker, &person].map(tasks::Owned::new).into();
        outside
    }

    /// Does jobs, one after the other.
    async fn works(&self) {
        let who = Principal::new("worker", Role::Sidecar, Some("default".to_owned()));
        let skills = Skills {
            agent: "shop".to_owned(),
            pools: vec!["shop".to_owned()],
            max_parallel: 8,
            ..Skills::default()
        };
        let work = Work { skills, process: "p".to_owned(), leases: Vec::new(), draining: false };
        let Control { jobs, waiting, .. } = &*self.control;
        loop {
            let Ok(told) = jobs.work(waiting, &who, work.clone()).await else { return };
            for assignment in told.jobs {
                let (job, epoch) = (assignment.job, assignment.epoch);
                if jobs.start(&who, &job.id, epoch).await.is_err() {
                    continue;
                }
                self.seen.lock().push((job.spec.topic.clone(), job.spec.input.clone()));
                let outcome = match self.fails.contains(&job.spec.topic.as_str()) {
                    true => Outcome::Failed { message: "no luck".to_owned(), retry: false },
                    false => Outcome::Succeeded(json!({ "done": job.spec.topic })),
                };
                let _ = jobs.ended(waiting, &who, &job.id, Ended { epoch, outcome }).await;
            }
        }
    }

    /// Answers what is asked.
    async fn answers(&self) {
        let store = &self.control.store;
        loop {
            let now = clock::now();
            let Ok(found) = approvals::list(store, now, &operator(), Some(State::Pending), None, 100).await
            else {
                return;
            };
            for approval in found.items {
                self.asked.lock().push(approval.reason.clone());
                let answer = Answer { verdict: self.verdict, reason: Some("as agreed".to_owned()) };
                let _ = approvals::answer(store, &operator(), &approval.id, &answer).await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn run(&self) -> Run {
        let input = json!({ "order": "A-17", "items": ["lamp", "desk"], "total": 1200 });
        let start_ = Start { workflow: "order".to_owned(), input, ..Start::default() };
        start(&self.control.store, &operator(), start_).await.expect("a run")
    }

    /// Waits until a run is over.
    async fn over(&self, id: &str) -> Run {
        let since = clock::Stopwatch::start();
        loop {
            let run = one(&self.control.store, &operator(), id).await.expect("a run");
            if run.state.is_over() {
                return run;
            }
            assert!(since.elapsed() < PATIENCE, "it does not end: {run:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How often which job was begun.
    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (topic, input) in &*self.seen.lock() {
            let item = input["item"].as_str().unwrap_or_default();
            *counts.entry(format!("{topic} {item}").trim().to_owned()).or_insert(0) += 1;
        }
        counts
    }

    /// Drives runs over a store of its own.
    async fn driver(&self, store: Store) -> tasks::Owned {
        let control = control_over(store).await;
        control.waiting.look(&control.store).await.expect("a generation");
        tasks::Owned::new(&tasks::spawn("workflows", drive(control, "embedded".to_owned())))
    }
}

/// A store that can be used a number of times and then is gone; whether the last use was still done cannot be seen from
/// outside.
#[derive(Debug)]
struct Dying {
    inner: Arc<dyn Documents>,
    left: AtomicI64,
    /// Whether the last write is done before the end.
    late: bool,
    /// From when on uses are counted.
    armed: Arc<AtomicBool>,
    dead: Arc<AtomicBool>,
}

impl Dying {
    fn alive(&self) -> Result<(), StoreError> {
        if self.dead.load(Ordering::SeqCst) { Err(StoreError::Closed) } else { Ok(()) }
    }
}

#[async_trait]
impl Documents for Dying {
    async fn get(&self, now: Timestamp, key: &Key) -> Result<Option<Document>, StoreError> {
        self.alive()?;
        self.inner.get(now, key).await
    }

    async fn put_all(&self, now: Timestamp, edits: Vec<Edit>) -> Result<Revision, StoreError> {
        self.alive()?;
        if !self.armed.load(Ordering::SeqCst) || self.left.fetch_sub(1, Ordering::SeqCst) > 1 {
            return self.inner.put_all(now, edits).await;
        }
        if self.late {
            let _ = self.inner.put_all(now, edits).await;
        }
        self.dead.store(true, Ordering::SeqCst);
        Err(StoreError::Closed)
    }

    async fn list(
        &self,
        now: Timestamp,
        scope: &Scope,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.alive()?;
        self.inner.list(now, scope, after, limit).await
    }

    fn watch(&self, scope: Scope) -> Changes {
        self.inner.watch(scope)
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.inner.sweep(now, limit).await
    }
}

/// The store, and the two flags: whether uses are counted, whether it is gone.
fn dying(store: &Store, left: i64, late: bool) -> (Store, Arc<AtomicBool>, Arc<AtomicBool>) {
    let [armed, dead] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let documents = Dying {
        inner: Arc::clone(&store.documents),
        left: AtomicI64::new(left),
        late,
        armed: Arc::clone(&armed),
        dead: Arc::clone(&dead),
    };
    let mut store = store.clone();
    store.documents = Arc::new(documents);
    (store, armed, dead)
}

fn expected(shipped: bool) -> BTreeMap<String, usize> {
    let mut expected =
        vec!["job.shop.reserve lamp", "job.shop.reserve desk", "job.shop.charge", "job.shop.ship"];
    if !shipped {
        expected.extend(["job.shop.refund", "job.shop.release lamp", "job.shop.release desk"]);
    }
    expected.into_iter().map(|name| (name.to_owned(), 1)).collect()
}

/// Fan-out, approval and compensation; the driver is killed at its `n`th write, before or after the write is done, and again
/// as often as it takes.
async fn killed_everywhere(late: bool) {
    let outside = Outside::start(Said::Approve, &["job.shop.ship"]).await;
    let store = outside.control.store.clone();
    for writes in 1.. {
        outside.seen.lock().clear();
        outside.asked.lock().clear();
        let run = outside.run().await;
        let (own, armed, dead) = dying(&store, writes, late);
        let control = control_over(own).await;
        control.waiting.look(&control.store).await.expect("a generation");
        armed.store(true, Ordering::SeqCst);
        let driver = tasks::Owned::new(&tasks::spawn("workflows", drive(control, "embedded".to_owned())));
        let since = clock::Stopwatch::start();
        while !dead.load(Ordering::SeqCst) {
            let now = one(&store, &operator(), &run.id).await.expect("a run");
            if now.state.is_over() {
                break;
            }
            assert!(since.elapsed() < PATIENCE, "write {writes}: neither dead nor done: {now:#?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let died = dead.load(Ordering::SeqCst);
        drop(driver);
        let driver = outside.driver(store.clone()).await;
        let run = outside.over(&run.id).await;
        drop(driver);
        assert_eq!(run.state, RunState::Compensated, "write {writes}: {run:#?}");
        assert_eq!(outside.counts(), expected(false), "write {writes}: each job once");
        assert_eq!(*outside.asked.lock(), ["Charge 1200 dollars for order A-17?"], "write {writes}");
        let seen: Vec<String> = outside.seen.lock().iter().map(|(topic, _)| topic.clone()).collect();
        let undone: Vec<&str> = seen.iter().skip(4).map(String::as_str).collect();
        assert_eq!(undone, ["job.shop.refund", "job.shop.release", "job.shop.release"], "write {writes}");
        if !died {
            assert!(writes > 20, "it was killed {writes} times at different places");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_the_end_of_its_driver_before_every_write() {
    killed_everywhere(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_the_end_of_its_driver_after_every_write() {
    killed_everywhere(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_drivers_at_once_do_nothing_twice() {
    let outside = Outside::start(Said::Approve, &[]).await;
    let run = outside.run().await;
    // Of one name, so that neither leaves it to the other.
    let _drivers = (
        outside.driver(outside.control.store.clone()).await,
        outside.driver(outside.control.store.clone()).await,
    );
    let run = outside.over(&run.id).await;
    assert_eq!(run.state, RunState::Succeeded, "{run:#?}");
    assert_eq!(outside.counts(), expected(true));
    assert_eq!(run.output["shipment"], json!({ "done": "job.shop.ship" }));
    let large = run.steps.iter().find(|step| step.id == "large").expect("a step");
    assert_eq!((&large.result["by"], &large.result["reason"]), (&json!(["ada"]), &json!("as agreed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_undoes_what_was_done() {
    let outside = Outside::start(Said::Deny, &[]).await;
    let run = outside.run().await;
    let _driver = outside.driver(outside.control.store.clone()).await;
    let run = outside.over(&run.id).await;
    assert_eq!(run.state, RunState::Compensated);
    assert!(run.error.as_ref().is_some_and(|error| error.contains("denied by `ada`: as agreed")), "{run:#?}");
    assert_eq!(outside.counts().keys().filter(|name| name.contains("release")).count(), 2);
}

#[tokio::test]
async fn runs_are_of_their_tenants_and_their_owners_alone() {
    let outside = Outside::start(Said::Approve, &[]).await;
    let store = &outside.control.store;
    let run = outside.run().await;
    let other = Principal::new("eve", Role::Operator, Some("other".to_owned()));
    let gone = |failure: Result<Run, Failure>| matches!(failure, Err(Failure::Missing(_)));
    assert!(gone(one(store, &other, &run.id).await));
    assert!(gone(cancel(store, &other, &run.id, &Cancel::default()).await));
    assert!(gone(rerun(store, &other, &run.id, &Rerun::default()).await));
    let own = Start { workflow: "order".to_owned(), ..Start::default() };
    assert!(gone(start(store, &other, own.clone()).await), "its tenant has no such workflow");
    let into = Start { tenant: Some("default".to_owned()), ..own };
    assert!(gone(start(store, &other, into).await));
    let wanted = Wanted { limit: 10, ..Wanted::default() };
    assert_eq!(list(store, &other, &wanted).await.expect("a page").items.len(), 0);
    assert_eq!(list(store, &operator(), &wanted).await.expect("a page").items.len(), 1);
    let theirs = Wanted { tenant: Some("default".to_owned()), ..wanted };
    assert_eq!(list(store, &other, &theirs).await.expect("a page").items.len(), 0);
}

#[tokio::test]
async fn a_start_is_checked_and_done_once() {
    let outside = Outside::start(Said::Approve, &[]).await;
    let store = &outside.control.store;
    let input = json!({ "order": "A-17", "items": [] });
    let key = Some("order-A-17".to_owned());
    let wanted = Start { workflow: "order".to_owned(), input, idempotency_key: key, tenant: None };
    let first = start(store, &operator(), wanted.clone()).await.expect("a run");
    let second = start(store, &operator(), wanted.clone()).await.expect("a run");
    assert_eq!(first.id, second.id);
    let bad = Start { input: json!({ "items": 3, "more": 1 }), idempotency_key: None, ..wanted };
    let Err(Failure::Findings(findings)) = start(store, &operator(), bad).await else {
        panic!("it is refused")
    };
    assert_eq!(
        findings,
        [
            "there is no input `more`; known inputs: items, order, total",
            "the input `items` is not of type list",
            "the input `order` is missing",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_is_taken_back_with_its_run() {
    let outside = Outside::start(Said::Approve, &[]).await;
    let store = &outside.control.store;
    // Nobody works any more.
    outside._tasks.lock().retain(|_| false);
    let run = outside.run().await;
    let _driver = outside.driver(store.clone()).await;
    let since = clock::Stopwatch::start();
    loop {
        let now = one(store, &operator(), &run.id).await.expect("a run");
        if now.steps[0].works.iter().any(|work| work.job.is_some()) {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "{now:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cancel(store, &operator(), &run.id, &Cancel::default()).await.expect("it is taken back");
    let run = outside.over(&run.id).await;
    assert_eq!(run.state, RunState::Cancelled, "{run:#?}");
    assert!(since.elapsed() < Duration::from_secs(15), "at once");
    for work in &run.steps[0].works {
        let job = work.job.clone().expect("a job");
        let job = outside.control.jobs.read(clock::now(), "default", &job).await.expect("the store");
        assert_eq!(job.map(|job| job.state), Some(sideguard_types::job::JobState::Cancelled));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_taken_back_and_done_again() {
    let outside = Outside::start(Said::Approve, &[]).await;
    let store = &outside.control.store;
    let run = outside.run().await;
    assert!(matches!(rerun(store, &operator(), &run.id, &Rerun::default()).await, Err(Failure::Conflict(_))));
    cancel(store, &operator(), &run.id, &Cancel::default()).await.expect("it is taken back");
    let _driver = outside.driver(store.clone()).await;
    let old = outside.over(&run.id).await;
    assert_eq!((old.state, outside.counts().len()), (RunState::Cancelled, 0), "{old:#?}");
    let again = rerun(store, &operator(), &run.id, &Rerun::default()).await.expect("a run");
    let again = outside.over(&again.id).await;
    assert_eq!(again.state, RunState::Succeeded, "{again:#?}");
    assert_eq!(again.rerun_of, Some(old.id));
    let from = Rerun { from: Some("ship".to_owned()) };
    let third = rerun(store, &operator(), &again.id, &from).await.expect("a run");
    let third = outside.over(&third.id).await;
    assert_eq!(third.state, RunState::Succeeded);
    assert!(third.steps.iter().all(|step| step.state == StepState::Succeeded));
    assert_eq!(outside.counts()["job.shop.ship"], 2);
    assert_eq!(outside.counts()["job.shop.charge"], 1);
}
