//! `sideguard doctor`: what works on this machine, and how to get more.

use std::process::ExitCode;

use serde::Serialize;
use sideguard_capture::rules;
use sideguard_proxy::roots;
use sideguard_runtime::environment;
use tokio::net::TcpListener;

use crate::run::isolated;

/// Flags of `sideguard doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sideguard doctor\n\nExit status: 1 when something that `sideguard run` needs does not work."
)]
pub(crate) struct Arguments {
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
    let findings = vec![
        isolation(),
        capture(),
        state(),
        roots(),
        port("outbound port", "127.0.0.1:4750").await,
        port("admin port", "127.0.0.1:4751").await,
        clock(),
    ];
    match arguments.output {
        Form::Text => findings.iter().for_each(tell),
        Form::Json => match serde_json::to_string_pretty(&findings) {
            Ok(text) => println!("{text}"),
            Err(error) => return crate::report(&error.into(), 125),
        },
    }
    ExitCode::from(u8::from(findings.iter().any(|finding| finding.state == State::Failed)))
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
    match isolated::prepare(Vec::new(), None, Vec::new()) {
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
