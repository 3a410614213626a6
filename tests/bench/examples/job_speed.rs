//! Prints how many jobs a second go from submission to result, by themselves and as steps of workflows, how soon one reaches a
//! worker, and how soon a dead worker's jobs are given to another: `cargo run --release -p sideguard-bench --example job_speed -- target/release/sideguard [--store
//! REDIS,NATS]`. It starts `sideguard control` pinned to core 0, on the embedded store or on the servers named, and is itself
//! the workers: they speak to control as sidecars do.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sideguard_client::Client;
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::secret::Secret;
use sideguard_runtime::tasks;
use sideguard_types::control::jobs::{Ended, Lease, Outcome, Skills, Start, Submit, Work};
use sideguard_types::control::workflows::Start as RunStart;
use sideguard_types::control::{Apply, Enrol, Text, TokenRequest};
use sideguard_types::job::JobState;
use sideguard_types::workflow::RunState;
use tokio::task::JoinHandle;

/// Jobs that are counted.
const JOBS: u32 = 10_000;
/// Workers, and jobs that each takes at once.
const WORKERS: usize = 8;
const ROOM: u32 = 32;
/// Submitters at once.
const SUBMITTERS: usize = 16;
/// Jobs whose way to a worker is timed, one after the other.
const TIMED: usize = 300;
/// Runs of a workflow with a step before and one behind a loop of so many jobs.
const RUNS: u32 = 60;
const ITEMS: u32 = 48;
/// Longest that an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

