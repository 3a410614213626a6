//! Stage 5: the most that a call can use is held in every budget that it falls under, before it leaves; its output
//! cap is lowered or put in so that it cannot use more. Breakers stand here too: a call that would only fail, or that
//! an agent repeats without end, costs nothing.

use std::sync::Arc;
use std::time::Duration;

use sideguard_dialects::request::{self, Request};
use sideguard_policy::chain::Want;
use sideguard_policy::ledger::{Exhausted, Ledger, Reservation, Room, Subject};
use sideguard_runtime::clock;
use sideguard_types::audit::{Amounts, Phase, Record, Spend};
use sideguard_types::call::Caller;
use sideguard_types::delegation::Allowance;
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::Unit;
use sideguard_types::time::Timestamp;
use sideguard_types::units::{MicroUsd, Tokens};

use crate::app::Sidecar;
use crate::breaker::{Answer, Event};
use crate::call::{Cleared, Exchange, ModelFacts, Refused, Reserved};
use crate::delegate::{self, Handed};
use crate::delegations::Drawn;

/// Output cap put in where the request has none and the model's own is not known.
const DEFAULT_CAP: u64 = 16_384;
/// A smaller output than this is not worth a call: the budget counts as used up.
const SMALLEST: u64 = 16;
/// A refusal that asks to come back within this time is one that recovers soon.
const SOON: Duration = Duration::from_secs(60);
/// Longest time that a call waits for control to grant more of a fleet's budget.
const REFILL: Duration = Duration::from_millis(250);
/// Bytes of a model's name that tell breakers apart.
const MODEL: usize = 128;
/// Longest time that a call waits for others to be settled.
const SETTLING: Duration = Duration::from_millis(100);

/// Holds the call's upper bound.
pub(crate) async fn reserve(sidecar: &Arc<Sidecar>, cleared: Cleared) -> Result<Reserved, Refused> {
    let Cleared { mut exchange, body, model, grants, ticket } = cleared;
    if let Err(refusal) = runaway(sidecar, &exchange) {
        return Err(exchange.refuse(refusal));
    }
    let constrained =
        grants.iter().filter_map(|grant| grant.constraints.as_ref()?.max_output_tokens).min().map(Tokens);
    let Some(caller) = exchange.caller.clone() else {
        return Err(exchange.refuse(Refusal::new(
            Code::Unauthenticated,
            "identity",
            "the agent is not known",
        )));
    };
    let mut wanted = Wanted { model: model.as_ref(), constrained, body: &body.decoded, counted: None };
    let held = match hold(sidecar, &exchange, &caller, &mut wanted) {
        Err(crowded) if crowded.soon || crowded.leased => {
            let mut settled = Box::pin(once_settled(sidecar, &exchange, &caller, wanted, crowded));
            exchange.waits.during(settled.as_mut()).await
        }
        held => held,
    };
    match held {
        Ok((mut held, cap)) => {
            match delegate::hand(sidecar, &exchange, &caller, held.allowed) {
                Ok(handed) => held.handed = handed,
                Err(refusal) => {
                    held.release();
                    return Err(exchange.refuse(refusal));
                }
            }
            exchange.link = held.handed.as_ref().map(|handed| handed.id().to_owned());
            // Asked last: what passes a tripped breaker as its probe must reach the upstream.
            if let Err(refusal) = upstream_ready(sidecar, &exchange) {
                held.release();
                return Err(exchange.refuse(refusal));
            }
            let model = model.map(|facts| ModelFacts { cap_sent: cap.is_some(), ..facts });
            Ok(Reserved { exchange, body, model, grants, ticket, held, cap })
        }
        Err(out) => {
            let refusal = exhausted(sidecar, &out, exchange.at);
            Err(exchange.refuse(refusal))
        }
    }
}

