//! What is to be done outside.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use sideguard_policy::workflow::{Action, Facts, Job, Local, Workflow};
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Run, RunState, StepState, Work};

use super::fold::{Event, Failed};
use super::{Plan, PlanAction, Site, approval_id, facts, key, plan};

/// Something to be done outside for one attempt. Doing it twice is the same as doing it once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Deed {
    /// Submit a job.
    Submit(Box<Submission>),
    /// Look how a job stands.
    Look { site: Site, attempt: u32, job: String, recall: bool },
    /// Look whether a job was submitted that was to be taken back before anybody knew, and take it back.
    Find { site: Site, attempt: u32, key: String },
    /// Ask people, if they have not been asked, and look what they say.
    Ask(Box<Question>),
    /// Send a message to a webhook.
    Notify { site: Site, attempt: u32, key: String, webhook: String, body: Value },
    /// Nothing: it has an outcome already.
    Tell(Event),
}

/// A job to be submitted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Submission {
    pub(crate) site: Site,
    pub(crate) attempt: u32,
    /// Its name: a second submission with it gives the same job.
    pub(crate) key: String,
    pub(crate) topic: String,
    pub(crate) requires: Vec<String>,
    pub(crate) placement: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) priority: u8,
    pub(crate) idempotent: bool,
    pub(crate) input: Value,
    /// Longest time from its submission to its end.
    pub(crate) total: Option<Duration>,
}

/// A question to people.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    pub(crate) site: Site,
    pub(crate) attempt: u32,
    /// Id of the approval, the same whoever asks.
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) step: String,
    pub(crate) text: String,
    pub(crate) show: Value,
    pub(crate) approvers: Vec<String>,
    pub(crate) roles: Vec<String>,
    pub(crate) separate: bool,
    pub(crate) quorum: u32,
    pub(crate) since: Timestamp,
    pub(crate) expires: Duration,
    /// Whether it has not been put to people yet, as far as is known.
    pub(crate) new: bool,
    /// Whether it is to be taken back.
    pub(crate) recall: bool,
}

/// Everything that is to be done outside.
pub(crate) fn wanted(workflow: &Workflow, run: &Run) -> Vec<Deed> {
    if run.state.is_over() {
        return Vec::new();
    }
    let facts = facts(run);
    let mut deeds = Vec::new();
    for (at, step) in run.steps.iter().enumerate().filter(|(_, step)| step.state.is_open()) {
        for (item, work) in step.works.iter().enumerate() {
            let value = step.items.get(item).map(|value| (value, item));
            let local = Local { item: value, result: None };
            deeds.extend(deed(workflow, run, Site::Work(at, item), work, &facts, local));
        }
    }
    if run.state == RunState::Compensating {
        let open = run.undo.iter().enumerate().filter(|(_, undo)| undo.work.state.is_open());
        for (at, undo) in open {
            let Some(step) = run.steps.iter().find(|step| step.id == undo.step) else { continue };
            let result = match undo.item {
                None => Some(&step.result),
                Some(item) if step.state == StepState::Succeeded => step.result.get(item),
                Some(item) => step.works.get(item).map(|work| &work.result),
            };
            let item = undo.item.and_then(|item| Some((step.items.get(item)?, item)));
            let local = Local { item, result: Some(result.unwrap_or(&Value::Null)) };
            deeds.extend(deed(workflow, run, Site::Undo(at), &undo.work, &facts, local));
        }
    }
    deeds
}

fn deed(
    workflow: &Workflow,
    run: &Run,
    site: Site,
    work: &Work,
    facts: &Facts<'_>,
    local: Local<'_>,
) -> Option<Deed> {
    if !work.state.is_open() {
        return None;
    }
    let Plan { action, timeout, .. } = plan(workflow, run, site)?;
    let attempt = work.attempt;
    let made = match action {
        PlanAction::Undo(undo) if work.state == StepState::Running => {
            job(run, site, work, &undo.job, timeout, facts, local)
        }
        PlanAction::Step(Action::Job(plan)) if work.state == StepState::Running => {
            job(run, site, work, plan, timeout, facts, local)
        }
        PlanAction::Step(Action::Approval(_)) => ask(workflow, run, site, work, facts, local),
        PlanAction::Step(Action::Notify(_)) if work.recall => Err("taken back".to_owned()),
        PlanAction::Step(Action::Notify(notify)) if work.state == StepState::Running => {
            notify.body.value(facts, local).map(|body| Deed::Notify {
                site,
                attempt,
                key: key(run, site),
                webhook: notify.webhook.clone(),
                body,
            })
        }
        _ => return None,
    };
    Some(made.unwrap_or_else(|why| {
        Deed::Tell(Event::Ended { site, attempt, outcome: Err(Failed::for_good(why)) })
    }))
}

fn job(
    run: &Run,
    site: Site,
    work: &Work,
    plan: &Job,
    total: Option<Duration>,
    facts: &Facts<'_>,
    local: Local<'_>,
) -> Result<Deed, String> {
    let attempt = work.attempt;
    if let Some(job) = &work.job {
        return Ok(Deed::Look { site, attempt, job: job.clone(), recall: work.recall });
    }
    let key = key(run, site);
    if work.recall {
        return Ok(Deed::Find { site, attempt, key });
    }
    let input = plan.input.value(facts, local)?;
    Ok(Deed::Submit(Box::new(Submission {
        site,
        attempt,
        key,
        topic: plan.topic.clone(),
        requires: plan.requires.clone(),
        placement: plan.placement.clone(),
        labels: plan.labels.clone(),
        priority: plan.priority,
        idempotent: plan.idempotent,
        input,
        total,
    })))
}

fn ask(
    workflow: &Workflow,
    run: &Run,
    site: Site,
    work: &Work,
    facts: &Facts<'_>,
    local: Local<'_>,
) -> Result<Deed, String> {
    let Some(Plan { action: PlanAction::Step(Action::Approval(approval)), .. }) = plan(workflow, run, site)
    else {
        return Err("it asks nobody".to_owned());
    };
    let Site::Work(step, _) = site else { return Err("it asks nobody".to_owned()) };
    let (key, since) = (key(run, site), work.since.unwrap_or_default());
    Ok(Deed::Ask(Box::new(Question {
        site,
        attempt: work.attempt,
        id: approval_id(&key, since),
        key,
        step: run.steps[step].id.clone(),
        text: approval.text.text(facts, local)?,
        show: approval.show.value(facts, local)?,
        approvers: approval.approvers.clone(),
        roles: approval.roles.clone(),
        separate: approval.separate,
        quorum: approval.quorum,
        since,
        expires: approval.expires,
        new: work.approval.is_none(),
        recall: work.recall,
    })))
}
