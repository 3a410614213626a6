//! `sideguard describe`: all that is known of one thing.

use std::process::ExitCode;

use sideguard_client::Client;
use sideguard_types::control::{Generation, Kill, Name, Object, Scope, Sidecar};
use sideguard_types::units::MicroUsd;

use crate::policy::Output;
use crate::remote::kind::Kind;
use crate::remote::object;
use crate::remote::output::{moment, put, put_json};
use crate::remote::rows::{self, Which};
use crate::remote::table::{pairs, table};
use crate::remote::{FOUND, Failure, Outcome, Place, done};

/// Flags of `sideguard describe`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard describe agent reader --tenant acme\n  sideguard describe generation 7\n\n\
    Exit codes: 0 done, 1 there is no such thing."
)]
pub(crate) struct Arguments {
    /// policy, budget, toolcatalog, agent, upstream, sink, workflow, sidecar, generation or kill.
    kind: Kind,
    /// Name, id, number or scope.
    name: String,
    /// Its tenant.
    #[arg(long, value_name = "TENANT", default_value = "default")]
    tenant: String,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    done(describe(&arguments).await)
}

async fn describe(arguments: &Arguments) -> Outcome {
    let Arguments { kind, name, tenant, output, place } = arguments;
    let client = place.client()?;
    if *output == Output::Json {
        let tenant = kind.is_applied().then(|| tenant.clone());
        let which = Which { name: Some(name.clone()), tenant, ..Which::default() };
        let found = rows::rows(&client, *kind, &which).await?;
        rows::one(*kind, &which, &found)?;
        return found.first().map_or(Ok(()), |row| put_json(&row.item));
    }
    let missing = || {
        let failure = Failure::new(FOUND, format!("there is no {} `{name}`", kind.as_str()));
        if kind.is_applied() {
            failure.hint(format!("looked for in tenant `{tenant}`; name another with --tenant"))
        } else {
            failure
        }
    };
    let text = match kind {
        Kind::Sidecar => {
            let all = client.sidecars(None).await?;
            sidecar(all.iter().find(|sidecar| sidecar.id == *name).ok_or_else(missing)?)
        }
        Kind::Generation => {
            let number = name.parse().map_err(|_| missing())?;
            let found = client.generation(number).await;
            generation(&found.map_err(|error| if error.is_missing() { missing() } else { error.into() })?)
        }
        Kind::Kill => {
            let all = client.kills().await?;
            kill(
                all.iter()
                    .find(|kill| Some(&kill.scope) == Scope::parse(name).as_ref())
                    .ok_or_else(missing)?,
            )
        }
        Kind::Delegation => {
            let which = Which { name: Some(name.clone()), ..Which::default() };
            let found = rows::rows(&client, *kind, &which).await?;
            let row = found.first().ok_or_else(missing)?;
            let (head, _) = rows::head(*kind);
            pairs(&head.iter().copied().zip(row.cells.iter().cloned()).collect::<Vec<_>>())
        }
        _ => {
            let asked = Name { tenant: tenant.clone(), kind: kind.as_str().to_owned(), name: name.clone() };
            let found = client.object(&asked).await;
            let found = found.map_err(|error| if error.is_missing() { missing() } else { error.into() })?;
            let standing =
                if *kind == Kind::Agent { sidecars_of(&client, &found).await? } else { String::new() };
            format!("{}{standing}\n{}\n", applied(&found), found.text.trim_end())
        }
    };
    put(&text)
}

fn applied(object: &Object) -> String {
    pairs(&[
        ("Kind", object.name.kind.clone()),
        ("Tenant", object.name.tenant.clone()),
        ("Name", object.name.name.clone()),
        ("Labels", object::labels(&object.labels)),
        ("Generation", object.generation.to_string()),
    ])
}

async fn sidecars_of(client: &Client, agent: &Object) -> Outcome<String> {
    let Name { tenant, name, .. } = &agent.name;
    let all = client.sidecars(Some(tenant)).await?;
    let row = |sidecar: &Sidecar| {
        vec![
            format!("  {}", sidecar.id),
            sidecar.standing.as_str().to_owned(),
            sidecar.report.generation.to_string(),
            moment(sidecar.seen),
            sidecar.report.refused.as_ref().map(|refused| refused.reason.clone()).unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = rows::speakers(&all, tenant, name).map(row).collect();
    if rows.is_empty() {
        return Ok("Sidecars:    none\n".to_owned());
    }
    Ok(format!("Sidecars:\n{}", table(&["  ID", "STANDING", "GENERATION", "SEEN", "REFUSED"], &rows)))
}

fn sidecar(sidecar: &Sidecar) -> String {
    let report = &sidecar.report;
    let refused = report.refused.as_ref();
    pairs(&[
        ("Id", sidecar.id.clone()),
        ("Tenant", sidecar.tenant.clone()),
        ("Agents", report.agents.join(", ")),
        ("Standing", sidecar.standing.as_str().to_owned()),
        ("Seen", moment(sidecar.seen)),
        ("Version", report.version.clone()),
        ("Ready", if report.ready { "yes" } else { "no" }.to_owned()),
        ("Generation", report.generation.to_string()),
        ("Digest", report.digest.clone()),
        (
            "Refused",
            refused
                .map_or("none".to_owned(), |refused| format!("{}: {}", refused.generation, refused.reason)),
        ),
        ("Calls", report.calls.to_string()),
        ("Denied", report.denied.to_string()),
        ("Tokens", report.tokens.to_string()),
        ("Cost", format!("${}", MicroUsd(report.cost))),
        (
            "Breakers",
            if report.breakers.is_empty() { "all healthy".to_owned() } else { report.breakers.join(", ") },
        ),
    ])
}

fn generation(generation: &Generation) -> String {
    let mut text = pairs(&[
        ("Number", generation.number.to_string()),
        ("Digest", generation.digest.clone()),
        ("Time", moment(generation.time)),
        ("By", generation.by.clone()),
        ("Verb", generation.verb.clone()),
        ("Objects", generation.objects.to_string()),
    ]);
    text.push_str("Changes:\n");
    text.extend(generation.summary.iter().map(|line| format!("  {line}\n")));
    text
}

fn kill(kill: &Kill) -> String {
    pairs(&[
        ("Scope", kill.scope.to_string()),
        ("By", kill.by.clone()),
        ("Time", moment(kill.time)),
        ("Reason", kill.reason.clone()),
    ])
}
