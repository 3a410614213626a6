//! Stage 7: the request leaves: constraints and caps spliced in, credentials put in, everything else byte for byte as
//! it was judged.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use sideguard_dialects::detect::Operation;
use sideguard_dialects::edit::{self, Edit};
use sideguard_dialects::request::{self, CapName, Change, Request};
use sideguard_policy::Grant;
use sideguard_policy::redact::Found;
use sideguard_types::audit::Phase;
use sideguard_types::call::Verb;
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::StreamUsage;
use sideguard_types::verdict::Decision;

use crate::app::Sidecar;
use crate::breaker::Event;
use crate::call::{Exchange, ModelFacts, Refused, Reserved, Route};
use crate::delegate;
use crate::engine::{Destination, Down, Fault, Head, Outgoing, Up};
use crate::reserve::{self, Held};
use crate::upstreams::CREDENTIAL_HEADERS;
use crate::work::Tie;

/// An exchange whose request has left and whose answer has begun.
pub(crate) struct Sent<'s> {
    pub(crate) exchange: Exchange,
    pub(crate) held: Held,
    pub(crate) model: Option<ModelFacts>,
    /// The request's body as it was judged, for estimating what a cut answer cost.
    pub(crate) judged: Bytes,
    pub(crate) limits: AnswerLimits,
    pub(crate) up: Up<'s>,
    pub(crate) head: Head,
    /// Key of the breaker that the call stands under.
    pub(crate) breaker: Option<(String, sideguard_types::resource::BreakerSpec)>,
    /// The decision and rule that let the call go, for the reply's headers.
    pub(crate) decision: (&'static str, std::sync::Arc<str>),
    /// What a document in `warn` mode would have done, for the reply's headers.
    pub(crate) warning: Option<String>,
}

/// Limits on the answer, from the grants' constraints.
#[derive(Debug, Clone)]
pub(crate) struct AnswerLimits {
    /// The rule that sets them.
    pub(crate) rule: Arc<str>,
    pub(crate) bytes: Option<u64>,
    pub(crate) time: Option<Duration>,
    /// Whether the usage chunk of a stream was asked for here and not by the agent.
    pub(crate) hide_usage: bool,
}

impl AnswerLimits {
    /// What is left of the time for the answer.
    pub(crate) fn left(&self, exchange: &Exchange) -> Option<Duration> {
        self.time.map(|time| time.saturating_add(exchange.waited).saturating_sub(exchange.since.elapsed()))
    }
}

/// What became of an attempt to send.
pub(crate) enum Unsent {
    /// It is answered with a refusal.
    Refused(Box<Refused>),
    /// The agent is gone: nobody to answer.
    Gone,
}

impl From<Refused> for Unsent {
    fn from(refused: Refused) -> Self {
        Self::Refused(Box::new(refused))
    }
}

