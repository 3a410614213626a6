//! `sideguard kill` and `sideguard unkill`: stop everything in a scope, and let it go on.

use std::process::ExitCode;

use serde_json::json;
use sideguard_types::control::Scope;

use crate::policy::Output;
use crate::remote::output::{put, put_json};
use crate::remote::{Outcome, Place, done};

/// Flags of `sideguard kill`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard kill agent/acme/researcher --reason 'runs away'\n  sideguard kill tenant/acme\n  \
    sideguard kill fleet\n\nWhat is killed is refused every call within a second; `sideguard unkill` lets it go on."
)]
pub(crate) struct Kill {
    /// `fleet`, `tenant/NAME`, `agent/NAME` or `agent/TENANT/NAME`.
    #[arg(value_parser = scope)]
    scope: Scope,
    /// Why, for those who ask later.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Flags of `sideguard unkill`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sideguard unkill agent/acme/researcher\n\n`sideguard get kills` shows what is stopped."
)]
pub(crate) struct Unkill {
    /// `fleet`, `tenant/NAME`, `agent/NAME` or `agent/TENANT/NAME`, as it was killed.
    #[arg(value_parser = scope)]
    scope: Scope,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

fn scope(text: &str) -> Result<Scope, String> {
    let forms = "write `fleet`, `tenant/NAME`, `agent/NAME` or `agent/TENANT/NAME`";
    Scope::parse(text).ok_or_else(|| forms.to_owned())
}

/// Runs `kill`.
pub(crate) async fn kill(arguments: Kill) -> ExitCode {
    done(killed(&arguments).await)
}

async fn killed(arguments: &Kill) -> Outcome {
    let kill = arguments.place.client()?.kill(&arguments.scope, &arguments.reason).await?;
    match arguments.output {
        Output::Json => put_json(&kill),
        Output::Text => put(&format!("{} killed\n", kill.scope)),
    }
}

/// Runs `unkill`.
pub(crate) async fn unkill(arguments: Unkill) -> ExitCode {
    done(unkilled(&arguments).await)
}

async fn unkilled(arguments: &Unkill) -> Outcome {
    arguments.place.client()?.unkill(&arguments.scope).await?;
    match arguments.output {
        Output::Json => put_json(&json!({ "scope": arguments.scope })),
        Output::Text => put(&format!("{} may go on\n", arguments.scope)),
    }
}
