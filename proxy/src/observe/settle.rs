//! The end of a call: what it used is charged, the rest given back, the outcome recorded.

use bytes::Bytes;
use sideguard_dialects::count;
use sideguard_dialects::request::{self, Request};
use sideguard_runtime::clock;
use sideguard_types::audit::{Amounts, Phase, Record};
use sideguard_types::units::Tokens;
use sideguard_types::usage::Usage;

use crate::app::Sidecar;
use crate::call::{Exchange, ModelFacts};
use crate::reserve::{self, Held};

/// What is needed to settle, once the connection's part is over.
pub(super) struct Settlement {
    pub(super) exchange: Exchange,
    pub(super) held: Held,
    pub(super) model: Option<ModelFacts>,
    pub(super) judged: Bytes,
    pub(super) status: u16,
}

/// What is known of an answer when it ends.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// As the provider reported it.
    pub(super) usage: Usage,
    /// Text that reached the agent, for estimating where the provider reported nothing.
    pub(super) text: String,
    /// Bytes of text beyond `text`.
    pub(super) more: u64,
    /// Whether the provider charges for the answer: not for errors.
    pub(super) charged: bool,
    /// Whether it was lost on its way: nobody knows what it holds, so all that was held is charged.
    pub(super) lost: bool,
    /// Why it ended early, as a stable code.
    pub(super) code: Option<&'static str>,
    /// Bytes to and from an upgraded connection.
    pub(super) bytes: Option<[u64; 2]>,
    /// The model that answered, by its own name.
    pub(super) model: Option<String>,
}

impl Settlement {
    /// Settles and records.
    pub(super) async fn settle(self, sidecar: &Sidecar, answered: Answered) {
        let code = answered.code;
        self.charge(sidecar, answered).await.record(sidecar, code);
    }

    /// Charges what was used and gives the rest back; the outcome is still to be recorded.
    pub(super) async fn charge(self, sidecar: &Sidecar, mut answered: Answered) -> Charged {
        let Self { exchange, held, model, judged, status } = self;
        let mut outcome = exchange.record(Phase::Outcome, None);
        outcome.status = Some(status);
        outcome.bytes = answered.bytes;
        if let Some(trace) = &exchange.trace {
            trace.answered(answered.model.take());
        }
        let mut used = Amounts::default();
        // What goes on in the background is not over when its answer is.
        let goes_on = answered.charged
            && answered.usage.output.is_none()
            && model.as_ref().is_some_and(|facts| facts.background);
        if model.is_some() && answered.lost || goes_on {
            used = held.reserved;
            outcome.cost_usd = Some(used.usd);
        } else if let Some(facts) = &model
            && answered.charged
        {
            let usage = completed(answered, facts, exchange.operation, judged).await;
            let cost = sidecar.prices.of(&facts.model).cost(&usage);
            used = reserve::amounts(usage.input.unwrap_or_default(), usage.output.unwrap_or_default(), cost);
            outcome.usage = Some(usage);
            outcome.cost_usd = Some(cost);
            sidecar.metrics.tokens(&facts.provider, &usage, cost);
        }
        outcome.budget = held.settle(used);
        let model = model.map(|facts| facts.model);
        Charged { exchange, outcome, status, model }
    }
}

/// A call that is charged and whose outcome is not on record yet.
#[must_use]
pub(super) struct Charged {
    exchange: Exchange,
    outcome: Record,
    status: u16,
    model: Option<String>,
}

impl Charged {
    /// What is left to the caller in its budgets, as the reply's header says it.
    pub(super) fn remaining(&self, sidecar: &Sidecar) -> Option<String> {
        let caller = self.exchange.caller.as_deref()?;
        reserve::remaining(sidecar, caller, self.exchange.session.as_deref(), self.model.as_deref())
    }

    /// Records the outcome; `code` says why the answer ended early, where it did.
    pub(super) fn record(self, sidecar: &Sidecar, code: Option<&'static str>) {
        let Self { exchange, mut outcome, status, .. } = self;
        outcome.code = code.map(str::to_owned);
        outcome.time = clock::now();
        outcome.latency_us = Some(exchange.since.micros());
        sidecar.metrics.answered(&exchange, status);
        sidecar.note(&outcome);
    }
}

/// The provider's figures; what it did not report is counted here and marked so.
async fn completed(
    answered: Answered,
    facts: &ModelFacts,
    operation: sideguard_dialects::detect::Operation,
    body: Bytes,
) -> Usage {
    let Answered { mut usage, text, more, .. } = answered;
    let needs_output = usage.output.is_none() && !facts.no_output;
    if usage.input.is_some() && !needs_output {
        return usage;
    }
    usage.estimated = true;
    let input = usage.input;
    let bound = facts.input;
    // The tokenizer is slow to start and works in one go: not on the threads that serve.
    let counting = tokio::task::spawn_blocking(move || {
        let input = input.unwrap_or_else(|| match request::read(operation, &body) {
            Ok(Request::Model(request)) => request.counted(&body),
            Ok(_) | Err(_) => bound,
        });
        let output = needs_output.then(|| Tokens(count::text_tokens(&text).saturating_add(more.div_ceil(3))));
        (input, output)
    });
    let (input, output) = counting.await.unwrap_or((bound, None));
    usage.input = Some(Tokens(input.0.min(bound.0)));
    usage.output = usage.output.or(output);
    usage
}
