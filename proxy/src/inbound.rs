//! A request from another agent to the agent that this sidecar stands in front of. Its chain is checked and used up, the
//! delegation is open until the request is answered and a little longer, and the bytes pass as they are, streams too.
//!
//! The agent sees of all that only a `traceparent`: whoever sends it along with what it calls says which request it works on.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sideguard_policy::chain;
use sideguard_runtime::{clock, id};
use sideguard_types::audit::Phase;
use sideguard_types::call::{Caller, Verb};
use sideguard_types::delegation::{CHAIN_HEADER, Chain, RECEIPT_HEADER, Receipt};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::Require;

use crate::app::Sidecar;
use crate::call::{Accepted, Arrival, Exchange};
use crate::delegations::{Guard, Key, Under};
use crate::engine::{Destination, Down, Head, Length, Outgoing, Up};
use crate::forward::{self, Attempt, Unsent};
use crate::observe::{self, End};
use crate::work::Tie;
use crate::{accept, delegate};

/// A port in front of an agent.
#[derive(Debug, Clone)]
pub(crate) struct Inbound {
    /// The agent.
    pub(crate) agent: Arc<Caller>,
    /// Where it listens.
    pub(crate) to: SocketAddr,
    pub(crate) require: Require,
}

/// Serves one request.
pub(crate) async fn pass(
    sidecar: &Sidecar,
    inbound: &Inbound,
    arrival: &Arrival,
    down: &mut Down,
) -> Result<End, Unsent> {
    let Accepted { mut exchange, body, .. } = accept::accept(sidecar, arrival, down).await?;
    exchange.caller = Some(Arc::clone(&inbound.agent));
    if down.wants_upgrade() {
        let reason = "an agent's inbound port does not pass WebSockets on";
        return Err(exchange.refuse(Refusal::new(Code::Unjudgeable, "inbound", reason)).into());
    }
    let guard = match admitted(sidecar, inbound, &mut exchange, &down.head().headers) {
        Ok(guard) => guard,
        Err(refusal) => return Err(exchange.refuse(refusal).into()),
    };
    if let Err(refusal) = recorded(sidecar, &exchange).await {
        return Err(exchange.refuse(refusal).into());
    }
    let out = outgoing(&exchange, down, body.raw);
    let to = Destination {
        address: inbound.to,
        host: inbound.to.ip().to_string(),
        authority: authority(down).unwrap_or_else(|| inbound.to.to_string()),
        tls: false,
    };
    let caller = exchange.caller.clone();
    let attempted = tokio::select! {
        biased;
        () = sidecar.until_killed(caller.as_deref()) => None,
        attempted = forward::attempt(sidecar, &to, &out, &Tie::Free, down) => Some(attempted),
    };
    let (up, head) = match attempted {
        Some(Ok(Attempt::Answered(answered))) => *answered,
        Some(Ok(Attempt::Fenced(refusal, _))) => return Err(exchange.refuse(*refusal).into()),
        Some(Ok(Attempt::Gone)) => {
            ended(sidecar, &exchange, Some("client_gone"), None);
            return Err(Unsent::Gone);
        }
        Some(Err((fault, _))) => {
            let code = if fault.timeout { Code::UpstreamTimeout } else { Code::UpstreamUnreachable };
            let refusal = Refusal::new(code, "inbound", format!("`{}`: {fault}", inbound.agent.agent));
            return Err(exchange.refuse(refusal).into());
        }
        None => {
            let stopped =
                || Refusal::new(Code::Killed, "kill", "the delegation was revoked, or the agent stopped");
            let refusal = sidecar.stops(caller.as_deref(), Verb::Read).unwrap_or_else(stopped);
            return Err(exchange.refuse(refusal).into());
        }
    };
    Ok(answer(sidecar, &exchange, guard, up, head, down).await)
}

/// Checks what the request was brought with, and opens its delegation.
fn admitted(
    sidecar: &Sidecar,
    inbound: &Inbound,
    exchange: &mut Exchange,
    headers: &HeaderMap,
) -> Result<Option<Guard>, Refusal> {
    if let Some(refusal) = sidecar.stops(Some(&inbound.agent), Verb::Read) {
        return Err(refusal);
    }
    let refuse = |reason: String| Refusal::new(Code::ScopeDenied, "delegation", reason);
    let Some(chain) = delegate::read::<Chain>(headers, CHAIN_HEADER) else {
        if inbound.require == Require::None {
            return Ok(None);
        }
        let mut refusal = refuse("the request came without a chain of delegation".to_owned());
        refusal.hint = Some(
            "call the agent through a sidecar of its fleet that knows it as an agent (`agent` in its Upstream)".to_owned(),
        );
        return Err(refusal);
    };
    let chain = chain.map_err(|what| refuse(format!("the chain of delegation: {what}")))?;
    let Caller { tenant, agent, .. } = &*inbound.agent;
    let verified = delegate::verified(sidecar, tenant, agent, chain)?;
    exchange.link = Some(verified.link().to_owned());
    let trace_id = exchange.trace_id.get_or_insert_with(|| id::token(16)).clone();
    let key = Key::Request(exchange.id.clone());
    // What stops somebody above stops this too: asked before the chain is used up.
    let hops = Caller { delegations: vec![Arc::clone(&verified.hops)], ..Caller::clone(&inbound.agent) };
    let agents = verified.hops.iter().map(|hop| hop.agent.clone()).collect();
    let caller = Caller { chain: agents, ..hops };
    exchange.caller = Some(Arc::new(caller));
    if let Some(refusal) = sidecar.stops(exchange.caller.as_deref(), Verb::Read) {
        return Err(refusal);
    }
    let taken = sidecar.delegations.once(&verified, clock::now());
    let opened =
        taken.and_then(|()| sidecar.delegations.open(key, &inbound.agent.agent, Some(trace_id), verified));
    let guard = opened.map_err(|error| refuse(error.to_string()))?;
    exchange.under =
        Some(Under { by: sideguard_types::delegation::Correlation::Trace, open: vec![Arc::clone(&guard.0)] });
    Ok(Some(guard))
}

