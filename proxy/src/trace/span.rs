//! A call as a span, by the semantic conventions for generative AI (OpenTelemetry, `gen_ai.*`), with Sideguard's own beside
//! them. No prompts, no bodies, no arguments.

use std::time::Duration;

use sideguard_dialects::detect::Operation;
use sideguard_runtime::otlp::Telemetry;
use sideguard_runtime::otlp::context::Context;
use sideguard_runtime::otlp::messages::{CLIENT, ERROR, Event, KeyValue, Span, Status, Value, int, text};
use sideguard_runtime::otlp::meter::{Label, Labels};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::time::Timestamp;

use super::instruments::{COST, DURATION, OWN_TIME, TOKENS};
use crate::call::ModelFacts;

/// Most events of one span; further ones are counted.
const MAX_EVENTS: usize = 64;

/// What is known of a call.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// Name of the operation, where it is one of a model or a tool.
    operation: Option<&'static str>,
    provider: Option<String>,
    output_cap: Option<u64>,
    answered: Option<String>,
    /// The call's first entry, with what later ones say put over it.
    told: Option<Record>,
    /// How many calls one request carried.
    items: u64,
    events: Vec<Event>,
    more_events: u64,
}

impl Story {
    pub(super) fn classified(&mut self, operation: Operation, provider: &str, model: Option<&ModelFacts>) {
        self.operation = match operation {
            Operation::Chat | Operation::Responses | Operation::Messages => Some("chat"),
            Operation::Embeddings => Some("embeddings"),
            Operation::CountTokens => Some("count_tokens"),
            Operation::Mcp | Operation::ModelFree | Operation::Plain => None,
        };
        if !matches!(operation, Operation::Mcp | Operation::Plain) {
            self.provider = Some(provider_name(provider).to_owned());
        }
        self.output_cap = model.and_then(|facts| facts.output_cap).map(|cap| cap.0);
    }

    pub(super) fn answered(&mut self, model: Option<String>) {
        self.answered = model;
    }

    pub(super) fn record(&mut self, record: &Record) {
        match record.phase {
            Phase::Control => {}
            // A judgement of something inside an answer: it has no reply of its own.
            Phase::Decision if record.status.is_none() => self.event(record),
            Phase::Intent => {
                self.items += 1;
                self.told.get_or_insert_with(|| record.clone());
            }
            Phase::Decision | Phase::Outcome => {
                let told = self.told.get_or_insert_with(|| record.clone());
                told.status = record.status.or(told.status);
                told.code = record.code.clone().or_else(|| told.code.take());
                told.usage = record.usage.or(told.usage);
                told.cost_usd = record.cost_usd.or(told.cost_usd);
                if record.decision.is_some() {
                    told.decision = record.decision;
                    told.rule.clone_from(&record.rule);
                }
            }
        }
    }

    fn event(&mut self, record: &Record) {
        if self.events.len() >= MAX_EVENTS {
            self.more_events += 1;
            return;
        }
        let mut attributes = judgement(record);
        attributes
            .extend(record.target.tool.clone().map(|tool| KeyValue::new("gen_ai.tool.name", text(tool))));
        let name = "sideguard.decision".to_owned();
        self.events.push(Event { time_unix_nano: nanos(record.time), name, attributes });
    }

    /// Why the call failed, as a stable name: a refusal's code, or the status of an answer that is an error.
    fn error(&self) -> Option<String> {
        let told = self.told.as_ref()?;
        told.code
            .clone()
            .or_else(|| told.status.filter(|status| *status >= 400).map(|status| status.to_string()))
    }

