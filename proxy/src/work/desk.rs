//! The agent's side of jobs: `/jobs` of the outbound port. What is asked here is for the sidecar itself and goes nowhere.
//!
//! - `GET /jobs/next?wait=SECONDS`: the next job; 204 when there is none in time.
//! - `GET /jobs`: the jobs that the agent is at.
//! - `POST /jobs/{id}/result`: it is done, and this JSON came of it. `POST /jobs/{id}/failure`: `{message, retry}`.
//! - `POST /jobs/{id}/progress`: how far it is.
//! - `POST /jobs`, `GET /jobs/{id}`, `DELETE /jobs/{id}`: submits a job, looks at one, takes one back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sideguard_client::{Client, ClientError};
use sideguard_dialects::refuse;
use sideguard_types::call::{Caller, Verb};
use sideguard_types::control::Problem;
use sideguard_types::control::jobs::Outcome;
use sideguard_types::job::Job;
use sideguard_types::refusal::{Code, Refusal};

use super::hand::{self, Started};
use super::tie::{Heard, Held};
use super::{Work, submit};
use crate::app::Sidecar;
use crate::call::{Exchange, Identified};
use crate::engine::Down;
use crate::forward::Unsent;
use crate::observe::End;
use crate::respond;

/// How long a question for a job waits when it does not say, and at most, in seconds.
const WAIT: u64 = 20;
const LONGEST_WAIT: u64 = 60;
/// Longest time that control is waited for before anything could be asked.
const LINK: Duration = Duration::from_secs(5);

/// What is asked of the sidecar itself, where a path is such a question: what follows `/jobs`.
pub(crate) fn own(target: &str) -> Option<&str> {
    let rest = target.strip_prefix("/jobs")?;
    (rest.is_empty() || rest.starts_with(['/', '?'])).then_some(rest)
}

/// An answer: its status and body.
pub(super) struct Said(u16, Option<Value>);

/// Why there is none.
pub(super) enum No {
    /// It is refused as any call is, and recorded.
    Refusal(Box<Refusal>),
    /// Something is wrong with the question, or with its object.
    Problem(Problem),
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(Box::new(refusal))
    }
}

impl From<ClientError> for No {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(problem) if problem.status < 500 => Self::Problem(problem),
            error => problem(503, "control_unreachable", error.to_string()),
        }
    }
}

pub(super) fn problem(status: u16, code: &str, detail: impl Into<String>) -> No {
    No::Problem(Problem { status, code: code.to_owned(), detail: detail.into(), findings: Vec::new() })
}

/// Answers a question.
pub(crate) async fn serve(
    sidecar: &Arc<Sidecar>,
    identified: Identified,
    asked: &str,
    down: &mut Down,
) -> Result<End, Unsent> {
    let Identified { mut exchange, body } = identified;
    let (path, query) = asked.split_once('?').unwrap_or((asked, ""));
    let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
    let Some(caller) = exchange.caller.clone() else { return Err(Unsent::Gone) };
    let method = exchange.method.clone();
    let said = match (method.as_str(), words.as_slice()) {
        ("GET", ["next"]) => {
            let next = next(sidecar, &caller, query);
            let started = tokio::select! {
                started = next => started,
                _ = down.gone() => return Err(Unsent::Gone),
            };
            // From here on the agent may have it.
            started
                .map(|started| started.filter(Started::hand_over).map_or(Said(204, None), |one| given(&one)))
        }
        ("GET", []) => listed(sidecar, &caller, &exchange),
        ("POST", []) => submit::submit(sidecar, &mut exchange, &caller, &body.decoded).await,
        ("GET", [id]) => seen(sidecar, &caller, id).await,
        ("DELETE", [id]) => match exchange.job.stops() {
            None => cancelled(sidecar, &caller, id).await,
            Some(refusal) => Err(refusal.into()),
        },
        ("POST", [id, what @ ("result" | "failure" | "progress")]) => match own_job(sidecar, &exchange, id) {
            Ok(()) => told(sidecar, &caller, id, what, &body.decoded).await,
            Err(no) => Err(no),
        },
        (_, [] | [_] | [_, "result" | "failure" | "progress"]) => {
            Err(problem(405, "method_not_allowed", format!("`{method}` is not for this path")))
        }
        _ => Err(problem(404, "not_found", "there is no such path below `/jobs`")),
    };
    match said {
        Ok(Said(status, body)) => answer(down, status, "application/json", body.as_ref()).await,
        Err(No::Refusal(refusal)) => Err(exchange.refuse(*refusal).into()),
        Err(No::Problem(problem)) => {
            answer(down, problem.status, "application/problem+json", Some(&problem)).await
        }
    }
}

