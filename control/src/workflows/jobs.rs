//! The jobs of runs: the only place here that knows how jobs are submitted, looked at and taken back.
//!
//! A job of a run is submitted in the name of whoever started the run, with an idempotency key that follows from the run, and
//! is judged by policy as any other.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sideguard_store::key::Scope;
use sideguard_types::control::jobs::Submit;
use sideguard_types::job::{Job, JobLimits, JobSpec, JobState};
use sideguard_types::time::Span;
use sideguard_types::workflow::Run;

use super::runs;
use crate::api::Control;
use crate::dag::{LARGEST_RESULT, Site, Submission};
use crate::error::Failure;
use crate::keys::{Principal, Role};

/// Labels by which jobs of runs are known.
const LABELS: [&str; 2] = ["sideguard.dev/run", "sideguard.dev/step"];

/// How a job stands.
#[derive(Debug)]
pub(super) struct Stands {
    pub(super) id: String,
    pub(super) state: JobState,
    /// What came of it; of a result that is too large for a run, where it is.
    pub(super) result: Value,
    /// Why it is where it is.
    pub(super) why: String,
}

/// Where changes of open jobs are seen.
pub(super) fn scope() -> Result<Scope, Failure> {
    runs::scope("jobs/now/open")
}

/// The idempotency key of a job of a run: nobody else may use one that begins like it.
fn named(key: &str) -> String {
    format!("{}{key}", crate::jobs::OF_RUNS)
}

/// In whose name.
fn submitter(tenant: &str, by: &str) -> Principal {
    Principal::new(by, Role::Operator, Some(tenant.to_owned()))
}

/// Submits a job; with a key that was used before, gives the job of that key.
pub(super) async fn submit(control: &Control, run: &Run, wanted: &Submission) -> Result<Stands, Failure> {
    let step = match wanted.site {
        Site::Work(step, _) => run.steps.get(step).map(|step| step.id.clone()),
        Site::Undo(at) => run.undo.get(at).map(|undo| undo.step.clone()),
    };
    let mut labels: BTreeMap<String, String> = wanted.labels.clone();
    let own = [run.id.clone(), step.unwrap_or_default()];
    labels.extend(LABELS.iter().map(ToString::to_string).zip(own));
    let spec = JobSpec {
        topic: wanted.topic.clone(),
        requires: wanted.requires.clone(),
        placement: wanted.placement.clone(),
        labels,
        priority: wanted.priority,
        idempotent: wanted.idempotent,
        // How often something is tried again is for the workflow to say.
        retries: 0,
        after: None,
        limits: JobLimits { total: wanted.total.map(Span), ..JobLimits::default() },
        input: wanted.input.clone(),
    };
    let submit = Submit {
        spec,
        tenant: Some(run.tenant.clone()),
        idempotency_key: Some(named(&wanted.key)),
        agent: None,
        above: Vec::new(),
        job: None,
        chain: None,
    };
    let who = submitter(&run.tenant, &run.by);
    let job = control.jobs.submit(&control.waiting, &control.webhooks, &who, submit).await?;
    stands(control, job).await
}

/// How a job stands; `None` when it is not there any more.
pub(super) async fn state(control: &Control, tenant: &str, id: &str) -> Result<Option<Stands>, Failure> {
    match control.jobs.read(sideguard_runtime::clock::now(), tenant, id).await? {
        Some(job) => stands(control, job).await.map(Some),
        None => Ok(None),
    }
}

/// The job that was submitted with a key.
pub(super) async fn find(
    control: &Control,
    tenant: &str,
    by: &str,
    key: &str,
) -> Result<Option<String>, Failure> {
    control.jobs.named(tenant, &submitter(tenant, by), &named(key)).await
}

/// Takes a job back; one that is over stays as it is.
pub(super) async fn cancel(control: &Control, tenant: &str, id: &str) -> Result<(), Failure> {
    let who = Principal::new("workflows", Role::Operator, Some(tenant.to_owned()));
    match control.jobs.cancel(&who, tenant, id).await {
        Ok(_) | Err(Failure::Conflict(_) | Failure::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn stands(control: &Control, job: Job) -> Result<Stands, Failure> {
    let result = match &job.large_result {
        None => job.result.clone(),
        Some(large) if large.bytes <= LARGEST_RESULT as u64 => {
            let text = control.jobs.data(&job, "result").await?;
            serde_json::from_slice(&text).map_err(|_| Failure::Broken(format!("result of job {}", job.id)))?
        }
        Some(large) => json!({ "job": job.id, "bytes": large.bytes, "sha256": large.sha256 }),
    };
    let reason = job.reason.map(|reason| reason.as_str()).unwrap_or_default();
    let why = match (reason, job.message.as_str()) {
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    };
    Ok(Stands { id: job.id, state: job.state, result, why })
}
