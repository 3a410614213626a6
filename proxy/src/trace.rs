//! What OpenTelemetry is told of each call: one span, and what it used. Fed by the entries of the record, so that the two
//! cannot differ; without telemetry there is nothing of this.

mod instruments;
mod span;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use sideguard_dialects::detect::Operation;
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::otlp::Telemetry;
use sideguard_runtime::otlp::context::Context;
use sideguard_types::audit::{Phase, Record};
use sideguard_types::time::Timestamp;

use crate::call::{Exchange, ModelFacts};
use crate::waits::Waits;
use span::Story;

/// Calls under way that are told of.
#[derive(Debug)]
pub(crate) struct Traces {
    telemetry: Telemetry,
    open: Mutex<HashMap<String, Weak<Trace>, ahash::RandomState>>,
}

/// One call's place in its trace, and what is known of it so far. Its span ends with the last owner.
#[derive(Debug)]
pub(crate) struct Trace {
    context: Context,
    parent: Option<Context>,
    call: String,
    began: Timestamp,
    since: Stopwatch,
    waits: Waits,
    story: Mutex<Story>,
    all: Arc<Traces>,
}

impl Traces {
    pub(crate) fn new(telemetry: Telemetry) -> Arc<Self> {
        Arc::new(Self { telemetry, open: Mutex::default() })
    }

    /// Begins a call's trace, or joins the one that its request names.
    pub(crate) fn begin(self: &Arc<Self>, exchange: &mut Exchange, headers: &HeaderMap) {
        let parent = Context::of(headers);
        let context = self.telemetry.place(parent.as_ref());
        exchange.trace_id = Some(context.trace_id());
        let trace = Arc::new(Trace {
            context,
            parent,
            call: exchange.id.clone(),
            began: exchange.at,
            since: exchange.since,
            waits: exchange.waits.clone(),
            story: Mutex::default(),
            all: Arc::clone(self),
        });
        self.open.lock().insert(exchange.id.clone(), Arc::downgrade(&trace));
        exchange.trace = Some(trace);
    }

    /// Takes in what an entry of the record tells.
    pub(crate) fn recorded(&self, record: &Record) {
        if let (Phase::Intent | Phase::Decision, Some(point), Some(decision)) =
            (record.phase, record.point, record.decision)
        {
            let labels = || {
                let (point, decision) = (point.as_str().into(), decision.as_str().into());
                vec![("sideguard.point", point), ("sideguard.decision", decision)]
            };
            self.telemetry.measure(&instruments::DECISIONS, labels, 1.0);
        }
        if record.call.is_empty() {
            return;
        }
        // Not held any longer than this: the last owner of a trace takes the same lock.
        let found = self.open.lock().get(&record.call).and_then(Weak::upgrade);
        if let Some(trace) = found {
            trace.story.lock().record(record);
        }
    }
}

impl Trace {
    /// Headers by which the upstream's spans stand below this one. A `tracestate` without a `traceparent` that can be read
    /// belongs to nothing, and is taken away.
    pub(crate) fn headers(&self, remove: &mut Vec<HeaderName>, set: &mut Vec<(HeaderName, HeaderValue)>) {
        if let Ok(value) = HeaderValue::from_str(&self.context.header()) {
            set.push((HeaderName::from_static("traceparent"), value));
        }
        if self.parent.is_none() {
            remove.push(HeaderName::from_static("tracestate"));
        }
    }

    /// What the call asks for, as it was classified.
    pub(crate) fn classified(&self, operation: Operation, provider: &str, model: Option<&ModelFacts>) {
        self.story.lock().classified(operation, provider, model);
    }

    /// The model that answered, by its own name.
    pub(crate) fn answered(&self, model: Option<String>) {
        self.story.lock().answered(model);
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.all.open.lock().remove(&self.call);
        let took = self.since.elapsed();
        let own = took.saturating_sub(self.waits.total());
        let telemetry = &self.all.telemetry;
        let mut story = self.story.lock();
        story.measure(telemetry, took, own);
        if self.context.sampled() {
            // The system's clock may have been set meanwhile.
            let ended = self.began.plus(took);
            telemetry.ended(story.span(&self.context, self.parent.as_ref(), self.began, ended));
        }
    }
}