const POLICY: &str = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: allow}\nspec: {default_decision: allow}\n---\n\
    apiVersion: sideguard.dev/v1\nkind: WorkerPool\nmetadata: {name: bench}\nspec: {topics: [\"job.bench.*\"], \
    backoff: {base: 1ms, max: 1ms}, heartbeat: {stale: 2s, dead: 5s}}\n---\n\
    apiVersion: sideguard.dev/v1\nkind: Workflow\nmetadata: {name: bench}\nspec:\n  input: {items: {type: list, required: true}}\n  \
    steps:\n    - {id: first, job: {topic: job.bench.work}}\n    \
    - {id: each, needs: [first], forEach: {items: input.items, maxParallel: 16, step: {job: {topic: job.bench.work, input: {n: \"${{ item }}\"}}}}}\n    \
    - {id: last, needs: [each], job: {topic: job.bench.work}}\n";

#[tokio::main]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let program = words.next().context("name the binary of `sideguard`")?;
    let servers = match words.next().as_deref() {
        Some("--store") => words.next(),
        _ => None,
    };
    let dir = tempfile::tempdir()?;
    let mut spec =
        "apiVersion: sideguard.dev/v1\nkind: Control\nspec:\n  listen: \"127.0.0.1:0\"\n".to_owned();
    // The bench is a few clients that ask more than such clients do.
    spec.push_str("  limits: {keyRate: 1000000, addressRate: 1000000}\n");
    if let Some((redis, nats)) = servers.as_deref().and_then(|servers| servers.split_once(',')) {
        let namespace = sideguard_runtime::id::token(8);
        spec.push_str(&format!(
            "  store: {{redis: \"{redis}\", nats: \"{nats}\", namespace: \"{namespace}\"}}\n"
        ));
    }
    let file = dir.path().join("control.yaml");
    fs::write(&file, spec)?;
    let mut control = Command::new("taskset")
        .args(["-c", "0", &program, "control", "-c"])
        .arg(&file)
        .arg("--state")
        .arg(dir.path().join("state"))
        .stderr(Stdio::piped())
        .spawn()?;
    let measured = measure(&mut control, dir.path()).await;
    control.kill()?;
    control.wait()?;
    measured
}

async fn measure(control: &mut Child, dir: &std::path::Path) -> Result<()> {
    let mut said = BufReader::new(control.stderr.take().context("standard error")?).lines();
    let url = loop {
        let line = said.next().context("control ended")??;
        if let Some((url, _)) =
            line.strip_prefix("sideguard: control ").and_then(|rest| rest.split_once(" key "))
        {
            break url.to_owned();
        }
    };
    std::thread::spawn(move || said.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
    let key = fs::read_to_string(dir.join("state/operator.key"))?;
    let operator = Client::new(&url, Some(Secret::new(key.trim().to_owned())), None)?;
    let documents = vec![Text { name: "bench.yaml".to_owned(), text: POLICY.to_owned() }];
    operator.apply(&Apply { documents, dry_run: false, prune: None, expect: None }).await?;
    let bench = Bench { operator, url };
    bench.throughput(control.id()).await?;
    bench.workflows(control.id()).await?;
    bench.latency().await?;
    bench.recovery().await
}

struct Bench {
    operator: Client,
    url: String,
}

fn submission(number: u32, idempotent: bool) -> Result<Submit> {
    let spec = json!({ "topic": "job.bench.work", "idempotent": idempotent, "input": { "number": number } });
    Ok(serde_json::from_value(json!({ "spec": spec }))?)
}

impl Bench {
    async fn worker(&self, room: u32) -> Result<Worker> {
        let token =
            self.operator.token(&TokenRequest { tenant: None, agent: None, seconds: None }).await?.token;
        let id = sideguard_runtime::id::token(8);
        let enrolled = self.operator.enrol(&Enrol { token, sidecar: id.clone(), key: None }).await?;
        let client = Client::new(&self.url, Some(Secret::new(enrolled.key)), None)?;
        let skills = Skills {
            agent: "bench".to_owned(),
            pools: vec!["bench".to_owned()],
            max_parallel: room,
            ..Skills::default()
        };
        Ok(Worker { client, work: Work { skills, process: id, ..Work::default() } })
    }

    /// Workers that work until nothing is left.
    async fn staff(&self, left: &Arc<AtomicU32>) -> Result<Vec<(Worker, JoinHandle<()>)>> {
        let mut staff = Vec::new();
        for _ in 0..WORKERS {
            let worker = self.worker(ROOM).await?;
            let (mut works, left) = (worker.clone(), Arc::clone(left));
            let work = tasks::spawn("worker", async move {
                if let Err(error) = works.run(&left).await {
                    eprintln!("a worker: {error:#}");
                }
            });
            staff.push((worker, work));
        }
        Ok(staff)
    }

    /// Jobs a second, with as many under way as there is room for.
    async fn throughput(&self, pid: u32) -> Result<()> {
        let left = Arc::new(AtomicU32::new(JOBS));
        let staff = self.staff(&left).await?;
        let (cpu, since) = (cpu_time(pid)?, Stopwatch::start());
        let next = Arc::new(AtomicU32::new(0));
        let mut tasks = Vec::new();
        for _ in 0..SUBMITTERS {
            let (client, next) = (self.operator.clone(), Arc::clone(&next));
            tasks.push(tasks::spawn("submitter", async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= JOBS {
                        return Ok(());
                    }
                    client.submit_job(&submission(number, false)?).await?;
                }
            }));
        }
        for task in tasks {
            let ended: Result<()> = task.await?;
            ended?;
        }
        all_done(&left).await;
        let (took, cpu) = (since.elapsed(), cpu_time(pid)?.saturating_sub(cpu));
        println!(
            "{JOBS} jobs, {WORKERS} workers: {:.2} s, {:.0} jobs/s; control's CPU {:.2} s, {:.0} jobs a second of CPU; memory {} MiB",
            took.as_secs_f64(),
            f64::from(JOBS) / took.as_secs_f64(),
            cpu.as_secs_f64(),
            f64::from(JOBS) / cpu.as_secs_f64(),
            memory(pid)? >> 20
        );
        dismiss(staff).await;
        Ok(())
    }

    /// Jobs a second that runs of a workflow ask for.
    async fn workflows(&self, pid: u32) -> Result<()> {
        let jobs = RUNS * (ITEMS + 2);
        let left = Arc::new(AtomicU32::new(jobs));
        let staff = self.staff(&left).await?;
        let (cpu, since) = (cpu_time(pid)?, Stopwatch::start());
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            let input = json!({ "items": (0..ITEMS).collect::<Vec<_>>() });
            let start = RunStart { workflow: "bench".to_owned(), input, ..RunStart::default() };
            runs.push(self.operator.start_run(&start).await?.id);
        }
        all_done(&left).await;
        for id in &runs {
            while !self.operator.run(id).await?.state.is_over() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            ensure!(self.operator.run(id).await?.state == RunState::Succeeded, "run `{id}` did not succeed");
        }
        let (took, cpu) = (since.elapsed(), cpu_time(pid)?.saturating_sub(cpu));
        println!(
            "{RUNS} runs of a workflow, {jobs} jobs: {:.2} s, {:.0} jobs/s; control's CPU {:.2} s, {:.0} jobs a second of CPU",
            took.as_secs_f64(),
            f64::from(jobs) / took.as_secs_f64(),
            cpu.as_secs_f64(),
            f64::from(jobs) / cpu.as_secs_f64()
        );
        dismiss(staff).await;
        Ok(())
    }

    /// Time from a submission's start until a waiting worker has the job.
    async fn latency(&self) -> Result<()> {
        let mut worker = self.worker(1).await?;
        worker.ask().await?;
        let mut times = Vec::new();
        for number in 0..TIMED {
            let since = Stopwatch::start();
            let submit = submission(u32::try_from(number)?, false)?;
            let (submitted, given) = tokio::join!(self.operator.submit_job(&submit), worker.given());
            submitted?;
            let (job, epoch) = given?;
            times.push(since.elapsed());
            worker.end(&job, epoch).await?;
        }
        times.sort_unstable();
        let at = |part: usize| {
            times.get((times.len() * part / 100).min(times.len() - 1)).copied().unwrap_or_default()
        };
        println!("from submission to a worker: p50 {:?}, p99 {:?} of {TIMED}", at(50), at(99));
        Ok(())
    }

    /// Time from a worker's last word until another one has its job; the pool says that one is dead after 5 s.
    async fn recovery(&self) -> Result<()> {
        let (mut dying, mut other) = (self.worker(1).await?, self.worker(1).await?);
        self.operator.submit_job(&submission(0, true)?).await?;
        dying.ask().await?;
        let (job, epoch) = dying.given().await?;
        dying.client.start_job(&job, Start { epoch }, PATIENCE).await?;
        let since = Stopwatch::start();
        let (again, newer) = other.given().await?;
        ensure!(again == job && newer > epoch, "another job came");
        println!(
            "from a worker's death to another worker: {:.2} s, of which 5 s are its heartbeat's",
            since.elapsed().as_secs_f64()
        );
        other.end(&again, newer).await?;
        ensure!(dying.end(&job, epoch).await.is_err(), "a dead worker's result was taken");
        ensure!(self.operator.job(&job).await?.state == JobState::Succeeded, "the job is done");
        Ok(())
    }
}

