//! Work that a call hands to another agent: the link that goes along, and the budget that it takes with it.
//!
//! A link is made once everything else is in place for the call to leave. What it may use is held until the other agent's
//! sidecar tells what was used; where it does not, all of it counts.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sideguard_policy::chain::{self, Expected, Terms, Verified, Want};
use sideguard_policy::ledger::{Exhausted, Room};
use sideguard_runtime::{clock, id};
use sideguard_types::audit::Amounts;
use sideguard_types::call::Caller;
use sideguard_types::delegation::{Allowance, CHAIN_HEADER, Chain, Link, RECEIPT_HEADER, Receipt, Rights};
use sideguard_types::job::Job;
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::Unit;
use sideguard_types::units::MicroUsd;

use crate::app::Sidecar;
use crate::call::Exchange;
use crate::delegations::{Drawn, Guard, Key, Open, Under};

/// Longest header with a chain or a receipt.
const LONGEST: usize = 32 << 10;

/// Work that is handed on.
#[derive(Debug)]
pub(crate) struct Handed {
    /// The header that goes along.
    pub(crate) header: HeaderValue,
    link: Link,
    /// What is taken out of the budget that the agent itself works under.
    drawn: Option<Drawn>,
    told: Option<Want>,
}

impl Handed {
    /// Id of its link.
    pub(crate) fn id(&self) -> &str {
        &self.link.id
    }

    /// Whether anything bounds what may be used.
    pub(crate) fn is_bounded(&self) -> bool {
        !self.link.budget.is_open()
    }

    /// Reads what the other sidecar says was used, where it says so.
    pub(crate) fn hear(&mut self, sidecar: &Sidecar, headers: &HeaderMap) {
        let Some(signer) = sidecar.fleet.as_ref().and_then(|fleet| fleet.signer()) else { return };
        let Some(receipt) = read::<Receipt>(headers, RECEIPT_HEADER) else { return };
        if receipt.as_ref().is_ok_and(|receipt| chain::is_receipt(receipt, &self.link, &signer, clock::now()))
            && let Ok(Receipt { tokens, usd, calls, .. }) = receipt
        {
            self.told = Some(Want { tokens, usd, calls });
        } else {
            tracing::warn!(
                link = self.link.id,
                "a receipt is not that of the sidecar that the work was handed to"
            );
        }
    }

    /// What was used, as the agent's own budgets count it; all that was allowed where nobody tells.
    pub(crate) fn used(&self) -> Amounts {
        let Want { tokens, usd, .. } = self.told.unwrap_or_else(|| self.link.budget.into());
        Amounts { input: 0, output: tokens, usd }
    }

    /// Charges what was used.
    pub(crate) fn settle(self) {
        let used = self.told.unwrap_or_else(|| self.link.budget.into());
        if let Some(drawn) = self.drawn {
            drawn.settle(used);
        }
    }

    /// Puts everything back: nothing left.
    pub(crate) fn cancel(self) {
        if let Some(drawn) = self.drawn {
            drawn.settle(Want::default());
        }
    }
}

/// What is left for a call that is made under delegations: no more than their budgets have.
pub(crate) fn narrowed(room: Room, exchange: &Exchange) -> Room {
    let Some(left) = exchange.under.as_ref().map(Under::left) else { return room };
    let least = |room: Option<u64>, left: Option<u64>| room.into_iter().chain(left).min();
    Room {
        tokens: least(room.tokens, left.tokens),
        usd: room.usd.into_iter().chain(left.usd).min(),
        calls: least(room.calls, left.calls),
        ..room
    }
}

/// A call that exceeds the budget of a delegation.
pub(crate) fn beyond(link: &str, unit: &str, left: &Allowance, want: Want) -> Exhausted {
    let (unit, left, wanted) = match unit {
        "usd" => (Unit::Usd, left.usd.unwrap_or_default().to_string(), want.usd.to_string()),
        "calls" => (Unit::Calls, left.calls.unwrap_or(0).to_string(), want.calls.to_string()),
        _ => (Unit::Tokens, left.tokens.unwrap_or(0).to_string(), want.tokens.to_string()),
    };
    Exhausted {
        budget: format!("delegation/{link}"),
        unit,
        limit: left,
        spent: "0".to_owned(),
        held: "0".to_owned(),
        wanted,
        reset_at: None,
        soon: false,
        alone: false,
        crowded: false,
        leased: false,
    }
}

