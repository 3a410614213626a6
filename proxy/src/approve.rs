//! Between decide and reserve: people are asked about a call, which waits for them for a while. And between reserve and
//! record: their grant is used up, once, at control, before the call leaves.
//!
//! Waiting ends when the agent leaves or the sidecar stops; what was asked stays asked. A call that was not granted in time
//! is refused with the approval's id, and passes once when it comes again after the grant.

use std::sync::OnceLock;
use std::time::Duration;

use sideguard_client::ClientError;
use sideguard_runtime::clock::Stopwatch;
use sideguard_types::audit::Phase;
use sideguard_types::call::Verb;
use sideguard_types::control::approvals::{Ask, Redeem, Standing, State, Terms};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::time::Span;
use sideguard_types::verdict::{Decision, Verdict};

use crate::app::Sidecar;
use crate::call::{Approved, Awaiting, Classified, Exchange, Refused, Reserved, Ticket};
use crate::engine::Down;
use crate::escrow::{self, Escrow};
use crate::fleet::{Fleet, Link};
use crate::forward::Unsent;

/// How long a call waits when its rule does not say.
const HOLD: u32 = 30;
/// Longest that it waits.
const LONGEST_HOLD: u32 = 300;
/// How long a request may be answered, a grant is good, and a denial lasts, in seconds, when the rule does not say.
const EXPIRES: u64 = 3_600;
const VALID: u64 = 600;
const COOLDOWN: u64 = 300;
/// Longest that control is waited for before anybody could be asked.
const LINK: Duration = Duration::from_secs(5);
/// Longest that one question at control is held.
const POLL: u64 = 20;
/// Pause after control could not be reached.
const PAUSE: Duration = Duration::from_millis(250);
/// How often control is asked the same again when it does not answer: it gives the same call the same answer.
const TRIES: usize = 4;
/// Longest that all of that takes.
const PATIENCE: Duration = Duration::from_secs(12);

/// Asks people, and waits for their answer.
pub(crate) async fn approve(
    sidecar: &Sidecar,
    awaiting: Awaiting,
    down: &mut Down,
) -> Result<Approved, Unsent> {
    let Awaiting { classified, verdict } = awaiting;
    let Some(fleet) = &sidecar.fleet else { return Err(refuse(classified, no_answer(&verdict)).into()) };
    let Some(link) = fleet.link(LINK).await else {
        return Err(refuse(classified, out_of_reach(&verdict)).into());
    };
    let escrow = match held(&classified, &verdict, &link, down) {
        Ok(escrow) => escrow,
        Err(refusal) => return Err(refuse(classified, refusal).into()),
    };
    let question = Question { fleet, link: &link, verdict: &verdict, id: OnceLock::new() };
    let ask = ask(&classified, &verdict, escrow);
    let upgrade = down.wants_upgrade();
    let answer = tokio::select! {
        answer = question.answered(sidecar, &ask) => answer,
        _ = down.gone(), if !upgrade => {
            gone(sidecar, &classified, &verdict, question.id.into_inner());
            return Err(Unsent::Gone);
        }
    };
    match answer {
        Ok(id) => {
            let ticket = Ticket { id, hash: ask.hash, digest: verdict.policy_digest };
            Ok(Approved { classified, ticket })
        }
        Err(refusal) => Err(refuse(classified, refusal).into()),
    }
}

fn refuse(classified: Classified, refusal: Refusal) -> Refused {
    classified.exchange.refuse(refusal)
}

/// The request as it is held.
fn held(classified: &Classified, verdict: &Verdict, link: &Link, down: &Down) -> Result<Escrow, Refusal> {
    let Classified { exchange, body, .. } = classified;
    let unfit = |why: &str| Refusal { hint: Some(why.to_owned()), ..no_answer(verdict) };
    let route = exchange.route.as_ref().ok_or_else(|| unfit("it leads nowhere"))?;
    let escrow = escrow::of(exchange, route, &down.head().headers, body, verdict, link.secret.expose());
    escrow.map_err(|error| unfit(&error.to_string()))
}

fn ask(classified: &Classified, verdict: &Verdict, escrow: Escrow) -> Ask {
    let exchange = &classified.exchange;
    let caller = exchange.caller.as_deref().cloned().unwrap_or_default();
    let item = exchange.items.first();
    Ask {
        agent: caller.agent,
        chain: caller.chain,
        call: exchange.id.clone(),
        rule: verdict.rule.to_string(),
        reason: verdict.reason.to_string(),
        point: item.map(|item| item.point.as_str().to_owned()).unwrap_or_default(),
        topic: item.map(|item| item.class.topic.to_string()).unwrap_or_default(),
        tool: item.and_then(|item| item.tool.clone()),
        model: item.and_then(|item| item.model.clone()),
        policy_digest: verdict.policy_digest.to_string(),
        hash: escrow.hash,
        terms: escalated(exchange, terms(verdict)),
        request: escrow.request,
    }
}

