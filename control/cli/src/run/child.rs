//! The command under the sidecar: its environment, its signals, its exit status.

use std::io::{ErrorKind, IsTerminal};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use sideguard_proxy::upstreams;
use sideguard_runtime::environment;
use sideguard_runtime::tasks::{self, Owned};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What stands in a provider's key variable for the command: the real key stays with the sidecar.
const PLACEHOLDER: &str = "sideguard";
/// Variables that take a bundle of roots.
const TRUST: [&str; 8] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GIT_SSL_CAINFO",
    "DENO_CERT",
];

/// Runs the command to its end. 127 when it is not found, 126 when it cannot be run.
pub(super) async fn run(command: &[String], proxy: SocketAddr, state: &Path) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else { return ExitCode::from(125) };
    let state = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
    let mut command = Command::new(program);
    command.args(arguments);
    for (name, value) in variables(proxy, &state.join("ca")) {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // Before the command exists: a signal that comes between would end the sidecar and leave the command alone.
    let (_listeners, signals) = listen();
    match command.spawn() {
        Ok(child) => wait(child, signals).await,
        Err(error) => {
            eprintln!("sideguard: cannot run `{program}`: {error}");
            ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 })
        }
    }
}

/// What the command finds in its environment; `None` takes a variable away.
fn variables(proxy: SocketAddr, ca: &Path) -> Vec<(&'static str, Option<String>)> {
    let url = format!("http://{proxy}");
    let mut variables = Vec::new();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        variables.push((name, Some(url.clone())));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        variables.push((name, None));
    }
    variables.push(("NODE_USE_ENV_PROXY", Some("1".to_owned())));
    let bundle = ca.join("bundle.pem").display().to_string();
    for name in TRUST {
        variables.push((name, Some(bundle.clone())));
    }
    variables.push(("SSL_CERT_DIR", Some(ca.display().to_string())));
    for name in upstreams::key_variables() {
        if environment::variable(name).is_some() {
            variables.push((name, Some(PLACEHOLDER.to_owned())));
        }
    }
    variables
}

/// Listens for the signals that are passed on, for as long as what is returned first lives.
fn listen() -> (Vec<Owned>, mpsc::Receiver<Signal>) {
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
    let mut listeners = Vec::new();
    for (kind, number, pass) in passed {
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

/// Waits for the command and passes signals on to it.
async fn wait(mut child: Child, mut signals: mpsc::Receiver<Signal>) -> ExitCode {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap_or(0)));
    loop {
        tokio::select! {
            status = child.wait() => return status.map_or(ExitCode::from(125), exit_code),
            Some(number) = signals.recv() => {
                if let Some(pid) = pid {
                    // It may have ended in the meantime.
                    let _ = kill_process(pid, number);
                }
            }
        }
    }
}

/// The command's own status; 128 and the signal's number where one ended it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code =
        status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128))).unwrap_or(125);
    ExitCode::from(u8::try_from(code).unwrap_or(125))
}
