//! `sideguard doctor`: what works on this machine, and how to get more.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use sideguard_capture::rules;
use sideguard_client::{Client, ClientError};
use sideguard_proxy::roots;
use sideguard_runtime::environment;
use sideguard_store::diagnose::{self, Diagnosis, Trouble};
use tokio::net::TcpListener;

use crate::run::isolated;

/// Flags of `sideguard doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard doctor\n  sideguard doctor --redis redis://127.0.0.1:6379 --nats nats://127.0.0.1:4222\n  \
        sideguard doctor -c control.yaml --control http://10.0.0.7:4760\n\n\
        Exit status: 1 when something that is needed does not work."
)]
pub(crate) struct Arguments {
    /// Configuration of a control service, whose store is looked at.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Redis, to be looked at.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// NATS, to be looked at.
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// Control service, to be looked at; several replicas with commas between.
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Text,
    Json,
}

/// How well something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// As it should.
    Ok,
    /// Not, but Sideguard works without.
    Limited,
    /// Not, and something needs it.
    Failed,
}

/// What was found about one thing.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into(), mend: None }
    }

    fn not(check: &'static str, state: State, found: impl Into<String>, mend: &str) -> Self {
        Self { check, state, found: found.into(), mend: Some(mend.to_owned()) }
    }
}

/// Checks everything and tells.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    let (redis, nats) = match stores(&arguments) {
        Ok(stores) => stores,
        Err(error) => return crate::report(&anyhow::Error::msg(error), 64),
    };
    let mut findings = vec![
        isolation(),
        capture(),
        state(),
        roots(),
        port("outbound port", "127.0.0.1:4750").await,
        port("admin port", "127.0.0.1:4751").await,
        clock(),
    ];
    if let Some(redis) = redis {
        findings.extend(diagnose::redis(&redis).await.into_iter().map(Finding::from));
    }
    if let Some(nats) = nats {
        findings.extend(diagnose::nats(&nats).await.into_iter().map(Finding::from));
    }
    for url in arguments.control.iter().flat_map(|urls| urls.split(',')) {
        findings.push(control(url).await);
    }
    match arguments.output {
        Form::Text => findings.iter().for_each(tell),
        Form::Json => match serde_json::to_string_pretty(&findings) {
            Ok(text) => println!("{text}"),
            Err(error) => return crate::report(&error.into(), 125),
        },
    }
    ExitCode::from(u8::from(findings.iter().any(|finding| finding.state == State::Failed)))
}

/// URLs of Redis and NATS: the flags', else the configuration's.
fn stores(arguments: &Arguments) -> Result<(Option<String>, Option<String>), String> {
    let store = match &arguments.config {
        Some(file) => sideguard_control::daemon::load(Some(file))?.store,
        None => None,
    };
    let (redis, nats) = store.map(|store| (store.redis, store.nats)).unzip();
    Ok((arguments.redis.clone().or(redis), arguments.nats.clone().or(nats)))
}

impl From<Diagnosis> for Finding {
    fn from(Diagnosis { what, found, trouble }: Diagnosis) -> Self {
        match trouble {
            None => Self::ok(what, found),
            Some(Trouble { fatal, mend }) => {
                Self::not(what, if fatal { State::Failed } else { State::Limited }, found, mend)
            }
        }
    }
}

async fn control(url: &str) -> Finding {
    const CHECK: &str = "control";
    let asked = async { Client::new(url, None, None)?.ready().await };
    match asked.await {
        Ok(()) => Finding::ok(CHECK, format!("`{url}` is ready")),
        Err(ClientError::Refused(problem)) if problem.status == 503 => Finding::not(
            CHECK,
            State::Failed,
            format!("`{url}` answers, and {}", problem.detail),
            "its store is away: look at it with `sideguard doctor --redis URL --nats URL`",
        ),
        Err(error) => Finding::not(
            CHECK,
            State::Failed,
            error.to_string(),
            "is it running (`sideguard control`), does the address hold from here, and does its certificate come from the \
             system's roots?",
        ),
    }
}