/// The most that the agent's own budgets have to hold for work that an exchange hands on.
pub(crate) fn wish(sidecar: &Sidecar, exchange: &Exchange, room: &Room) -> Option<Allowance> {
    receiver(exchange)?;
    let wish = sidecar.config.delegation.budget;
    let wish = parent(exchange).ok().flatten().map_or(wish, |open| open.share(wish));
    // Half of what the agent's own budgets have left: one call is not to take everything from all others.
    let half = |wish: Option<u64>, room: Option<u64>| {
        wish.map(|wish| room.map_or(wish, |room| wish.min(room.div_ceil(2))))
    };
    let tokens = [room.tokens, room.output].into_iter().flatten().min();
    Some(Allowance {
        tokens: half(wish.tokens, tokens),
        usd: half(wish.usd.map(|usd| usd.0), room.usd.map(|usd| usd.0)).map(MicroUsd),
        calls: wish.calls,
    })
}

/// An allowance as budgets hold it.
pub(crate) fn amounts(allowance: Allowance) -> Amounts {
    let Want { tokens, usd, .. } = allowance.into();
    Amounts { input: 0, output: tokens, usd }
}

/// The agent that an exchange hands work to, as budgets see it.
pub(crate) fn deputy(exchange: &Exchange, caller: &Caller) -> Option<Caller> {
    let agent = receiver(exchange)?.to_owned();
    let tenant = caller.tenant.clone();
    let known = exchange.policy.set.identity_by_name(&tenant, &agent);
    let labels = known.map(|identity| identity.caller.labels.clone()).unwrap_or_default();
    Some(Caller { tenant, agent, labels, ..Caller::default() })
}

/// The agent that an exchange leads to, where it leads to one.
fn receiver(exchange: &Exchange) -> Option<&str> {
    exchange.route.as_ref()?.upstream.as_ref()?.agent.as_deref()
}

/// What the agent itself works under, where that is but one delegation.
fn parent(exchange: &Exchange) -> Result<Option<&Arc<Open>>, Refusal> {
    match exchange.under.as_ref().map(|under| under.open.as_slice()) {
        None | Some([]) => Ok(None),
        Some([only]) => Ok(Some(only)),
        Some(several) => {
            let reason = format!(
                "the agent works under {} delegations, and it is not known which of them it hands on",
                several.len()
            );
            let mut refusal = Refusal::new(Code::ScopeDenied, "delegation", reason);
            refusal.hint = Some(
                "send the `traceparent` of the request that is being worked on along with the call"
                    .to_owned(),
            );
            Err(refusal)
        }
    }
}

/// Makes the link for an exchange that leads to another agent, with `budget` to use; none for one that leads elsewhere.
///
/// # Errors
/// Why the work cannot be handed on: then the call may not leave.
pub(crate) fn hand(
    sidecar: &Sidecar,
    exchange: &Exchange,
    caller: &Caller,
    budget: Allowance,
) -> Result<Option<Handed>, Refusal> {
    receiver(exchange).map(|to| hand_to(sidecar, exchange, caller, to, budget)).transpose()
}

/// Makes the link by which an exchange hands its agent's work to the agent `to`.
///
/// # Errors
/// As [`hand`].
fn hand_to(
    sidecar: &Sidecar,
    exchange: &Exchange,
    caller: &Caller,
    to: &str,
    budget: Allowance,
) -> Result<Handed, Refusal> {
    let life = sidecar.config.delegation.life.0;
    let (mut chain, drawn) = chained(sidecar, exchange, caller, (to, budget, life))?;
    match write(&chain).zip(chain.links.pop()) {
        Some((header, link)) => Ok(Handed { header, link, drawn, told: None }),
        None => {
            drawn.into_iter().for_each(|drawn| drawn.settle(Want::default()));
            let reason = format!("the chain is larger than {LONGEST} bytes: the rights in it are long lists");
            Err(refuse(Code::ScopeDenied, reason))
        }
    }
}

