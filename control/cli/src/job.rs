//! `sideguard job` and `sideguard dlq`: work for workers, and what was lost with them.

mod rows;
mod submit;

use std::process::ExitCode;
use std::time::Duration;

use sideguard_client::{Client, ClientError, Listing};
use sideguard_types::job::{Job, JobState};

use crate::policy::Output;
use crate::remote::output::{put, put_json};
use crate::remote::table::table;
use crate::remote::{FOUND, Failure, Outcome, Place, end};

use rows::{HEAD, row, whole};

/// Most jobs of a listing.
const MOST: usize = 1_000;
/// How often a job that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Verbs of `sideguard job`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Gives a job to whichever worker can do it.
    Submit(submit::Arguments),
    /// Lists jobs; shows one with its result and its life.
    Get(Get),
    /// Takes a job back.
    Cancel(One),
    /// Puts a dead-lettered job into the queue again.
    Retry(One),
}

/// Verbs of `sideguard dlq`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Dead {
    /// Lists the jobs that were lost with their workers and may not be tried again.
    List(DeadList),
    /// Puts them into the queue again.
    Retry(Several),
    /// Gives them up.
    Drop(Several),
}

/// Flags of `sideguard job get`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard job get\n  sideguard job get --status running\n  \
    sideguard job get 01a2b3c4d5e6f708192a3b4c -o json")]
pub(crate) struct Get {
    /// Only this one, with all that is known of it.
    id: Option<String>,
    /// Only those in this state, such as `running` or `dead_lettered`.
    #[arg(long, value_name = "STATE", value_parser = state, conflicts_with = "id")]
    status: Option<JobState>,
    /// Prints nothing but its input or its result, as JSON.
    #[arg(long, value_enum, requires = "id")]
    only: Option<Part>,
    /// Tenant; the key's own when absent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// A part of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Input,
    Result,
}

/// One job.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sideguard job cancel 01a2b3c4d5e6f708192a3b4c")]
pub(crate) struct One {
    /// Its id.
    id: String,
    /// Tenant; the key's own when absent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Flags of `sideguard dlq list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sideguard dlq list")]
pub(crate) struct DeadList {
    /// Tenant; the key's own when absent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Some jobs.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard dlq retry 01a2b3c4d5e6f708192a3b4c\n  sideguard dlq drop --all"
)]
pub(crate) struct Several {
    /// Their ids.
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
    /// All of them.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Tenant; the key's own when absent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    #[command(flatten)]
    place: Place,
}

fn state(text: &str) -> Result<JobState, String> {
    let known = JobState::ALL.into_iter().find(|state| state.as_str() == text.replace('-', "_"));
    known
        .ok_or_else(|| format!("no such state; there are {}", JobState::ALL.map(JobState::as_str).join(", ")))
}

/// Runs a verb of `job`.
pub(crate) async fn run(verb: Verb) -> ExitCode {
    end(match verb {
        Verb::Submit(arguments) => submit::submit(arguments).await,
        Verb::Get(arguments) => got(arguments).await.map(|()| ExitCode::SUCCESS),
        Verb::Cancel(One { id, tenant, output, place }) => {
            changed(output, async {
                place.client()?.cancel_job_of(tenant.as_deref(), &id).await.map_err(told)
            })
            .await
        }
        Verb::Retry(One { id, tenant, output, place }) => {
            changed(output, async {
                place.client()?.retry_job_of(tenant.as_deref(), &id).await.map_err(told)
            })
            .await
        }
    })
}

/// Runs a verb of `dlq`.
pub(crate) async fn dead(verb: Dead) -> ExitCode {
    let done = match verb {
        Dead::List(DeadList { tenant, output, place }) => {
            let status = Some(JobState::DeadLettered);
            got(Get { id: None, status, only: None, tenant, output, place }).await
        }
        Dead::Retry(several) => {
            each(several, async |client, tenant, id| client.retry_job_of(tenant, id).await).await
        }
        Dead::Drop(several) => {
            each(several, async |client, tenant, id| {
                // A job that waits again by now is not dropped.
                match client.job_of(tenant, id).await? {
                    job if job.state == JobState::DeadLettered => client.cancel_job_of(tenant, id).await,
                    job => Ok(job),
                }
            })
            .await
        }
    };
    end(done.map(|()| ExitCode::SUCCESS))
}

async fn changed(output: Output, change: impl Future<Output = Outcome<Job>>) -> Outcome<ExitCode> {
    let job = change.await?;
    match output {
        Output::Json => put_json(&job)?,
        Output::Text => put(&format!("{} {}\n", job.id, job.state.as_str()))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn each(
    Several { ids, all, tenant, place }: Several,
    change: impl AsyncFn(&Client, Option<&str>, &str) -> Result<Job, ClientError>,
) -> Outcome {
    let client = place.client()?;
    let tenant = tenant.as_deref();
    let ids = if all {
        let dead = every(&client, tenant, Some(JobState::DeadLettered)).await?;
        dead.into_iter().map(|job| job.id).collect()
    } else {
        ids
    };
    for id in ids {
        let job = change(&client, tenant, &id).await.map_err(told)?;
        put(&format!("{} {}\n", job.id, job.state.as_str()))?;
    }
    Ok(())
}

async fn got(Get { id, status, only, tenant, output, place }: Get) -> Outcome {
    let client = place.client()?;
    if let (Some(id), Some(part)) = (&id, only) {
        let part = if part == Part::Input { "input" } else { "result" };
        return put_json(&client.job_part(tenant.as_deref(), id, part).await.map_err(told)?);
    }
    if let Some(id) = id {
        let job = client.job_of(tenant.as_deref(), &id).await.map_err(told)?;
        return match output {
            Output::Json => put_json(&job),
            Output::Text => put(&whole(&job)),
        };
    }
    let found = every(&client, tenant.as_deref(), status).await?;
    match output {
        Output::Json => put_json(&serde_json::json!({ "items": found })),
        Output::Text if found.is_empty() => {
            eprintln!("sideguard: nothing found");
            Ok(())
        }
        Output::Text => put(&table(&HEAD, &found.iter().map(row).collect::<Vec<_>>())),
    }
}

async fn every(client: &Client, tenant: Option<&str>, status: Option<JobState>) -> Outcome<Vec<Job>> {
    let mut found = Vec::new();
    let mut part = Listing::default();
    loop {
        let page = client.jobs(tenant, status, &part).await?;
        found.extend(page.items);
        match page.next {
            Some(next) if found.len() < MOST => part.after = Some(next),
            _ => return Ok(found),
        }
    }
}

/// A refusal, with what helps.
fn told(error: ClientError) -> Failure {
    match &error {
        ClientError::Refused(problem) if problem.status == 409 => {
            Failure { code: FOUND, what: problem.detail.clone(), ..Failure::default() }
                .hint("`sideguard job get ID` shows how it stands")
        }
        _ => error.into(),
    }
}
