//! What the control service counts, for Prometheus; and its own requests as spans, where OpenTelemetry is told of them.
//! Labels come from bounded sets: routes as they stand in the table, never paths.

mod store;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sideguard_runtime::otlp::Telemetry;
use sideguard_runtime::otlp::context::Context;
use sideguard_runtime::otlp::messages::{ERROR, KeyValue, SERVER, Span, Status, int, text};
use sideguard_runtime::otlp::meter::{Instrument, Label};
use sideguard_runtime::telemetry::{self, Names};
use sideguard_types::control::records::Trouble;
use sideguard_types::job::JobState;
use sideguard_types::time::Timestamp;
use tokio::sync::Mutex;

use crate::error::Failure;
use crate::records::Counts;

pub(crate) use store::counted;

/// Sinks that have a label of their own; further ones share `other`.
const MAX_SINKS: usize = 200;
/// How long a count of the sidecars holds: they are all read for it.
const STANDINGS: Duration = Duration::from_secs(5);
/// Bounds of histograms, in seconds.
const SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// How long requests took, as the conventions have it.
static REQUESTS: Instrument = Instrument {
    name: "http.server.request.duration",
    unit: "s",
    about: "Duration of HTTP server requests.",
    bounds: &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0],
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stands {
    standing: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkName {
    sink: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    part: &'static str,
    operation: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Part {
    part: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobsIn {
    state: &'static str,
}

/// How many sidecars stand how.
pub(crate) type Standings = HashMap<&'static str, u64>;

/// All metrics of one control service.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    seconds: Family<Route, Histogram>,
    sidecars: Family<Stands, Gauge>,
    generation: Gauge,
    feed_waiters: Gauge,
    store_operations: Family<Operation, Counter>,
    store_seconds: Family<Part, Histogram>,
    jobs: Family<JobsIn, Gauge>,
    records: [Counter; 2],
    records_refused: Family<Refused, Counter>,
    sink_delivered: Family<SinkName, Counter>,
    sink_failures: Family<SinkName, Counter>,
    sink_skipped: Family<SinkName, Counter>,
    sinks: Names,
    standings: Mutex<Option<(Timestamp, Standings)>>,
    telemetry: Option<Telemetry>,
}

impl Metrics {
    /// With the telemetry that is told of requests, where there is any.
    pub(crate) fn new(telemetry: Option<Telemetry>) -> Self {
        let mut metrics = Self {
            registry: telemetry::registry(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            sidecars: Family::default(),
            generation: Gauge::default(),
            feed_waiters: Gauge::default(),
            store_operations: Family::default(),
            store_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            jobs: Family::default(),
            records: Default::default(),
            records_refused: Family::default(),
            sink_delivered: Family::default(),
            sink_failures: Family::default(),
            sink_skipped: Family::default(),
            sinks: Names::new(MAX_SINKS),
            standings: Mutex::default(),
            telemetry,
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = self.registry.sub_registry_with_prefix("control");
        registry.register("requests", "Requests by route and status", self.requests.clone());
        registry.register("request_seconds", "Time of requests, by route", self.seconds.clone());
        registry.register("sidecars", "Sidecars by standing", self.sidecars.clone());
        registry.register("generation", "Generation in force", self.generation.clone());
        registry.register("feed_waiters", "Sidecars that wait for something new", self.feed_waiters.clone());
        registry.register(
            "store_operations",
            "Operations of the store by part and result",
            self.store_operations.clone(),
        );
        registry.register("store_seconds", "Time of the store's operations", self.store_seconds.clone());
        registry.register("jobs", "Open jobs by state", self.jobs.clone());
        let [records, bytes] = &self.records;
        registry.register("records", "Records taken from sidecars", records.clone());
        registry.register("record_bytes", "Bytes of records taken from sidecars", bytes.clone());
        registry.register("record_refusals", "Batches of records refused", self.records_refused.clone());
        registry.register("sink_delivered", "Entries that sinks took", self.sink_delivered.clone());
        registry.register("sink_failures", "Attempts that sinks did not take", self.sink_failures.clone());
        registry.register("sink_skipped", "Entries that a sink can never take", self.sink_skipped.clone());
        if let Some(telemetry) = &self.telemetry {
            telemetry.register(&mut self.registry);
        }
    }

    /// The Prometheus text, with what is only known now.
    pub(crate) fn exposition(&self, now: &Now<'_>) -> String {
        for (standing, count) in now.standings {
            let label = Stands { standing };
            self.sidecars.get_or_create(&label).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        self.generation.set(i64::try_from(now.generation).unwrap_or(i64::MAX));
        self.feed_waiters.set(i64::try_from(now.feed_waiters).unwrap_or(i64::MAX));
        for state in JobState::ALL.into_iter().filter(|state| !state.is_final()) {
            let count = now.jobs.get(&state).copied().unwrap_or(0);
            let gauge = self.jobs.get_or_create(&JobsIn { state: state.as_str() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let (taken, bytes) = now.records.taken();
        for (counter, value) in self.records.iter().zip([taken, bytes]) {
            set(counter, value);
        }
        for trouble in [Trouble::Fork, Trouble::Gap, Trouble::Broken, Trouble::Tenant] {
            let counter = self.records_refused.get_or_create(&Refused { code: trouble.code() });
            set(&counter, now.records.refused(trouble));
        }
        telemetry::exposition(&self.registry)
    }

    /// How the sidecars stand, as `count` tells; not counted again for a few seconds.
    pub(crate) async fn standings<F>(
        &self,
        now: Timestamp,
        count: impl FnOnce() -> F,
    ) -> Result<Standings, Failure>
    where
        F: Future<Output = Result<Standings, Failure>>,
    {
        let mut known = self.standings.lock().await;
        if let Some((at, standings)) = &*known
            && now.since(*at) < STANDINGS
        {
            return Ok(standings.clone());
        }
        let standings = count().await?;
        *known = Some((now, standings.clone()));
        Ok(standings)
    }

    /// Counts a request and tells OpenTelemetry of it.
    pub(crate) fn answered(&self, asked: &Asked<'_>, status: StatusCode, took: Duration) {
        let method = match *asked.method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::DELETE => "DELETE",
            Method::HEAD => "HEAD",
            _ => "other",
        };
        let route = asked.route;
        self.requests.get_or_create(&Answered { method, route, status: status.as_u16() }).inc();
        self.seconds.get_or_create(&Route { route }).observe(took.as_secs_f64());
        let Some(telemetry) = &self.telemetry else { return };
        let labels = || {
            vec![
                ("http.request.method", Label::from(method)),
                ("http.route", Label::from(route)),
                ("http.response.status_code", Label::Number(status.as_u16().into())),
            ]
        };
        telemetry.measure(&REQUESTS, labels, took.as_secs_f64());
        let context = telemetry.place(asked.parent.as_ref());
        if context.sampled() {
            telemetry.ended(span(&context, asked, status, took));
        }
    }

    /// Where a request comes from, when OpenTelemetry is told of requests.
    pub(crate) fn parent(&self, headers: &HeaderMap) -> Option<Context> {
        self.telemetry.as_ref().and_then(|_| Context::of(headers))
    }

    fn sink(&self, name: &str) -> SinkName {
        SinkName { sink: self.sinks.label(name).to_owned() }
    }

    pub(crate) fn sink_delivered(&self, name: &str, entries: u64) {
        self.sink_delivered.get_or_create(&self.sink(name)).inc_by(entries);
    }

    pub(crate) fn sink_failed(&self, name: &str) {
        self.sink_failures.get_or_create(&self.sink(name)).inc();
    }

    pub(crate) fn sink_skipped(&self, name: &str) {
        self.sink_skipped.get_or_create(&self.sink(name)).inc();
    }

    fn stored(&self, part: &'static str, operation: &'static str, result: &'static str, took: Duration) {
        self.store_operations.get_or_create(&Operation { part, operation, result }).inc();
        self.store_seconds.get_or_create(&Part { part }).observe(took.as_secs_f64());
    }
}

/// What is only known at the moment of asking.
pub(crate) struct Now<'a> {
    pub(crate) standings: &'a Standings,
    pub(crate) generation: u64,
    pub(crate) feed_waiters: usize,
    pub(crate) records: &'a Counts,
    pub(crate) jobs: HashMap<JobState, u64>,
}

/// A request.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    /// As it stands in the table of routes.
    pub(crate) route: &'static str,
    pub(crate) began: Timestamp,
    pub(crate) parent: Option<Context>,
}

fn set(counter: &Counter<u64, AtomicU64>, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

fn span(context: &Context, asked: &Asked<'_>, status: StatusCode, took: Duration) -> Span {
    let nanos = |time: Timestamp| u64::try_from(time.0).unwrap_or(0).saturating_mul(1_000);
    let failed = status.is_server_error();
    let mut attributes = vec![
        KeyValue::new("http.request.method", text(asked.method.as_str())),
        KeyValue::new("http.route", text(asked.route)),
        KeyValue::new("http.response.status_code", int(status.as_u16().into())),
    ];
    if failed {
        attributes.push(KeyValue::new("error.type", text(status.as_str())));
    }
    Span {
        trace_id: context.trace.to_vec(),
        span_id: context.span.to_vec(),
        trace_state: context.state.clone(),
        parent_span_id: asked.parent.as_ref().map(|parent| parent.span.to_vec()).unwrap_or_default(),
        name: format!("{} {}", asked.method, asked.route),
        kind: SERVER,
        start_time_unix_nano: nanos(asked.began),
        end_time_unix_nano: nanos(asked.began.plus(took)),
        attributes,
        events: Vec::new(),
        status: failed.then(|| Status { message: status.to_string(), code: ERROR }),
        flags: u32::from(context.flags) | 0x100 | if asked.parent.is_some() { 0x200 } else { 0 },
    }
}