    fn operation(&self) -> Option<&'static str> {
        let tool = self.told.as_ref().is_some_and(|told| told.target.tool.is_some());
        self.operation.or_else(|| tool.then_some("execute_tool"))
    }

    /// `chat gpt-5`, `execute_tool drop_table`, `GET crm.example.com`, or the topic of what has no better name.
    fn name(&self) -> String {
        let Some(told) = &self.told else { return "call".to_owned() };
        let of = told.target.model.as_deref().or(told.target.tool.as_deref());
        match (self.operation(), of) {
            (Some(operation), Some(of)) => format!("{operation} {of}"),
            (Some(operation), None) => operation.to_owned(),
            (None, _) if told.topic.starts_with("mcp.") || told.topic.starts_with("llm.") => {
                told.topic.clone()
            }
            (None, _) => format!("{} {}", told.target.method, told.target.host).trim().to_owned(),
        }
    }

    /// The span of a call that has ended.
    pub(super) fn span(
        &mut self,
        own: &Context,
        parent: Option<&Context>,
        began: Timestamp,
        ended: Timestamp,
    ) -> Span {
        let error = self.error();
        let status = error.as_ref().map(|error| {
            let rule = self.told.as_ref().map_or("", |told| told.rule.as_str());
            let message = if rule.is_empty() { error.clone() } else { format!("{error} by {rule}") };
            Status { message, code: ERROR }
        });
        Span {
            trace_id: own.trace.to_vec(),
            span_id: own.span.to_vec(),
            trace_state: own.state.clone(),
            parent_span_id: parent.map(|parent| parent.span.to_vec()).unwrap_or_default(),
            name: self.name(),
            kind: CLIENT,
            start_time_unix_nano: nanos(began),
            end_time_unix_nano: nanos(ended).max(nanos(began)),
            attributes: self.attributes(error),
            events: std::mem::take(&mut self.events),
            status,
            // Bit 8 says that bit 9 is known, bit 9 that the parent is in another process.
            flags: u32::from(own.flags) | 0x100 | if parent.is_some() { 0x200 } else { 0 },
        }
    }

    /// Measures a call that has ended: `took` so long, of which `own` was Sideguard's.
    pub(super) fn measure(&self, telemetry: &Telemetry, took: Duration, own: Duration) {
        let Some(told) = &self.told else { return };
        // A connection that was upgraded lives on: its time is not a call's.
        if told.status != Some(101) {
            telemetry.measure(&OWN_TIME, Vec::new, own.as_secs_f64());
        }
        if let Some(cost) = told.cost_usd {
            #[expect(clippy::cast_precision_loss, reason = "a metric, not an account")]
            telemetry.measure(&COST, || self.labels(told, None), cost.0 as f64 / 1e6);
        }
        let Some(operation) = self.operation() else { return };
        let labels = || {
            let mut labels = self.labels(told, Some(operation));
            labels.extend(self.error().map(|error| ("error.type", Label::of(&error))));
            labels
        };
        telemetry.measure(&DURATION, labels, took.as_secs_f64());
        let usage = told.usage.unwrap_or_default();
        for (kind, tokens) in [("input", usage.input), ("output", usage.output)] {
            let Some(tokens) = tokens else { continue };
            let labels = || {
                let mut labels = self.labels(told, Some(operation));
                labels.push(("gen_ai.token.type", kind.into()));
                labels
            };
            #[expect(clippy::cast_precision_loss, reason = "a metric, not an account")]
            telemetry.measure(&TOKENS, labels, tokens.0 as f64);
        }
    }

    fn labels(&self, told: &Record, operation: Option<&'static str>) -> Labels {
        let (address, port) = server(&told.target.host);
        let all = [
            ("gen_ai.operation.name", operation.map(Label::from)),
            ("gen_ai.provider.name", self.provider.as_deref().map(Label::of)),
            ("gen_ai.request.model", told.target.model.as_deref().map(Label::of)),
            ("gen_ai.response.model", self.answered.as_deref().map(Label::of)),
            ("gen_ai.tool.name", told.target.tool.as_deref().map(Label::of)),
            ("server.address", Some(Label::of(address))),
            ("server.port", port.map(Label::Number)),
        ];
        all.into_iter().filter_map(|(name, label)| Some((name, label?))).collect()
    }

    fn attributes(&self, error: Option<String>) -> Vec<KeyValue> {
        let Some(told) = &self.told else { return Vec::new() };
        let usage = told.usage.unwrap_or_default();
        let words = |key: &'static str, value: Option<&str>| (key, value.map(text));
        let number = |key: &'static str, value: Option<u64>| (key, value.map(int));
        let (address, port) = server(&told.target.host);
        let of_tool = told.target.tool.as_deref();
        let all: [(&'static str, Option<Value>); 20] = [
            words("gen_ai.operation.name", self.operation()),
            words("gen_ai.provider.name", self.provider.as_deref()),
            words("gen_ai.request.model", told.target.model.as_deref()),
            number("gen_ai.request.max_tokens", self.output_cap),
            words("gen_ai.response.model", self.answered.as_deref()),
            number("gen_ai.usage.input_tokens", usage.input.map(|tokens| tokens.0)),
            number("gen_ai.usage.output_tokens", usage.output.map(|tokens| tokens.0)),
            number("gen_ai.usage.cache_read.input_tokens", usage.cached.map(|tokens| tokens.0)),
            number("gen_ai.usage.cache_creation.input_tokens", usage.cache_write.map(|tokens| tokens.0)),
            words("gen_ai.conversation.id", told.session.as_deref()),
            words("gen_ai.tool.name", of_tool),
            words("server.address", (!address.is_empty()).then_some(address)),
            number("server.port", port),
            words("http.request.method", Some(&told.target.method)),
            number("http.response.status_code", told.status.map(u64::from)),
            ("error.type", error.map(Value::Text)),
            words("sideguard.call", Some(&told.call)),
            words("sideguard.agent", Some(&told.agent)),
            words("sideguard.tenant", Some(&told.tenant)),
            ("sideguard.cost_usd", told.cost_usd.map(|cost| text(cost.to_string()))),
        ];
        let some = all.into_iter().filter_map(|(key, value)| Some(KeyValue::new(key, value?)));
        let mut attributes: Vec<KeyValue> = some.collect();
        attributes.extend(judgement(told));
        if self.items > 1 {
            attributes.push(KeyValue::new("sideguard.batch_size", int(self.items)));
        }
        if self.more_events > 0 {
            attributes.push(KeyValue::new("sideguard.events_left_out", int(self.more_events)));
        }
        attributes
    }
}