async fn answer(
    down: &mut Down,
    status: u16,
    content_type: &'static str,
    body: Option<&impl Serialize>,
) -> Result<End, Unsent> {
    let body = body.map(serde_json::to_vec).transpose().unwrap_or_default().unwrap_or_default();
    let retry = if status == StatusCode::SERVICE_UNAVAILABLE { "true" } else { "false" };
    let headers = if status < 400 { Vec::new() } else { vec![("x-should-retry", retry.to_owned())] };
    let reply = refuse::Reply { status, content_type, headers, body };
    respond::send(down, reply).await.map_err(|_| Unsent::Gone)?;
    Ok(End::Whole)
}

/// The worker, where the caller is its agent.
fn worker<'s>(sidecar: &'s Sidecar, caller: &Caller) -> Result<&'s Work, No> {
    let work =
        sidecar.work.as_ref().ok_or_else(|| problem(404, "not_found", "this sidecar has no worker"))?;
    if work.is_by(caller) {
        return Ok(work);
    }
    let reason = format!("agent `{}` does not work here", caller.agent);
    Err(Refusal::new(Code::ScopeDenied, "worker", reason).into())
}

async fn next<'s>(
    sidecar: &'s Arc<Sidecar>,
    caller: &Caller,
    query: &str,
) -> Result<Option<Started<'s>>, No> {
    let work = worker(sidecar, caller)?;
    if work.taken.load(Ordering::Acquire) {
        return Err(problem(409, "taken", "the jobs of this worker are done by its own command"));
    }
    if let Some(refusal) = sidecar.stops(Some(caller), Verb::Write) {
        return Err(refusal.into());
    }
    if sidecar.drain.begun() {
        return Err(problem(503, "draining", "this sidecar takes no more jobs"));
    }
    let wait = query.split('&').find_map(|pair| pair.strip_prefix("wait="));
    let seconds = wait.map_or(Ok(WAIT), str::parse).ok().filter(|seconds| *seconds <= LONGEST_WAIT);
    let seconds = seconds.ok_or_else(|| {
        problem(400, "invalid", format!("`wait` is a number of seconds, {LONGEST_WAIT} at most"))
    })?;
    Ok(hand::next(sidecar, Duration::from_secs(seconds)).await)
}

fn given(started: &Started<'_>) -> Said {
    Said(200, Some(shown(&started.held, Some(&started.input))))
}

/// A job as its agent sees it.
fn shown(held: &Held, input: Option<&Value>) -> Value {
    let (job, spec) = (&held.job, &held.job.spec);
    let mut shown = json!({
        "id": held.lease.job, "topic": spec.topic, "attempt": job.attempts, "labels": spec.labels,
        "deadline": held.deadline, "traceparent": hand::traceparent(held),
    });
    let mut add = |name: &str, value: &Value| {
        if let Some(shown) = shown.as_object_mut() {
            shown.insert(name.to_owned(), value.clone());
        }
    };
    if let Some(input) = input {
        add("input", input);
    }
    if !job.progress.is_null() {
        add("progress", &job.progress);
    }
    shown
}

impl Said {
    /// A body with a status.
    pub(super) const fn of(status: u16, body: Value) -> Self {
        Self(status, Some(body))
    }
}

/// Whoever is known to be at one job has no say about another; and where a command does the jobs, each speaks for its own.
fn own_job(sidecar: &Sidecar, exchange: &Exchange, id: &str) -> Result<(), No> {
    let taken = sidecar.work.as_ref().is_some_and(|work| work.taken.load(Ordering::Acquire));
    match &exchange.named {
        Some(named) if named == id => Ok(()),
        None if !taken => Ok(()),
        _ => Err(problem(404, "not_found", format!("the agent is not at a job `{id}`"))),
    }
}

