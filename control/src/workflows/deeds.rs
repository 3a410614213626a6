//! What runs want done outside, done. Each deed can be done again.

use serde_json::Value;
use sideguard_types::control::workflows::Notice;
use sideguard_types::job::JobState;
use sideguard_types::workflow::Run;

use super::ask;
use super::jobs::{self, Stands};
use crate::api::Control;
use crate::dag::{Deed, Event, Failed, Site, Submission};
use crate::error::Failure;

/// What came of a deed.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) events: Vec<Event>,
    /// Whether it could not be done just now.
    pub(super) delayed: bool,
}

impl Done {
    fn with(events: Vec<Event>) -> Self {
        Self { events, delayed: false }
    }

    fn ended(site: Site, attempt: u32, outcome: Result<Value, Failed>) -> Self {
        Self::with(vec![Event::Ended { site, attempt, outcome }])
    }
}

/// Does it, and tells what came of it.
pub(super) async fn perform(control: &Control, run: &Run, deed: &Deed) -> Done {
    let (site, attempt, done) = match deed {
        Deed::Tell(event) => return Done::with(vec![event.clone()]),
        Deed::Submit(submission) => {
            (submission.site, submission.attempt, submit(control, run, submission).await)
        }
        Deed::Look { site, attempt, job, recall } => {
            (*site, *attempt, look(control, run, (*site, *attempt), job, *recall).await)
        }
        Deed::Find { site, attempt, key } => {
            let found = jobs::find(control, &run.tenant, &run.by, key).await;
            let done = found.map(|found| match found {
                Some(job) => Done::with(vec![Event::Submitted { site: *site, attempt: *attempt, job }]),
                None => Done::ended(*site, *attempt, Err(Failed::for_good("the run stops"))),
            });
            (*site, *attempt, done)
        }
        Deed::Ask(question) => {
            (question.site, question.attempt, ask::ask(control, run, question).await.map(Done::with))
        }
        Deed::Notify { site, attempt, key, webhook, body } => {
            let notice = Notice {
                event: "workflow.notify".to_owned(),
                delivery: key.clone(),
                run: run.id.clone(),
                workflow: run.workflow.clone(),
                tenant: run.tenant.clone(),
                body: body.clone(),
            };
            let sent = control.webhooks.notify(webhook, &run.tenant, &notice).await;
            let outcome = sent.map(|()| Value::Null).map_err(|why| Failed { why, again: true });
            (*site, *attempt, Ok(Done::ended(*site, *attempt, outcome)))
        }
    };
    done.unwrap_or_else(|failure| failed(run, site, attempt, &failure))
}

/// What a failure means: that it is tried again later, or that it never will be done.
fn failed(run: &Run, site: Site, attempt: u32, failure: &Failure) -> Done {
    match failure {
        Failure::Invalid(_)
        | Failure::Forbidden(_)
        | Failure::Missing(_)
        | Failure::TooLarge
        | Failure::Findings(_)
        | Failure::Unauthenticated => Done::ended(site, attempt, Err(Failed::for_good(failure.to_string()))),
        _ => {
            tracing::warn!(error = %failure, run = run.id, "what a run wants cannot be done now");
            Done { events: Vec::new(), delayed: true }
        }
    }
}

async fn submit(control: &Control, run: &Run, submission: &Submission) -> Result<Done, Failure> {
    let Submission { site, attempt, .. } = *submission;
    let stands = jobs::submit(control, run, submission).await?;
    let mut events = vec![Event::Submitted { site, attempt, job: stands.id.clone() }];
    // One that policy refuses is over at once.
    events.extend(ended(&stands).map(|outcome| Event::Ended { site, attempt, outcome }));
    Ok(Done::with(events))
}

async fn look(
    control: &Control,
    run: &Run,
    (site, attempt): (Site, u32),
    job: &str,
    recall: bool,
) -> Result<Done, Failure> {
    if recall {
        jobs::cancel(control, &run.tenant, job).await?;
    }
    let Some(stands) = jobs::state(control, &run.tenant, job).await? else {
        let why = format!("job `{job}` is not there any more");
        return Ok(Done::ended(site, attempt, Err(Failed::for_good(why))));
    };
    Ok(ended(&stands).map_or_else(Done::default, |outcome| Done::ended(site, attempt, outcome)))
}

/// How a job ended, if it has.
fn ended(stands: &Stands) -> Option<Result<Value, Failed>> {
    let failed =
        |again| Some(Err(Failed { why: format!("job {}: {}", stands.state.as_str(), stands.why), again }));
    match stands.state {
        JobState::Succeeded => Some(Ok(stands.result.clone())),
        JobState::Failed | JobState::TimedOut | JobState::DeadLettered => failed(true),
        JobState::Cancelled | JobState::Denied => failed(false),
        JobState::Pending
        | JobState::ApprovalRequired
        | JobState::Scheduled
        | JobState::Dispatched
        | JobState::Running => None,
    }
}
