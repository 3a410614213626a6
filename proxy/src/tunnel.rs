//! CONNECT, and redirected connections that are no HTTP: what is opened and judged inside, what is tunnelled closed, and
//! what is refused.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sideguard_dialects::refuse::{self, Form};
use sideguard_runtime::clock;
use sideguard_types::audit::Phase;
use sideguard_types::call::{Caller, Class, Point, RAW_TCP, Verb};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::Ech;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::Sidecar;
use crate::call::{Arrival, Exchange, HostPort, Item, Refused, Route};
use crate::engine::io_words;
use crate::opening::{Gate, Rules};
use crate::{audit, decide, identify};

/// What becomes of a CONNECT.
pub(crate) enum Plan {
    /// What is inside is opened and judged request by request.
    Open,
    /// The bytes pass closed.
    Pass(Box<Passage>),
    /// It is answered with this and closed.
    Refuse(Bytes),
}

/// A tunnel that is allowed, recorded and connected.
pub(crate) struct Passage {
    exchange: Exchange,
    far: TcpStream,
    gate: Gate,
}

/// Decides about a CONNECT.
pub(crate) async fn plan(sidecar: &Sidecar, arrival: &Arrival) -> Plan {
    let Some(to) = arrival.tunnel.clone() else { return Plan::Open };
    let policy = sidecar.policy.load_full();
    let mut exchange = Exchange::new(policy, "CONNECT");
    exchange.route = Some(Route { target: String::new(), tls: to.port == 443, upstream: None, to });
    // Whoever is not known is told so here, where clients expect it (RFC 9110, section 11.7).
    if let Err(mut refusal) = identify::know(sidecar, &mut exchange, arrival, arrival.key.as_ref()) {
        refusal.status = 407;
        return refuse(sidecar, exchange.refuse(refusal));
    }
    let host = exchange.route.as_ref().map_or("", |route| route.to.host.as_str());
    if sidecar.opens(host) {
        return Plan::Open;
    }
    match pass(sidecar, exchange, Inside::Closed).await {
        Ok(passage) => Plan::Pass(Box::new(passage)),
        Err(refused) => refuse(sidecar, refused),
    }
}

/// What a tunnel that stays closed holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    /// TLS to a host whose TLS policy leaves closed, or whatever CONNECT to such a host brings.
    Closed,
    /// Neither TLS nor HTTP.
    Raw,
}

/// Judges, records and connects a redirected connection to `to` whose content stays closed.
pub(crate) async fn redirected(
    sidecar: &Sidecar,
    arrival: &Arrival,
    to: HostPort,
    inside: Inside,
) -> Result<Passage, Refused> {
    let mut exchange =
        Exchange::new(sidecar.policy.load_full(), if inside == Inside::Raw { "TCP" } else { "TLS" });
    exchange.route = Some(Route { target: String::new(), tls: inside == Inside::Closed, upstream: None, to });
    if let Err(refusal) = identify::know(sidecar, &mut exchange, arrival, None) {
        return Err(exchange.refuse(refusal));
    }
    pass(sidecar, exchange, inside).await
}

/// Records a redirected connection that is refused; it is closed without a word that its protocol would have.
pub(crate) fn turned_away(sidecar: &Sidecar, mut refused: Refused) {
    for (_, refusal) in &mut refused.refusals {
        refusal.call.clone_from(&refused.exchange.id);
    }
    if let Some(first) = refused.first() {
        sidecar.metrics.refused(first.code);
        audit::refused(sidecar, &refused, 0);
    }
}

/// The refusal of a connection that cannot be judged.
pub(crate) fn unjudgeable(
    sidecar: &Sidecar,
    arrival: &Arrival,
    to: HostPort,
    what: &str,
    reason: impl Into<String>,
) -> Refused {
    let mut exchange = Exchange::new(sidecar.policy.load_full(), what);
    // Whoever is not known stays so.
    let _ = identify::know(sidecar, &mut exchange, arrival, arrival.key.as_ref());
    exchange.route = Some(Route { target: String::new(), tls: what == "TLS", upstream: None, to });
    exchange.items.push(connect_item(&exchange, Inside::Closed));
    exchange.refuse(Refusal::new(Code::Unjudgeable, "connection", reason))
}

