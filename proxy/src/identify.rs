//! Stage 2: whose call it is. From the kernel where agents are told apart by port or uid, else from a key, or from the
//! configuration where there is but one agent; never from anything else that the agent says.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sideguard_runtime::secret::Secret;
use sideguard_types::call::Caller;
use sideguard_types::refusal::{Code, Refusal};

use crate::app::Sidecar;
use crate::call::{Accepted, Arrival, Exchange, Identified, Refused};
use crate::feed::Policy;
use crate::ports::Whose;
use crate::work::Tie;

/// Finds the agent.
pub(crate) fn identify(
    sidecar: &Sidecar,
    arrival: &Arrival,
    accepted: Accepted,
) -> Result<Identified, Refused> {
    let Accepted { mut exchange, body, key } = accepted;
    match know(sidecar, &mut exchange, arrival, key.as_ref()) {
        Ok(()) => Ok(Identified { exchange, body }),
        Err(refusal) => Err(exchange.refuse(refusal)),
    }
}

/// Notes the agent whose exchange it is, the job that it is made for, and the delegations that it works under.
pub(crate) fn know(
    sidecar: &Sidecar,
    exchange: &mut Exchange,
    arrival: &Arrival,
    key: Option<&Secret<String>>,
) -> Result<(), Refusal> {
    let caller = caller(sidecar, &exchange.policy, &arrival.whose, key)?;
    if let Some(work) = sidecar.work.as_ref().filter(|work| work.is_by(&caller)) {
        let tied = || work.tie(exchange.trace_id.as_deref(), key);
        exchange.job = arrival.job.clone().map_or_else(tied, Tie::Job);
    }
    // The only job that the agent is at is a guess: what came in meanwhile may be what the call is made for.
    let trace = exchange.trace_id.as_deref();
    let believed = trace.filter(|_| sidecar.delegations.believes_traces());
    let certain = match &exchange.job {
        Tie::Job(held) if arrival.job.is_some() || held.is_named(believed, key) => Some(held),
        _ => None,
    };
    let certain = certain.map(|held| held.lease.job.clone());
    exchange.under = sidecar.delegations.of(&caller.agent, certain.as_deref(), trace);
    exchange.named = certain;
    exchange.caller = Some(match &exchange.under {
        Some(under) => Arc::new(under.place(&caller)),
        None => caller,
    });
    Ok(())
}

/// The agent that the kernel tells; else the one that `key` belongs to; without a key, the configured one.
fn caller(
    sidecar: &Sidecar,
    policy: &Policy,
    whose: &Whose,
    key: Option<&Secret<String>>,
) -> Result<Arc<Caller>, Refusal> {
    match whose {
        // A key, of its own or stolen, makes it nobody else.
        Whose::Agents(agent) => return Ok(Arc::clone(agent)),
        Whose::Stranger => {
            return Err(unauthenticated("no agent has the uid that this connection comes from"));
        }
        Whose::Open => {}
    }
    // A process that does one job has that job's key.
    let of_job = sidecar.work.as_ref().zip(key).and_then(|(work, key)| work.caller_by(key));
    if let Some(agent) = of_job {
        return Ok(Arc::clone(agent));
    }
    match (key, &sidecar.agent) {
        (Some(key), own) => match (policy.set.identity_by_key(key.expose().as_bytes()), own) {
            (Some(identity), _) => Ok(Arc::new(identity.caller.clone())),
            (None, _) => Err(unauthenticated("the key is not one of a known agent")),
        },
        (None, Some(own)) => Ok(Arc::clone(own)),
        (None, None) => {
            Err(unauthenticated("this gateway serves several agents: it has to know which one is calling"))
        }
    }
}

fn unauthenticated(reason: &str) -> Refusal {
    let mut refusal = Refusal::new(Code::Unauthenticated, "identity", reason);
    refusal.hint = Some(
        "send the agent's key as `x-sideguard-key`, or as the proxy password: http://agent:KEY@host:port"
            .to_owned(),
    );
    refusal
}

/// The password of a `Basic` credential (RFC 7617).
pub(crate) fn basic_password(value: &[u8]) -> Option<Secret<String>> {
    let value = std::str::from_utf8(value).ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    decoded
        .split_once(':')
        .map(|(_, password)| Secret::new(password.to_owned()))
        .filter(|key| !key.expose().is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_proxy_password_is_the_key() {
        let key = super::basic_password(b"Basic YWdlbnQ6c2VjcmV0").expect("a password");
        assert_eq!(key.expose(), "secret");
        assert!(super::basic_password(b"Bearer abc").is_none());
        assert!(super::basic_password(b"Basic YWdlbnQ6").is_none());
    }
}