/// Tries again while other calls are being settled, where nothing but what they hold is in the way: an agent may
/// be faster than the settlement of the very call whose answer it has just read.
async fn once_settled(
    sidecar: &Arc<Sidecar>,
    exchange: &Exchange,
    caller: &Arc<Caller>,
    mut wanted: Wanted<'_>,
    mut crowded: Box<Exhausted>,
) -> Result<(Held, Option<Tokens>), Box<Exhausted>> {
    let most = if crowded.leased { REFILL } else { SETTLING };
    let trying = async {
        loop {
            // Made before the try, so that no settlement in between is missed.
            let settled = sidecar.settled.notified();
            match hold(sidecar, exchange, caller, &mut wanted) {
                Err(still) if still.soon || still.leased => crowded = still,
                done => return done,
            }
            settled.await;
        }
    };
    let tried = tokio::time::timeout(most, trying).await;
    tried.unwrap_or(Err(crowded))
}

/// Refuses the calls of an agent that runs away.
fn runaway(sidecar: &Sidecar, exchange: &Exchange) -> Result<(), Refusal> {
    let runaway = &sidecar.config.breakers.agent;
    let agent = exchange.caller.as_ref().map_or("", |caller| caller.agent.as_str());
    if let Some(until) = sidecar.runaways.held_back(agent, exchange.at) {
        return Err(tripped(
            &format!("agent/{agent}"),
            "the agent's breaker is tripped: it ran away",
            until,
            exchange.at,
        ));
    }
    if runaway.repeats > 0 {
        let hashes: Vec<&str> = exchange.items.iter().filter_map(|item| item.args_hash.as_deref()).collect();
        let path = exchange.route.as_ref().map_or("", |route| route.target.as_str());
        let key = sidecar.velocity_key(&("repeat", agent, &exchange.method, path, hashes));
        let seen = sidecar.velocity.add(key, 1, runaway.window.0, exchange.at);
        if seen > u64::from(runaway.repeats) {
            let what = format!("the same call came {seen} times in {}", runaway.window);
            return Err(run_away(sidecar, exchange, agent, &what));
        }
    }
    Ok(())
}

/// Refuses what the upstream's tripped breaker holds back.
fn upstream_ready(sidecar: &Sidecar, exchange: &Exchange) -> Result<(), Refusal> {
    let Some((key, spec)) = upstream_breaker(sidecar, exchange) else { return Ok(()) };
    let (answer, change) = sidecar.breakers.tell(&key, Event::Ask, &spec, exchange.at);
    if let Some(change) = change {
        changed(sidecar, exchange, &key, change);
    }
    match answer {
        Answer::Pass => Ok(()),
        Answer::Wait(until) => Err(tripped(
            &key,
            "the upstream's breaker is tripped after repeated failures",
            until,
            exchange.at,
        )),
    }
}

/// Trips an agent's own breaker.
fn run_away(sidecar: &Sidecar, exchange: &Exchange, agent: &str, what: &str) -> Refusal {
    let until = exchange.at.plus(sidecar.config.breakers.agent.cooldown.0);
    sidecar.runaways.hold_back(agent, until);
    let key = format!("agent/{agent}");
    changed(sidecar, exchange, &key, "tripped");
    tripped(&key, what, until, exchange.at)
}

fn tripped(key: &str, what: &str, until: Timestamp, now: Timestamp) -> Refusal {
    let mut refusal = Refusal::new(Code::BreakerTripped, format!("breaker/{key}"), what);
    refusal.retry_after = Some(until.since(now).clamp(Duration::from_secs(1), Duration::from_secs(30)));
    refusal
}

/// Key and settings of the breaker that an exchange stands under.
pub(crate) fn upstream_breaker(
    sidecar: &Sidecar,
    exchange: &Exchange,
) -> Option<(String, sideguard_types::resource::BreakerSpec)> {
    let route = exchange.route.as_ref()?;
    let own = route.upstream.as_ref().and_then(|upstream| upstream.breaker.clone());
    let spec = own.unwrap_or_else(|| sidecar.config.breakers.upstream.clone());
    let model = exchange.items.first().and_then(|item| item.model.as_deref());
    let authority = route.to.authority(route.tls);
    let key = match model {
        // Its name is the agent's choice.
        Some(model) => [&authority, "/", &model[..model.floor_char_boundary(MODEL)]].concat(),
        None => authority,
    };
    Some((key, spec))
}

