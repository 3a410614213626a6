//! Prints how many records a second control takes in on one core: `cargo run --release -p sideguard-bench --example
//! record_ingest -- target/release/sideguard`. It starts `sideguard control` pinned to core 0 on the embedded store, writes a
//! log as a sidecar does, and ships it in batches as large as a sidecar's, one after the other.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ed25519_dalek::SigningKey;
use sideguard_client::Client;
use sideguard_record::read::raw;
use sideguard_record::{Log, Settings};
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::secret::Secret;
use sideguard_runtime::tasks;
use sideguard_types::audit::{Phase, Record};
use sideguard_types::control::records::BATCH_BYTES;
use sideguard_types::control::{Enrol, TokenRequest};
use sideguard_types::resource::Sync;
use sideguard_types::time::Timestamp;
use sideguard_types::verdict::Decision;

/// Records that are shipped.
const RECORDS: i64 = 200_000;
/// How many sidecars ship them.
const SIDECARS: usize = 4;

#[tokio::main]
async fn main() -> Result<()> {
    let program = std::env::args().nth(1).context("name the binary of `sideguard`")?;
    let dir = tempfile::tempdir()?;
    let mut control = Command::new("taskset")
        .args(["-c", "0", &program, "control", "--state"])
        .arg(dir.path().join("state"))
        .env("SIDEGUARD_LISTEN", "127.0.0.1:0")
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
    let mut sidecars = Vec::new();
    for number in 0..SIDECARS {
        let name = format!("sidecar-{number}");
        let token = operator.token(&TokenRequest { tenant: None, agent: None, seconds: None }).await?.token;
        let enrolled = operator.enrol(&Enrol { token, sidecar: name.clone(), key: None }).await?;
        let log = log(&dir.join(&name), &name)?;
        sidecars.push((operator.with_key(&Secret::new(enrolled.key))?, name, log));
    }
    let (cpu, since) = (cpu_time(control.id())?, Stopwatch::start());
    let shipping =
        sidecars.into_iter().map(|(client, name, log)| tasks::spawn("ship", ship(client, name, log)));
    let (mut records, mut bytes) = (0, 0);
    for shipped in shipping.collect::<Vec<_>>() {
        let (some, size) = shipped.await??;
        (records, bytes) = (records + some, bytes + size);
    }
    let (took, cpu) = (since.elapsed(), cpu_time(control.id())? - cpu);
    println!(
        "{records} records, {} MiB, {SIDECARS} sidecars: {:.2} s, {:.0} records/s; control's CPU {:.2} s, {:.1} µs a record, \
         {:.0} records a second of CPU; memory {} MiB",
        bytes >> 20,
        took.as_secs_f64(),
        rate(records, took),
        cpu.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(records)?),
        rate(records, cpu),
        memory(control.id())? >> 20
    );
    Ok(())
}

fn rate(records: u64, took: Duration) -> f64 {
    f64::from(u32::try_from(records).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

/// A log such as a sidecar's, and the key that it is written under.
fn log(dir: &std::path::Path, name: &str) -> Result<(std::path::PathBuf, String)> {
    let settings = Settings {
        dir: dir.to_owned(),
        sidecar: name.to_owned(),
        sync: Sync::Batch,
        segment_bytes: 64 << 20,
        max_bytes: None,
    };
    let start = Timestamp(1_795_000_000_000_000);
    let (log, _) = Log::open(settings, SigningKey::from_bytes(&[5; 32]), start)?;
    for number in 0..RECORDS / i64::try_from(SIDECARS)? {
        let phase = if number % 2 == 0 { Phase::Intent } else { Phase::Outcome };
        let mut record = Record::new(phase, Timestamp(start.0 + number * 500));
        record.call = format!("{:024x}", number / 2);
        record.tenant = "default".to_owned();
        record.agent = format!("agent-{}", number / 2 % 5);
        record.topic = "llm.openai.chat".to_owned();
        record.decision = Some(Decision::Allow);
        record.rule = format!("policy/rule-{}", number / 2 % 7);
        record.reason = "no rule matched, and the default is `allow`".to_owned();
        record.policy_digest = format!("sha256:{}", "ab".repeat(32));
        record.args_hash = Some("cd".repeat(32));
        record.target.host = "api.openai.com".to_owned();
        record.target.method = "POST".to_owned();
        record.target.path = "/v1/chat/completions".to_owned();
        record.target.model = Some("gpt-5-mini".to_owned());
        log.later(&record);
    }
    log.flush()?;
    log.close();
    Ok((dir.to_owned(), log.public_key().to_owned()))
}

/// Ships a log; how many records, and bytes.
async fn ship(
    client: Client,
    name: String,
    (dir, key): (std::path::PathBuf, String),
) -> Result<(u64, usize)> {
    let (mut tail, mut records, mut bytes) = (raw(&dir, 1), 0, 0);
    let last = sideguard_record::verify::verify(&dir, &[])?.last;
    while tail.next() <= last {
        let lump = tail.take(last, BATCH_BYTES)?;
        (records, bytes) = (records + lump.count, bytes + lump.bytes.len());
        let position = client.ship(&name, &key, lump.from, lump.bytes.into()).await?;
        if position.next != tail.next() {
            bail!("control went elsewhere: {position:?}");
        }
    }
    Ok((records, bytes))
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