/// Sends the request and reads the answer's head.
pub(crate) async fn forward<'s>(
    sidecar: &'s Sidecar,
    reserved: Reserved,
    down: &mut Down,
) -> Result<Sent<'s>, Unsent> {
    let limits = limits(&reserved);
    let Some(route) = reserved.exchange.route.clone() else {
        return Err(
            abandon(sidecar, reserved, Refusal::new(Code::Unjudgeable, "route", "no destination")).into()
        );
    };
    let out = match outgoing(sidecar, &reserved, &route, down) {
        Ok(out) => out,
        Err(refusal) => return Err(abandon(sidecar, reserved, *refusal).into()),
    };
    let address = match reserved.exchange.waits.during(pin!(sidecar.resolver.resolve(&route))).await {
        Ok(address) => address,
        Err(refusal) => return Err(abandon(sidecar, reserved, refusal).into()),
    };
    let verb = reserved.exchange.items.iter().map(|item| item.class.verb).max().unwrap_or(Verb::Admin);
    if let Some(refusal) = sidecar.stops(reserved.exchange.caller.as_deref(), verb) {
        return Err(abandon(sidecar, reserved, refusal).into());
    }
    if let Some(refusal) = reserved.exchange.job.stops() {
        return Err(abandon(sidecar, reserved, refusal).into());
    }
    let to = Destination {
        address,
        host: route.to.host.clone(),
        authority: route.to.authority(route.tls),
        tls: route.tls,
    };
    let Reserved { exchange, body, model, grants, mut held, .. } = reserved;
    let breaker = reserve::upstream_breaker(sidecar, &exchange);
    held.dispatched(&exchange.id);
    let attempted = match limits.time {
        None => exchange.waits.during(pin!(attempt(sidecar, &to, &out, &exchange.job, down))).await,
        Some(limit) => {
            let mut within = Box::pin(attempt_within(limit, sidecar, &to, &out, &exchange.job, down));
            exchange.waits.during(within.as_mut()).await
        }
    };
    let (mut up, head) = match attempted {
        Ok(Attempt::Answered(answered)) => *answered,
        Ok(Attempt::Fenced(refusal, left)) => {
            return Err(fenced(sidecar, exchange, held, *refusal, left).into());
        }
        Ok(Attempt::Gone) => {
            gone(sidecar, exchange, held, model.as_ref());
            return Err(Unsent::Gone);
        }
        Err((fault, left)) => {
            failed(sidecar, &exchange, breaker.as_ref());
            return Err(unanswered(sidecar, exchange, held, &fault, left).into());
        }
    };
    up.count(&exchange.waits);
    if let Some(handed) = &mut held.handed {
        handed.hear(sidecar, &head.parts().headers);
    }
    let first = grants.first();
    let decision =
        first.map_or(("allow", "default".into()), |grant| (carried_out(grant), grant.rule.clone()));
    let warning = first
        .and_then(|grant| grant.would.as_ref())
        .filter(|would| would.mode == sideguard_types::verdict::Mode::Warn);
    let warning = warning.map(|would| format!("{} by {}", would.decision.as_str(), would.rule));
    Ok(Sent { exchange, held, model, judged: body.decoded, limits, up, head, breaker, decision, warning })
}

/// What was done, for the reply's header: what people have approved was allowed.
fn carried_out(grant: &Grant) -> &'static str {
    if grant.decision == Decision::RequireApproval { "allow" } else { grant.decision.as_str() }
}

/// What came of an attempt.
pub(crate) enum Attempt<'s> {
    Answered(Box<(Up<'s>, Head)>),
    Gone,
    /// The job that it is made for is no longer this worker's. The second value is whether anything may have left.
    Fenced(Box<Refusal>, bool),
}

/// [`tries`] while the job that the call is made for is this worker's: it is looked at whenever anything could go on. The
/// second value of an error is whether anything may have left.
pub(crate) async fn attempt<'s>(
    sidecar: &'s Sidecar,
    to: &Destination,
    out: &Outgoing,
    job: &Tie,
    down: &mut Down,
) -> Result<Attempt<'s>, (Fault, bool)> {
    let trying = tries(sidecar, to, out, job, down);
    if matches!(job, Tie::Free) {
        return trying.await;
    }
    tokio::select! {
        biased;
        refusal = job.until_fenced() => Ok(Attempt::Fenced(Box::new(refusal), true)),
        attempted = trying => attempted,
    }
}

