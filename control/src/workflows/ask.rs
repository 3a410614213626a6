//! Questions of runs to people: approvals like any other, with the run in place of a call.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sideguard_runtime::clock;
use sideguard_types::control::approvals::{Approval, Ask, Held, Redeem, Said, State, Terms};
use sideguard_types::workflow::Run;

use crate::api::Control;
use crate::approvals;
use crate::dag::{Event, Failed, Question};
use crate::error::Failure;
use crate::signer::hex;

/// How long a yes is good until the run has taken it, in seconds: control may be away for a while.
const VALID: u64 = 86_400;

/// Asks people if they have not been asked, and tells what they say.
pub(super) async fn ask(control: &Control, run: &Run, question: &Question) -> Result<Vec<Event>, Failure> {
    let Question { site, attempt, id, .. } = question;
    let (site, attempt) = (*site, *attempt);
    let ended = |outcome| Event::Ended { site, attempt, outcome };
    let store = &control.store;
    let known = approvals::known(store, clock::now(), &run.tenant, id).await?;
    if question.recall {
        let why = match known {
            Some(approval) if approval.state == State::Pending => {
                approvals::withdraw(store, &run.tenant, id, "the run that asked has stopped").await?;
                "nobody is asked any more".to_owned()
            }
            _ => "nobody was to be asked any more".to_owned(),
        };
        return Ok(vec![ended(Err(Failed::for_good(why)))]);
    }
    let approval = match known {
        Some(approval) => approval,
        None => {
            let ask = asked(run, question);
            approvals::put(store, &control.webhooks, &run.tenant, id, question.since, &ask).await?
        }
    };
    let asked = Event::Asked { site, attempt, approval: id.clone() };
    Ok(std::iter::once(asked).chain(outcome(control, run, question, approval).await?.map(ended)).collect())
}

/// What has come of it; `None` while people may still answer.
async fn outcome(
    control: &Control,
    run: &Run,
    question: &Question,
    approval: Approval,
) -> Result<Option<Result<Value, Failed>>, Failure> {
    let said = |verdict| approval.votes.iter().filter(move |vote| vote.verdict == verdict);
    Ok(match approval.state {
        State::Pending => None,
        State::Approved | State::Consumed => {
            let redeem = Redeem {
                agent: approval.agent.clone(),
                call: question.key.clone(),
                hash: approval.hash.clone(),
                policy_digest: approval.policy_digest.clone(),
            };
            match approvals::take(&control.store, &run.tenant, &approval.id, &redeem).await {
                Ok(()) => {
                    let by: Vec<&str> = said(Said::Approve).map(|vote| vote.by.as_str()).collect();
                    let reason = said(Said::Approve).find_map(|vote| vote.reason.clone());
                    Some(Ok(json!({ "approval": approval.id, "by": by, "reason": reason })))
                }
                // Somebody has taken the yes back meanwhile: the next look tells.
                Err(Failure::Conflict(_)) => None,
                Err(error) => return Err(error),
            }
        }
        State::Denied => {
            let no = said(Said::Deny).next_back();
            let by = no.map_or("somebody", |vote| vote.by.as_str());
            let reason = no.and_then(|vote| vote.reason.as_deref()).map(|reason| format!(": {reason}"));
            Some(Err(Failed::for_good(format!("denied by `{by}`{}", reason.unwrap_or_default()))))
        }
        State::Expired => {
            let note = approval.note.clone().unwrap_or_else(|| "nobody answered in time".to_owned());
            Some(Err(Failed::for_good(note)))
        }
    })
}

/// The question in the words of approvals.
fn asked(run: &Run, question: &Question) -> Ask {
    let Question { key, step, text, show, separate, .. } = question;
    let shown = json!([key, text, show]).to_string();
    Ask {
        agent: format!("workflow/{}", run.workflow),
        chain: if *separate { vec![run.by.clone()] } else { Vec::new() },
        call: key.clone(),
        rule: format!("{}/{step}", run.workflow),
        reason: text.clone(),
        point: "workflow.approval".to_owned(),
        topic: format!("workflow.{}.{step}", run.workflow),
        tool: None,
        model: None,
        policy_digest: run.digest.clone(),
        hash: hex(&Sha256::digest(shown.as_bytes())),
        terms: Terms {
            quorum: question.quorum,
            roles: question.roles.clone(),
            approvers: question.approvers.clone(),
            expires: question.expires.as_secs().max(1),
            valid: VALID,
            cooldown: 0,
        },
        request: Held {
            method: "RUN".to_owned(),
            scheme: "workflow".to_owned(),
            host: run.workflow.clone(),
            path: format!("/{}/{step}", run.id),
            headers: Vec::new(),
            body: String::new(),
            arguments: show.clone(),
            constraints: Value::Null,
        },
    }
}