/// Puts the request on record before the agent sees it.
async fn recorded(sidecar: &Sidecar, exchange: &Exchange) -> Result<(), Refusal> {
    let mut record = exchange.record(Phase::Control, None);
    record.code = Some("inbound".to_owned());
    let refuse = || Refusal::new(Code::RecordUnavailable, "record", "the record cannot be written");
    let written = sidecar.log.intent(&record).map_err(|_| refuse())?;
    sidecar.log.durable(written).await.map_err(|_| refuse())?;
    sidecar.seen(&record);
    Ok(())
}

fn ended(sidecar: &Sidecar, exchange: &Exchange, why: Option<&str>, status: Option<u16>) {
    let mut record = exchange.record(Phase::Control, None);
    record.code = Some("inbound_ended".to_owned());
    record.reason = why.unwrap_or_default().to_owned();
    record.status = status;
    record.latency_us = Some(exchange.since.micros());
    sidecar.note(&record);
}

fn authority(down: &Down) -> Option<String> {
    let head = down.head();
    let host = || head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    head.uri.authority().map(ToString::to_string).or_else(host).filter(|host| !host.is_empty())
}

/// The request as the agent gets it: what is Sideguard's own taken out, its trace put in where it has none.
fn outgoing(exchange: &Exchange, down: &Down, body: Bytes) -> Outgoing {
    let headers = &down.head().headers;
    let own =
        |name: &&HeaderName| name.as_str().starts_with("x-sideguard-") && *name != "x-sideguard-session";
    let mut remove: Vec<HeaderName> = headers.keys().filter(own).cloned().collect();
    let mut set = Vec::new();
    match (&exchange.trace, &exchange.trace_id) {
        (Some(trace), _) => trace.headers(&mut remove, &mut set),
        (None, Some(trace)) if !headers.contains_key("traceparent") => {
            // Nobody records its spans: not sampled (W3C Trace Context, section 3.2.2.5).
            if let Ok(value) = HeaderValue::from_str(&format!("00-{trace}-{}-00", id::token(8))) {
                set.push((HeaderName::from_static("traceparent"), value));
            }
        }
        (None, _) => {}
    }
    let target = exchange.route.as_ref().map_or_else(|| "/".to_owned(), |route| route.target.clone());
    Outgoing { target, remove, set, body, upgrade: false, once: true }
}

/// Takes the answer back.
async fn answer(
    sidecar: &Sidecar,
    exchange: &Exchange,
    guard: Option<Guard>,
    mut up: Up<'_>,
    head: Head,
    down: &mut Down,
) -> End {
    up.count(&exchange.waits);
    let (status, no_body) = (head.parts().status.as_u16(), head.no_body);
    let headers = &head.parts().headers;
    let sized =
        headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING);
    let foreign: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-sideguard-")).cloned().collect();
    let mut reply = head.into_reply(false);
    foreign.into_iter().for_each(|name| reply.remove(name));
    // A stream's agent goes on working: what it uses is not known yet, and counts in full.
    if let Some(receipt) =
        guard.as_ref().filter(|_| sized || no_body).and_then(|guard| receipt(sidecar, guard))
    {
        reply.set(HeaderName::from_static(RECEIPT_HEADER), receipt);
    }
    let length = if no_body || sized { Length::AsIs } else { Length::Streamed };
    let (why, end) = if down.reply(reply, length).await.is_err() {
        (Some("client_gone"), End::Broken)
    } else if no_body {
        let sent = down.send(Bytes::new(), true).await;
        (None, if sent.is_ok() { End::Whole } else { End::Broken })
    } else {
        tokio::select! {
            biased;
            () = sidecar.until_killed(exchange.caller.as_deref()) => (Some(Code::Killed.as_str()), End::Broken),
            ended = pin!(observe::parts(&mut up, down, None)) => ended,
        }
    };
    match end {
        End::Whole => up.release().await,
        End::Broken => up.drop_rest().await,
    }
    ended(sidecar, exchange, why, Some(status));
    end
}

/// What was used under a delegation that has a bound, signed; nothing more can be used from then on.
fn receipt(sidecar: &Sidecar, Guard(open): &Guard) -> Option<HeaderValue> {
    if open.verified.budget.is_open() {
        return None;
    }
    let issuer = sidecar.fleet.as_ref()?.passport()?;
    let used = open.close();
    let receipt = Receipt {
        link: open.verified.link().to_owned(),
        tokens: used.tokens,
        usd: used.usd,
        calls: used.calls,
        issuer: (*issuer).clone(),
        signature: String::new(),
    };
    delegate::write(&chain::signed_receipt(receipt, sidecar.key.expose()))
}