/// Connects, sends and waits for the head. Tried a second time only where nothing can have been taken in. The second
/// value of an error is whether anything may have left.
async fn tries<'s>(
    sidecar: &'s Sidecar,
    to: &Destination,
    out: &Outgoing,
    job: &Tie,
    down: &mut Down,
) -> Result<Attempt<'s>, (Fault, bool)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mut up = sidecar.connector.open(to).await.map_err(|fault| (fault, false))?;
        // The last moment before anything leaves.
        if let Some(refusal) = job.stops() {
            return Ok(Attempt::Fenced(Box::new(refusal), tries > 1));
        }
        match up.send(down, to, out).await {
            Ok(()) => {}
            Err(fault) => match up.early_head().await {
                Some(head) => return Ok(Attempt::Answered(Box::new((up, head)))),
                None if fault.untouched && up.reused() && tries < 3 => continue,
                None => return Err((fault, true)),
            },
        }
        let head = tokio::select! {
            biased;
            head = up.head() => head,
            _ = down.gone(), if !out.upgrade => {
                up.drop_rest().await;
                return Ok(Attempt::Gone);
            }
        };
        match head {
            Ok(head) => return Ok(Attempt::Answered(Box::new((up, head)))),
            // An idempotent request may go again when a pooled connection turns out dead (RFC 9110, section 9.2.2).
            Err(fault)
                if up.reused()
                    && tries < 3
                    && (fault.untouched
                        || !out.once && !fault.timeout && idempotent(&down.head().method)) => {}
            Err(fault) => return Err((fault, true)),
        }
    }
}

const fn idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// [`attempt`] within the time that a rule allows.
async fn attempt_within<'s>(
    limit: Duration,
    sidecar: &'s Sidecar,
    to: &Destination,
    out: &Outgoing,
    job: &Tie,
    down: &mut Down,
) -> Result<Attempt<'s>, (Fault, bool)> {
    match tokio::time::timeout(limit, attempt(sidecar, to, out, job, down)).await {
        Ok(done) => done,
        Err(_) => {
            let what = format!("no answer within the {} s that the rule allows", limit.as_secs_f64());
            Err((Fault { timeout: true, untouched: false, what }, true))
        }
    }
}

/// Tells the breaker that a call failed.
pub(crate) fn failed(
    sidecar: &Sidecar,
    exchange: &Exchange,
    breaker: Option<&(String, sideguard_types::resource::BreakerSpec)>,
) {
    tell(sidecar, exchange, breaker, Event::Failed);
}

/// Tells the breaker what came of a call.
pub(crate) fn tell(
    sidecar: &Sidecar,
    exchange: &Exchange,
    breaker: Option<&(String, sideguard_types::resource::BreakerSpec)>,
    event: Event,
) {
    if let Some((key, spec)) = breaker {
        let (_, change) = sidecar.breakers.tell(key, event, spec, sideguard_runtime::clock::now());
        if let Some(change) = change {
            reserve::changed(sidecar, exchange, key, change);
        }
    }
}

/// Refuses before anything left: the budget gets everything back, the record an outcome that says so.
fn abandon(sidecar: &Sidecar, reserved: Reserved, refusal: Refusal) -> Refused {
    let Reserved { exchange, held, .. } = reserved;
    held.release();
    let mut outcome = exchange.record(Phase::Outcome, None);
    outcome.code = Some(refusal.code.as_str().to_owned());
    outcome.reason.clone_from(&refusal.reason);
    sidecar.note(&outcome);
    exchange.refuse(refusal)
}

/// Refuses after the upstream failed. What may have left is charged in full: nobody knows what it did.
fn unanswered(sidecar: &Sidecar, exchange: Exchange, held: Held, fault: &Fault, left: bool) -> Refused {
    let code = if fault.timeout { Code::UpstreamTimeout } else { Code::UpstreamUnreachable };
    let host = exchange.route.as_ref().map_or("", |route| route.to.host.as_str());
    let refusal = Refusal::new(code, "upstream", format!("`{host}`: {fault}"));
    let mut outcome = exchange.record(Phase::Outcome, None);
    outcome.code = Some(code.as_str().to_owned());
    outcome.reason.clone_from(&refusal.reason);
    outcome.status = Some(refusal.status);
    outcome.latency_us = Some(exchange.since.micros());
    if left && !fault.untouched {
        let reserved = held.reserved;
        outcome.cost_usd = Some(reserved.usd);
        outcome.budget = held.settle(reserved);
    } else {
        held.release();
    }
    sidecar.note(&outcome);
    exchange.refuse(refusal)
}