/// Writes a breaker's change into the record.
pub(crate) fn changed(sidecar: &Sidecar, exchange: &Exchange, key: &str, change: &str) {
    let mut record = exchange.record(Phase::Control, None);
    record.code = Some(format!("breaker_{change}"));
    record.rule = format!("breaker/{key}");
    tracing::warn!(breaker = key, change, "breaker changed");
    sidecar.metrics.breaker(change);
    sidecar.note(&record);
}

/// What a call wants of its budgets.
struct Wanted<'a> {
    model: Option<&'a ModelFacts>,
    /// Largest output cap that its rules allow.
    constrained: Option<Tokens>,
    body: &'a [u8],
    /// Its input tokens, once they had to be counted.
    counted: Option<Tokens>,
}

/// Holds what the call may use; returns the output cap to send where it is not the agent's own.
fn hold(
    sidecar: &Arc<Sidecar>,
    exchange: &Exchange,
    caller: &Arc<Caller>,
    wanted: &mut Wanted<'_>,
) -> Result<(Held, Option<Tokens>), Box<Exhausted>> {
    let Wanted { model, constrained, body, ref mut counted } = *wanted;
    let who = subject(caller, exchange.session.as_deref(), model.map(|facts| facts.model.as_str()));
    let mut ledger = sidecar.ledger.lock();
    ledger.advance(sidecar.leases.elapsed());
    let room = delegate::narrowed(ledger.room(&who, exchange.at), exchange);
    let Some(facts) = model else {
        let allowed = delegate::wish(sidecar, exchange, &room);
        let want = allowed.map(delegate::amounts).unwrap_or_default();
        let deputy = delegate::deputy(exchange, caller);
        let deputy = deputy.as_ref().map(|deputy| subject(deputy, None, None));
        let reservation = taken(sidecar, &mut ledger, (&who, deputy.as_ref()), want, exchange.at)?;
        let mut held = Held::new(sidecar, caller, exchange, None, reservation, want);
        held.allowed = allowed.unwrap_or_default();
        // Each tool call of a batch is a call.
        for _ in 1..exchange.items.iter().filter(|item| item.tool.is_some()).count() {
            match taken(sidecar, &mut ledger, (&who, None), Amounts::default(), exchange.at) {
                Ok(reservation) => held.more.push(reservation),
                Err(out) => {
                    held.give_back(&mut ledger);
                    return Err(out);
                }
            }
        }
        drop(ledger);
        return held.draw(exchange, Amounts::default()).map(|held| (held, None));
    };
    let bound = bound(sidecar, facts, constrained, &room, facts.input);
    let bound = match bound {
        // The cheap bound does not fit: count properly before saying no.
        None => {
            drop(ledger);
            let count = || self::counted(exchange, body).unwrap_or(facts.input).min(facts.input);
            let input = *counted.get_or_insert_with(count);
            ledger = sidecar.ledger.lock();
            let room = delegate::narrowed(ledger.room(&who, exchange.at), exchange);
            self::bound(sidecar, facts, constrained, &room, input).unwrap_or(Bound {
                input,
                output: Tokens(SMALLEST),
                cap: None,
            })
        }
        Some(bound) => bound,
    };
    let usd = sidecar.prices.of(&facts.model).bound(bound.input, bound.output.times(facts.choices));
    let want = Amounts { input: bound.input.0, output: bound.output.times(facts.choices).0, usd };
    let reservation = taken(sidecar, &mut ledger, (&who, None), want, exchange.at)?;
    drop(ledger);
    let held = Held::new(sidecar, caller, exchange, Some(facts.model.clone()), reservation, want);
    held.draw(exchange, want).map(|held| (held, bound.cap))
}

