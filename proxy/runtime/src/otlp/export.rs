//! Sends what is to be exported, in batches.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use prost::Message;
use rand::Rng;
use tokio::sync::{mpsc, watch};

use super::measures::{Metrics, ResourceMetrics, ScopeMetrics};
use super::messages::{Resource, ResourceSpans, Scope, ScopeSpans, Span, Traces};
use super::meter::Meter;
use super::settings::Target;
use crate::clock::{self, Stopwatch};
use crate::https::Place;

/// First pause after the collector could not take something; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// How long one batch is tried for.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Signal {
    signal: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    signal: &'static str,
    reason: &'static str,
}

/// What the export counts about itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    exported: Family<Signal, Counter>,
    dropped: Family<Dropped, Counter>,
    failures: Family<Signal, Counter>,
}

impl Counts {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "telemetry_exported",
            "Spans and batches of metrics that the collector took",
            self.exported.clone(),
        );
        registry.register(
            "telemetry_dropped",
            "Spans and batches of metrics that were given up, by reason",
            self.dropped.clone(),
        );
        registry.register(
            "telemetry_failures",
            "Attempts to export that the collector did not take",
            self.failures.clone(),
        );
    }

    /// Spans that found the queue full.
    pub(super) fn dropped_spans(&self, spans: u64) {
        self.dropped("traces", "queue_full", spans);
    }

    pub(super) fn dropped(&self, signal: &'static str, reason: &'static str, items: u64) {
        self.dropped.get_or_create(&Dropped { signal, reason }).inc_by(items);
    }

    pub(super) fn exported(&self, signal: &'static str, items: u64) {
        self.exported.get_or_create(&Signal { signal }).inc_by(items);
    }

    fn failed(&self, signal: &'static str) {
        self.failures.get_or_create(&Signal { signal }).inc();
    }
}

/// Where something is sent.
#[derive(Debug)]
pub(super) struct To {
    pub(super) place: Place,
    pub(super) target: Target,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    /// Not now, perhaps later.
    Busy,
    /// Never.
    Refused,
}

impl To {
    /// Sends one body once. The second value is how long the collector asks to be left alone.
    pub(super) async fn once(
        &self,
        signal: &'static str,
        body: Bytes,
        counts: &Counts,
    ) -> (Outcome, Option<Duration>) {
        let answer = self.place.post(self.target.headers.expose().clone(), body, self.target.timeout).await;
        let url = self.place.url();
        let (outcome, wait, why) = match answer {
            Ok(answer) if answer.status.is_success() => return (Outcome::Taken, None),
            Ok(answer) => {
                // The statuses that may be tried again (OTLP specification, "Retryable response codes").
                let later = matches!(
                    answer.status,
                    StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                );
                let outcome = if later { Outcome::Busy } else { Outcome::Refused };
                (outcome, answer.retry_after, answer.status.to_string())
            }
            Err(why) => (Outcome::Busy, None, why),
        };
        counts.failed(signal);
        tracing::warn!(%url, why, signal, "the collector did not take telemetry");
        (outcome, wait)
    }
}

/// Sends spans.
pub(super) struct Spans {
    pub(super) to: To,
    pub(super) resource: Resource,
    pub(super) batch: usize,
    pub(super) delay: Duration,
    pub(super) counts: Counts,
}

impl Spans {
    /// Sends what comes until told to stop; then what is still waiting, each batch once.
    pub(super) async fn run(self, mut spans: mpsc::Receiver<Span>, mut stop: watch::Receiver<bool>) {
        let mut waiting = Vec::with_capacity(self.batch);
        while !*stop.borrow() {
            self.gather(&mut spans, &mut waiting, &mut stop).await;
            self.send(&mut waiting, &mut stop).await;
        }
        spans.close();
        while let Ok(span) = spans.try_recv() {
            waiting.push(span);
            if waiting.len() >= self.batch {
                self.send(&mut waiting, &mut stop).await;
            }
        }
        self.send(&mut waiting, &mut stop).await;
    }

    /// Waits for a batch: full, or as old as it may get.
    async fn gather(
        &self,
        spans: &mut mpsc::Receiver<Span>,
        waiting: &mut Vec<Span>,
        stop: &mut watch::Receiver<bool>,
    ) {
        let gathering = async {
            while waiting.len() < self.batch {
                match spans.recv().await {
                    Some(span) => waiting.push(span),
                    None => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(self.delay, gathering) => {}
            // The sender lives as long as whoever may stop it.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Sends a batch, again and again while the collector may take it later; meanwhile the queue fills.
    async fn send(&self, waiting: &mut Vec<Span>, stop: &mut watch::Receiver<bool>) {
        if waiting.is_empty() {
            return;
        }
        let spans = std::mem::take(waiting);
        let count = spans.len() as u64;
        let scope_spans = vec![ScopeSpans { scope: Some(Scope::ours()), spans }];
        let resource_spans = vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans }];
        let body = Bytes::from(Traces { resource_spans }.encode_to_vec());
        let since = Stopwatch::start();
        let mut pause = PAUSE;
        loop {
            match self.to.once("traces", body.clone(), &self.counts).await {
                (Outcome::Taken, _) => return self.counts.exported("traces", count),
                (Outcome::Refused, _) => return self.counts.dropped("traces", "refused", count),
                (Outcome::Busy, wait) => {
                    let wait = wait.unwrap_or_else(|| jittered(pause)).min(PATIENCE);
                    if *stop.borrow() || since.elapsed() + wait > PATIENCE {
                        return self.counts.dropped("traces", "unreachable", count);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = stop.wait_for(|stop| *stop) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Sends what was measured.
pub(super) struct Measures {
    pub(super) to: To,
    pub(super) resource: Resource,
    pub(super) meter: Arc<Meter>,
    pub(super) interval: Duration,
    pub(super) counts: Counts,
}

impl Measures {
    /// Sends all of it again and again until told to stop, and then once more. What the collector does not take is in the
    /// next one too: sums and histograms tell all since the start.
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            // The sender lives as long as whoever may stop it.
            let _ = tokio::time::timeout(self.interval, stop.wait_for(|stop| *stop)).await;
            self.send().await;
        }
    }

    async fn send(&self) {
        let metrics = self.meter.metrics(clock::now());
        if metrics.is_empty() {
            return;
        }
        let scope_metrics = vec![ScopeMetrics { scope: Some(Scope::ours()), metrics }];
        let resource_metrics = vec![ResourceMetrics { resource: Some(self.resource.clone()), scope_metrics }];
        let body = Bytes::from(Metrics { resource_metrics }.encode_to_vec());
        match self.to.once("metrics", body, &self.counts).await {
            (Outcome::Taken, _) => self.counts.exported("metrics", 1),
            (Outcome::Busy | Outcome::Refused, _) => self.counts.dropped("metrics", "unreachable", 1),
        }
    }
}

/// Between half of a pause and the whole of it: sidecars that lost the same collector do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}
