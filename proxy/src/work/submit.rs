//! The way of a new job: judged here as any call is, recorded, and handed to control, which judges it again.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sideguard_client::ClientError;
use sideguard_policy::chain::Want;
use sideguard_types::audit::{Phase, Record};
use sideguard_types::call::{Caller, Point, Verb};
use sideguard_types::control::jobs::Submit;
use sideguard_types::job::JobSpec;
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::verdict::Verdict;

use super::desk::{No, Said, link, problem, public};
use crate::app::Sidecar;
use crate::call::{Body, Classified, Exchange, Item};
use crate::decide::{self, Withheld};
use crate::{audit, classify, delegate};

/// The longest that what is done for a job may be done in the submitter's name.
const LONGEST: Duration = Duration::from_secs(86_400);

/// What policy sees of a job's input: the bytes as they came.
#[derive(Deserialize)]
struct Seen<'b> {
    #[serde(borrow)]
    input: Option<&'b RawValue>,
}

/// Submits a job in the agent's name.
pub(super) async fn submit(
    sidecar: &Arc<Sidecar>,
    exchange: &mut Exchange,
    caller: &Caller,
    body: &bytes::Bytes,
) -> Result<Said, No> {
    let (spec, idempotency_key) = read(body)?;
    exchange.items = vec![item(exchange, &spec, body)?];
    judge(sidecar, exchange, body).await?;
    let life = spec.limits.total.map_or(LONGEST, |total| total.0.min(LONGEST));
    let (chain, drawn) = delegate::hand_job(sidecar, exchange, caller, &spec.topic, life).await?;
    exchange.link = chain.links.last().map(|link| link.id.clone());
    let ask = Submit {
        spec,
        tenant: None,
        idempotency_key,
        agent: Some(caller.agent.clone()),
        above: caller.chain.clone(),
        job: exchange.job.job().map(str::to_owned),
        chain: Some(chain),
    };
    let mut sent = false;
    let answer = match link(sidecar).await {
        Ok(client) => match sidecar.stops(Some(caller), Verb::Write).or_else(|| exchange.job.stops()) {
            None => {
                let answer = client.submit_job(&ask).await;
                sent = !matches!(&answer, Err(ClientError::Refused(problem)) if problem.status < 500);
                answer.map_err(No::from)
            }
            Some(refusal) => Err(refusal.into()),
        },
        Err(no) => Err(no),
    };
    let mut outcome = exchange.record(Phase::Outcome, None);
    outcome.latency_us = Some(exchange.since.micros());
    match &answer {
        Ok(job) => {
            outcome.status = Some(201);
            outcome.reason = format!("job `{}` is {}", job.id, job.state.as_str());
        }
        Err(No::Problem(problem)) => {
            outcome.status = Some(problem.status);
            outcome.code = Some(problem.code.clone());
            outcome.reason.clone_from(&problem.detail);
        }
        Err(No::Refusal(refusal)) => outcome.code = Some(refusal.code.as_str().to_owned()),
    }
    // Where it is not known whether control has the job, what it may use counts as used.
    if !sent {
        drawn.into_iter().for_each(|drawn| drawn.settle(Want::default()));
    }
    sidecar.note(&outcome);
    answer.map(|job| Said::of(201, public(job)))
}

/// The job, and the key by which a second submission is known.
fn read(body: &[u8]) -> Result<(JobSpec, Option<String>), No> {
    let invalid = |what: String| problem(400, "invalid", what);
    let mut fields: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| invalid(format!("the body: {error}")))?;
    let key = match fields.remove("idempotencyKey") {
        None | Some(Value::Null) => None,
        Some(Value::String(key)) => Some(key),
        Some(_) => return Err(invalid("`idempotencyKey` is a text".to_owned())),
    };
    let spec: JobSpec = serde_json::from_value(Value::Object(fields))
        .map_err(|error| invalid(format!("the job: {error}")))?;
    Ok((spec, key))
}

