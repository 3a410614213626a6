//! `sideguard workflow`: runs of workflows.

mod shown;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use sideguard_client::{Client, Listing, Runs};
use sideguard_policy::compile;
use sideguard_policy::source::{self, Severity, Source};
use sideguard_types::control::workflows::{Cancel, Rerun, Start, Summary};
use sideguard_types::resource::Spec;
use sideguard_types::workflow::{Run, RunState};

use crate::remote::output::{Form, put, put_json, put_yaml};
use crate::remote::table::table;
use crate::remote::{BAD_CONFIGURATION, FOUND, Failure, Outcome, Place, done, end};

/// How often a run that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Most runs of a listing.
const MOST: usize = 1_000;

/// Verbs of `sideguard workflow`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Starts a run.
    #[command(
        after_help = "Examples:\n  sideguard workflow run refund --input '{\"order\": \"A-17\"}' --wait\n  \
        sideguard workflow run refund --input @order.json --idempotency-key order-A-17\n\nExit codes with --wait: 0 it succeeded, 1 it did not."
    )]
    Run(StartRun),
    /// Lists runs; shows one with its steps.
    #[command(
        after_help = "Examples:\n  sideguard workflow get\n  sideguard workflow get --workflow refund --status failed\n  \
        sideguard workflow get 01a2b3c4d5e6f708192a3b4c -o wide\n\n`-o wide` shows the timeline of a run."
    )]
    Get(Get),
    /// Has a run stop: its jobs are taken back, nothing more starts.
    #[command(after_help = "Example:\n  sideguard workflow cancel 01a2b3c4d5e6f708192a3b4c --compensate")]
    Cancel(CancelRun),
    /// Starts a run that keeps what another one has done well, and does the rest.
    #[command(after_help = "Examples:\n  sideguard workflow rerun 01a2b3c4d5e6f708192a3b4c\n  \
        sideguard workflow rerun 01a2b3c4d5e6f708192a3b4c --from charge\n\nThe new run has the spec and the input of the old one. Who was asked before what is done again is asked again.")]
    Rerun(RerunOf),
    /// Checks workflows: cycles, steps and inputs that there are not, types, limits; works offline.
    #[command(
        after_help = "Example:\n  sideguard workflow validate refund.yaml\n\nExit codes: 0 sound, 1 something found."
    )]
    Validate {
        /// Files and directories.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
}

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct StartRun {
    /// Name of the workflow.
    name: String,
    /// What the run is given: JSON, or `@FILE`.
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// Tenant; the key's own when absent.
    #[arg(long)]
    tenant: Option<String>,
    /// A second start with the same key gives the same run.
    #[arg(long, value_name = "TEXT")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    then: Then,
}

/// What is done once a run has begun.
#[derive(Debug, clap::Args)]
struct Then {
    /// Waits for the run's end.
    #[arg(long)]
    wait: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    #[command(flatten)]
    place: Place,
}

/// Flags of `get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// Only the run of this id, with its steps.
    id: Option<String>,
    /// Only runs of this workflow.
    #[arg(long)]
    workflow: Option<String>,
    /// Only runs of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Only runs that stand so.
    #[arg(long, value_name = "STATE", value_parser = state)]
    status: Option<RunState>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    #[command(flatten)]
    place: Place,
}

/// Flags of `cancel`.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelRun {
    /// Id of the run.
    id: String,
    /// Undoes what it has done.
    #[arg(long)]
    compensate: bool,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    then: Then,
}

/// Flags of `rerun`.
#[derive(Debug, clap::Args)]
pub(crate) struct RerunOf {
    /// Id of the run.
    id: String,
    /// A step that is done again, with all that needs it.
    #[arg(long, value_name = "STEP")]
    from: Option<String>,
    #[command(flatten)]
    then: Then,
}

fn state(text: &str) -> Result<RunState, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

/// Runs the verb.
pub(crate) async fn run(verb: Verb) -> ExitCode {
    match verb {
        Verb::Run(arguments) => end(start(arguments).await),
        Verb::Get(arguments) => done(get(arguments).await),
        Verb::Cancel(CancelRun { id, compensate, reason, then }) => {
            let cancelled = async {
                let client = then.place.client()?;
                let run = client.cancel_run(&id, &Cancel { compensate, reason }).await?;
                begun(&client, run, &then, false).await.map(|_| ExitCode::SUCCESS)
            };
            end(cancelled.await)
        }
        Verb::Rerun(RerunOf { id, from, then }) => {
            let again = async {
                let client = then.place.client()?;
                let run = client.rerun(&id, &Rerun { from }).await?;
                begun(&client, run, &then, true).await
            };
            end(again.await)
        }
        Verb::Validate { paths } => end(validate(&paths)),
    }
}

