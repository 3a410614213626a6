//! `sideguard cni`: the rules of pods, set by their node, so that the pods need no right for it.
//!
//! `plugin` is what the container runtime runs, last in the list of a network's plugins, for each pod (CNI specification 1.1.0).
//! `install` puts it on the node and keeps it there, `remove` takes it away, `status` tells.

mod node;
mod plugin;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use sideguard_capture::rules::Rules;
use sideguard_runtime::signal;

use crate::capture::{self, Wanted};
use node::Node;

/// Name of the plugin: its file on the node, and its `type` in lists of plugins.
const NAME: &str = "sideguard-cni";
/// How often the node is looked at: other plugins' installers write their lists anew.
const LOOK: Duration = Duration::from_secs(5);

/// Verbs of `sideguard cni`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Puts the plugin on this node and keeps it there until SIGTERM; it stays when this ends.
    #[command(after_help = "Example, in a pod that has the node's directories below /host:\n  \
        sideguard cni install -- --proxy-uid 14102 --loopback 8080")]
    Install {
        #[command(flatten)]
        node: Node,
        /// Does it once and ends.
        #[arg(long)]
        once: bool,
        /// Flags of `sideguard init`: what the rules are to be, for all pods of the node.
        #[arg(last = true, value_name = "FLAG")]
        rules: Vec<String>,
    },
    /// Takes the plugin off this node.
    #[command(after_help = "Example:\n  sideguard cni remove")]
    Remove {
        #[command(flatten)]
        node: Node,
        /// Stays until SIGTERM: whoever starts it would start it again.
        #[arg(long)]
        stay: bool,
    },
    /// Tells whether the plugin is in its place; exit code 1 when it is not.
    #[command(after_help = "Example, as a readiness probe:\n  sideguard cni status")]
    Status {
        #[command(flatten)]
        node: Node,
    },
    /// What the container runtime runs: configuration on standard input, the rest in the environment.
    #[command(after_help = "Example:\n  CNI_COMMAND=VERSION sideguard cni plugin < /dev/null")]
    Plugin {
        /// Directory with the files that the rules need; the node's own when absent.
        #[arg(long, value_name = "DIR")]
        root: Option<std::path::PathBuf>,
    },
}

/// Runs a verb.
pub(crate) fn run(verb: Verb) -> ExitCode {
    match verb {
        // By itself: a thread of a runtime would stay in the node's network.
        Verb::Plugin { root } => plugin::run(root.as_deref()),
        Verb::Status { node } => match node.missing() {
            None => ExitCode::SUCCESS,
            Some(what) => {
                eprintln!("sideguard: {what}");
                ExitCode::from(1)
            }
        },
        Verb::Install { node, once, rules } => match rules_of(&rules) {
            Err(what) => {
                eprintln!("sideguard: {what}");
                ExitCode::from(2)
            }
            Ok(_) if once => told(node.install(&rules).map(drop)),
            Ok(_) => crate::in_runtime(|| keep(node, rules)),
        },
        Verb::Remove { node, stay } => {
            let code = told(node.remove());
            if stay && code == ExitCode::SUCCESS { crate::in_runtime(until_terminated) } else { code }
        }
    }
}

/// The rules that flags of `sideguard init` ask for.
fn rules_of(flags: &[String]) -> Result<Rules, String> {
    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Flags {
        #[command(flatten)]
        wanted: Wanted,
    }
    let flags = Flags::try_parse_from(flags).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })?;
    capture::rules_of(&flags.wanted)
}

/// Keeps the plugin in its place. What stands in the way is told once, until it is something else.
async fn keep(node: Node, rules: Vec<String>) -> ExitCode {
    let Ok(terminated) = signal::terminated() else { return ExitCode::from(125) };
    tokio::pin!(terminated);
    let mut before = String::new();
    loop {
        let now = match node.install(&rules) {
            Ok(list) => format!("in place in {}", list.display()),
            Err(error) => error.to_string(),
        };
        if now != before {
            eprintln!("sideguard: {now}");
            before = now;
        }
        tokio::select! {
            () = &mut terminated => return ExitCode::SUCCESS,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn until_terminated() -> ExitCode {
    let Ok(terminated) = signal::terminated() else { return ExitCode::from(125) };
    terminated.await;
    ExitCode::SUCCESS
}

fn told(done: Result<(), node::NodeError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => crate::report(&error.into(), 125),
    }
}
