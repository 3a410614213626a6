//! `sideguard token`: an enrolment token for a sidecar.

use std::process::ExitCode;

use sideguard_types::control::TokenRequest;
use sideguard_types::time::Span;

use crate::policy::Output;
use crate::remote::output::{moment, put, put_json};
use crate::remote::{Outcome, Place, done};

/// Flags of `sideguard token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sideguard token --tenant acme --agent researcher --for 10m > token\n\n\
    The token is good for one sidecar's enrolment. It is shown this once.")]
pub(crate) struct Arguments {
    /// Tenant of the sidecar.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// The agent that the sidecar is for; any that its configuration names when absent.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// How long it is good, such as `10m`; at least a second.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = life)]
    life: Span,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// A time that is at least a second.
pub(crate) fn life(text: &str) -> Result<Span, String> {
    let span = Span::parse(text).map_err(|error| error.to_string())?;
    if span.0.as_secs() == 0 { Err("less than a second".to_owned()) } else { Ok(span) }
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    done(token(arguments).await)
}

async fn token(arguments: Arguments) -> Outcome {
    let Arguments { tenant, agent, life, output, place } = arguments;
    let request = TokenRequest { tenant, agent, seconds: Some(life.0.as_secs()) };
    let token = place.client()?.token(&request).await?;
    match output {
        Output::Json => put_json(&token),
        Output::Text => {
            put(&format!("{}\n", token.token))?;
            eprintln!("sideguard: good for one enrolment until {}", moment(token.expires));
            Ok(())
        }
    }
}
