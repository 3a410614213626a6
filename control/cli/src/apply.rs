//! `sideguard apply`: makes files part of the desired state.

use std::process::ExitCode;

use sideguard_types::control::{Applied, Apply};

use crate::policy::Output;
use crate::remote::kind::labels;
use crate::remote::manifest::{Manifests, read};
use crate::remote::output::{harmless, put, put_json};
use crate::remote::{Outcome, Place, done, object};

/// Flags of `sideguard apply`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard apply -f policies/\n  sideguard apply -f policies/ --prune -l app=crm\n  \
    cat policy.yaml | sideguard apply --dry-run -f -\n\n\
    Exit codes: 0 done, 1 control said no, 64 the files have errors, 125 control cannot be reached. One apply is one\n\
    generation: all of it or nothing."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    manifests: Manifests,
    /// Changes nothing; tells what would change.
    #[arg(long)]
    dry_run: bool,
    /// Removes the objects with the labels of `-l` that are not in the files.
    #[arg(long, requires = "labels")]
    prune: bool,
    /// Labels for `--prune`, as KEY=VALUE.
    #[arg(short = 'l', long = "labels", value_name = "KEY=VALUE", value_parser = labels, requires = "prune")]
    labels: Vec<Vec<(String, String)>>,
    /// Only when this is the generation in force.
    #[arg(long, value_name = "GENERATION")]
    expect: Option<u64>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    done(apply(arguments).await)
}

async fn apply(arguments: Arguments) -> Outcome {
    let Arguments { manifests, dry_run, prune, labels, expect, output, place } = arguments;
    let client = place.client()?;
    let documents = read(&manifests.file)?;
    let prune = prune.then(|| labels.into_iter().flatten().collect());
    let applied = client.apply(&Apply { documents, dry_run, prune, expect }).await?;
    show(&applied, dry_run, output)
}

/// Shows what a change of the desired state came to.
pub(crate) fn show(applied: &Applied, dry_run: bool, output: Output) -> Outcome {
    for warning in &applied.warnings {
        eprintln!("{}\n", harmless(warning));
    }
    match output {
        Output::Json => put_json(applied),
        Output::Text => put(&text(applied, dry_run)),
    }
}

fn text(applied: &Applied, dry_run: bool) -> String {
    let dry = if dry_run { " (dry run)" } else { "" };
    let mut text = String::new();
    for change in &applied.changes {
        text.push_str(&format!("{} {}{dry}\n", object::shown(&change.name), change.action.as_str()));
    }
    text.push_str(&match (applied.generation, dry_run) {
        (0, _) => "no generation is in force yet\n".to_owned(),
        (number, true) => format!("generation {number} stays in force\n"),
        (number, false) => format!("generation {number} {}\n", applied.digest),
    });
    text
}

#[cfg(test)]
mod tests {
    use sideguard_types::control::{Action, Applied, Change, Name};

    use super::text;

    #[test]
    fn a_dry_run_does_not_look_like_an_apply() {
        let name = Name { tenant: "acme".to_owned(), kind: "Policy".to_owned(), name: "p".to_owned() };
        let changes = vec![Change { action: Action::Updated, name, before: None, after: None }];
        let applied = Applied { generation: 7, digest: "sha256:1".to_owned(), changes, warnings: Vec::new() };
        assert_eq!(text(&applied, false), "policy/acme/p updated\ngeneration 7 sha256:1\n");
        assert_eq!(text(&applied, true), "policy/acme/p updated (dry run)\ngeneration 7 stays in force\n");
    }
}
