//! What the standard `OTEL_*` variables say (OpenTelemetry specification, "OTLP exporter" and "environment variables").
//! Only http/protobuf is spoken, which is the specification's default.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::percent_decode_str;

use super::sampler::Sampler;
use crate::secret::Secret;

/// Where one signal goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The whole address.
    pub url: String,
    /// Headers to send.
    pub headers: Secret<HeaderMap>,
    /// Longest time for one export.
    pub timeout: Duration,
}

/// What is exported, and where to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Attributes of the resource, `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// Where traces go.
    pub traces: Option<Target>,
    /// Where metrics go.
    pub metrics: Option<Target>,
    /// Which traces are taken.
    pub sampler: Sampler,
    /// File with the roots that a collector's certificate must come from; the system's when absent.
    pub roots: Option<String>,
    /// Most spans that wait to be sent.
    pub queue: usize,
    /// Most spans sent at once.
    pub batch: usize,
    /// Longest time that a span waits for others.
    pub delay: Duration,
    /// Time between two exports of metrics.
    pub interval: Duration,
}

/// The settings that `variables` give for a program called `service`, when they ask for any export; and what in them
/// cannot be followed, in words.
#[must_use]
pub fn read(variables: &HashMap<String, String>, service: &str) -> (Option<Settings>, Vec<String>) {
    let mut reading = Reading { variables, complaints: Vec::new() };
    let settings = reading.settings(service);
    (settings, reading.complaints)
}

struct Reading<'v> {
    variables: &'v HashMap<String, String>,
    complaints: Vec<String>,
}

impl<'v> Reading<'v> {
    fn text(&self, name: &str) -> Option<&'v str> {
        self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn settings(&mut self, service: &str) -> Option<Settings> {
        if self.text("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        let traces = self.target("TRACES", "v1/traces");
        let metrics = self.target("METRICS", "v1/metrics");
        if traces.is_none() && metrics.is_none() {
            return None;
        }
        let queue = self.number("OTEL_BSP_MAX_QUEUE_SIZE", 2_048).clamp(1, 1 << 16);
        Some(Settings {
            resource: self.resource(service),
            traces,
            metrics,
            sampler: self.sampler(),
            roots: self.text("OTEL_EXPORTER_OTLP_CERTIFICATE").map(str::to_owned),
            queue,
            batch: self.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512).clamp(1, queue.min(4_096)),
            delay: self.millis("OTEL_BSP_SCHEDULE_DELAY", 5_000),
            interval: self.millis("OTEL_METRIC_EXPORT_INTERVAL", 60_000).max(Duration::from_millis(100)),
        })
    }

    /// Where a signal goes: its own address as it stands, or a path below the common one.
    fn target(&mut self, signal: &str, path: &str) -> Option<Target> {
        if self.text(&format!("OTEL_{signal}_EXPORTER")).is_some_and(|exporter| exporter == "none") {
            return None;
        }
        let own = |what: &str| format!("OTEL_EXPORTER_OTLP_{signal}_{what}");
        let common = |what: &str| format!("OTEL_EXPORTER_OTLP_{what}");
        let url = match (self.text(&own("ENDPOINT")), self.text(&common("ENDPOINT"))) {
            (Some(url), _) => url.to_owned(),
            (None, Some(base)) => format!("{}/{path}", base.trim_end_matches('/')),
            (None, None) => return None,
        };
        let protocol = self.text(&own("PROTOCOL")).or_else(|| self.text(&common("PROTOCOL")));
        if let Some(protocol) = protocol.filter(|protocol| *protocol != "http/protobuf") {
            let what = format!(
                "OTLP is spoken as `http/protobuf`, not as `{protocol}`: is `{url}` a port for that?"
            );
            self.complaints.push(what);
        }
        let pairs = self.text(&own("HEADERS")).or_else(|| self.text(&common("HEADERS"))).unwrap_or_default();
        let headers = self.headers(pairs);
        let timeout = if self.text(&own("TIMEOUT")).is_some() { own("TIMEOUT") } else { common("TIMEOUT") };
        let timeout = self.millis(&timeout, 10_000).max(Duration::from_millis(1));
        Some(Target { url, headers: Secret::new(headers), timeout })
    }