fn judgement(record: &Record) -> Vec<KeyValue> {
    let decision =
        record.decision.map(|decision| KeyValue::new("sideguard.decision", text(decision.as_str())));
    let rule = (!record.rule.is_empty()).then(|| KeyValue::new("sideguard.rule", text(record.rule.as_str())));
    let topic =
        (!record.topic.is_empty()).then(|| KeyValue::new("sideguard.topic", text(record.topic.as_str())));
    decision.into_iter().chain(rule).chain(topic).collect()
}

/// Host and port of an authority; the port where it stands there.
fn server(authority: &str) -> (&str, Option<u64>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host.trim_matches(['[', ']']), port.parse().ok()),
        _ => (authority.trim_matches(['[', ']']), None),
    }
}

/// A provider by the name that the conventions have for it.
fn provider_name(name: &str) -> &str {
    match name {
        "azure" => "azure.ai.openai",
        "bedrock" => "aws.bedrock",
        "gemini" => "gcp.gemini",
        "mistral" => "mistral_ai",
        "vertex" => "gcp.vertex_ai",
        "xai" => "x_ai",
        other => other,
    }
}

fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.0).unwrap_or(0).saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::server;

    #[test]
    fn an_authority_has_a_host_and_perhaps_a_port() {
        assert_eq!(server("api.openai.com"), ("api.openai.com", None));
        assert_eq!(server("127.0.0.1:8080"), ("127.0.0.1", Some(8_080)));
        assert_eq!(server("[::1]:80"), ("::1", Some(80)));
        assert_eq!(server("[::1]"), ("::1", None));
    }
}
