//! How fast a change of policy reaches a fleet, and what that costs the control service: simulated sidecars that enrol,
//! hold the feed's stream and do nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;
use sideguard_client::{Client, Told};
use sideguard_runtime::secret::Secret;
use sideguard_types::control::feed::Has;
use sideguard_types::control::{Apply, Enrol, Text, TokenRequest};
use tokio::sync::mpsc;

use crate::clock;
use crate::process::Process;
use crate::tasks::Tasks;

/// Objects in one request.
const BATCH: usize = 1_000;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured.
#[derive(Args)]
pub(crate) struct Fleet {
    /// The binary.
    #[arg(long)]
    sideguard: PathBuf,
    /// How many sidecars.
    #[arg(long, default_value_t = 1_000)]
    sidecars: usize,
    /// How many changes.
    #[arg(long, default_value_t = 10)]
    changes: usize,
    /// Policies that are in force before.
    #[arg(long, default_value_t = 0)]
    objects: usize,
    /// Tenants that the sidecars belong to.
    #[arg(long, default_value_t = 1)]
    tenants: usize,
    /// Redis; the embedded store without.
    #[arg(long, requires = "nats")]
    redis: Option<String>,
    /// NATS.
    #[arg(long, requires = "redis")]
    nats: Option<String>,
}

/// One sidecar's word that it has a generation, and when.
type Seen = (u64, u64);

impl Fleet {
    pub(crate) async fn measure(self) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let control = self.start(dir.path())?;
        let (url, key) = found(dir.path()).await?;
        let operator = Client::new(&url, Some(Secret::new(key)), None)?;
        self.fill(&operator).await?;
        let idle = control.memory()?;
        let (tasks, (send, mut seen)) = (Tasks::default(), mpsc::channel(4 * self.sidecars.max(1)));
        let began = clock::now();
        for number in 0..self.sidecars {
            let (operator, send) = (operator.clone(), send.clone());
            let tenant = format!("t{}", number % self.tenants.max(1));
            tasks.start(async move {
                if let Err(error) = follow(operator, number, tenant, send).await {
                    eprintln!("sidecar {number}: {error:#}");
                }
            });
        }
        // What is in force already, or that nothing is.
        let before = arrivals(&mut seen, self.sidecars).await?;
        println!(
            "{} sidecars of {} tenants enrolled and connected in {:.0} ms",
            self.sidecars,
            self.tenants,
            millis(began, before.last().copied().unwrap_or(began))
        );
        let connected = control.memory()?;
        let cpu = control.cpu()?;
        let (mut all, mut acknowledged) = (Vec::new(), Vec::new());
        for change in 0..self.changes {
            let asked = clock::now();
            operator.apply(&apply(vec![policy(&format!("change-{change}"))])).await?;
            acknowledged.push(millis(asked, clock::now()));
            let times = arrivals(&mut seen, self.sidecars).await?;
            all.extend(times.into_iter().map(|time| millis(asked, time)));
        }
        let used = control.cpu()?.since(cpu);
        print("apply answered", &mut acknowledged);
        print("change at a sidecar, from the request to apply it", &mut all);
        let most = control.memory()?;
        println!(
            "control: {} KiB resident before, {} KiB with all connected, {} KiB at most; {:.1} ms of CPU time a change",
            idle.resident,
            connected.resident,
            most.peak,
            used as f64 / 1e6 / self.changes.max(1) as f64
        );
        Ok(())
    }

    fn start(&self, dir: &Path) -> Result<Process> {
        let store = match (&self.redis, &self.nats) {
            (Some(redis), Some(nats)) => {
                let namespace = format!("bench-{}", std::process::id());
                format!("  store: {{redis: \"{redis}\", nats: \"{nats}\", namespace: {namespace}}}\n")
            }
            _ => String::new(),
        };
        let config = dir.join("control.yaml");
        let head = "apiVersion: sideguard.dev/v1\nkind: Control\nspec:\n  listen: \"127.0.0.1:0\"\n";
        std::fs::write(&config, format!("{head}{store}"))?;
        let mut command = Command::new(&self.sideguard);
        command.args(["control", "-c"]).arg(&config).arg("--state").arg(dir.join("state"));
        Process::start(command, 0, &dir.join("log"))
    }

    /// Puts objects in force, of the tenants in turn.
    async fn fill(&self, operator: &Client) -> Result<()> {
        let began = clock::now();
        let mut last = Duration::ZERO;
        for first in (0..self.objects).step_by(BATCH) {
            let batch = first..(first + BATCH).min(self.objects);
            let texts = batch.map(|number| {
                let tenant = number % self.tenants.max(1);
                let text = policy(&format!("filled-{number}")).text;
                Text {
                    name: format!("{number}.yaml"),
                    text: text.replace("{name:", &format!("{{tenant: t{tenant}, name:")),
                }
            });
            let asked = clock::now();
            operator.apply(&apply(texts.collect())).await.context("objects cannot be applied")?;
            last = Duration::from_nanos(clock::now() - asked);
        }
        if self.objects > 0 {
            println!(
                "{} objects applied in {:.0} ms, the last batch in {last:?}",
                self.objects,
                millis(began, clock::now())
            );
        }
        Ok(())
    }
}