    fn headers(&mut self, pairs: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for pair in pairs.split(',').filter(|pair| !pair.trim().is_empty()) {
            let parsed = pair.split_once('=').and_then(|(name, value)| {
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::from_str(name.trim()).ok()?, value))
            });
            match parsed {
                Some((name, value)) => drop(headers.insert(name, value)),
                // Its value may be a secret: it is not repeated.
                None => {
                    self.complaints.push("`OTEL_EXPORTER_OTLP_HEADERS`: a pair is not NAME=VALUE".to_owned());
                }
            }
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers
    }

    fn resource(&self, service: &str) -> Vec<(String, String)> {
        let pairs = self.text("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let named = pairs.split(',').filter_map(|pair| pair.split_once('='));
        let mut resource: Vec<(String, String)> = named
            .map(|(name, value)| {
                let value = percent_decode_str(value.trim()).decode_utf8_lossy().into_owned();
                (name.trim().to_owned(), value)
            })
            .filter(|(name, _)| !name.is_empty())
            .collect();
        let given = resource.iter().any(|(name, _)| name == "service.name");
        if let Some(name) = self.text("OTEL_SERVICE_NAME") {
            resource.retain(|(name, _)| name != "service.name");
            resource.push(("service.name".to_owned(), name.to_owned()));
        } else if !given {
            resource.push(("service.name".to_owned(), service.to_owned()));
        }
        if !resource.iter().any(|(name, _)| name == "service.version") {
            resource.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
        }
        resource
    }

    fn sampler(&mut self) -> Sampler {
        let name = self.text("OTEL_TRACES_SAMPLER").unwrap_or("parentbased_always_on").to_owned();
        let argument = self.text("OTEL_TRACES_SAMPLER_ARG").unwrap_or("1").to_owned();
        let sampler = Sampler::named(&name, argument.parse().unwrap_or(f64::NAN));
        sampler.unwrap_or_else(|| {
            let what =
                format!("`OTEL_TRACES_SAMPLER={name}` with `{argument}` is not known: every trace is taken");
            self.complaints.push(what);
            Sampler::default()
        })
    }

    fn number(&mut self, name: &str, default: usize) -> usize {
        let Some(text) = self.text(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.complaints
                .push(format!("`{name}={}` is no number: {default} is used", self.text(name).unwrap_or("")));
            default
        })
    }

    fn millis(&mut self, name: &str, default: usize) -> Duration {
        Duration::from_millis(self.number(name, default) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::{Settings, read};

    fn settings(pairs: &[(&str, &str)]) -> (Option<Settings>, Vec<String>) {
        let variables: HashMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        read(&variables, "sideguard-proxy")
    }

    #[test]
    fn nothing_is_exported_unless_somebody_says_where_to() {
        assert!(settings(&[]).0.is_none());
        assert!(settings(&[("OTEL_SERVICE_NAME", "x")]).0.is_none());
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert!(settings(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).0.is_none());
        let one = settings(&[endpoint, ("OTEL_METRICS_EXPORTER", "none")]).0.expect("settings");
        assert!(one.traces.is_some() && one.metrics.is_none());
    }

    #[test]
    fn a_signals_own_address_stands_as_it_is_and_the_common_one_gets_a_path() {
        let (read, complaints) = settings(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/otlp/"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m:1/here"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, a=b"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=mine"),
        ]);
        let read = read.expect("settings");
        let traces = read.traces.expect("traces");
        assert_eq!(traces.url, "http://c:4318/otlp/v1/traces");
        assert_eq!(read.metrics.expect("metrics").url, "http://m:1/here");
        assert_eq!(traces.headers.expose()["authorization"], "Bearer x");
        assert_eq!(traces.headers.expose()["a"], "b");
        assert_eq!(traces.timeout, Duration::from_millis(250));
        assert!(read.resource.contains(&("service.name".to_owned(), "mine".to_owned())));
        assert_eq!(complaints, Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_followed_is_told_without_secrets() {
        let (read, complaints) = settings(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ]);
        assert!(read.is_some());
        // The headers are read for each of the two signals, and so is the protocol.
        assert_eq!(complaints.len(), 6, "{complaints:?}");
        assert!(!complaints.concat().contains("canary"));
    }
}
