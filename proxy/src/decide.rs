//! Stage 4: may it go? Kill switch, capability scope, then policy, for each item of the call; a `no` to one is a
//! `no` to the whole.

use sideguard_policy::{Grant, Ruling};
use sideguard_runtime::clock;
use sideguard_types::call::{Caller, Moment};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::verdict::{Decision, Verdict};

use crate::app::Sidecar;
use crate::call::{Approved, Awaiting, Classified, Cleared, Exchange, Item, Refused};

/// Longest that a caller is told to wait for a rate to recover; beyond it the refusal is final.
const SOON: std::time::Duration = std::time::Duration::from_secs(60);

/// Why an exchange may not go now.
pub(crate) enum Withheld {
    /// It may not go.
    Refused(Refused),
    /// People have to say yes first, and can be asked.
    Awaiting(Box<Awaiting>),
}

impl From<Refused> for Withheld {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Judges every item.
pub(crate) fn decide(sidecar: &Sidecar, classified: Classified) -> Result<Cleared, Withheld> {
    let Classified { exchange, body, model } = classified;
    let Some(caller) = exchange.caller.clone() else { return Err(unknown(exchange).into()) };
    let mut grants = Vec::with_capacity(exchange.items.len());
    let mut refusals = Vec::new();
    for (index, item) in exchange.items.iter().enumerate() {
        match ruling(sidecar, &exchange, &caller, item, &body.decoded) {
            Ok(grant) => grants.push(grant),
            Err(No::Refusal(refusal)) => refusals.push((index, refusal)),
            Err(No::Verdict(verdict)) if awaits(sidecar, &exchange, &verdict) => {
                let classified = Classified { exchange, body, model };
                return Err(Withheld::Awaiting(Box::new(Awaiting { classified, verdict: *verdict })));
            }
            Err(No::Verdict(verdict)) => {
                refusals.push((index, unasked(sidecar, &exchange, refusal(&verdict))));
            }
        }
    }
    if refusals.is_empty() && !grants.is_empty() {
        return Ok(Cleared { exchange, body, model, grants, ticket: None });
    }
    if refusals.is_empty() {
        return Err(exchange
            .refuse(Refusal::new(
                Code::Unjudgeable,
                "dialect",
                "the request holds nothing that could be judged",
            ))
            .into());
    }
    Err(Refused { exchange: Box::new(exchange), refusals }.into())
}

/// A refusal for want of an approval that nobody is asked for, with how people could be.
fn unasked(sidecar: &Sidecar, exchange: &Exchange, refusal: Refusal) -> Refusal {
    if refusal.code != Code::ApprovalRequired {
        return refusal;
    }
    let hint = if sidecar.fleet.is_none() {
        "only a sidecar that belongs to a control service can ask people: `sideguard up`, or `control` in its configuration"
    } else if exchange.items.len() > 1 {
        "send the call on its own: calls of a batch cannot wait for people"
    } else {
        return refusal;
    };
    Refusal { hint: Some(refusal.hint.unwrap_or_else(|| hint.to_owned())), ..refusal }
}

/// Whether people can be asked: not about a call of a batch, whose other calls would wait with it.
fn awaits(sidecar: &Sidecar, exchange: &Exchange, verdict: &Verdict) -> bool {
    verdict.decision == Decision::RequireApproval && sidecar.fleet.is_some() && exchange.items.len() == 1
}

/// Judges again what people have said yes to, by the policy that is in force now: it must be the one that asked.
pub(crate) fn decide_approved(sidecar: &Sidecar, approved: Approved) -> Result<Cleared, Refused> {
    let Approved { classified: Classified { mut exchange, body, model }, ticket } = approved;
    let Some(caller) = exchange.caller.clone() else { return Err(unknown(exchange)) };
    let policy = sidecar.policy.load_full();
    let refuse = |exchange: Exchange, mut refusal: Refusal| {
        refusal.approval = Some(ticket.id.clone());
        Err(exchange.refuse(refusal))
    };
    if *policy.set.digest() != ticket.digest {
        let mut refusal = Refusal::new(
            Code::ApprovalRequired,
            "approval",
            "the policy has changed since the approval was asked for: it is not valid any more",
        );
        refusal.hint = Some("the same request asks anew".to_owned());
        return refuse(exchange, refusal);
    }
    exchange.policy = policy;
    exchange.waited = exchange.since.elapsed();
    exchange.at = clock::now();
    let [item] = exchange.items.as_slice() else {
        let reason = "only a call on its own can be approved";
        return refuse(exchange, Refusal::new(Code::Unjudgeable, "approval", reason));
    };
    let judged = before(sidecar, &exchange, &caller, item, &body.decoded).and_then(|()| {
        let call = exchange.call(&caller, item, &body.decoded);
        let moment = Moment { now: exchange.at, velocity: &sidecar.velocity };
        match exchange.policy.set.decide_approved(&call, moment) {
            Ruling::Granted(grant) => within_rate(sidecar, &caller, grant),
            Ruling::Refused(verdict) => Err(refusal(&verdict)),
        }
    });
    match judged {
        Ok(grant) => Ok(Cleared { exchange, body, model, grants: vec![grant], ticket: Some(ticket) }),
        Err(refusal) => refuse(exchange, refusal),
    }
}

fn unknown(exchange: Exchange) -> Refused {
    exchange.refuse(Refusal::new(Code::Unauthenticated, "identity", "the agent is not known"))
}

/// Judges one item at its point.
pub(crate) fn judge(
    sidecar: &Sidecar,
    exchange: &Exchange,
    caller: &Caller,
    item: &Item,
    body: &[u8],
) -> Result<Grant, Refusal> {
    ruling(sidecar, exchange, caller, item, body).map_err(|no| match no {
        No::Refusal(refusal) => refusal,
        No::Verdict(verdict) => refusal(&verdict),
    })
}

/// Why an item may not go.
enum No {
    /// Something else than policy says so.
    Refusal(Refusal),
    /// Policy says so.
    Verdict(Box<Verdict>),
}

fn ruling(
    sidecar: &Sidecar,
    exchange: &Exchange,
    caller: &Caller,
    item: &Item,
    body: &[u8],
) -> Result<Grant, No> {
    before(sidecar, exchange, caller, item, body).map_err(No::Refusal)?;
    let call = exchange.call(caller, item, body);
    let moment = Moment { now: exchange.at, velocity: &sidecar.velocity };
    match exchange.policy.set.decide(&call, moment) {
        Ruling::Granted(grant) => within_rate(sidecar, caller, grant).map_err(No::Refusal),
        Ruling::Refused(verdict) => Err(No::Verdict(Box::new(verdict))),
    }
}

/// What goes before policy: kill switches, and how far the agent's rights reach.
fn before(
    sidecar: &Sidecar,
    exchange: &Exchange,
    caller: &Caller,
    item: &Item,
    body: &[u8],
) -> Result<(), Refusal> {
    if let Some(refusal) = sidecar.stops(Some(caller), item.class.verb).or_else(|| exchange.job.stops()) {
        return Err(refusal);
    }
    let call = exchange.call(caller, item, body);
    let scope = exchange.policy.set.scope(&call, exchange.at);
    scope.map_err(|out| Refusal::new(Code::ScopeDenied, out.rule, out.reason))
}

/// The grant, when the rate that it allows is kept to.
fn within_rate(sidecar: &Sidecar, caller: &Caller, grant: Grant) -> Result<Grant, Refusal> {
    let rate = grant.constraints.as_ref().and_then(|constraints| constraints.rate.as_ref());
    if let Some(rate) = rate
        && let Err(wait) = sidecar.rates.pass(&grant.rule, &caller.agent, rate)
    {
        let reason = format!("more than {} calls in {}", rate.calls, rate.per);
        let mut refusal = Refusal::new(Code::RateLimited, grant.rule.clone(), reason);
        refusal.retry_after = Some(wait.min(SOON));
        return Err(refusal);
    }
    Ok(grant)
}

/// A verdict that is not a grant, as a refusal.
fn refusal(verdict: &Verdict) -> Refusal {
    let code = match verdict.decision {
        Decision::RequireApproval => Code::ApprovalRequired,
        Decision::Deny | Decision::Throttle | Decision::AllowWithConstraints | Decision::Allow => {
            Code::PolicyDenied
        }
    };
    let mut refusal = Refusal::new(code, verdict.rule.clone(), verdict.reason.to_string());
    refusal.hint = verdict.remediations.first().cloned();
    refusal
}
