//! One job: a run of the command, from its input to its result.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use sideguard_capture::isolate::{Channel, User};
use sideguard_proxy::app::Running;
use sideguard_proxy::work::Task;
use sideguard_runtime::tasks::{self, Owned};
use sideguard_types::control::jobs::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::run::child::{self, Variables};
use crate::run::isolated::{self, Ways};

/// Largest result.
const RESULT: usize = 4 << 20;
/// So much of the end of standard error is told when a job fails.
const MESSAGE: usize = 2 << 10;
/// Exit status of a failure that may pass (`EX_TEMPFAIL` of sysexits.h).
const TEMPORARY: i32 = 75;
/// Time from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// Longest time that what a command wrote is waited for once all of its processes have ended.
const REST: Duration = Duration::from_secs(1);

/// Runs the command.
pub(super) struct Runner {
    pub(super) command: Vec<String>,
    /// Where each job has a namespace of its own: ports of this host that lead there, and whom the command runs as.
    pub(super) space: Option<(Vec<u16>, Option<User>)>,
    pub(super) state: PathBuf,
    /// Variables whose values are not for the command.
    pub(super) keys: Vec<String>,
}

/// What a command wrote to standard output.
#[derive(Debug)]
enum Written {
    /// This.
    Whole(Vec<u8>),
    /// More than a result may be.
    TooMuch,
    /// Nobody knows: a process that it left behind goes on writing.
    Unended,
}

/// A command that was started, and what has to stay with it.
struct Started {
    child: Child,
    _space: Option<(Channel, Vec<Owned>)>,
}

impl Runner {
    /// Runs it for one job, to its end or until nothing may be done for the job any more or all is stopped.
    pub(super) async fn run(
        &self,
        running: &Running,
        task: &Task,
        mut stopped: watch::Receiver<bool>,
    ) -> Outcome {
        let mut started = match self.start(running, task) {
            Ok(started) => started,
            Err(error) => return failed(format!("cannot run `{}`: {error:#}", self.program()), false),
        };
        let child = &mut started.child;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap_or(0)));
        feed(child, task.input());
        let out = child.stdout.take().map(|out| tasks::spawn("stdout", all(out)));
        let err = child.stderr.take().map(|err| tasks::spawn("stderr", tail(err)));
        let cut = |why: &str| Err(failed(format!("stopped: {why}"), task.is_idempotent()));
        let ended = tokio::select! {
            status = child.wait() => status.map_err(|error| failed(error.to_string(), true)),
            () = task.taken() => cut("the job is no longer this worker's"),
            _ = stopped.wait_for(|stopped| *stopped) => cut("the worker ends"),
        };
        if ended.is_err() {
            kill(group, Signal::TERM);
            // It may not heed the signal.
            let _ = tokio::time::timeout(GRACE, child.wait()).await;
        }
        // Whatever it has started ends with it.
        kill(group, Signal::KILL);
        match ended {
            Ok(status) => outcome(
                status,
                rest(out).await.unwrap_or(Written::Unended),
                &rest(err).await.unwrap_or_default(),
            ),
            Err(outcome) => outcome,
        }
    }

    fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    fn start(&self, running: &Running, task: &Task) -> anyhow::Result<Started> {
        let of_job = |outbound: &str| -> Variables {
            let all = [
                ("SIDEGUARD_JOB_ID", task.id().to_owned()),
                ("SIDEGUARD_JOB_TOPIC", task.topic().to_owned()),
                ("SIDEGUARD_JOB_ATTEMPT", task.attempt().to_string()),
                ("SIDEGUARD_JOBS_URL", format!("http://{outbound}/jobs")),
                ("TRACEPARENT", task.traceparent()),
            ];
            all.into_iter().map(|(name, value)| (name.to_owned(), Some(value))).collect()
        };
        let Some((local, user)) = &self.space else {
            let outbound = running.outbound().to_string();
            let proxy = format!("job:{}@{outbound}", task.key().expose());
            let mut variables = child::variables(Some(&proxy), &self.state.join("ca"), &self.keys);
            variables.extend(of_job(&outbound));
            return Ok(Started { child: self.in_environment(variables)?, _space: None });
        };
        let mut variables = child::variables(None, Path::new(isolated::TRUST), &self.keys);
        variables.extend(of_job(isolated::AT));
        let made = isolated::prepare(local.clone(), user.clone(), variables, Ways::Piped);
        let (space, inside) = made.map_err(anyhow::Error::msg)?;
        let doors = running.enter(inside, task)?;
        let (child, channel) = space.start(&self.command, &self.state, running.authority())?;
        Ok(Started { child, _space: Some((channel, doors)) })
    }

    fn in_environment(&self, variables: Variables) -> std::io::Result<Child> {
        let mut command = Command::new(self.program());
        command.args(self.command.iter().skip(1));
        child::set(&mut command, variables);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        die_with_parent(&mut command);
        command.spawn()
    }
}

