//! What the sidecar counts, for Prometheus. Labels come from bounded sets.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sideguard_runtime::otlp::Telemetry;
use sideguard_runtime::telemetry::{self, Names};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::refusal::Code;
use sideguard_types::units::MicroUsd;
use sideguard_types::usage::Usage;
use sideguard_types::verdict::Decision;

use crate::call::Exchange;

/// Bounds of the histogram of Sideguard's own time, in seconds.
pub(crate) const OVERHEAD: [f64; 15] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_15, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.1, 0.5, 2.5,
];
/// Providers that have a label of their own; further ones share `other`.
const MAX_PROVIDERS: usize = 64;
/// Agents that have a label of their own; further ones share `other`.
const MAX_AGENTS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    point: &'static str,
    decision: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    point: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Spent {
    provider: String,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Provider {
    provider: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Agent {
    /// `tenant/agent`.
    agent: String,
    decision: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Change {
    change: String,
}

/// All metrics of one sidecar.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    decisions: Family<Decided, Counter>,
    refusals: Family<Named, Counter>,
    answers: Family<Status, Counter>,
    durations: Histogram,
    overhead: Histogram,
    tokens: Family<Spent, Counter>,
    cost: Family<Provider, Counter<f64, AtomicU64>>,
    breakers: Family<Change, Counter>,
    refused_connections: Family<Named, Counter>,
    stripped: Counter,
    connections: Gauge,
    reloads: Family<Named, Counter>,
    agent_calls: Family<Agent, Counter>,
    providers: Names,
    agents: Names,
    record_refused: Counter,
    /// Calls, refusals, tokens and micro-dollars so far.
    counts: [AtomicU64; 4],
}

/// What a sidecar tells of its work, since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Calls that left.
    pub(crate) calls: u64,
    /// Refusals.
    pub(crate) denied: u64,
    /// Tokens that models have read and written.
    pub(crate) tokens: u64,
    /// What that has cost, in micro-dollars.
    pub(crate) cost: u64,
}

impl Metrics {
    /// With what telemetry counts about itself, where there is any.
    pub(crate) fn new(exported: Option<&Telemetry>) -> Self {
        let seconds = [
            0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            60.0, 300.0,
        ];
        let mut metrics = Self {
            registry: telemetry::registry(),
            decisions: Family::default(),
            refusals: Family::default(),
            answers: Family::default(),
            durations: Histogram::new(seconds),
            overhead: Histogram::new(OVERHEAD),
            tokens: Family::default(),
            cost: Family::default(),
            breakers: Family::default(),
            refused_connections: Family::default(),
            stripped: Counter::default(),
            connections: Gauge::default(),
            reloads: Family::default(),
            agent_calls: Family::default(),
            providers: Names::new(MAX_PROVIDERS),
            agents: Names::new(MAX_AGENTS),
            record_refused: Counter::default(),
            counts: Default::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("decisions", "Judgements by point and decision", metrics.decisions.clone());
        registry.register(
            "agent_calls",
            "Judgements by agent (`tenant/agent`) and decision",
            metrics.agent_calls.clone(),
        );
        registry.register("refusals", "Refusals by code", metrics.refusals.clone());
        registry.register("answers", "Answers by point and class of status", metrics.answers.clone());
        registry.register(
            "call_duration_seconds",
            "Time from a call's arrival to its answer's end",
            metrics.durations.clone(),
        );
        registry.register(
            "overhead_seconds",
            "Time of answered calls that Sideguard itself took: not waiting for agent or upstream",
            metrics.overhead.clone(),
        );
        registry.register("tokens", "Tokens used, by provider and kind", metrics.tokens.clone());
        registry.register("cost_usd", "Cost in US dollars, by provider", metrics.cost.clone());
        registry.register("breaker_changes", "Changes of breakers", metrics.breakers.clone());
        registry.register(
            "refused_connections",
            "Connections refused before a request was read",
            metrics.refused_connections.clone(),
        );
        registry.register("stripped_headers", "Reserved headers that agents sent", metrics.stripped.clone());
        registry.register("connections", "Connections from agents now", metrics.connections.clone());
        registry.register("policy_reloads", "Policy reloads by result", metrics.reloads.clone());
        if let Some(exported) = exported {
            exported.register(registry);
        }
        registry.register(
            "record_refusals",
            "Batches of the record that control did not take",
            metrics.record_refused.clone(),
        );
        metrics
    }

    /// The Prometheus text.
    pub(crate) fn exposition(&self) -> String {
        telemetry::exposition(&self.registry)
    }

    /// Counts the judgement that an entry of the record tells.
    pub(crate) fn recorded(&self, record: &Record) {
        let [calls, denied, ..] = &self.counts;
        match record.phase {
            Phase::Intent => calls.fetch_add(1, Ordering::Relaxed),
            Phase::Decision if record.decision.is_some_and(|decision| decision >= Decision::Throttle) => {
                denied.fetch_add(1, Ordering::Relaxed)
            }
            _ => 0,
        };
        if let (Some(point), Some(decision)) = (record.point, record.decision)
            && matches!(record.phase, Phase::Intent | Phase::Decision)
        {
            self.decisions
                .get_or_create(&Decided { point: point.as_str(), decision: decision.as_str() })
                .inc();
            let name = [&record.tenant, "/", &record.agent].concat();
            let agent = if record.agent.is_empty() { "" } else { self.agents.label(&name) }.to_owned();
            self.agent_calls.get_or_create(&Agent { agent, decision: decision.as_str() }).inc();
        }
    }

    /// All counts.
    pub(crate) fn counts(&self) -> Counts {
        let [calls, denied, tokens, cost] = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        Counts { calls, denied, tokens, cost }
    }

    pub(crate) fn refused(&self, code: Code) {
        self.refusals.get_or_create(&Named { code: code.as_str() }).inc();
    }

    pub(crate) fn refused_connection(&self, code: &'static str) {
        self.refused_connections.get_or_create(&Named { code }).inc();
    }

    pub(crate) fn stripped_headers(&self, count: u64) {
        if count > 0 {
            self.stripped.inc_by(count);
        }
    }

    pub(crate) fn connected(&self) {
        self.connections.inc();
    }

    pub(crate) fn disconnected(&self) {
        self.connections.dec();
    }

    pub(crate) fn reloaded(&self, code: &'static str) {
        self.reloads.get_or_create(&Named { code }).inc();
    }

    pub(crate) fn record_refused(&self) {
        self.record_refused.inc();
    }

    pub(crate) fn answered(&self, exchange: &Exchange, status: u16) {
        let class = match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        let point = exchange.items.first().map_or("none", |item| item.point.as_str());
        self.answers.get_or_create(&Status { point, status: class }).inc();
        let took = exchange.since.elapsed();
        self.durations.observe(took.as_secs_f64());
        // After 101 the time is the connection's, not a call's.
        if status != 101 {
            self.overhead.observe(
                took.saturating_sub(exchange.waits.total()).saturating_sub(exchange.waited).as_secs_f64(),
            );
        }
    }

    pub(crate) fn tokens(&self, provider: &str, usage: &Usage, cost: MicroUsd) {
        let [.., tokens, spent] = &self.counts;
        let both = [usage.input, usage.output].into_iter().flatten().map(|tokens| tokens.0);
        tokens.fetch_add(both.sum(), Ordering::Relaxed);
        spent.fetch_add(cost.0, Ordering::Relaxed);
        let provider = self.providers.label(provider).to_owned();
        for (kind, tokens) in [("input", usage.input), ("output", usage.output), ("cached", usage.cached)] {
            if let Some(tokens) = tokens {
                self.tokens.get_or_create(&Spent { provider: provider.clone(), kind }).inc_by(tokens.0);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a metric, not an account")]
        let dollars = cost.0 as f64 / 1e6;
        self.cost.get_or_create(&Provider { provider }).inc_by(dollars);
    }

    pub(crate) fn breaker(&self, change: &str) {
        self.breakers.get_or_create(&Change { change: change.to_owned() }).inc();
    }
}

#[cfg(test)]
mod tests {
    use sideguard_runtime::clock;
    use sideguard_types::audit::{Phase, Record};
    use sideguard_types::call::Point;
    use sideguard_types::verdict::Decision;

    use super::{MAX_AGENTS, Metrics};

    #[test]
    fn ten_thousand_agents_are_no_more_series_than_the_most() {
        let metrics = Metrics::new(None);
        for agent in 0..10_000 {
            let mut record = Record::new(Phase::Intent, clock::now());
            record.tenant = "acme".to_owned();
            record.agent = format!("agent-{agent}");
            record.point = Some(Point::ToolCall);
            record.decision = Some(Decision::Allow);
            metrics.recorded(&record);
        }
        let text = metrics.exposition();
        let of_agents: Vec<&str> =
            text.lines().filter(|line| line.starts_with("sideguard_agent_calls_total{")).collect();
        assert_eq!(of_agents.len(), MAX_AGENTS + 1);
        let count = |line: &str| line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
        assert_eq!(of_agents.iter().filter_map(|line| count(line)).sum::<u64>(), 10_000, "none is lost");
    }
}