fn listed(sidecar: &Sidecar, caller: &Caller, exchange: &Exchange) -> Result<Said, No> {
    let work = worker(sidecar, caller)?;
    let open = work.open.load();
    let shown_to = |held: &&Arc<Held>| own_job(sidecar, exchange, &held.lease.job).is_ok();
    let items: Vec<Value> = open.iter().filter(shown_to).map(|held| shown(held, None)).collect();
    Ok(Said::of(200, json!({ "items": items })))
}

/// How a job failed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    message: String,
    #[serde(default)]
    retry: bool,
}

async fn told(
    sidecar: &Arc<Sidecar>,
    caller: &Caller,
    id: &str,
    what: &str,
    body: &[u8],
) -> Result<Said, No> {
    let work = worker(sidecar, caller)?;
    let open = work.open.load();
    let Some(held) = open.iter().find(|held| held.lease.job == id).cloned() else {
        return match work.book.lock().ended(id) {
            Some(true) if what != "progress" => Ok(Said(204, None)),
            Some(_) => Err(over(id)),
            None => Err(problem(404, "not_found", format!("the agent is not at a job `{id}`"))),
        };
    };
    let read = |error: serde_json::Error| problem(400, "invalid", format!("the body: {error}"));
    let value = |body: &[u8]| if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(body) };
    if what == "progress" {
        let progress = value(body).map_err(read)?;
        return match hand::progress(sidecar, &held, progress).await {
            Ok(()) => Ok(Said(204, None)),
            Err(_) if held.is_over() => Err(over(id)),
            Err(error) => Err(error.into()),
        };
    }
    let outcome = if what == "result" {
        Outcome::Succeeded(value(body).map_err(read)?)
    } else {
        let Failure { message, retry } = serde_json::from_slice(body).map_err(read)?;
        Outcome::Failed { message, retry }
    };
    match hand::finish(sidecar, &held, outcome).await {
        Some(Heard::Taken) => Ok(Said(204, None)),
        Some(Heard::Refused) => Err(over(id)),
        Some(Heard::Unfit(status, why)) => Err(problem(status, "unfit", why)),
        None => {
            let why = "control cannot be reached: it goes on being told, and the same may be told again";
            Err(problem(503, "control_unreachable", why))
        }
    }
}

fn over(id: &str) -> No {
    problem(
        409,
        Code::Fenced.as_str(),
        format!("job `{id}` was taken from this worker: its result does not count"),
    )
}

/// The way to control, for what an agent asks of it.
pub(super) async fn link(sidecar: &Sidecar) -> Result<Client, No> {
    let away = || problem(503, "control_unreachable", "this sidecar is not enrolled yet");
    let fleet = sidecar.fleet.as_ref().ok_or_else(away)?;
    Ok(fleet.link(LINK).await.ok_or_else(away)?.client.clone())
}

/// A job that an agent submitted, or works on; others are told no differently from jobs that are not there.
async fn of_agent(client: &Client, caller: &Caller, id: &str) -> Result<(Job, bool), No> {
    let job = client.job(id).await?;
    let submitted = !job.by.person && job.by.name == caller.agent;
    let works = job.hold.as_ref().is_some_and(|hold| hold.agent == caller.agent);
    if job.tenant == caller.tenant && (submitted || works) {
        return Ok((job, submitted));
    }
    Err(problem(404, "not_found", format!("there is no job `{id}`")))
}

async fn seen(sidecar: &Sidecar, caller: &Caller, id: &str) -> Result<Said, No> {
    let client = link(sidecar).await?;
    let (mut job, _) = of_agent(&client, caller, id).await?;
    if job.large_result.is_some() {
        job.result = client.job_result(id).await?;
    }
    Ok(Said::of(200, public(job)))
}

async fn cancelled(sidecar: &Sidecar, caller: &Caller, id: &str) -> Result<Said, No> {
    if let Some(refusal) = sidecar.stops(Some(caller), Verb::Write) {
        return Err(refusal.into());
    }
    let client = link(sidecar).await?;
    let (_, submitted) = of_agent(&client, caller, id).await?;
    if !submitted {
        return Err(problem(403, "forbidden", "only who submitted a job takes it back"));
    }
    Ok(Said::of(200, public(client.cancel_job(id).await?)))
}

/// A job for an agent's eyes: without the signed chain.
pub(super) fn public(job: Job) -> Value {
    json!(Job { chain: None, ..job })
}