/// A command does not go on when its sidecar is killed.
#[expect(unsafe_code, reason = "what runs between fork and exec can only be given so")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: one system call, which allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

fn kill(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // All of it may have ended.
        let _ = kill_process_group(group, signal);
    }
}

fn failed(message: String, retry: bool) -> Outcome {
    Outcome::Failed { message, retry }
}

/// Writes the input. A command may end without reading it.
fn feed(child: &mut Child, input: &Value) {
    if let Some(mut stdin) = child.stdin.take() {
        let text = input.to_string();
        tasks::spawn("stdin", async move { stdin.write_all(text.as_bytes()).await });
    }
}

async fn rest<T>(reading: Option<tokio::task::JoinHandle<T>>) -> Option<T> {
    tokio::time::timeout(REST, reading?).await.ok()?.ok()
}

async fn all(mut from: impl AsyncRead + Unpin) -> Written {
    let mut whole = Vec::new();
    let mut within = (&mut from).take(RESULT as u64 + 1);
    match within.read_to_end(&mut whole).await {
        Ok(_) if whole.len() <= RESULT => Written::Whole(whole),
        Ok(_) => Written::TooMuch,
        Err(_) => Written::Unended,
    }
}

/// Passes standard error on, and keeps the end of it.
async fn tail(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 8 << 10]);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let part = buffer.get(..read).unwrap_or_default();
        // Nobody may be reading it.
        let _ = std::io::stderr().write_all(part);
        kept.extend_from_slice(part);
        kept.drain(..kept.len().saturating_sub(MESSAGE));
    }
    kept
}

/// What came of a run.
fn outcome(status: ExitStatus, out: Written, err: &[u8]) -> Outcome {
    if matches!(out, Written::TooMuch) {
        return failed(format!("its result is larger than {} MiB", RESULT >> 20), false);
    }
    if !status.success() {
        let told = String::from_utf8_lossy(err).trim().to_owned();
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, signal) => format!("ended by signal {}", signal.unwrap_or_default()),
        };
        let message = if told.is_empty() { how } else { format!("{how}: {told}") };
        return failed(message, status.code() == Some(TEMPORARY));
    }
    let Written::Whole(out) = out else {
        return failed("what it wrote has no end: a process that it started goes on".to_owned(), false);
    };
    let text = String::from_utf8_lossy(&out);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text_too = |_| Value::String(text.to_owned());
    Outcome::Succeeded(if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(text).unwrap_or_else(text_too)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use serde_json::json;
    use sideguard_types::control::jobs::Outcome;

    use super::{Written, outcome};

    #[test]
    fn what_a_command_prints_is_its_result() {
        let done =
            |out: &str| outcome(ExitStatus::from_raw(0), Written::Whole(out.as_bytes().to_vec()), b"noise");
        assert_eq!(done("{\"a\": [1]}\n"), Outcome::Succeeded(json!({"a": [1]})));
        assert_eq!(done("two\nlines\n"), Outcome::Succeeded(json!("two\nlines")));
        assert_eq!(done(""), Outcome::Succeeded(json!(null)));
        for out in [Written::TooMuch, Written::Unended] {
            let failed = outcome(ExitStatus::from_raw(0), out, b"");
            assert!(matches!(failed, Outcome::Failed { retry: false, .. }), "{failed:?}");
        }
    }

    #[test]
    fn the_exit_status_says_whether_another_try_may_help() {
        let failed = |raw| match outcome(ExitStatus::from_raw(raw), Written::Whole(Vec::new()), b"why\n") {
            Outcome::Failed { message, retry } => (message, retry),
            other => panic!("{other:?}"),
        };
        assert_eq!(failed(1 << 8), ("exit status 1: why".to_owned(), false));
        assert_eq!(failed(75 << 8), ("exit status 75: why".to_owned(), true));
        assert_eq!(failed(9), ("ended by signal 9: why".to_owned(), false));
    }
}