/// Judges, records and connects a tunnel whose content stays closed.
async fn pass(sidecar: &Sidecar, mut exchange: Exchange, inside: Inside) -> Result<Passage, Refused> {
    exchange.items.push(connect_item(&exchange, inside));
    let (Some(caller), Some(route)) = (exchange.caller.clone(), exchange.route.clone()) else {
        return Err(exchange.refuse(Refusal::new(Code::Unjudgeable, "route", "no destination")));
    };
    let grant = match exchange.items.first().map(|item| decide::judge(sidecar, &exchange, &caller, item, &[]))
    {
        Some(Ok(grant)) => grant,
        Some(Err(refusal)) => return Err(exchange.refuse(refusal)),
        None => return Err(exchange.refuse(Refusal::new(Code::Unjudgeable, "route", "no destination"))),
    };
    let mut intent = exchange.record(Phase::Intent, None);
    audit::judged(&mut intent, &grant);
    let written = match sidecar.log.intent(&intent) {
        Ok(written) => written,
        Err(_) => {
            return Err(exchange.refuse(Refusal::new(
                Code::RecordUnavailable,
                "record",
                "the record cannot be written",
            )));
        }
    };
    if sidecar.log.durable(written).await.is_err() {
        return Err(exchange.refuse(Refusal::new(
            Code::RecordUnavailable,
            "record",
            "the record cannot be written",
        )));
    }
    sidecar.seen(&intent);
    match dial(sidecar, &route).await {
        Ok(far) => {
            let host = route.to.host.clone();
            let rules = Rules {
                opened: sidecar.opens(&host),
                raw: inside == Inside::Raw || raw_too(sidecar, &exchange, &caller),
                encrypted: sidecar.config.tls.ech == Ech::Outer,
                host,
            };
            Ok(Passage { exchange, far, gate: Gate::new(rules) })
        }
        Err(refusal) => {
            let mut outcome = exchange.record(Phase::Outcome, None);
            outcome.code = Some(refusal.code.as_str().to_owned());
            outcome.reason.clone_from(&refusal.reason);
            sidecar.note(&outcome);
            Err(exchange.refuse(refusal))
        }
    }
}

/// Whether what is let through as closed TLS would be let through as raw bytes too.
fn raw_too(sidecar: &Sidecar, exchange: &Exchange, caller: &Caller) -> bool {
    decide::judge(sidecar, exchange, caller, &connect_item(exchange, Inside::Raw), &[]).is_ok()
}

async fn dial(sidecar: &Sidecar, route: &Route) -> Result<TcpStream, Refusal> {
    let unreachable = |what: String| Refusal::new(Code::UpstreamUnreachable, "upstream", what);
    let address = sidecar.resolver.resolve(route).await?;
    let limit = sidecar.config.limits.connect_timeout.0;
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(far)) => Ok(far),
        Ok(Err(error)) => Err(unreachable(format!("`{}`: {}", route.to.host, io_words(&error)))),
        Err(_) => Err(Refusal::new(
            Code::UpstreamTimeout,
            "upstream",
            format!("`{}` did not answer", route.to.host),
        )),
    }
}

fn connect_item(exchange: &Exchange, inside: Inside) -> Item {
    let (host, port) =
        exchange.route.as_ref().map_or(("", 0), |route| (route.to.host.as_str(), route.to.port));
    let (topic, tags) = match inside {
        Inside::Closed => (format!("net.{host}.connect"), vec!["unclassified".into()]),
        Inside::Raw => (format!("net.{host}.{port}"), vec![RAW_TCP.into(), "unclassified".into()]),
    };
    let class = Class { topic: topic.into(), alias: None, verb: Verb::Write, risk_tags: tags };
    Item {
        point: Point::NetConnect,
        class,
        tool: None,
        model: None,
        args: None,
        rpc_id: None,
        args_hash: None,
    }
}

