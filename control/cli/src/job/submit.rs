//! `sideguard job submit`.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;

use serde_json::Value;
use sideguard_types::control::jobs::Submit;
use sideguard_types::job::{JobLimits, JobSpec, JobState};
use sideguard_types::time::{Span, Timestamp};

use super::{LOOK, told};
use crate::policy::Output;
use crate::remote::kind::labels;
use crate::remote::output::{put, put_json};
use crate::remote::{BAD_CONFIGURATION, FOUND, Failure, Outcome, Place};

/// Largest input that is read, in bytes.
const LARGEST: u64 = 4 << 20;

/// Flags of `sideguard job submit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard job submit job.crm.enrich --input '{\"customer\": 7}'\n  \
    sideguard job submit job.crm.enrich --input @input.json --requires gpu --idempotent --wait\n\n\
    Exit codes: 0 taken (with --wait: succeeded), 1 refused (with --wait: anything else).")]
pub(crate) struct Arguments {
    /// What it is about: job.<service>.<operation>.
    topic: String,
    /// The input: JSON, @FILE, or - for standard input.
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// A capability that its worker must have. Can be given again.
    #[arg(long, value_name = "CAPABILITY")]
    requires: Vec<String>,
    /// Labels that its worker must have, as KEY=VALUE.
    #[arg(long, value_name = "KEY=VALUE", value_parser = labels)]
    placement: Vec<Vec<(String, String)>>,
    /// Labels of its own, as KEY=VALUE.
    #[arg(short = 'l', long = "labels", value_name = "KEY=VALUE", value_parser = labels)]
    labels: Vec<Vec<(String, String)>>,
    /// From 0 to 9; higher ones go first.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// It may be done twice: another worker may take it up once one has started it.
    #[arg(long)]
    idempotent: bool,
    /// How often it is tried again when its worker says that it failed.
    #[arg(long, default_value_t = 0, value_name = "N")]
    retries: u32,
    /// Not before this moment (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    after: Option<Timestamp>,
    /// Time limits, such as `queue=10m,run=5m`: of `queue`, `dispatch`, `run` and `total`.
    #[arg(long, value_name = "LIMIT=TIME,…", value_parser = limits, default_value = "")]
    limits: JobLimits,
    /// A second submission with the same key within a day gives the same job.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Tenant; the key's own when absent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Waits for its end.
    #[arg(long)]
    wait: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

fn limits(text: &str) -> Result<JobLimits, String> {
    let mut limits = JobLimits::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, span) = part.split_once('=').ok_or_else(|| format!("`{part}` is not LIMIT=TIME"))?;
        let span = Some(Span::parse(span).map_err(|error| error.to_string())?);
        match name {
            "queue" => limits.queue = span,
            "dispatch" => limits.dispatch = span,
            "run" => limits.run = span,
            "total" => limits.total = span,
            _ => return Err(format!("`{name}` is no limit: write queue, dispatch, run or total")),
        }
    }
    Ok(limits)
}

/// An input that is given as JSON, or in a file.
pub(crate) fn input(given: Option<&str>) -> Outcome<Value> {
    let unreadable = |error: std::io::Error| Failure::new(BAD_CONFIGURATION, format!("--input: {error}"));
    let read = |from: &mut dyn Read| {
        let mut text = String::new();
        from.take(LARGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
        Ok::<_, Failure>(text)
    };
    let text = match given {
        None => return Ok(Value::Null),
        Some("-") => read(&mut std::io::stdin().lock())?,
        Some(given) => match given.strip_prefix('@') {
            Some(file) => read(&mut std::fs::File::open(file).map_err(unreadable)?)?,
            None => given.to_owned(),
        },
    };
    if text.len() as u64 > LARGEST {
        return Err(Failure::new(BAD_CONFIGURATION, format!("--input: more than {LARGEST} bytes")));
    }
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(BAD_CONFIGURATION, format!("--input is not JSON: {error}"))
            .hint("quote it for the shell, or name a file: --input @input.json")
    })
}

fn all(labels: Vec<Vec<(String, String)>>) -> BTreeMap<String, String> {
    labels.into_iter().flatten().collect()
}

/// Submits a job, and waits for its end if that is asked for.
pub(super) async fn submit(arguments: Arguments) -> Outcome<ExitCode> {
    let client = arguments.place.client()?;
    let (tenant, wait, output) = (arguments.tenant, arguments.wait, arguments.output);
    let submission = Submit {
        spec: JobSpec {
            topic: arguments.topic,
            requires: arguments.requires,
            placement: all(arguments.placement),
            labels: all(arguments.labels),
            priority: arguments.priority,
            idempotent: arguments.idempotent,
            retries: arguments.retries,
            after: arguments.after,
            limits: arguments.limits,
            input: input(arguments.input.as_deref())?,
        },
        tenant: tenant.clone(),
        idempotency_key: arguments.idempotency_key,
        agent: None,
        above: Vec::new(),
        job: None,
        chain: None,
    };
    let mut job = client.submit_job(&submission).await?;
    if wait && output == Output::Text {
        eprintln!("sideguard: job {} {}", job.id, job.state.as_str());
    }
    while wait && !job.state.is_final() {
        tokio::time::sleep(LOOK).await;
        job = client.job_of(tenant.as_deref(), &job.id).await.map_err(told)?;
    }
    match output {
        Output::Json => put_json(&job)?,
        Output::Text if job.state == JobState::Succeeded => put(&format!("{}\n", job.result))?,
        Output::Text => put(&format!("{} {}\n", job.id, job.state.as_str()))?,
    }
    let fine = if wait { job.state == JobState::Succeeded } else { job.state != JobState::Denied };
    if fine {
        return Ok(ExitCode::SUCCESS);
    }
    let reason = job.reason.map_or("", |reason| reason.as_str());
    Err(Failure::new(FOUND, format!("job {} {}: {reason} {}", job.id, job.state.as_str(), job.message)))
}
