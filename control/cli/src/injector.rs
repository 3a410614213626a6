//! `sideguard injector`.

use std::path::PathBuf;
use std::process::ExitCode;

use sideguard_injector::daemon;

use crate::proxy::Form;

/// Flags of `sideguard injector`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sideguard injector -c injector.yaml\n\n\
    Its webhooks are POST /mutate and POST /validate, over HTTPS. `sideguard explain injector` tells what the file may hold.")]
pub(crate) struct Arguments {
    /// Configuration file (kind: Injector); the environment alone when absent.
    #[arg(short = 'c', long, value_name = "FILE", env = "SIDEGUARD_CONFIG")]
    config: Option<PathBuf>,
    /// Form of log lines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    log_format: Form,
}

/// Runs the daemon.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    daemon::run(arguments.config.as_deref(), arguments.log_format.into()).await
}