fn tell(finding: &Finding) {
    let (mark, colour) = match finding.state {
        State::Ok => ("ok", "\x1b[32m"),
        State::Limited => ("limited", "\x1b[33m"),
        State::Failed => ("failed", "\x1b[31m"),
    };
    let (on, off) = if crate::colour(&std::io::stdout()) { (colour, "\x1b[0m") } else { ("", "") };
    println!("{on}{mark:<8}{off}{:<14} {}", finding.check, finding.found);
    if let Some(mend) = &finding.mend {
        println!("{:<23}{mend}", "");
    }
}

/// Makes the namespaces of `run --isolate netns` and lets them go.
fn isolation() -> Finding {
    const CHECK: &str = "isolation";
    match isolated::prepare(Vec::new(), None, Vec::new(), isolated::Ways::Inherited) {
        Ok(_) if rustix::process::geteuid().is_root() => Finding::ok(
            CHECK,
            "netns: `sideguard run` takes in everything that its command sends (as root: name a user with --user)",
        ),
        Ok(_) => Finding::ok(CHECK, "netns: `sideguard run` takes in everything that its command sends"),
        Err(why) => Finding::not(
            CHECK,
            State::Limited,
            format!("env only, which a program can ignore: {why}"),
            "let users have namespaces (`sysctl kernel.unprivileged_userns_clone=1 \
             kernel.apparmor_restrict_unprivileged_userns=0`), install nftables, or run as root; in a container, give it \
             CAP_SYS_ADMIN and CAP_NET_ADMIN, or use the pod layout (`sideguard init`)",
        ),
    }
}

/// Whether the rules of the present namespace could be changed (`sideguard init`).
fn capture() -> Finding {
    const CHECK: &str = "capture";
    match rules::counters() {
        Ok(_) => Finding::ok(CHECK, "the rules are in place in this network namespace"),
        // The table is not there, but it was possible to look.
        Err(rules::ApplyError::Refused(_)) => Finding::ok(
            CHECK,
            "`sideguard init` can put rules into this network namespace; none are in place",
        ),
        Err(error) => Finding::not(
            CHECK,
            State::Limited,
            error.to_string(),
            "needed for `sideguard init` and `sideguard capture` alone",
        ),
    }
}

fn state() -> Finding {
    const CHECK: &str = "state";
    let dir = environment::state_directory();
    let probe = dir.join(".doctor");
    let written = std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&probe, b""))
        .and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => Finding::ok(CHECK, format!("`{}` can be written", dir.display())),
        Err(error) => Finding::not(
            CHECK,
            State::Failed,
            format!("`{}`: {error}", dir.display()),
            "set SIDEGUARD_STATE, or give `--state`, to a directory on a local disk",
        ),
    }
}

fn roots() -> Finding {
    const CHECK: &str = "roots";
    match roots::count() {
        0 => Finding::not(
            CHECK,
            State::Failed,
            "the system has no roots to verify upstreams against",
            "install the package `ca-certificates`, or name roots in `tls.trust`",
        ),
        count => Finding::ok(CHECK, format!("{count} of the system's, for verifying upstreams")),
    }
}

async fn port(check: &'static str, address: &str) -> Finding {
    match TcpListener::bind(address).await {
        Ok(_) => Finding::ok(check, format!("{address} is free")),
        Err(error) => Finding::not(
            check,
            State::Limited,
            format!("{address}: {error}"),
            "a sidecar may be running already; `listen` in the configuration names another one",
        ),
    }
}

/// Budgets and certificates live by the clock.
fn clock() -> Finding {
    const CHECK: &str = "clock";
    /// 2026-01-01T00:00:00Z.
    const EARLIEST: i64 = 1_767_225_600;
    let now = sideguard_runtime::clock::now();
    if now.seconds() < EARLIEST {
        return Finding::not(
            CHECK,
            State::Failed,
            format!("{now} lies in the past"),
            "set the clock, or let NTP do it",
        );
    }
    Finding::ok(CHECK, now.to_string())
}