/// Waits until no job is left.
async fn all_done(left: &AtomicU32) {
    while left.load(Ordering::Acquire) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Has workers say that they take no more jobs, so that those of the next measurement get them all.
async fn dismiss(staff: Vec<(Worker, JoinHandle<()>)>) {
    const SAID: Duration = Duration::from_millis(200);
    for (mut worker, work) in staff {
        let _ = work.await;
        worker.work.draining = true;
        // The answer comes when there is something to tell: there is nothing.
        let _ = tokio::time::timeout(SAID, worker.ask()).await;
    }
}

#[derive(Clone)]
struct Worker {
    client: Client,
    work: Work,
}

impl Worker {
    async fn ask(&self) -> Result<Vec<(String, u64)>> {
        let told = self.client.work(&self.work, PATIENCE).await?;
        Ok(told.jobs.into_iter().map(|given| (given.job.id, given.epoch)).collect())
    }

    /// Asks until there is a job.
    async fn given(&mut self) -> Result<(String, u64)> {
        loop {
            if let Some(given) = self.ask().await?.pop() {
                return Ok(given);
            }
        }
    }

    async fn end(&self, job: &str, epoch: u64) -> Result<()> {
        let outcome = Outcome::Succeeded(Value::Bool(true));
        Ok(self.client.end_job(job, &Ended { epoch, outcome }, PATIENCE).await?)
    }

    /// Works as a sidecar does, each job begun and ended by itself, until all are done.
    async fn run(&mut self, left: &Arc<AtomicU32>) -> Result<()> {
        let leases: Arc<Mutex<Vec<Lease>>> = Arc::default();
        while left.load(Ordering::Acquire) > 0 {
            self.work.leases = leases.lock().clone();
            for (job, epoch) in self.ask().await? {
                let lease = Lease { job, epoch };
                leases.lock().push(lease.clone());
                let (client, left, leases) = (self.client.clone(), Arc::clone(left), Arc::clone(&leases));
                tasks::spawn("job", async move {
                    let done = async {
                        client.start_job(&lease.job, Start { epoch }, PATIENCE).await?;
                        let outcome = Outcome::Succeeded(Value::Bool(true));
                        client.end_job(&lease.job, &Ended { epoch, outcome }, PATIENCE).await
                    };
                    match done.await {
                        Ok(()) => drop(left.fetch_sub(1, Ordering::AcqRel)),
                        Err(error) => eprintln!("{}: {error}", lease.job),
                    }
                    leases.lock().retain(|other| *other != lease);
                });
            }
        }
        Ok(())
    }
}

/// CPU time of a process so far (`/proc/PID/stat`, fields 14 and 15, in hundredths of a second).
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("a name")?.1.split_whitespace().skip(11).take(2).collect();
    let ticks: u64 = fields.iter().map(|field| field.parse::<u64>()).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a size")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
