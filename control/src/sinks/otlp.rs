//! Collectors, by OTLP over HTTP: each entry is one log record, its JSON the body.

use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use sideguard_runtime::https::Place;
use sideguard_runtime::otlp::logs::{LogRecord, Logs};
use sideguard_runtime::otlp::messages::{AnyValue, KeyValue, Resource, int, text};
use sideguard_runtime::secret::Secret;
use sideguard_runtime::{clock, environment};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::resource::OtlpSink;
use sideguard_types::time::Timestamp;
use sideguard_types::verdict::Decision;

use super::outlet::Undelivered;
use super::shape::Shaped;
use super::webhook::taken;

/// Longest time for one batch.
const WITHIN: Duration = Duration::from_secs(15);

/// A collector.
#[derive(Debug)]
pub(super) struct Otlp {
    place: Place,
    headers: Secret<HeaderMap>,
}

impl Otlp {
    pub(super) fn open(spec: &OtlpSink) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        for (name, value) in &spec.headers {
            let bad = || format!("header `{name}` cannot be sent");
            let value = HeaderValue::from_str(&filled(value)?).map_err(|_| bad())?;
            headers.insert(HeaderName::from_str(name).map_err(|_| bad())?, value);
        }
        let url = format!("{}/v1/logs", spec.endpoint.trim_end_matches('/'));
        Ok(Self { place: Place::new(&url, None)?, headers: Secret::new(headers) })
    }

    pub(super) async fn deliver(&mut self, part: &[Shaped]) -> Result<(), Undelivered> {
        let service = [("service.name".to_owned(), "sideguard-control".to_owned())];
        let now = clock::now();
        let records = part.iter().map(|one| log_record(one, now)).collect();
        let body = Logs::written(Resource::new(&service), records);
        taken(self.place.post(self.headers.expose().clone(), body, WITHIN).await)
    }
}

/// A text with variables of the environment in place of `${env:NAME}`.
fn filled(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${env:") {
        let (name, after) = after.split_once('}').ok_or("`${env:` without its `}`")?;
        let value = environment::variable(name)
            .ok_or_else(|| format!("the variable `{name}` is not set in control's environment"))?;
        out.push_str(before);
        out.push_str(&value);
        rest = after;
    }
    Ok(out + rest)
}

fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.0).unwrap_or(0).saturating_mul(1_000)
}

fn log_record(one: &Shaped, now: Timestamp) -> LogRecord {
    let Shaped { record, tenant, sidecar, position, json } = one;
    let denied = record.decision.is_some_and(|decision| decision >= Decision::Throttle);
    let (severity_number, severity_text) = if denied { (13, "WARN") } else { (9, "INFO") };
    LogRecord {
        time_unix_nano: nanos(record.time),
        severity_number,
        severity_text: severity_text.to_owned(),
        body: Some(AnyValue { value: Some(text(json.as_str())) }),
        attributes: attributes(record, tenant, sidecar, *position),
        trace_id: record.trace_id.as_deref().and_then(trace).unwrap_or_default(),
        observed_time_unix_nano: nanos(now),
        event_name: event(record).to_owned(),
    }
}

const fn event(record: &Record) -> &'static str {
    match record.phase {
        Phase::Intent => "sideguard.intent",
        Phase::Outcome => "sideguard.outcome",
        Phase::Decision => "sideguard.decision",
        Phase::Control => "sideguard.control",
    }
}

fn attributes(record: &Record, tenant: &str, sidecar: &str, position: u64) -> Vec<KeyValue> {
    let texts = [
        ("sideguard.sidecar", Some(sidecar)),
        ("sideguard.tenant", Some(tenant)),
        ("sideguard.agent", Some(record.agent.as_str())),
        ("sideguard.call", Some(record.call.as_str())),
        ("sideguard.topic", Some(record.topic.as_str())),
        ("sideguard.decision", record.decision.map(Decision::as_str)),
        ("sideguard.rule", Some(record.rule.as_str())),
        ("error.type", record.code.as_deref()),
    ];
    let given =
        texts.into_iter().filter_map(|(name, value)| Some((name, value.filter(|text| !text.is_empty())?)));
    let mut attributes: Vec<KeyValue> = given.map(|(name, value)| KeyValue::new(name, text(value))).collect();
    attributes.push(KeyValue::new("sideguard.position", int(position)));
    attributes
}

/// A trace id from its hex.
fn trace(hex: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok();
    (hex.len() == 32).then(|| (0..16).map(byte).collect::<Option<Vec<u8>>>()).flatten()
}