async fn start(arguments: StartRun) -> Outcome<ExitCode> {
    let StartRun { name, input, tenant, idempotency_key, then } = arguments;
    let client = then.place.client()?;
    let input = input.as_deref().map(given).transpose()?.unwrap_or_default();
    let run = client.start_run(&Start { workflow: name, tenant, input, idempotency_key }).await?;
    begun(&client, run, &then, true).await
}

/// JSON from the command line, or from the file that it names.
fn given(text: &str) -> Outcome<Value> {
    let bad = |what: String| Failure::new(BAD_CONFIGURATION, what);
    let (name, text) = match text.strip_prefix('@') {
        None => ("--input", text.to_owned()),
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| bad(format!("`{file}`: {error}")))?;
            (file, text)
        }
    };
    serde_json::from_str(&text).map_err(|error| bad(format!("`{name}` is not JSON: {error}")))
}

/// Tells of a run that has begun, or waits for its end. `judged`: whether the exit code says how it ended.
async fn begun(client: &Client, mut run: Run, then: &Then, judged: bool) -> Outcome<ExitCode> {
    if then.wait {
        while !run.state.is_over() {
            tokio::time::sleep(LOOK).await;
            run = client.run(&run.id).await?;
        }
    }
    match then.output {
        Form::Json => put_json(&run)?,
        Form::Yaml => put_yaml(&run)?,
        Form::Table if !then.wait => put(&format!("{} {}\n", run.id, run.state.as_str()))?,
        form => put(&shown::whole(&run, form == Form::Wide))?,
    }
    let good = !then.wait || !judged || run.state == RunState::Succeeded;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

async fn get(arguments: Get) -> Outcome {
    let Get { id, workflow, tenant, status, output, place } = arguments;
    let client = place.client()?;
    if let Some(id) = id {
        let run = client.run(&id).await?;
        return match output {
            Form::Json => put_json(&run),
            Form::Yaml => put_yaml(&run),
            form => put(&shown::whole(&run, form == Form::Wide)),
        };
    }
    let found = all(&client, &Runs { workflow, tenant, state: status }).await?;
    match output {
        Form::Json => put_json(&serde_json::json!({ "items": found })),
        Form::Yaml => put_yaml(&serde_json::json!({ "items": found })),
        _ if found.is_empty() => {
            eprintln!("sideguard: nothing found");
            Ok(())
        }
        _ => put(&table(&shown::HEAD, &found.iter().map(shown::row).collect::<Vec<_>>())),
    }
}

async fn all(client: &Client, which: &Runs) -> Outcome<Vec<Summary>> {
    let (mut found, mut part) = (Vec::new(), Listing::default());
    loop {
        let page = client.runs(which, &part).await?;
        found.extend(page.items);
        match page.next {
            Some(next) if found.len() < MOST => part.after = Some(next),
            _ => return Ok(found),
        }
    }
}

/// Checks files without a server.
fn validate(paths: &[PathBuf]) -> Outcome<ExitCode> {
    let read = sideguard_proxy::feed::read(paths);
    let sources: Vec<Source> = read.map_err(|error| Failure::new(BAD_CONFIGURATION, error.to_string()))?;
    let mut loaded = source::load(&sources);
    loaded.documents.retain(|document| matches!(document.resource.spec, Spec::Workflow(_)));
    let count = loaded.documents.len();
    let findings = compile(&loaded).err().unwrap_or_default();
    let errors: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    for finding in &errors {
        put(&format!("{finding}\n\n"))?;
    }
    if !errors.is_empty() {
        return Ok(ExitCode::from(FOUND));
    }
    if count == 0 {
        return Err(Failure::new(BAD_CONFIGURATION, "there is no workflow in these files"));
    }
    put(&format!("{count} {} sound\n", if count == 1 { "workflow is" } else { "workflows are" }))?;
    Ok(ExitCode::SUCCESS)
}