impl Passage {
    /// Carries bytes both ways until both sides have ended, neither spoke for the idle time, or the agent says what may
    /// not pass.
    pub(crate) async fn carry(self: Box<Self>, near: TcpStream, early: BytesMut, sidecar: &Arc<Sidecar>) {
        let busy = sidecar.drain.busy();
        let idle = sidecar.config.limits.idle_timeout.0;
        let Self { exchange, far, mut gate } = *self;
        let (mut near_read, mut near_write) = near.into_split();
        let (mut far_read, mut far_write) = far.into_split();
        let out = async {
            let (held, open) = held_back(&mut gate, early, &mut near_read, &mut far_write, idle).await?;
            if open {
                return Ok(held + copy(&mut near_read, &mut far_write, idle).await);
            }
            // What was to come cannot be judged any more.
            let _ = far_write.shutdown().await;
            Ok::<_, String>(held)
        };
        let back = copy(&mut far_read, &mut near_write, idle);
        let both = async {
            tokio::pin!(out, back);
            tokio::select! {
                sent = &mut out => Ok((sent?, back.await)),
                received = &mut back => Ok((out.await?, received)),
            }
        };
        let ended = tokio::select! {
            biased;
            refusal = sidecar.until_closed(&exchange) => Err((refusal.code, refusal.reason)),
            ended = both => ended.map_err(|why| (Code::Unjudgeable, why)),
        };
        let mut outcome = exchange.record(Phase::Outcome, None);
        let (sent, received) = ended.unwrap_or_else(|(code, why)| {
            sidecar.metrics.refused(code);
            outcome.code = Some(code.as_str().to_owned());
            outcome.reason = why;
            (0, 0)
        });
        outcome.status = outcome.code.is_none().then_some(200);
        outcome.bytes = Some([sent, received]);
        outcome.latency_us = Some(exchange.since.micros());
        outcome.time = clock::now();
        sidecar.note(&outcome);
        drop(busy);
    }
}

/// Sends on what the agent says first, as far as the gate lets it, until all may pass or the agent has ended or fallen
/// silent. Returns the number of bytes, and whether all that follows may pass; the error is the gate's.
async fn held_back(
    gate: &mut Gate,
    mut held: BytesMut,
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    idle: std::time::Duration,
) -> Result<(u64, bool), String> {
    let mut sent = 0;
    loop {
        let passed = gate.look(&held)?;
        let part = held.split_to(passed.bytes.min(held.len()));
        if to.write_all(&part).await.is_err() {
            return Ok((sent, false));
        }
        sent += part.len() as u64;
        if passed.open {
            return Ok((sent, true));
        }
        if !matches!(tokio::time::timeout(idle, from.read_buf(&mut held)).await, Ok(Ok(1..))) {
            return Ok((sent, false));
        }
    }
}

/// Copies until the end, an error, or silence. Returns the number of bytes.
async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    idle: std::time::Duration,
) -> u64 {
    let mut buffer = vec![0; 16 << 10];
    let mut total = 0;
    while let Ok(Ok(count)) = tokio::time::timeout(idle, from.read(&mut buffer)).await {
        let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { break };
        if to.write_all(part).await.is_err() {
            break;
        }
        total += count as u64;
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
    total
}

/// The reply to a CONNECT, or to what stands in its place, that is not valid HTTP.
pub(crate) fn malformed(sidecar: &Sidecar, arrival: &Arrival, method: &str, refusal: Refusal) -> Bytes {
    let mut exchange = Exchange::new(sidecar.policy.load_full(), method);
    // Whoever is not known stays so.
    let _ = identify::know(sidecar, &mut exchange, arrival, None);
    reply(sidecar, exchange.refuse(refusal))
}

fn refuse(sidecar: &Sidecar, refused: Refused) -> Plan {
    Plan::Refuse(reply(sidecar, refused))
}

/// Records a refusal and writes its reply.
fn reply(sidecar: &Sidecar, mut refused: Refused) -> Bytes {
    for (_, refusal) in &mut refused.refusals {
        refusal.call.clone_from(&refused.exchange.id);
    }
    let Some(first) = refused.first() else { return Bytes::new() };
    sidecar.metrics.refused(first.code);
    audit::refused(sidecar, &refused, first.status);
    let reply = refuse::reply(Form::Problem, first);
    let status = http::StatusCode::from_u16(reply.status).unwrap_or(http::StatusCode::FORBIDDEN);
    let phrase = status.canonical_reason().unwrap_or("Refused");
    let mut head =
        format!("HTTP/1.1 {} {phrase}\r\ncontent-type: {}\r\n", status.as_u16(), reply.content_type);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", reply.body.len()));
    let mut whole = head.into_bytes();
    whole.extend_from_slice(&reply.body);
    Bytes::from(whole)
}
