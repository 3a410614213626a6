//! Stage 4: may it go? Kill switch, capability scope, then policy, for each item of the call; a `no` to one is a
//! `no` to the whole.

use sideguard_policy::{Grant, Ruling};
use sideguard_types::call::{Caller, Moment};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::verdict::{Decision, Verdict};

use crate::app::Sidecar;
use crate::call::{Classified, Cleared, Exchange, Item, Refused};

/// Longest that a caller is told to wait for a rate to recover; beyond it the refusal is final.
const SOON: std::time::Duration = std::time::Duration::from_secs(60);

/// Judges every item.
pub(crate) fn decide(sidecar: &Sidecar, classified: Classified) -> Result<Cleared, Refused> {
    let Classified { exchange, body, model } = classified;
    let Some(caller) = exchange.caller.clone() else {
        return Err(exchange.refuse(Refusal::new(
            Code::Unauthenticated,
            "identity",
            "the agent is not known",
        )));
    };
    let mut grants = Vec::with_capacity(exchange.items.len());
    let mut refusals = Vec::new();
    for (index, item) in exchange.items.iter().enumerate() {
        match judge(sidecar, &exchange, &caller, item, &body.decoded) {
            Ok(grant) => grants.push(grant),
            Err(refusal) => refusals.push((index, refusal)),
        }
    }
    if refusals.is_empty() && !grants.is_empty() {
        return Ok(Cleared { exchange, body, model, grants });
    }
    if refusals.is_empty() {
        return Err(exchange.refuse(Refusal::new(
            Code::Unjudgeable,
            "dialect",
            "the request holds nothing that could be judged",
        )));
    }
    Err(Refused { exchange: Box::new(exchange), refusals })
}

/// Judges one item at its point.
pub(crate) fn judge(
    sidecar: &Sidecar,
    exchange: &Exchange,
    caller: &Caller,
    item: &Item,
    body: &[u8],
) -> Result<Grant, Refusal> {
    let call = exchange.call(caller, item, body);
    if sidecar.killed() {
        return Err(Refusal::new(Code::Killed, "kill", "all calls are stopped by the kill switch"));
    }
    if let Some(refusal) = sidecar.fleet.as_ref().and_then(|fleet| fleet.stops(caller, item.class.verb)) {
        return Err(refusal);
    }
    if let Some(identity) = exchange.policy.set.identity_by_name(&caller.tenant, &caller.agent)
        && let Err(reason) = identity.scope(&call)
    {
        return Err(Refusal::new(Code::ScopeDenied, format!("agent/{}", caller.agent), reason));
    }
    let moment = Moment { now: exchange.at, velocity: &sidecar.velocity };
    let grant = match exchange.policy.set.decide(&call, moment) {
        Ruling::Granted(grant) => grant,
        Ruling::Refused(verdict) => return Err(refusal(&verdict)),
    };
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
