//! `sideguard history`: the generations of the desired state.

use std::process::ExitCode;

use sideguard_types::control::Generation;

use crate::policy::Output;
use crate::remote::output::{moment, put, put_json};
use crate::remote::table::table;
use crate::remote::{Outcome, Place, done};

/// Most changes of a generation that its line shows.
const SHOWN: usize = 2;

/// Flags of `sideguard history`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sideguard history --limit 5\n\n`sideguard describe generation N` shows all changes of one."
)]
pub(crate) struct Arguments {
    /// How many, the newest first.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    done(history(&arguments).await)
}

async fn history(arguments: &Arguments) -> Outcome {
    let all = arguments.place.client()?.newest_generations(arguments.limit).await?;
    match arguments.output {
        Output::Json => put_json(&all),
        Output::Text => {
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            put(&table(&["NUMBER", "TIME", "BY", "VERB", "OBJECTS", "CHANGES"], &rows))
        }
    }
}

fn row(generation: &Generation) -> Vec<String> {
    let mut changes = generation.summary.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = generation.summary.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        changes.push_str(&format!(", and {more} more"));
    }
    vec![
        generation.number.to_string(),
        moment(generation.time),
        generation.by.clone(),
        generation.verb.clone(),
        generation.objects.to_string(),
        changes,
    ]
}
