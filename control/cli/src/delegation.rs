//! `sideguard delegation`: work that agents have handed to each other, and how to end it.

use std::process::ExitCode;

use sideguard_types::delegation::Revoke as Request;

use crate::policy::Output;
use crate::remote::kind::Kind;
use crate::remote::output::{put, put_json};
use crate::remote::rows::{self, Which};
use crate::remote::table::table;
use crate::remote::{Outcome, Place, done};

/// Verbs of `sideguard delegation`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Lists delegations that are open, as sidecars told a few seconds ago.
    List(List),
    /// Ends a link within a second, and all that was handed on under it.
    Revoke(Revoke),
}

/// Flags of `sideguard delegation list`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sideguard delegation list --tenant acme\n\nThe same as `sideguard get delegations`."
)]
pub(crate) struct List {
    /// Only of this tenant; all that the key sees when absent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Flags of `sideguard delegation revoke`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sideguard delegation revoke 01a2b3c4d5e6f708192a3b4c --tenant acme --reason 'runs away'\n\n\
    Every call under the link is refused from then on, open ones are cut; that of a sidecar ends all links that it signed."
)]
pub(crate) struct Revoke {
    /// Id of the link, as records and `sideguard delegation list` tell it, or of a sidecar.
    id: String,
    /// Its tenant; that of the own key when absent, or `default`.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Why, for those who ask later.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Runs a verb.
pub(crate) async fn run(verb: Verb) -> ExitCode {
    done(match verb {
        Verb::List(list) => listed(list).await,
        Verb::Revoke(revoke) => revoked(revoke).await,
    })
}

async fn listed(List { tenant, output, place }: List) -> Outcome {
    let which = Which { tenant, ..Which::default() };
    let found = rows::rows(&place.client()?, Kind::Delegation, &which).await?;
    match output {
        Output::Json => {
            let items: Vec<_> = found.iter().map(|row| &row.item).collect();
            put_json(&serde_json::json!({ "items": items }))
        }
        Output::Text => {
            let (head, narrow) = rows::head(Kind::Delegation);
            let cells: Vec<Vec<String>> =
                found.iter().map(|row| row.cells.iter().take(narrow).cloned().collect()).collect();
            put(&table(head.get(..narrow).unwrap_or(head), &cells))
        }
    }
}

async fn revoked(Revoke { id, tenant, reason, output, place }: Revoke) -> Outcome {
    let kill = place.client()?.revoke_delegation(&Request { id, tenant, reason }).await?;
    match output {
        Output::Json => put_json(&kill),
        Output::Text => put(&format!("{} revoked\n", kill.scope)),
    }
}
