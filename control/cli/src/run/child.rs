//! The command under the sidecar: its environment, its signals, its exit status.

use std::io::{ErrorKind, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use sideguard_runtime::environment;
use sideguard_runtime::tasks::{self, Owned};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What stands in a provider's key variable for the command: the real key stays with the sidecar.
const PLACEHOLDER: &str = "sideguard";
/// Variables that take a bundle of roots.
const TRUST: [&str; 13] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GIT_SSL_CAINFO",
    "DENO_CERT",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
];
const PROXY: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// What a command finds in its environment; `None` takes a variable away.
pub(crate) type Variables = Vec<(String, Option<String>)>;

/// What the command's environment changes: `proxy` is where it has to go by itself, as `[user:key@]address:port`, none where
/// it is taken there anyway;
/// `trust` is the directory with the bundle of roots; `keys` are variables whose values are not for the command.
pub(crate) fn variables(proxy: Option<&str>, trust: &Path, keys: &[String]) -> Variables {
    let url = proxy.map(|proxy| format!("http://{proxy}"));
    let mut variables = Vec::new();
    for name in PROXY {
        variables.push((name, url.clone()));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        variables.push((name, None));
    }
    variables.push(("NODE_USE_ENV_PROXY", url.map(|_| "1".to_owned())));
    let bundle = trust.join("bundle.pem").display().to_string();
    for name in TRUST {
        variables.push((name, Some(bundle.clone())));
    }
    variables.push(("SSL_CERT_DIR", Some(trust.display().to_string())));
    let mut variables: Variables =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let set = keys.iter().filter(|name| environment::variable(name).is_some());
    variables.extend(set.map(|name| (name.clone(), Some(PLACEHOLDER.to_owned()))));
    variables
}

/// Changes a command's environment.
pub(crate) fn set(command: &mut Command, variables: Variables) {
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

/// A command that runs.
pub(super) struct Started {
    child: Child,
    signals: mpsc::Receiver<Signal>,
    _listeners: Vec<Owned>,
}

/// Starts a command that is called `program`.
///
/// # Errors
/// The exit status when it cannot be started, which has been told: 127 when it is not found, 126 otherwise.
pub(super) fn start(command: &mut Command, program: &str) -> Result<Started, ExitCode> {
    // Before the command exists: a signal that comes between would end the sidecar and leave the command alone.
    let (listeners, signals) = listen();
    match command.spawn() {
        Ok(child) => Ok(Started { child, signals, _listeners: listeners }),
        Err(error) => Err(not_started(program, &error)),
    }
}

/// Tells that a command cannot be started. Returns the exit status for that.
pub(super) fn not_started(program: &str, error: &std::io::Error) -> ExitCode {
    eprintln!("sideguard: cannot run `{program}`: {error}");
    ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 })
}

impl Started {
    /// The process alone: it is sent no signals any more.
    pub(super) fn into_child(self) -> Child {
        self.child
    }

    /// Waits for the command and passes signals on to it.
    pub(super) async fn wait(mut self) -> ExitCode {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap_or(0)));
        loop {
            tokio::select! {
                status = self.child.wait() => return status.map_or(ExitCode::from(125), exit_code),
                Some(number) = self.signals.recv() => {
                    if let Some(pid) = pid {
                        // It may have ended in the meantime.
                        let _ = kill_process(pid, number);
                    }
                }
            }
        }
    }
}

/// Listens for the signals that are passed on, for as long as what is returned first lives.
pub(super) fn listen() -> (Vec<Owned>, mpsc::Receiver<Signal>) {
    // A terminal sends these to the whole foreground group: the command has them already.
    let terminal = std::io::stdin().is_terminal();
    let passed = [
        (SignalKind::terminate(), Signal::TERM, true),
        (SignalKind::hangup(), Signal::HUP, true),
        (SignalKind::user_defined1(), Signal::USR1, true),
        (SignalKind::user_defined2(), Signal::USR2, true),
        (SignalKind::interrupt(), Signal::INT, !terminal),
        (SignalKind::quit(), Signal::QUIT, !terminal),
    ];
    let (send, signals) = mpsc::channel(8);
    let ignored = ignored();
    let mut listeners = Vec::new();
    for (kind, number, pass) in passed {
        // What was to be ignored, by `nohup` say, stays so for the command as well.
        if ignored >> number.as_raw().saturating_sub(1) & 1 == 1 {
            continue;
        }
        let Ok(mut stream) = signal(kind) else { continue };
        let send = send.clone();
        let task = tasks::spawn("signal", async move {
            while stream.recv().await.is_some() {
                if pass && send.send(number).await.is_err() {
                    return;
                }
            }
        });
        listeners.push(Owned::new(&task));
    }
    (listeners, signals)
}

/// Signals that this process ignores, as a set of bits; none where that cannot be told.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The command's own status; 128 and the signal's number where one ended it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code =
        status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128))).unwrap_or(125);
    ExitCode::from(u8::try_from(code).unwrap_or(125))
}
