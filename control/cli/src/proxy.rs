//! `sideguard proxy`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use sideguard_proxy::daemon;
use sideguard_runtime::telemetry::LogFormat;

/// Flags of `sideguard proxy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sideguard proxy -c proxy.yaml\n\n\
    Signals: SIGHUP reads the policies again, SIGTERM drains and ends.")]
pub(crate) struct Arguments {
    /// Configuration file (kind: Proxy); the environment alone when absent.
    #[arg(short = 'c', long, value_name = "FILE", env = "SIDEGUARD_CONFIG")]
    config: Option<PathBuf>,
    /// State directory.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Form of log lines.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    log_format: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Form {
    Text,
    Json,
}

impl From<Form> for LogFormat {
    fn from(form: Form) -> Self {
        match form {
            Form::Text => Self::Text,
            Form::Json => Self::Json,
        }
    }
}

/// Runs the daemon.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    daemon::run(arguments.config.as_deref(), arguments.state, arguments.log_format.into()).await
}