/// What is judged: the operation that the topic names, with the input as its arguments.
fn item(exchange: &Exchange, spec: &JobSpec, body: &[u8]) -> Result<Item, No> {
    let named = spec.topic.strip_prefix("job.").and_then(|rest| rest.rsplit_once('.'));
    let named = named.filter(|(service, operation)| {
        !service.is_empty() && !operation.is_empty() && spec.topic.to_lowercase() == spec.topic
    });
    if named.is_none() {
        let what =
            format!("`{}` is not a topic: write `job.<service>.<operation>` in lower case", spec.topic);
        return Err(problem(400, "invalid", what));
    };
    let seen: Seen<'_> = serde_json::from_slice(body)
        .map_err(|error| problem(400, "invalid", format!("the body: {error}")))?;
    let args = seen.input.map(|input| input.get().as_bytes());
    let class = exchange.policy.set.classifier().job(&spec.topic, Some(args.unwrap_or(b"null")));
    Ok(Item {
        point: Point::JobSubmit,
        class,
        tool: None,
        model: None,
        args: args.and_then(|args| classify::span(body, args)),
        rpc_id: None,
        args_hash: args.map(classify::hash),
    })
}

/// Judges and records. What people have to say yes to, control asks them.
async fn judge(sidecar: &Sidecar, exchange: &Exchange, body: &bytes::Bytes) -> Result<(), No> {
    let body = Body { raw: body.clone(), decoded: body.clone() };
    let classified = Classified { exchange: exchange.clone(), body, model: None };
    match decide::decide(sidecar, classified) {
        Ok(cleared) => {
            for grant in &cleared.grants {
                fits(grant)?;
                recorded(sidecar, exchange, |record| audit::judged(record, grant)).await?;
            }
            Ok(())
        }
        Err(Withheld::Awaiting(awaiting)) if sidecar.is_governed_centrally() => {
            let verdict = awaiting.verdict;
            recorded(sidecar, exchange, |record| {
                record.decision = Some(verdict.decision);
                record.rule = verdict.rule.to_string();
                record.reason = verdict.reason.to_string();
                record.mode = Some(verdict.mode);
            })
            .await
        }
        Err(Withheld::Awaiting(awaiting)) => {
            let verdict = awaiting.verdict;
            let mut refusal =
                Refusal::new(Code::ApprovalRequired, verdict.rule.clone(), verdict.reason.to_string());
            let hint = "people are asked about a job by control: apply the rule there, not in a file of this sidecar's";
            refusal.hint = Some(hint.to_owned());
            Err(refusal.into())
        }
        Err(Withheld::Refused(refused)) => {
            let first = refused.refusals.into_iter().next().map(|(_, refusal)| refusal);
            let unknown = || Refusal::new(Code::Unjudgeable, "job", "the job cannot be judged");
            Err(first.unwrap_or_else(unknown).into())
        }
    }
}

/// A constraint that would change the job cannot be kept: nobody but control has it from now on.
fn fits(verdict: &Verdict) -> Result<(), No> {
    let changes = verdict
        .constraints
        .as_deref()
        .is_some_and(|one| !one.redact.is_empty() || !one.set_args.is_empty() || !one.drop_args.is_empty());
    if !changes {
        return Ok(());
    }
    let reason = "a constraint that rewrites arguments does not fit a job";
    Err(Refusal::new(Code::Unjudgeable, verdict.rule.clone(), reason).into())
}

async fn recorded(
    sidecar: &Sidecar,
    exchange: &Exchange,
    judged: impl FnOnce(&mut Record),
) -> Result<(), No> {
    let mut record = exchange.record(Phase::Intent, None);
    judged(&mut record);
    let unwritten = |error: sideguard_record::Unwritable| {
        tracing::error!(%error, "record cannot be written: jobs are refused");
        Refusal::new(Code::RecordUnavailable, "record", "the record cannot be written, so nothing may leave")
    };
    let written = sidecar.log.intent(&record).map_err(unwritten)?;
    sidecar.seen(&record);
    Ok(sidecar.log.durable(written).await.map_err(unwritten)?)
}
