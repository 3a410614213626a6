//! `sideguard key`: keys of people, for the command line and the page.

use std::process::ExitCode;

use sideguard_types::control::keys::{KeyEntry, KeyRequest, Role};
use sideguard_types::time::Span;

use crate::policy::Output;
use crate::remote::kind::labels;
use crate::remote::output::{moment, put, put_json};
use crate::remote::table::table;
use crate::remote::{Outcome, Place, done};

/// Verbs of `sideguard key`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Makes a key, and shows it this once.
    Create(Create),
    /// Lists keys; what they are is not kept.
    List(List),
    /// Takes a key back.
    Revoke(Revoke),
}

/// Flags of `sideguard key create`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sideguard key create alice --role viewer --tenant acme --for 30d > alice.key\n\n\
    With it: `sideguard get agents --key-file alice.key`, or sign in at the page."
)]
pub(crate) struct Create {
    /// Whose it is, as records will tell.
    name: String,
    /// What it may do.
    #[arg(long, value_enum, default_value_t = Kind::Viewer)]
    role: Kind,
    /// The tenant that it is limited to; that of the own key when absent, or all.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Labels that rules about approvals know people by, as KEY=VALUE.
    #[arg(short = 'l', long = "labels", value_name = "KEY=VALUE", value_parser = labels)]
    labels: Vec<Vec<(String, String)>>,
    /// How long it is good, such as `30d`; until it is revoked when absent.
    #[arg(long = "for", value_name = "TIME", value_parser = crate::token::life)]
    life: Option<Span>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Flags of `sideguard key list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sideguard key list")]
pub(crate) struct List {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Flags of `sideguard key revoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sideguard key revoke 0123456789abcdef")]
pub(crate) struct Revoke {
    /// Its id, as `sideguard key list` tells it.
    id: String,
    #[command(flatten)]
    place: Place,
}

/// Roles of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Changes the desired state, makes keys.
    Operator,
    /// Sees everything, and says yes or no to calls that wait for approval.
    Approver,
    /// Sees everything.
    Viewer,
}

impl From<Kind> for Role {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Operator => Self::Operator,
            Kind::Approver => Self::Approver,
            Kind::Viewer => Self::Viewer,
        }
    }
}

/// Runs a verb.
pub(crate) async fn run(verb: Verb) -> ExitCode {
    done(match verb {
        Verb::Create(create) => made(create).await,
        Verb::List(List { output, place }) => listed(output, &place).await,
        Verb::Revoke(Revoke { id, place }) => revoked(&id, &place).await,
    })
}

async fn made(create: Create) -> Outcome {
    let Create { name, role, tenant, labels, life, output, place } = create;
    let labels = labels.into_iter().flatten().collect();
    let request =
        KeyRequest { name, role: role.into(), tenant, labels, seconds: life.map(|life| life.0.as_secs()) };
    let made = place.client()?.create_key(&request).await?;
    match output {
        Output::Json => put_json(&made),
        Output::Text => {
            put(&format!("{}\n", made.key))?;
            eprintln!("sideguard: shown this once; `sideguard key revoke {}` takes it back", made.entry.id);
            Ok(())
        }
    }
}

async fn listed(output: Output, place: &Place) -> Outcome {
    let keys = place.client()?.keys().await?;
    match output {
        Output::Json => put_json(&serde_json::json!({ "items": keys })),
        Output::Text => {
            let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
            put(&table(&["ID", "NAME", "ROLE", "TENANT", "CREATED", "USED", "EXPIRES"], &rows))
        }
    }
}

fn row(key: &KeyEntry) -> Vec<String> {
    let or = |time: Option<_>, none: &str| time.map_or_else(|| none.to_owned(), moment);
    vec![
        key.id.clone(),
        key.name.clone(),
        key.role.as_str().to_owned(),
        key.tenant.clone().unwrap_or_else(|| "*".to_owned()),
        moment(key.created),
        or(key.used, "never"),
        or(key.expires, "never"),
    ]
}

async fn revoked(id: &str, place: &Place) -> Outcome {
    place.client()?.revoke_key(id).await?;
    put(&format!("key {id} revoked\n"))
}
