//! Ten workers under load, killed and stopped at random: every job ends once, no effect of a job that must not be done twice
//! happens twice, and what a worker does for a job that it lost is refused at its own sidecar.
//!
//! SIDEGUARD_CHAOS_SECONDS is how long (15 when absent; 120 for the real thing), SIDEGUARD_CHAOS_SEED repeats the order of
//! blows of an earlier run.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::command::command;
use harness::{Backend, Fake, Service};
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;
use tempfile::TempDir;
use tokio::process::Child;

use super::workers::POLICY;

const WORKERS: usize = 10;
/// Jobs that are submitted in a second.
const RATE: u32 = 8;
/// Longest time that all jobs have to end once the blows have ended.
const REST: Duration = Duration::from_secs(120);

harness::on_every_store! {
    every_job_ends_once_and_no_effect_happens_twice
}

#[expect(clippy::disallowed_methods, reason = "the harness stands outside the product")]
fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Chance that can be repeated (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

/// One worker, through all of its lives.
struct Worker {
    dir: TempDir,
    flags: Vec<String>,
    child: Child,
    /// When it goes on again, while it is stopped.
    stopped: Option<(Stopwatch, Duration)>,
}

impl Worker {
    async fn start(service: &Service, script: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("token");
        std::fs::write(&file, service.out(&["token"]).await).expect("a file");
        let state = dir.path().join("state").display().to_string();
        let words = [
            "worker",
            "--pool",
            "crm",
            "--parallel",
            "2",
            "--agent",
            "enricher",
            "--isolate",
            "env",
            "--private",
            "127.0.0.1",
            "--control",
            service.url(),
            "--token-file",
            &file.display().to_string(),
            "--state",
            &state,
            "--",
            "sh",
            "-c",
            script,
        ];
        let flags: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let child = Self::spawn(dir.path(), &flags);
        Self { dir, flags, child, stopped: None }
    }

    fn spawn(dir: &Path, flags: &[String]) -> Child {
        let words: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut command = command(dir, &words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("a start")
    }

    fn signal(&self, name: &str) {
        if let Some(pid) = self.child.id() {
            // It may have ended.
            let _ = Command::new("kill").args([name, &pid.to_string()]).status();
        }
    }

    async fn kill(&mut self) {
        let _ = self.child.kill().await;
        self.stopped = None;
        self.child = Self::spawn(self.dir.path(), &self.flags);
    }

    fn stop(&mut self, time: Duration) {
        self.signal("-STOP");
        self.stopped = Some((Stopwatch::start(), time));
    }

    fn go_on(&mut self, now: bool) {
        if self.stopped.as_ref().is_some_and(|(since, time)| now || since.elapsed() >= *time) {
            self.signal("-CONT");
            self.stopped = None;
        }
    }

    /// Calls that it refused for jobs that it had lost.
    fn fenced(&self) -> usize {
        let Ok(files) = std::fs::read_dir(self.dir.path().join("state/spool")) else { return 0 };
        let texts = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
        texts.map(|text| text.matches(r#""code":"fenced""#).count()).sum()
    }
}

/// Submits a job as an operator does.
async fn submit(service: &Service, key: &str, number: u64) -> (String, bool) {
    let idempotent = number.is_multiple_of(2);
    let spec = json!({ "topic": "job.crm.enrich", "idempotent": idempotent, "input": { "number": number } });
    let body = json!({ "spec": spec }).to_string();
    let made = service.ask(key, "POST", "/v1/jobs", &body).await;
    assert_eq!(made.status, 200, "{}", made.text());
    (made.json()["id"].as_str().expect("an id").to_owned(), idempotent)
}

/// How often each effect happened.
fn effects(tool: &Fake) -> BTreeMap<String, usize> {
    let mut effects = BTreeMap::new();
    for seen in tool.seen() {
        *effects.entry(seen.target).or_default() += 1;
    }
    effects
}

async fn ended(service: &Service, key: &str, id: &str, since: Stopwatch) -> Value {
    const OVER: [&str; 6] = ["succeeded", "failed", "cancelled", "timed_out", "denied", "dead_lettered"];
    loop {
        let job = service.ask(key, "GET", &format!("/v1/jobs/{id}"), "").await.json();
        if OVER.contains(&job["state"].as_str().unwrap_or_default()) {
            let steps = job["events"].as_array().expect("its life");
            let last = steps.iter().filter(|step| OVER.contains(&step["state"].as_str().unwrap_or_default()));
            assert_eq!(last.count(), 1, "it ends once: {job:#}");
            return job;
        }
        assert!(since.elapsed() < REST, "it does not end: {job:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn every_job_ends_once_and_no_effect_happens_twice(backend: Backend) {
    let seconds = number("SIDEGUARD_CHAOS_SECONDS", 15);
    let seed = number("SIDEGUARD_CHAOS_SEED", u64::from(std::process::id()) * 2_654_435_761 + 1);
    eprintln!("chaos: SIDEGUARD_CHAOS_SEED={seed} for {seconds} s");
    let mut chance = Chance(seed);
    let (service, tool) = (Service::on(backend), Fake::json("{}").await);
    service.apply(&POLICY).await;
    let key = service.key();
    let script = format!(
        "set -e; call() {{ curl -sf -o /dev/null --max-time 60 -d x {}/$1/$SIDEGUARD_JOB_ID; }}; \
         call first; sleep 0.5; call second; sleep 0.2; cat",
        tool.url()
    );
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Worker::start(&service, &script).await);
    }
    let (since, mut jobs) = (Stopwatch::start(), Vec::new());
    let (mut kills, mut stops) = (0, 0);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    while since.elapsed() < Duration::from_secs(seconds) {
        ticks.tick().await;
        jobs.push(submit(&service, &key, jobs.len() as u64).await);
        workers.iter_mut().for_each(|worker| worker.go_on(false));
        if chance.below(4) == 0 {
            let one = usize::try_from(chance.below(WORKERS as u64)).expect("a small number");
            if chance.below(2) == 0 {
                workers[one].kill().await;
                kills += 1;
            } else if workers[one].stopped.is_none() {
                workers[one].stop(Duration::from_millis(500 + chance.below(11_500)));
                stops += 1;
            }
        }
    }
    workers.iter_mut().for_each(|worker| worker.go_on(true));
    let rest = Stopwatch::start();
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    let mut done = Vec::new();
    for (id, idempotent) in &jobs {
        let job = ended(&service, &key, id, rest).await;
        let state = job["state"].as_str().expect("a state").to_owned();
        *states.entry(state.clone()).or_default() += 1;
        done.push((id, *idempotent, state));
    }
    let (effects, fenced) = (effects(&tool), workers.iter().map(Worker::fenced).sum::<usize>());
    eprintln!("chaos: {} jobs, {kills} kills, {stops} stops, {fenced} calls fenced, {states:?}", jobs.len());
    assert!(seconds < 60 || fenced > 0, "no worker came back to a job that it had lost (seed {seed})");
    for (id, idempotent, state) in done {
        for step in ["first", "second"] {
            let times = effects.get(&format!("/{step}/{id}")).copied().unwrap_or(0);
            assert!(
                idempotent || times <= 1,
                "effect `{step}` of job {id} happened {times} times (seed {seed})"
            );
            assert!(state != "succeeded" || times >= 1, "job {id} is done without `{step}` (seed {seed})");
        }
    }
    assert!(states.get("succeeded").is_some_and(|done| *done > jobs.len() / 4), "{states:?}");
}
