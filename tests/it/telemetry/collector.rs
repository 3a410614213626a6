//! A collector of telemetry that keeps what it is sent, decoded by OpenTelemetry's own types.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use harness::Fake;
use harness::fake::{self, whole};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, Metric};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

/// The collector.
pub(super) struct Collector {
    pub(super) fake: Fake,
    status: Arc<AtomicU16>,
}

impl Collector {
    pub(super) async fn start() -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let answer = Arc::clone(&status);
        let fake = Fake::start(None, move |_| {
            let mut reply = fake::reply("application/x-protobuf", whole(""));
            *reply.status_mut() =
                http::StatusCode::from_u16(answer.load(Ordering::Acquire)).expect("a status");
            reply
        })
        .await;
        Self { fake, status }
    }

    /// From now on it answers with this status.
    pub(super) fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Release);
    }

    /// A wrapper that starts a sidecar with telemetry to here, and with further variables.
    pub(super) fn wrapper(&self, more: &[&str]) -> Vec<String> {
        wrapper(&self.fake.url(), more)
    }

    /// Every span so far.
    pub(super) fn spans(&self) -> Vec<Span> {
        let seen = self.fake.seen();
        let bodies = seen.iter().filter(|seen| seen.target == "/v1/traces");
        let decoded = bodies.map(|seen| ExportTraceServiceRequest::decode(seen.body.clone()).expect("OTLP"));
        decoded
            .flat_map(|request| request.resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }

    /// Waits for so many spans, and for no more to come with the batch after them.
    pub(super) async fn spans_of(&self, calls: usize) -> Vec<Span> {
        harness::until("the spans are there", || self.spans().len() >= calls).await;
        self.spans()
    }

    /// The metrics, as they were sent last.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let seen = self.fake.seen();
        let Some(last) = seen.iter().rfind(|seen| seen.target == "/v1/metrics") else { return Vec::new() };
        let request = ExportMetricsServiceRequest::decode(last.body.clone()).expect("OTLP");
        let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).collect()
    }

    /// The series of a histogram, as they were sent last.
    pub(super) fn histogram(&self, name: &str) -> Vec<HistogramDataPoint> {
        let found = self.metrics().into_iter().find(|metric| metric.name == name);
        match found.and_then(|metric| metric.data) {
            Some(Data::Histogram(histogram)) => histogram.data_points,
            Some(other) => panic!("`{name}` is no histogram: {other:?}"),
            None => Vec::new(),
        }
    }

    /// The sum of all series of a counter.
    pub(super) fn sum(&self, name: &str) -> f64 {
        let found = self.metrics().into_iter().find(|metric| metric.name == name);
        let Some(Data::Sum(sum)) = found.and_then(|metric| metric.data) else { return 0.0 };
        let value = |number: &Option<Number>| match number {
            Some(Number::AsDouble(value)) => *value,
            other => panic!("no double: {other:?}"),
        };
        sum.data_points.iter().map(|point| value(&point.value)).sum()
    }

    /// What the resource says that everything comes from.
    pub(super) fn resource(&self) -> BTreeMap<String, String> {
        let seen = self.fake.seen();
        let first = seen.iter().find(|seen| seen.target == "/v1/traces").expect("an export");
        let request = ExportTraceServiceRequest::decode(first.body.clone()).expect("OTLP");
        attributes(&request.resource_spans[0].resource.as_ref().expect("a resource").attributes)
    }
}

/// A wrapper that starts a sidecar with telemetry to an address.
pub(super) fn wrapper(url: &str, more: &[&str]) -> Vec<String> {
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT={url}");
    let fast = ["env", &endpoint, "OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_METRIC_EXPORT_INTERVAL=100"];
    fast.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

/// Attributes by name, as texts.
pub(super) fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let shown = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        other => panic!("an attribute of another kind: {other:?}"),
    };
    all.iter().map(|pair| (pair.key.clone(), shown(pair.value.clone()))).collect()
}

/// Bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