/// Reserves, and lets control be asked for more where leases have too little or soon will.
fn taken(
    sidecar: &Sidecar,
    ledger: &mut Ledger,
    (who, deputy): (&Subject<'_>, Option<&Subject<'_>>),
    want: Amounts,
    at: Timestamp,
) -> Result<Reservation, Box<Exhausted>> {
    let reserved = match deputy {
        Some(deputy) => ledger.reserve_for(who, deputy, want, at),
        None => ledger.reserve(who, want, at),
    };
    match &reserved {
        Ok(reservation) if reservation.thirsty() => sidecar.leases.need(who, None),
        Err(out) if out.leased => sidecar.leases.need(who, Some(want)),
        Ok(_) | Err(_) => {}
    }
    reserved
}

/// An upper bound of what a call uses, and the cap that makes it one.
struct Bound {
    input: Tokens,
    output: Tokens,
    cap: Option<Tokens>,
}

/// The bound that fits into `room`; `None` when the input alone leaves no room for an answer.
fn bound(
    sidecar: &Sidecar,
    facts: &ModelFacts,
    constrained: Option<Tokens>,
    room: &Room,
    input: Tokens,
) -> Option<Bound> {
    let price = sidecar.prices.of(&facts.model);
    let fits = room.input.is_none_or(|room| room >= input.0)
        && room.tokens.is_none_or(|room| room >= input.0)
        && room.usd.is_none_or(|room| room >= price.bound(input, Tokens::ZERO));
    if !fits {
        return None;
    }
    if facts.no_output {
        return Some(Bound { input, output: Tokens::ZERO, cap: None });
    }
    let rooms = [
        room.tokens.map(|room| room.saturating_sub(input.0)),
        room.output,
        room.usd.map(|usd| price.affordable(usd, input).0),
    ];
    let most = rooms.into_iter().flatten().min().map(|most| Tokens(most / facts.choices.max(1)));
    let asked = facts.output_cap;
    let natural = asked.unwrap_or(Tokens(price.max_out.unwrap_or(DEFAULT_CAP)));
    let output = [Some(natural), most, constrained].into_iter().flatten().min().unwrap_or(natural);
    if most.is_some() && output.0 < SMALLEST.min(natural.0) {
        return None;
    }
    let limited = most.is_some() || constrained.is_some();
    let cap = (limited && asked != Some(output)).then_some(output);
    Some(Bound { input, output, cap })
}

/// Input tokens, counted with a tokenizer.
fn counted(exchange: &Exchange, body: &[u8]) -> Option<Tokens> {
    match request::read(exchange.operation, body) {
        Ok(Request::Model(request)) if !request.input.open => Some(request.counted(body)),
        Ok(_) | Err(_) => None,
    }
}

fn subject<'a>(caller: &'a Caller, session: Option<&'a str>, model: Option<&'a str>) -> Subject<'a> {
    Subject { tenant: &caller.tenant, agent: &caller.agent, labels: &caller.labels, session, model }
}

fn exhausted(sidecar: &Sidecar, exhausted: &Exhausted, now: Timestamp) -> Refusal {
    let rule = format!("budget/{}", exhausted.budget);
    if exhausted.leased {
        let reason = format!(
            "budget `{}` is kept by control, which has granted no more of it in time",
            exhausted.budget
        );
        let mut refusal = Refusal::new(Code::RateLimited, rule, reason);
        refusal.retry_after = Some(Duration::from_secs(1));
        return refusal;
    }
    let reason = format!(
        "budget `{}` has no room: {} {} spent and {} held of {}, {} wanted",
        exhausted.budget,
        exhausted.spent,
        exhausted.unit.as_str(),
        exhausted.held,
        exhausted.limit,
        exhausted.wanted
    );
    let soon = exhausted.soon || exhausted.reset_at.is_some_and(|reset| reset.since(now) <= SOON);
    let mut refusal =
        Refusal::new(if soon { Code::RateLimited } else { Code::BudgetExhausted }, rule, reason);
    refusal.reset_at = exhausted.reset_at;
    if exhausted.alone && matches!(exhausted.unit, Unit::Tokens | Unit::OutputTokens | Unit::Usd) {
        refusal.hint = Some(
            "the call alone is larger than the whole budget: a smaller output cap may let it fit".to_owned(),
        );
    }
    if soon {
        let wait = exhausted.reset_at.map_or(Duration::from_secs(1), |reset| reset.since(now));
        refusal.retry_after = Some(wait.clamp(Duration::from_secs(1), SOON));
    } else {
        refusal.status = sidecar.config.refusals.budget_status;
    }
    refusal
}

