//! `sideguard`: the command that people use. One file for each verb.

mod audit;
mod capture;
mod doctor;
mod policy;
mod proxy;
mod run;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use run::isolated;
use sideguard_runtime::environment;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sidecar for AI agents: judges every call that leaves, keeps budgets, records everything.
#[derive(Debug, Parser)]
#[command(
    name = "sideguard",
    version,
    propagate_version = true,
    max_term_width = 110,
    after_help = "Examples:\n  sideguard run -- python agent.py\n  sideguard proxy -c proxy.yaml\n  sideguard policy check policies/"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs a command under a sidecar.
    Run(run::Arguments),
    /// Runs the sidecar or egress gateway as a daemon.
    Proxy(proxy::Arguments),
    /// Puts the redirect and lock-down rules into this network namespace and checks them: a pod's init step.
    Init(capture::Init),
    /// Puts rules into this network namespace, takes them away, prints them.
    #[command(subcommand)]
    Capture(capture::Verb),
    /// Tells what works on this machine, and how to get more.
    Doctor(doctor::Arguments),
    /// Checks, tests, explains and formats policies; works offline.
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Reads and verifies the record.
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Prints a script that completes commands in a shell.
    #[command(after_help = "Example:\n  sideguard completions bash > /etc/bash_completion.d/sideguard")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    // Parts of `run`, which nobody types.
    let mut own = std::env::args_os().skip(1).map(std::ffi::OsString::into_string);
    match (own.next(), own.next()) {
        (Some(Ok(part)), Some(Ok(end))) if part == isolated::OUTER => return isolated::outer(&end),
        (Some(Ok(part)), Some(Ok(user))) if part == isolated::INNER => {
            return isolated::inner(&user, &own.filter_map(Result::ok).collect::<Vec<_>>());
        }
        _ => {}
    }
    let arguments = Arguments::parse();
    match arguments.verb {
        Verb::Run(arguments) => in_runtime(|| run::run(arguments)),
        Verb::Proxy(arguments) => in_runtime(|| proxy::run(arguments)),
        Verb::Init(arguments) => capture::init(&arguments),
        Verb::Capture(verb) => capture::run(verb),
        Verb::Doctor(arguments) => in_runtime(|| doctor::run(arguments)),
        Verb::Policy(verb) => policy::run(verb),
        Verb::Audit(verb) => audit::run(verb),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "sideguard", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}

/// Runs a verb that needs the network. Exit code 125 when even the runtime cannot start.
fn in_runtime<F: Future<Output = ExitCode>>(verb: impl FnOnce() -> F) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(verb());
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("sideguard: {error}");
            ExitCode::from(125)
        }
    }
}

/// Whether standard output or error may be coloured.
fn colour(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && environment::variable("NO_COLOR").is_none()
}

/// An error in one line, causes behind it.
fn report(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("sideguard: {error:#}");
    ExitCode::from(code)
}
