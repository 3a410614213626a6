//! `sideguard control`.

use std::path::PathBuf;
use std::process::ExitCode;

use sideguard_control::daemon;

use crate::proxy::Form;

/// Flags of `sideguard control`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard control\n  sideguard control -c control.yaml\n\n\
    Without a file everything is kept in the state directory, and the port is on loopback. The first start makes an \
    operator's key there.")]
pub(crate) struct Arguments {
    /// Configuration file (kind: Control).
    #[arg(short = 'c', long, value_name = "FILE", env = "SIDEGUARD_CONFIG")]
    config: Option<PathBuf>,
    /// State directory.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Form of log lines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    log_format: Form,
}

/// Runs the daemon.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    daemon::run(arguments.config.as_deref(), arguments.state, arguments.log_format.into()).await
}
