//! The proxy as a daemon: configuration in, signals heeded, drained at the end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sideguard_runtime::telemetry::{self, LogFormat};
use sideguard_runtime::{environment, signal};

use crate::app::{self, Nobody, Running, StartError};
use crate::config;

/// Longest time that calls under way are waited for at the end.
const DRAIN: Duration = Duration::from_secs(60);

/// Runs until SIGTERM, SIGINT or `POST /drain`. Exit codes: 0, 64 for a bad configuration, 125 for anything else.
pub async fn run(file: &Path, state: Option<PathBuf>, format: LogFormat) -> ExitCode {
    telemetry::start_logs("info", format);
    let running = match start(file, state).await {
        Ok(running) => running,
        Err(error) => {
            eprintln!("sideguard: {error}");
            return ExitCode::from(if error.is_configuration() { 64 } else { 125 });
        }
    };
    eprintln!("sideguard: outbound {} admin {}", running.outbound(), running.admin());
    match serve(&running).await {
        Ok(()) => {
            running.stop(DRAIN).await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sideguard: signals cannot be handled: {error}");
            ExitCode::from(125)
        }
    }
}

async fn start(file: &Path, state: Option<PathBuf>) -> Result<Running, StartError> {
    let spec = config::load(file)?;
    let state = state.or_else(|| spec.state.clone()).unwrap_or_else(environment::state_directory);
    app::start(spec, &state, Vec::new(), Arc::new(Nobody)).await
}

async fn serve(running: &Running) -> std::io::Result<()> {
    let mut hangups = signal::hangups()?;
    let terminated = signal::terminated();
    tokio::pin!(terminated);
    loop {
        tokio::select! {
            ended = &mut terminated => return ended,
            () = running.drain_asked() => return Ok(()),
            // A refused set is logged and counted there.
            Some(()) = hangups.recv() => { let _ = running.sidecar().reload(); }
        }
    }
}