fn terms(verdict: &Verdict) -> Terms {
    let approval = verdict.approval.as_deref().cloned().unwrap_or_default();
    let seconds =
        |span: Option<Span>, usual| span.map_or(usual, |span| span.0.as_millis().div_ceil(1000) as u64);
    Terms {
        quorum: approval.quorum.unwrap_or(1),
        roles: approval.roles,
        approvers: approval.approvers,
        expires: seconds(approval.expires, EXPIRES),
        valid: seconds(approval.valid, VALID),
        cooldown: seconds(approval.cooldown, COOLDOWN),
    }
}

/// Of work that was handed on, whoever is named by the agent that it began with says yes or no.
fn escalated(exchange: &Exchange, terms: Terms) -> Terms {
    let Some(caller) = &exchange.caller else { return terms };
    let mut roots = caller.delegations.iter().filter_map(|hops| hops.first()).map(|hop| &hop.agent);
    let root = roots.next().filter(|root| roots.all(|other| other == *root));
    let root = root.and_then(|root| exchange.policy.set.identity_by_name(&caller.tenant, root));
    match root.map(|root| &root.approvers).filter(|approvers| !approvers.is_empty()) {
        Some(approvers) => Terms { approvers: approvers.clone(), ..terms },
        None => terms,
    }
}

/// A refusal that says what the rule says.
fn no_answer(verdict: &Verdict) -> Refusal {
    let mut refusal = Refusal::new(Code::ApprovalRequired, verdict.rule.clone(), verdict.reason.to_string());
    refusal.hint = verdict.remediations.first().cloned();
    refusal
}

fn out_of_reach(verdict: &Verdict) -> Refusal {
    let hint = "control is out of reach: nobody can be asked now";
    Refusal { hint: Some(hint.to_owned()), ..no_answer(verdict) }
}

/// The agent left while people were thinking: the record says that nothing was sent.
fn gone(sidecar: &Sidecar, classified: &Classified, verdict: &Verdict, approval: Option<String>) {
    let mut record = classified.exchange.record(Phase::Decision, None);
    record.decision = Some(Decision::RequireApproval);
    record.code = Some("client_gone".to_owned());
    record.rule = verdict.rule.to_string();
    record.reason = verdict.reason.to_string();
    record.approval = approval;
    record.latency_us = Some(classified.exchange.since.micros());
    sidecar.note(&record);
}

/// One call's question to people.
struct Question<'a> {
    fleet: &'a Fleet,
    link: &'a Link,
    verdict: &'a Verdict,
    /// Id of the approval, once it is known.
    id: OnceLock<String>,
}

