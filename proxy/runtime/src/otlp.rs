//! Traces and metrics for a collector, by OTLP over HTTP, when the standard `OTEL_*` variables say where to.
//!
//! Nothing runs otherwise. Nobody who has something to tell ever waits: spans go into a queue with an end, and what finds
//! it full is dropped and counted. The queue is emptied by a task that sends batches, tries again what the collector could
//! not take for now, and drops (and counts) what it does not take at all. Start at [`Telemetry::start`].

pub mod context;
mod export;
pub mod logs;
mod measures;
pub mod messages;
pub mod meter;
pub mod sampler;
pub mod settings;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::https::Place;
use crate::{clock, environment, tasks};
use context::Context;
use export::{Counts, Measures, Spans};
use messages::{Resource, Span};
use meter::{Instrument, Labels, Meter};
use sampler::Sampler;
use settings::{Settings, Target};

/// A program's telemetry. Clones share it.
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spans: Option<mpsc::Sender<Span>>,
    meter: Option<Arc<Meter>>,
    sampler: Sampler,
    counts: Counts,
    stop: watch::Sender<bool>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Telemetry {
    /// Starts what the environment asks for, for a program called `service`; `None` when it asks for nothing. What it asks
    /// for and cannot be done is logged: telemetry keeps no program from its work.
    #[must_use]
    pub fn start(service: &str) -> Option<Self> {
        let (settings, complaints) = settings::read(&environment::opentelemetry(), service);
        for complaint in complaints {
            tracing::warn!("telemetry: {complaint}");
        }
        Self::with(settings?)
    }

    fn with(settings: Settings) -> Option<Self> {
        let roots = settings.roots.as_ref().map(std::fs::read).transpose();
        let roots = roots.unwrap_or_else(|error| {
            tracing::error!(%error, "telemetry: `OTEL_EXPORTER_OTLP_CERTIFICATE` cannot be read");
            Some(Vec::new())
        });
        let place = |target: &Target| match Place::new(&target.url, roots.as_deref()) {
            Ok(place) => Some(place),
            Err(error) => {
                tracing::error!(%error, "telemetry: nothing can be sent");
                None
            }
        };
        let (stop, stopped) = watch::channel(false);
        let counts = Counts::default();
        let resource = Resource::new(&settings.resource);
        let mut running = Vec::new();
        let mut spans = None;
        if let Some((target, place)) = settings.traces.as_ref().and_then(|to| Some((to, place(to)?))) {
            let (send, receive) = mpsc::channel(settings.queue);
            let exporter = Spans {
                to: export::To { place, target: target.clone() },
                resource: resource.clone(),
                batch: settings.batch,
                delay: settings.delay,
                counts: counts.clone(),
            };
            running.push(tasks::spawn("otlp-traces", exporter.run(receive, stopped.clone())));
            spans = Some(send);
        }
        let mut meter = None;
        if let Some((target, place)) = settings.metrics.as_ref().and_then(|to| Some((to, place(to)?))) {
            let own = Arc::new(Meter::new(clock::now()));
            let exporter = Measures {
                to: export::To { place, target: target.clone() },
                resource,
                meter: Arc::clone(&own),
                interval: settings.interval,
                counts: counts.clone(),
            };
            running.push(tasks::spawn("otlp-metrics", exporter.run(stopped)));
            meter = Some(own);
        }
        if running.is_empty() {
            return None;
        }
        let running = Mutex::new(running);
        Some(Self(Arc::new(Inner { spans, meter, sampler: settings.sampler, counts, stop, running })))
    }

    /// Puts what it counts about itself into a registry for Prometheus.
    pub fn register(&self, registry: &mut Registry) {
        self.0.counts.register(registry);
    }

    /// Measures something, where metrics are exported.
    pub fn measure(&self, instrument: &'static Instrument, labels: impl FnOnce() -> Labels, value: f64) {
        if let Some(meter) = &self.0.meter {
            meter.add(instrument, labels(), value);
        }
    }

    /// Whether traces are exported.
    #[must_use]
    pub fn traces(&self) -> bool {
        self.0.spans.is_some()
    }

    /// The place of a new span: below the one that a request came from, or at the root of a new trace.
    #[must_use]
    pub fn place(&self, from: Option<&Context>) -> Context {
        let mut own = from.map_or_else(|| Context::root(false), Context::child);
        let sampled = self.traces() && self.0.sampler.takes(own.trace, from);
        own.flags = (own.flags & !1) | u8::from(sampled);
        own
    }

    /// Takes a span that has ended. Never waits: when the queue is full, the span is dropped and counted.
    pub fn ended(&self, span: Span) {
        if let Some(spans) = &self.0.spans
            && spans.try_send(span).is_err()
        {
            self.0.counts.dropped_spans(1);
        }
    }

    /// Sends what is still waiting, for at most `within`, and ends.
    pub async fn stop(&self, within: Duration) {
        self.0.stop.send_replace(true);
        let running = std::mem::take(&mut *self.0.running.lock());
        let ended = async {
            for task in running {
                // A task that panicked has nothing more to send.
                let _ = task.await;
            }
        };
        if tokio::time::timeout(within, ended).await.is_err() {
            tracing::warn!("telemetry: the collector did not take everything in time");
        }
    }
}
