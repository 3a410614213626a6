//! The control service as a daemon: configuration in, signals heeded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sideguard_policy::source::{self, Source};
use sideguard_runtime::telemetry::{self, LogFormat};
use sideguard_runtime::{environment, limits, signal};
use sideguard_types::resource::ControlSpec;

use crate::app;

/// Runs until SIGTERM or SIGINT, on embedded defaults when no file is named. Exit codes: 0, 64 for a bad configuration,
/// 125 for anything else.
pub async fn run(file: Option<&Path>, state: Option<PathBuf>, format: LogFormat) -> ExitCode {
    telemetry::start_logs("info", format);
    limits::take_all_files();
    // Before the port is told: whoever knows it may send a signal at once.
    let terminated = match signal::terminated() {
        Ok(terminated) => terminated,
        Err(error) => return failed(&format!("signals cannot be handled: {error}"), 125),
    };
    let spec = match load(file) {
        Ok(spec) => spec,
        Err(error) => return failed(&error, 64),
    };
    let state = state.or_else(|| spec.state.clone()).unwrap_or_else(environment::state_directory);
    let running = match app::start(&spec, &state).await {
        Ok(running) => running,
        Err(error) => return failed(&error.to_string(), if error.is_configuration() { 64 } else { 125 }),
    };
    eprintln!("sideguard: control {} key {}", running.url(), running.operator_key().display());
    terminated.await;
    running.stop().await;
    ExitCode::SUCCESS
}

fn failed(error: &str, code: u8) -> ExitCode {
    eprintln!("sideguard: {error}");
    ExitCode::from(code)
}

/// Reads the configuration file, if any, and the environment over it. Paths in it are taken from the file's directory.
///
/// # Errors
/// Every error in it, with its place.
pub fn load(file: Option<&Path>) -> Result<ControlSpec, String> {
    const NONE: &str = "apiVersion: sideguard.dev/v1\nkind: Control\n";
    let (name, text) = match file {
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("cannot read configuration `{}`: {error}", path.display()))?;
            (path.display().to_string(), text)
        }
        None => ("defaults".to_owned(), NONE.to_owned()),
    };
    let source = Source::new(name, text);
    let (_, mut spec) = source::load_control(&source, &environment::configuration())
        .map_err(|findings| findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    let anchor = |path: &mut PathBuf| *path = base.join(&*path);
    spec.state.iter_mut().for_each(anchor);
    spec.operator_key.iter_mut().for_each(|key| anchor(&mut key.file));
    spec.approvals.webhooks.iter_mut().for_each(|webhook| anchor(&mut webhook.secret.file));
    if let Some(tls) = &mut spec.tls {
        anchor(&mut tls.certificate);
        anchor(&mut tls.key);
        tls.clients.iter_mut().for_each(anchor);
    }
    if let Some(kubernetes) = &mut spec.kubernetes {
        kubernetes.kubeconfig.iter_mut().for_each(anchor);
    }
    Ok(spec)
}