/// Refuses a call of a job that was taken away. What may have left is charged in full.
fn fenced(sidecar: &Sidecar, exchange: Exchange, held: Held, refusal: Refusal, left: bool) -> Refused {
    let mut outcome = exchange.record(Phase::Outcome, None);
    outcome.code = Some(refusal.code.as_str().to_owned());
    outcome.reason.clone_from(&refusal.reason);
    outcome.status = Some(refusal.status);
    outcome.latency_us = Some(exchange.since.micros());
    if left {
        let reserved = held.reserved;
        outcome.cost_usd = Some(reserved.usd);
        outcome.budget = held.settle(reserved);
    } else {
        held.release();
    }
    sidecar.note(&outcome);
    exchange.refuse(refusal)
}

/// The agent left while the upstream was thinking: the input is charged, and the whole reserve for an answer that
/// nobody saw.
fn gone(sidecar: &Sidecar, exchange: Exchange, held: Held, model: Option<&ModelFacts>) {
    let mut outcome = exchange.record(Phase::Outcome, None);
    outcome.code = Some("client_gone".to_owned());
    outcome.latency_us = Some(exchange.since.micros());
    let used = if model.is_some() { held.reserved } else { sideguard_types::audit::Amounts::default() };
    outcome.cost_usd = model.map(|_| used.usd);
    outcome.budget = held.settle(used);
    sidecar.note(&outcome);
}

fn limits(reserved: &Reserved) -> AnswerLimits {
    let constraints = || reserved.grants.iter().filter_map(|grant| grant.constraints.as_deref());
    let limiting = reserved.grants.iter().find(|grant| {
        grant
            .constraints
            .as_deref()
            .is_some_and(|one| one.max_output_bytes.is_some() || one.timeout.is_some())
    });
    AnswerLimits {
        rule: limiting.map_or_else(|| "constraint".into(), |grant| Arc::clone(&grant.rule)),
        bytes: constraints().filter_map(|constraints| constraints.max_output_bytes).min(),
        time: constraints().filter_map(|constraints| constraints.timeout.map(|span| span.0)).min(),
        hide_usage: wants_usage(reserved),
    }
}

/// Whether the provider has to be asked to report usage in the stream.
fn wants_usage(reserved: &Reserved) -> bool {
    let upstream = reserved.exchange.route.as_ref().and_then(|route| route.upstream.as_ref());
    reserved.exchange.operation == Operation::Chat
        && upstream.is_none_or(|upstream| upstream.stream_usage == StreamUsage::Inject)
        && reserved.model.as_ref().is_some_and(|facts| facts.stream && !facts.include_usage)
}