/// What is left to a caller in its budgets, as the reply's header says it; `None` where it falls under none.
pub(crate) fn remaining(
    sidecar: &Sidecar,
    caller: &Caller,
    session: Option<&str>,
    model: Option<&str>,
) -> Option<String> {
    let room = sidecar.ledger.lock().room(&subject(caller, session, model), clock::now());
    let mut text = String::with_capacity(64);
    let mut say = |unit: &str, left: Option<String>| {
        if let Some(left) = left {
            text.extend([if text.is_empty() { "" } else { ", " }, unit, "=", &left]);
        }
    };
    say("tokens", room.tokens.map(|tokens| tokens.to_string()));
    say("input_tokens", room.input.map(|tokens| tokens.to_string()));
    say("output_tokens", room.output.map(|tokens| tokens.to_string()));
    say("usd", room.usd.map(|usd| usd.to_string()));
    say("calls", room.calls.map(|calls| calls.to_string()));
    (!text.is_empty()).then_some(text)
}

/// What a call holds of its budgets until it is settled. Dropped unsettled, all of it is charged.
#[must_use]
pub(crate) struct Held {
    sidecar: Arc<Sidecar>,
    caller: Arc<Caller>,
    model: Option<String>,
    session: Option<String>,
    reservation: Option<Reservation>,
    /// The reservations of a batch's further calls.
    more: Vec<Reservation>,
    pub(crate) reserved: Amounts,
    /// What it holds of the budgets of the delegations that it is made under.
    drawn: Vec<Drawn>,
    /// What work that it hands on may use.
    allowed: Allowance,
    /// Work that it hands on.
    pub(crate) handed: Option<Handed>,
    /// Id of the call once it may have taken effect: then a loss is recorded.
    dispatched: Option<String>,
}

impl Held {
    fn new(
        sidecar: &Arc<Sidecar>,
        caller: &Arc<Caller>,
        exchange: &Exchange,
        model: Option<String>,
        reservation: Reservation,
        reserved: Amounts,
    ) -> Self {
        Self {
            sidecar: Arc::clone(sidecar),
            caller: Arc::clone(caller),
            model,
            session: exchange.session.clone(),
            reservation: Some(reservation),
            more: Vec::new(),
            reserved,
            drawn: Vec::new(),
            allowed: Allowance::default(),
            handed: None,
            dispatched: None,
        }
    }

    /// Takes its part out of the budgets of the delegations that the call is made under.
    fn draw(mut self, exchange: &Exchange, want: Amounts) -> Result<Self, Box<Exhausted>> {
        let Some(under) = &exchange.under else { return Ok(self) };
        let calls = u64::try_from(self.more.len()).unwrap_or(u64::MAX).saturating_add(1);
        let want = Want { tokens: want.input.saturating_add(want.output), usd: want.usd, calls };
        match under.draw(want) {
            Ok(drawn) => {
                self.drawn = drawn;
                Ok(self)
            }
            Err((link, unit)) => {
                self.release();
                Err(Box::new(delegate::beyond(&link, unit, &under.left(), want)))
            }
        }
    }

    /// From here on the call may have taken effect: dropped unsettled, it is charged and recorded as lost.
    pub(crate) fn dispatched(&mut self, call: &str) {
        self.dispatched = Some(call.to_owned());
    }

    /// What is held, for the record; `None` where no tokens or money are at stake.
    pub(crate) fn spend(&self) -> Option<Spend> {
        (self.reserved != Amounts::default())
            .then_some(Spend { reserved: Some(self.reserved), settled: None })
    }

