//! The proxy as a daemon: configuration in, signals heeded, drained at the end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sideguard_runtime::telemetry::{self, LogFormat};
use sideguard_runtime::{environment, signal};

use crate::app::{self, Nobody, Running, StartError};
use crate::config;
use crate::ports::Ports;

/// Longest time that calls under way are waited for at the end.
const DRAIN: Duration = Duration::from_secs(60);

/// Runs until SIGTERM, SIGINT or `POST /drain`, on the environment alone when no file is named. Exit codes: 0, 64 for a bad configuration, 125 for anything else.
pub async fn run(file: Option<&Path>, state: Option<PathBuf>, format: LogFormat) -> ExitCode {
    telemetry::start_logs("info", format);
    // Before the ports are told: whoever knows them may send a signal at once.
    let signals = match (signal::hangups(), signal::terminated()) {
        (Ok(hangups), Ok(terminated)) => (hangups, terminated),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("sideguard: signals cannot be handled: {error}");
            return ExitCode::from(125);
        }
    };
    let running = match start(file, state).await {
        Ok(running) => running,
        Err(error) => {
            eprintln!("sideguard: {error}");
            return ExitCode::from(if error.is_configuration() { 64 } else { 125 });
        }
    };
    eprintln!("sideguard: outbound {} admin {}", running.outbound(), running.admin());
    serve(&running, signals.0, signals.1).await;
    // A second signal means now.
    match signal::terminated() {
        Ok(again) => running.stop(DRAIN, again).await,
        Err(_) => running.stop(DRAIN, std::future::pending()).await,
    }
    ExitCode::SUCCESS
}

async fn start(file: Option<&Path>, state: Option<PathBuf>) -> Result<Running, StartError> {
    let spec = config::load(file)?;
    let state = state.or_else(|| spec.state.clone()).unwrap_or_else(environment::state_directory);
    app::start(spec, &state, Vec::new(), Ports::Configured, Arc::new(Nobody)).await
}

async fn serve(running: &Running, mut hangups: signal::Hangups, terminated: impl Future<Output = ()>) {
    tokio::pin!(terminated);
    loop {
        tokio::select! {
            () = &mut terminated => return,
            () = running.drain_asked() => return,
            // A refused set is logged and counted there.
            Some(()) = hangups.recv() => {
                let sidecar = Arc::clone(running.sidecar());
                let _ = tokio::task::spawn_blocking(move || sidecar.reload()).await;
            }
        }
    }
}
