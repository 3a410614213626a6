//! What Sideguard costs, beside calling the model directly, two bare pass-through proxies and Envoy.
//!
//! `run` starts everything on loopback, each proxy by itself on one core, and drives it from the other core, in
//! rounds that take turns, so that a noisy minute falls on all alike. Start at [`run`]. The other
//! subcommands are the stand-ins that it starts.

mod bare_hyper;
#[cfg(feature = "pingora")]
mod bare_pingora;
mod certificates;
mod clock;
mod decisions;
mod fanout;
mod goals;
mod load;
mod model;
mod process;
mod processes;
mod report;
mod run;
mod server;
mod sideguard;
mod stats;
mod target;
mod tasks;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

use crate::certificates::Certificates;
use crate::goals::Goal;
use crate::run::Plan;
use crate::target::Programs;
use crate::upstream::Pace;

#[derive(Parser)]
#[command(name = "sideguard-bench", about = "Measures what Sideguard costs")]
struct Command {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Measures everything and reports.
    Run(Measurement),
    /// Measures how fast a change of policy reaches a fleet.
    Fanout(fanout::Fleet),
    /// Runs the stand-in model.
    Upstream {
        #[command(flatten)]
        listen: Listen,
        /// Events in a streamed answer.
        #[arg(long, default_value_t = 20)]
        chunks: u32,
        /// Milliseconds between them.
        #[arg(long, default_value_t = 5)]
        spacing_ms: u64,
    },
    /// Keeps a core from going to sleep.
    Spin,
    /// Runs the bare hyper pass-through; it opens `CONNECT` on its plain port.
    PassHyper {
        #[command(flatten)]
        listen: Listen,
        #[command(flatten)]
        upstream: To,
    },
    /// Runs the bare pingora pass-through.
    #[cfg(feature = "pingora")]
    PassPingora {
        #[command(flatten)]
        listen: Listen,
        #[command(flatten)]
        upstream: To,
    },
}

#[derive(Args)]
struct Measurement {
    /// Envoy's binary; without it Envoy is left out.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Sideguard's binary; without it Sideguard is left out.
    #[arg(long)]
    sideguard: Option<PathBuf>,
    /// The policy engine's example `decide_speed`; without it decisions are left out.
    #[arg(long)]
    decide_speed: Option<PathBuf>,
    /// A quick look: one short round.
    #[arg(long)]
    quick: bool,
    /// Rounds, of which the median counts.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=50))]
    rounds: Option<u16>,
    /// Seconds of one measurement.
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Requests a second at which latencies are taken, when the machine carries them.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(20..=100_000))]
    rate: u64,
    /// Keep-alive connections to each target.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// Runs everything in the real-time class (`chrt --fifo`), so that other work does not disturb them.
    #[arg(long)]
    realtime: bool,
    /// Keeps both cores from going to sleep, by work of the lowest class (`chrt --idle`): a virtual core wakes
    /// so slowly that this hides what a proxy adds.
    #[arg(long)]
    awake: bool,
    /// Exits with 1 when a goal is missed.
    #[arg(long)]
    check: bool,
    /// Directory for configurations, certificates and logs.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// File for the report as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Args)]
struct Listen {
    /// Address for plain connections.
    #[arg(long)]
    plain: SocketAddr,
    /// Address for connections inside TLS.
    #[arg(long)]
    tls: SocketAddr,
    /// Directory with the certificates.
    #[arg(long)]
    certificates: PathBuf,
}

#[derive(Args)]
struct To {
    /// The model's address for plain connections.
    #[arg(long)]
    upstream: SocketAddr,
    /// The model's address for connections inside TLS.
    #[arg(long)]
    upstream_tls: SocketAddr,
}

fn main() -> Result<ExitCode> {
    match Command::parse().role {
        Role::Run(measurement) => return on_one_thread(measurement.take()),
        Role::Fanout(fleet) => on_one_thread(fleet.measure()),
        Role::Upstream { listen, chunks, spacing_ms } => {
            end_with_parent()?;
            let pace = Pace { chunks, spacing: Duration::from_millis(spacing_ms) };
            let certificates = Certificates::at(&listen.certificates);
            on_one_thread(upstream::serve(listen.plain, listen.tls, &certificates, pace))
        }
        Role::Spin => {
            end_with_parent()?;
            loop {
                std::hint::spin_loop();
            }
        }
        Role::PassHyper { listen, upstream } => {
            end_with_parent()?;
            let certificates = Certificates::at(&listen.certificates);
            let To { upstream, upstream_tls } = upstream;
            on_one_thread(bare_hyper::serve(listen.plain, upstream, upstream_tls, &certificates))
        }
        #[cfg(feature = "pingora")]
        Role::PassPingora { listen, upstream } => {
            end_with_parent()?;
            let certificates = Certificates::at(&listen.certificates);
            let To { upstream, upstream_tls } = upstream;
            bare_pingora::serve(listen.plain, listen.tls, upstream, upstream_tls, &certificates)
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

impl Measurement {
    async fn take(self) -> Result<ExitCode> {
        let (rounds, time, starts) = if self.quick { (1, 400, 3) } else { (3, 1_000, 5) };
        let plan = Plan {
            rounds: self.rounds.map_or(rounds, usize::from),
            time: self.seconds.unwrap_or(Duration::from_millis(time)),
            rate: self.rate,
            connections: usize::from(self.connections),
            starts,
            realtime: self.realtime,
            awake: self.awake,
            directory: self.directory,
        };
        let programs =
            Programs { envoy: self.envoy, sideguard: self.sideguard, decide_speed: self.decide_speed };
        let mut terminated = signal(SignalKind::terminate())?;
        let findings = tokio::select! {
            findings = run::run(&plan, programs) => findings?,
            // To drop the run ends its processes.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
        };
        print!("{}", report::text(&findings));
        let report = serde_json::to_string_pretty(&report::json(&plan, &findings))?;
        std::fs::write(&self.json, report + "\n")
            .with_context(|| format!("cannot write `{}`", self.json.display()))?;
        println!("written to {}", self.json.display());
        let missed = self.check && goals::goals(&findings).iter().any(Goal::missed);
        Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    match Duration::try_from_secs_f64(number) {
        Ok(time) if (0.05..=60.0).contains(&number) => Ok(time),
        _ => Err(format!("`{text}` is not between 0.05 and 60")),
    }
}

/// A stand-in must not outlive the run that started it, however that ends.
fn end_with_parent() -> Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

fn on_one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
