//! `sideguard audit prove`, and the check of what it writes.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde::Deserialize;
use sideguard_client::{Client, Records};
use sideguard_record::proof::{Proof, Shown};

use super::{public_key, row};
use crate::remote::output::{harmless, put_as_is};
use crate::remote::{self, FOUND, Failure, Outcome, done};

/// Flags of `sideguard audit prove`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The call: the first record of it is proved, which tells how it was judged.
    #[arg(long, value_name = "ID", required_unless_present_any = ["sidecar", "agent"], conflicts_with = "sidecar")]
    call: Option<String>,
    /// The agent: its newest call is proved.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["call", "sidecar"])]
    agent: Option<String>,
    /// The sidecar.
    #[arg(long, value_name = "ID", requires = "position")]
    sidecar: Option<String>,
    /// Number of the record in the sidecar's log: its `seq`.
    #[arg(long, value_name = "N", requires = "sidecar")]
    position: Option<u64>,
    /// The sidecar's tenant, where several have one with this id.
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    place: remote::Place,
}

/// `audit prove`.
pub(super) async fn prove(arguments: Arguments) -> ExitCode {
    done(proved(arguments).await)
}

async fn proved(arguments: Arguments) -> Outcome {
    let client = arguments.place.client()?;
    let tenant = arguments.tenant;
    let (sidecar, position, tenant) = match (arguments.call, arguments.sidecar, arguments.position) {
        (Some(call), ..) => first_of(&client, call, tenant).await?,
        (None, None, _) if let Some(agent) = arguments.agent => {
            let call = newest_of(&client, agent, tenant.clone()).await?;
            first_of(&client, call, tenant).await?
        }
        (None, Some(sidecar), Some(position)) => (sidecar, position, tenant),
        (None, ..) => return Err(Failure::new(2, "name a call, or a sidecar and a position")),
    };
    let proof = client.prove(&sidecar, tenant.as_deref(), position).await?;
    // A proof is its very bytes: JSON has nothing in it that would steer a terminal.
    put_as_is(&proof)
}

/// The newest call of an agent.
async fn newest_of(client: &Client, agent: String, tenant: Option<String>) -> Outcome<String> {
    #[derive(Deserialize)]
    struct Told {
        #[serde(default)]
        call: String,
    }
    let mut which = Records { agent: Some(agent.clone()), tenant, ..Records::default() };
    loop {
        let page = client.records(&which).await?;
        let called = page.items.iter().find_map(|entry| {
            let told: Told = serde_json::from_str(entry.record.get()).ok()?;
            (!told.call.is_empty()).then_some(told.call)
        });
        match (called, page.next) {
            (Some(call), _) => return Ok(call),
            (None, Some(next)) => which.after = Some(next),
            (None, None) => {
                return Err(Failure::new(FOUND, format!("control has no record of a call of `{agent}`")));
            }
        }
    }
}

/// Where the first record of a call is.
async fn first_of(
    client: &Client,
    call: String,
    tenant: Option<String>,
) -> Outcome<(String, u64, Option<String>)> {
    let mut which = Records { call: Some(call.clone()), tenant, ..Records::default() };
    let mut first = None;
    loop {
        let page = client.records(&which).await?;
        first = page.items.into_iter().next_back().or(first);
        which.after = page.next;
        if which.after.is_none() {
            break;
        }
    }
    let missing = || Failure::new(FOUND, format!("control has no record of a call `{call}`"));
    let entry = first.ok_or_else(missing)?;
    Ok((entry.sidecar, entry.position, Some(entry.tenant)))
}

/// `audit verify --proof`. Exit code 1 when it does not hold.
pub(super) fn check(file: &Path, keys: &[String], control: Option<&str>) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()));
    let text = match text {
        Ok(text) => text,
        // Not even text: no proof.
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(is_no_text) => {
            println!("broken: {}: it is not a proof: it is not UTF-8", file.display());
            return Ok(ExitCode::from(1));
        }
        Err(error) => return Err(error),
    };
    let keys = keys.iter().map(|key| public_key(key)).collect::<anyhow::Result<Vec<_>>>()?;
    let control = control.map(public_key).transpose()?;
    let tried = if keys.is_empty() { vec![None] } else { keys.iter().map(Some).collect() };
    let mut outcome = Err("no key".to_owned());
    for key in tried {
        outcome = Proof::read(&text, key, control.as_ref()).map_err(|error| error.to_string());
        if outcome.is_ok() {
            break;
        }
    }
    match outcome {
        Ok(shown) => {
            tell(file, &shown, !keys.is_empty(), control.is_some());
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            println!("broken: {}: {}", file.display(), harmless(&error));
            Ok(ExitCode::from(1))
        }
    }
}

fn is_no_text(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData
}

/// Tells what a proof shows, and whose keys were believed for it.
fn tell(file: &Path, shown: &Shown, key_given: bool, control_given: bool) {
    let Shown { tenant, sidecar, position, record, checkpoint, key, control } = shown;
    let believed = |given: bool| if given { "the one given" } else { "believed: compare it, or give it" };
    println!(
        "ok: {}: record {position} of sidecar {} of tenant {}, under checkpoint {checkpoint}",
        file.display(),
        harmless(sidecar),
        harmless(tenant)
    );
    if let Ok(entry) = sideguard_record::read::Entry::parse(record.as_bytes()) {
        println!("    {}", harmless(&row(&entry)));
    }
    println!("    record key {key} ({})", believed(key_given));
    println!("    control key {control} ({})", believed(control_given));
}
