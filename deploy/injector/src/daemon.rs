//! The injector as a daemon: configuration in, signals heeded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sideguard_policy::source::{self, Source};
use sideguard_runtime::telemetry::{self, LogFormat};
use sideguard_runtime::{environment, limits, signal};
use sideguard_types::resource::InjectorSpec;

use crate::app;
use crate::settings::Settings;

/// Runs until SIGTERM or SIGINT, on defaults when no file is named. Exit codes: 0, 64 for a bad configuration, 125 for
/// anything else.
pub async fn run(file: Option<&Path>, format: LogFormat) -> ExitCode {
    telemetry::start_logs("info", format);
    limits::take_all_files();
    // Before the port is told: whoever knows it may send a signal at once.
    let terminated = match signal::terminated() {
        Ok(terminated) => terminated,
        Err(error) => return failed(&format!("signals cannot be handled: {error}"), 125),
    };
    let settings = load(file).and_then(|spec| Settings::new(spec).map_err(|error| error.to_string()));
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return failed(&error, 64),
    };
    let running = match app::start(settings).await {
        Ok(running) => running,
        Err(error) => return failed(&error.to_string(), if error.is_configuration() { 64 } else { 125 }),
    };
    eprintln!("sideguard: webhook {} admin {}", running.webhook(), running.admin());
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
pub fn load(file: Option<&Path>) -> Result<InjectorSpec, String> {
    const NONE: &str = "apiVersion: sideguard.dev/v1\nkind: Injector\n";
    let (name, text) = match file {
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("cannot read configuration `{}`: {error}", path.display()))?;
            (path.display().to_string(), text)
        }
        None => ("defaults".to_owned(), NONE.to_owned()),
    };
    let source = Source::new(name, text);
    let (_, mut spec) = source::load_injector(&source, &environment::configuration())
        .map_err(|findings| findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    let anchor = |path: &mut PathBuf| *path = base.join(&*path);
    spec.known.iter_mut().chain(&mut spec.cluster.kubeconfig).for_each(anchor);
    if let Some(certificate) = &mut spec.certificate {
        anchor(&mut certificate.certificate);
        anchor(&mut certificate.key);
    }
    Ok(spec)
}