/// Makes the chain that goes along with a job about `topic`: whichever worker takes the job works under it. What it may use
/// of the agent's own delegation counts as used from now on, since nobody tells how much of it was.
///
/// # Errors
/// As [`hand`].
pub(crate) async fn hand_job(
    sidecar: &Sidecar,
    exchange: &Exchange,
    caller: &Caller,
    topic: &str,
    life: Duration,
) -> Result<(Chain, Option<Drawn>), Refusal> {
    // A sidecar that has just come into its fleet gets its passport at once.
    const LOOK: Duration = Duration::from_millis(50);
    let fleet = sidecar.fleet.as_ref().ok_or_else(no_passport)?;
    for _ in 0..60 {
        if fleet.passport().is_some() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let budget = sidecar.config.delegation.budget;
    chained(sidecar, exchange, caller, (&audience(topic), budget, life))
}

/// Whom the chain of a job is for.
fn audience(topic: &str) -> String {
    format!("topic/{topic}")
}

/// Takes a job on: what `agent` does for it, it does under the job's chain.
///
/// # Errors
/// What is wrong with the chain, and whether that may be different another time.
pub(crate) fn take_on(sidecar: &Sidecar, job: &Job, agent: &str) -> Result<Option<Guard>, (String, bool)> {
    let Some(chain) = job.chain.clone() else {
        let unsigned = || ("an agent's job came without a chain of delegation".to_owned(), false);
        return if job.by.person { Ok(None) } else { Err(unsigned()) };
    };
    let mut verified = verified(sidecar, &job.tenant, &audience(&job.spec.topic), chain)
        .map_err(|refusal| (refusal.reason, refusal.code == Code::PolicyUnavailable))?;
    // What a try before this one has used nobody knows: each has half of what the one before had, so that all together
    // stay within the link.
    let share = |amount: u64| amount.checked_shr(job.attempts).unwrap_or(0);
    let Allowance { tokens, usd, calls } = verified.budget;
    verified.budget = Allowance {
        tokens: tokens.map(share),
        usd: usd.map(|usd| MicroUsd(share(usd.0))),
        calls: calls.map(share),
    };
    let (key, trace) = (Key::Job(job.id.clone()), Some(job.trace_id.clone()));
    sidecar.delegations.open(key, agent, trace, verified).map(Some).map_err(|error| (error.to_string(), true))
}

/// Checks a chain that is for `holder`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn verified(
    sidecar: &Sidecar,
    tenant: &str,
    holder: &str,
    chain: Chain,
) -> Result<Verified, Refusal> {
    let Some(signer) = sidecar.fleet.as_ref().and_then(|fleet| fleet.signer()) else {
        let reason = "this sidecar does not know control's key yet: it cannot check a chain";
        return Err(refuse(Code::PolicyUnavailable, reason));
    };
    let depth = usize::try_from(sidecar.config.delegation.depth).unwrap_or(usize::MAX);
    let expected = Expected { tenant, signer: &signer, holder, depth, now: clock::now() };
    chain::verify(chain, &expected).map_err(|broken| refuse(Code::ScopeDenied, broken.to_string()))
}

/// Makes a chain for `to`, which may use a budget, for a while.
fn chained(
    sidecar: &Sidecar,
    exchange: &Exchange,
    caller: &Caller,
    (to, budget, life): (&str, Allowance, Duration),
) -> Result<(Chain, Option<Drawn>), Refusal> {
    let passport = sidecar.fleet.as_ref().and_then(|fleet| fleet.passport()).ok_or_else(no_passport)?;
    let open = parent(exchange)?;
    let budget = open.map_or(budget, |open| open.share(budget));
    if budget.tokens == Some(0) || budget.calls == Some(0) || budget.usd == Some(MicroUsd::ZERO) {
        return Err(refuse(Code::BudgetExhausted, "nothing is left of the budget to hand on"));
    }
    let drawn = open.map(|open| open.draw(budget.into())).transpose().map_err(|unit| {
        refuse(Code::BudgetExhausted, format!("nothing is left of the delegation's {unit} to hand on"))
    })?;
    let rights = exchange.policy.set.identity_by_name(&caller.tenant, &caller.agent);
    let now = clock::now();
    let terms = Terms {
        id: id::new(now),
        from: caller.agent.clone(),
        to: to.to_owned(),
        rights: rights.map_or_else(Rights::default, |identity| identity.rights.clone()),
        budget,
        now,
        life,
        depth: sidecar.config.delegation.depth.saturating_sub(1),
        session: exchange.session.clone(),
        call: exchange.id.clone(),
    };
    let parent = open.map(|open| &*open.verified.chain);
    match chain::extend(parent, terms, &passport, sidecar.key.expose()) {
        Ok(chain) => Ok((chain, drawn)),
        Err(ended) => {
            drawn.into_iter().for_each(|drawn| drawn.settle(Want::default()));
            Err(refuse(Code::ScopeDenied, ended.to_string()))
        }
    }
}

fn refuse(code: Code, reason: impl Into<String>) -> Refusal {
    Refusal::new(code, "delegation", reason)
}

fn no_passport() -> Refusal {
    let mut refusal = refuse(Code::PolicyUnavailable, "this sidecar has no passport from control");
    refusal.hint =
        Some("only sidecars of a fleet hand work to other agents: is control reachable?".to_owned());
    refusal
}

/// A chain or a receipt as a header.
pub(crate) fn write(what: &impl Serialize) -> Option<HeaderValue> {
    let text = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(what).ok()?);
    HeaderValue::from_str(&text).ok().filter(|_| text.len() <= LONGEST)
}

/// A chain or a receipt from a header. `Some(Err)` when there is something else, or more than one.
pub(crate) fn read<T: DeserializeOwned>(headers: &HeaderMap, name: &str) -> Option<Result<T, &'static str>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Err("it stands more than once"));
    }
    if value.len() > LONGEST {
        return Some(Err("it is too long"));
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(value.as_bytes()).ok();
    Some(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or("it cannot be read"))
}

/// Which header a chain goes in.
pub(crate) const fn chain_header() -> http::HeaderName {
    http::HeaderName::from_static(CHAIN_HEADER)
}
