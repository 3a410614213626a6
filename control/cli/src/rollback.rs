//! `sideguard rollback`: an earlier generation's objects, in force again.

use std::process::ExitCode;

use sideguard_client::Client;

use crate::apply::show;
use crate::policy::Output;
use crate::remote::{FOUND, Failure, Outcome, Place, done};

/// Flags of `sideguard rollback`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard rollback\n  sideguard rollback --to 12\n\n\
    Makes a new generation with the objects of an earlier one; `sideguard history` lists them.")]
pub(crate) struct Arguments {
    /// The generation to go back to; the one before the newest when absent.
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    done(rollback(arguments).await)
}

async fn rollback(arguments: Arguments) -> Outcome {
    let client = arguments.place.client()?;
    let to = match arguments.to {
        Some(to) => to,
        None => before(&client).await?,
    };
    show(&client.rollback(to).await?, false, arguments.output)
}

/// The generation before the newest.
async fn before(client: &Client) -> Outcome<u64> {
    let newest = client.newest_generations(2).await?;
    newest
        .get(1)
        .map(|before| before.number)
        .ok_or_else(|| Failure::new(FOUND, "there is no earlier generation"))
}
