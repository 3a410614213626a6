//! The built binary as people run it: one command, to its end.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::sidecar;

/// Longest time that a command may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Variables of the test's own environment that would lead a command elsewhere.
const LEADING: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
];

/// What came of a command.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// `sideguard` with arguments, its state in `state`, ready to be given more and started.
#[must_use]
pub fn command(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(sidecar::binary());
    command.args(arguments).env("SIDEGUARD_STATE", state).kill_on_drop(true);
    for name in LEADING {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `sideguard` with arguments to its end.
///
/// # Panics
/// When it does not end within a minute.
pub async fn sideguard(state: &Path, arguments: &[&str]) -> Ran {
    ran(command(state, arguments)).await
}

/// Runs a command to its end.
///
/// # Panics
/// When it does not start, or does not end within a minute.
pub async fn ran(mut command: Command) -> Ran {
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .expect("an end within a minute")
        .expect("a start");
    Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