fn policy(name: &str) -> Text {
    let text = format!(
        "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  default_decision: allow\n  \
         rules: [{{id: no-posts, match: {{methods: [POST], hosts: [{name}.example.com]}}, decision: deny, reason: not now}}]\n"
    );
    Text { name: format!("{name}.yaml"), text }
}

const fn apply(documents: Vec<Text>) -> Apply {
    Apply { documents, dry_run: false, prune: None, expect: None }
}

/// Enrols and tells of each generation.
async fn follow(operator: Client, number: usize, tenant: String, seen: mpsc::Sender<Seen>) -> Result<()> {
    let asked = TokenRequest { tenant: Some(tenant), agent: None, seconds: None };
    let token = operator.token(&asked).await?.token;
    let enrolled =
        operator.enrol(&Enrol { token, sidecar: format!("simulated-{number}"), key: None }).await?;
    let client = operator.with_key(&Secret::new(enrolled.key))?;
    let mut stream = client.feed_stream(&Has { nonce: "n".to_owned(), ..Has::default() }).await?;
    loop {
        let generation = match stream.next().await? {
            Told::Generation(signed) => signed.number,
            Told::Beat(beat) if beat.generation == 0 => 0,
            Told::Beat(_) | Told::Kills(_) => continue,
        };
        if seen.send((generation, clock::now())).await.is_err() {
            return Ok(());
        }
    }
}

/// When each has seen the same generation, in order.
async fn arrivals(seen: &mut mpsc::Receiver<Seen>, sidecars: usize) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(sidecars);
    let mut generation = None;
    while times.len() < sidecars {
        let next = tokio::time::timeout(PATIENCE, seen.recv());
        let Some((number, time)) = next.await.context("sidecars wait for a change in vain")? else {
            bail!("the sidecars have ended");
        };
        ensure!(
            *generation.get_or_insert(number) == number,
            "a sidecar has seen two changes before another saw one"
        );
        times.push(time);
    }
    Ok(times)
}

/// Where the service is, and its key.
async fn found(dir: &Path) -> Result<(String, String)> {
    let state = dir.join("state");
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Ok(text) = std::fs::read(state.join("ports.json")) else { continue };
        let ports: Value = serde_json::from_slice(&text)?;
        let url = ports["control"].as_str().context("no address")?.to_owned();
        let key = std::fs::read_to_string(state.join("operator.key"))?;
        return Ok((url, key.trim().to_owned()));
    }
    bail!("control does not start: {}", std::fs::read_to_string(dir.join("log")).unwrap_or_default())
}

fn millis(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

fn print(what: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let place = (part * times.len().saturating_sub(1) as f64).round();
        times.get(place as usize).copied().unwrap_or_default()
    };
    println!("{what}: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", at(0.5), at(0.99), at(1.0));
}