/// Builds what is sent.
fn outgoing(
    sidecar: &Sidecar,
    reserved: &Reserved,
    route: &Route,
    down: &Down,
) -> Result<Outgoing, Box<Refusal>> {
    let edits = edits(sidecar, reserved)?;
    let mut remove = stripped(down);
    let mut set = Vec::new();
    let governed = !matches!(reserved.exchange.operation, Operation::Plain);
    let body = if edits.is_empty() {
        reserved.body.raw.clone()
    } else {
        if reserved.body.compressed() {
            remove.push(header::CONTENT_ENCODING);
        }
        let edited = edit::apply(&reserved.body.decoded, edits);
        // Splices at places that the reader gave leave it readable; what a detector found can stand anywhere.
        let anywhere = reserved
            .grants
            .iter()
            .filter_map(|grant| grant.constraints.as_ref())
            .any(|one| !one.redact.is_empty());
        if anywhere && request::read(reserved.exchange.operation, &edited).is_err() {
            let reason = "the body could not be rewritten as a constraint asks";
            return Err(Box::new(Refusal::new(Code::Unjudgeable, "constraint", reason)));
        }
        Bytes::from(edited)
    };
    if governed && down.head().headers.contains_key(header::ACCEPT_ENCODING) {
        // The answer is judged as well.
        set.push((header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    if let Some((name, value)) = route.upstream.as_ref().and_then(|upstream| upstream.credential.as_ref()) {
        remove.extend(CREDENTIAL_HEADERS);
        remove.push(name.clone());
        set.push((name.clone(), value.expose().clone()));
    }
    if let Some(trace) = &reserved.exchange.trace {
        trace.headers(&mut remove, &mut set);
    }
    if let Some(handed) = &reserved.held.handed {
        set.push((delegate::chain_header(), handed.header.clone()));
    }
    // A grant and a link are good for one sending.
    let once = reserved.exchange.approval.is_some() || reserved.held.handed.is_some();
    Ok(Outgoing { target: route.target.clone(), remove, set, body, upgrade: down.wants_upgrade(), once })
}

/// Headers of the agent's that never leave.
fn stripped(down: &Down) -> Vec<HeaderName> {
    let ours =
        |name: &&HeaderName| name.as_str().starts_with("x-sideguard-") || name.as_str() == "x-should-retry";
    down.head().headers.keys().filter(ours).cloned().collect()
}

/// What constraints and caps change in the body.
fn edits(sidecar: &Sidecar, reserved: &Reserved) -> Result<Vec<Edit>, Box<Refusal>> {
    let refuse = |reason: &str| Box::new(Refusal::new(Code::Unjudgeable, "constraint", reason));
    let decoded = &reserved.body.decoded;
    let constraints = || reserved.grants.iter().filter_map(|grant| grant.constraints.as_deref());
    let mut edits = Vec::new();
    let changes_args = constraints().any(|one| !one.set_args.is_empty() || !one.drop_args.is_empty());
    let rewrite = constraints().find_map(|one| one.model.clone());
    match &reserved.model {
        Some(_) if changes_args => {
            return Err(refuse("a constraint that rewrites arguments does not fit a call to a model"));
        }
        Some(facts) => {
            let change = Change {
                output_cap: reserved.cap,
                cap_name: CapName::for_chat(Some(&facts.provider)),
                model: rewrite,
                include_usage: wants_usage(reserved),
            };
            if change.output_cap.is_some() || change.model.is_some() || change.include_usage {
                edits.extend(facts.changeable.edits(&change));
            }
        }
        None if reserved.exchange.operation == Operation::Mcp && changes_args => {
            let Ok(Request::Mcp(request)) = request::read(Operation::Mcp, decoded) else {
                return Err(refuse("the request can no longer be read"));
            };
            for (message, grant) in request.messages.iter().zip(&reserved.grants) {
                if let Some(constraints) = grant.constraints.as_deref().filter(|_| message.tool.is_some()) {
                    edits.extend(message.edits(&constraints.set_args, &constraints.drop_args));
                }
            }
        }
        None if changes_args || rewrite.is_some() => {
            return Err(refuse("a constraint that rewrites arguments or the model does not fit this call"));
        }
        None => {}
    }
    let names: Vec<String> = constraints().flat_map(|one| one.redact.iter().cloned()).collect();
    if !names.is_empty() {
        let detectors = sidecar.detectors(&names).map_err(|what| refuse(&what))?;
        let overlaps = |edits: &[Edit], range: &std::ops::Range<usize>| {
            edits.iter().any(|edit| edit.range.start < range.end && range.start < edit.range.end)
        };
        let black = |found: Found| Edit {
            range: found.range,
            with: format!("[redacted {}]", found.detector).into_bytes(),
        };
        let blacked: Vec<Edit> = detectors.find(decoded).into_iter().map(black).collect();
        if detectors.finds(&edit::apply(decoded, blacked.clone())) {
            return Err(refuse("the body holds what `redact` takes out, but escaped"));
        }
        let blacked: Vec<Edit> =
            blacked.into_iter().filter(|black| !overlaps(&edits, &black.range)).collect();
        edits.extend(blacked);
    }
    Ok(edits)
}