impl Question<'_> {
    /// The id of the grant, or why there is none.
    async fn answered(&self, sidecar: &Sidecar, ask: &Ask) -> Result<String, Refusal> {
        let seconds = self.verdict.approval.as_ref().and_then(|approval| approval.hold_seconds);
        let seconds = seconds.unwrap_or(HOLD).min(LONGEST_HOLD);
        let since = Stopwatch::start();
        let asked = tokio::time::timeout(PATIENCE, self.asked(ask)).await;
        let mut standing = asked.unwrap_or_else(|_| Err(out_of_reach(self.verdict)))?;
        let replaces = standing.replaces.take();
        let id = self.id.get_or_init(|| standing.id.clone());
        // Beyond so many calls that wait, a call is told at once what it would be told at the end.
        let place = self.fleet.holds.try_acquire();
        let hold = if place.is_ok() { Duration::from_secs(seconds.into()) } else { Duration::ZERO };
        while standing.state == State::Pending {
            let left = hold.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(self.pending(&standing, replaces.as_deref()));
            }
            let poll = left.as_secs().saturating_add(1).min(POLL);
            let answer = tokio::select! {
                answer = tokio::time::timeout(left, self.link.client.await_approval(id, poll)) => answer,
                () = sidecar.drain.wait_begin() => return Err(self.pending(&standing, replaces.as_deref())),
            };
            match answer {
                Ok(Ok(now)) => standing = now,
                Ok(Err(ClientError::Refused(problem))) if problem.status < 500 => {
                    return Err(Refusal { hint: Some(problem.detail), ..self.named(&standing) });
                }
                // Control is away or was restarted: what was asked is still there.
                Ok(Err(_)) => tokio::time::sleep(PAUSE.min(left)).await,
                Err(_) => {}
            }
        }
        if standing.state == State::Approved { Ok(standing.id) } else { Err(self.refused(&standing)) }
    }

    /// Asks, again where control is away for a moment.
    async fn asked(&self, ask: &Ask) -> Result<Standing, Refusal> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.link.client.ask_approval(ask).await {
                Ok(standing) => return Ok(standing),
                Err(ClientError::Refused(problem)) if problem.status < 500 => {
                    return Err(Refusal { hint: Some(problem.detail), ..no_answer(self.verdict) });
                }
                Err(error) if tries >= TRIES => {
                    tracing::warn!(%error, "nobody can be asked for an approval");
                    return Err(out_of_reach(self.verdict));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn named(&self, standing: &Standing) -> Refusal {
        let url = self.fleet.page(&format!("approvals/{}", standing.id));
        Refusal { approval: Some(standing.id.clone()), approval_url: Some(url), ..no_answer(self.verdict) }
    }

    fn pending(&self, standing: &Standing, replaces: Option<&str>) -> Refusal {
        let mut refusal = self.named(standing);
        let before =
            replaces.map(|id| format!("the policy has changed, approval {id} is not valid any more; "));
        refusal.hint = Some(format!(
            "{}approval {} is pending at {}: repeat the same request once it is given",
            before.unwrap_or_default(),
            standing.id,
            refusal.approval_url.as_deref().unwrap_or_default()
        ));
        refusal
    }

    fn refused(&self, standing: &Standing) -> Refusal {
        let mut refusal = self.named(standing);
        let why = standing.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        match standing.state {
            State::Denied => {
                refusal.code = Code::PolicyDenied;
                refusal.reason = format!("denied by {}{why}", standing.by.join(", "));
                refusal.hint =
                    standing.until.map(|until| format!("the same may be asked again from {until} on"));
            }
            State::Consumed => {
                let id = &standing.id;
                refusal.hint =
                    Some(format!("approval {id} was used by another call: the same request asks anew"));
            }
            State::Expired | State::Pending | State::Approved => {
                let id = &standing.id;
                refusal.hint = Some(format!("approval {id} has expired{why}: the same request asks anew"));
            }
        }
        refusal
    }
}

/// Uses up the grant of a call that is about to leave. A call that needs none passes.
pub(crate) async fn redeem(sidecar: &Sidecar, mut reserved: Reserved) -> Result<Reserved, Refused> {
    let Some(ticket) = reserved.ticket.take() else {
        // Nothing leads here; if something did, nothing may leave.
        let needs = reserved.grants.iter().find(|grant| grant.decision == Decision::RequireApproval);
        let needs = needs.map(|grant| no_answer(grant));
        return match needs {
            Some(refusal) => Err(give_up(reserved, refusal)),
            None => Ok(reserved),
        };
    };
    let agent = reserved.exchange.caller.as_ref().map(|caller| caller.agent.clone()).unwrap_or_default();
    let redeem = Redeem {
        agent,
        call: reserved.exchange.id.clone(),
        hash: ticket.hash.clone(),
        policy_digest: ticket.digest.to_string(),
    };
    let used = tokio::time::timeout(PATIENCE, used_up(sidecar, &ticket, &redeem)).await;
    match used.unwrap_or_else(|_| Err(away())) {
        Ok(standing) => {
            reserved.exchange.approval = Some((standing.id, standing.by));
            // To ask may have taken a while, and it may be stopped by now.
            let verb =
                reserved.exchange.items.iter().map(|item| item.class.verb).max().unwrap_or(Verb::Admin);
            let stops = sidecar.stops(reserved.exchange.caller.as_deref(), verb);
            match stops.or_else(|| reserved.exchange.job.stops()) {
                Some(refusal) => Err(give_up(reserved, refusal)),
                None => Ok(reserved),
            }
        }
        Err(why) => {
            let rule = reserved.grants.first().map_or_else(|| "approval".into(), |grant| grant.rule.clone());
            let mut refusal = Refusal::new(Code::ApprovalRequired, rule, why);
            refusal.hint = Some("the same request asks anew where there is no grant left".to_owned());
            refusal.approval_url =
                sidecar.fleet.as_ref().map(|fleet| fleet.page(&format!("approvals/{}", ticket.id)));
            refusal.approval = Some(ticket.id);
            Err(give_up(reserved, refusal))
        }
    }
}

fn away() -> String {
    "control is out of reach: the approval cannot be used now".to_owned()
}

async fn used_up(sidecar: &Sidecar, ticket: &Ticket, redeem: &Redeem) -> Result<Standing, String> {
    let link = match &sidecar.fleet {
        Some(fleet) => fleet.link(LINK).await.ok_or_else(away)?,
        None => return Err(away()),
    };
    for _ in 0..TRIES {
        match link.client.redeem_approval(&ticket.id, redeem).await {
            Ok(standing) if standing.state == State::Consumed => return Ok(standing),
            Ok(standing) => return Err(format!("approval `{}` is {}", standing.id, standing.state.as_str())),
            Err(ClientError::Refused(problem)) if problem.status < 500 => return Err(problem.detail),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    Err(away())
}

fn give_up(reserved: Reserved, refusal: Refusal) -> Refused {
    let Reserved { exchange, held, .. } = reserved;
    held.release();
    exchange.refuse(refusal)
}