    /// Charges what was used and gives the rest back.
    pub(crate) fn settle(mut self, used: Amounts) -> Option<Spend> {
        self.dispatched = None;
        // Of work that was handed on, the sidecar knows that it was handed to.
        let handed = self.handed.as_ref().filter(|handed| self.model.is_none() && handed.is_bounded());
        let used = handed.map_or(used, Handed::used);
        self.charge(used);
        let anything = self.reserved != Amounts::default() || used != Amounts::default();
        anything.then_some(Spend { reserved: Some(self.reserved), settled: Some(used) })
    }

    /// Gives everything back: nothing left.
    pub(crate) fn release(mut self) {
        let sidecar = Arc::clone(&self.sidecar);
        self.give_back(&mut sidecar.ledger.lock());
        sidecar.settled.notify_waiters();
    }

    /// As [`release`](Self::release), without a word to who waits for room.
    fn give_back(&mut self, ledger: &mut Ledger) {
        self.dispatched = None;
        self.drawn.drain(..).for_each(|drawn| drawn.settle(Want::default()));
        self.handed.take().into_iter().for_each(Handed::cancel);
        self.reservation.take().into_iter().chain(self.more.drain(..)).for_each(|one| ledger.cancel(one));
    }

    /// What is left to the caller in its budgets, as the reply's header says it.
    pub(crate) fn remaining(&self) -> Option<String> {
        remaining(&self.sidecar, &self.caller, self.session.as_deref(), self.model.as_deref())
    }

    fn charge(&mut self, used: Amounts) {
        if let Some(reservation) = self.reservation.take() {
            let now = clock::now();
            let calls = u64::try_from(self.more.len()).unwrap_or(u64::MAX).saturating_add(1);
            // What was handed on has an account of its own.
            let own = if self.handed.is_some() && self.model.is_none() { Amounts::default() } else { used };
            let drawn = Want { tokens: own.input.saturating_add(own.output), usd: own.usd, calls };
            self.drawn.drain(..).for_each(|one| one.settle(drawn));
            self.handed.take().into_iter().for_each(Handed::settle);
            let mut ledger = self.sidecar.ledger.lock();
            ledger.settle(reservation, used, now);
            self.more.drain(..).for_each(|one| ledger.settle(one, Amounts::default(), now));
            drop(ledger);
            self.sidecar.settled.notify_waiters();
            let runaway = &self.sidecar.config.breakers.agent;
            if runaway.burn > 0 {
                let key = self.sidecar.velocity_key(&("burn", &self.caller.agent));
                let tokens = used.input.saturating_add(used.output);
                if self.sidecar.velocity.add(key, tokens, runaway.window.0, now) > runaway.burn {
                    self.burnt(now);
                }
            }
        }
    }

    /// Holds back an agent that burns tokens too fast.
    fn burnt(&self, now: Timestamp) {
        let agent = &self.caller.agent;
        self.sidecar.runaways.hold_back(agent, now.plus(self.sidecar.config.breakers.agent.cooldown.0));
        self.sidecar.metrics.breaker("tripped");
        tracing::warn!(%agent, "agent burns tokens too fast: its calls are held back");
        let mut record = Record::new(Phase::Control, now);
        record.tenant.clone_from(&self.caller.tenant);
        record.agent.clone_from(agent);
        record.code = Some("breaker_tripped".to_owned());
        record.rule = format!("breaker/agent/{agent}");
        self.sidecar.note(&record);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.reservation.is_none() {
            return;
        }
        let reserved = self.reserved;
        self.charge(reserved);
        if let Some(call) = self.dispatched.take() {
            let mut outcome = Record::new(Phase::Outcome, clock::now());
            outcome.call = call;
            outcome.tenant.clone_from(&self.caller.tenant);
            outcome.agent.clone_from(&self.caller.agent);
            outcome.code = Some("settlement_lost".to_owned());
            outcome.budget = Some(Spend { reserved: Some(reserved), settled: Some(reserved) });
            outcome.cost_usd = Some(reserved.usd);
            self.sidecar.note(&outcome);
        }
    }
}

/// What a model call used, in the units of budgets.
pub(crate) fn amounts(input: Tokens, output: Tokens, usd: MicroUsd) -> Amounts {
    Amounts { input: input.0, output: output.0, usd }
}
