//! What the injector counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sideguard_runtime::telemetry;
use sideguard_types::time::Timestamp;

use crate::review::Webhook;

/// Bounds of the times of reviews, in seconds: what is aimed at is 5 ms.
const BOUNDS: [f64; 9] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    webhook: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Which {
    webhook: &'static str,
}

/// The injector's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    reviews: Family<Outcome, Counter>,
    seconds: Family<Which, Histogram, fn() -> Histogram>,
    unreadable: Counter,
    expiry: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = telemetry::registry();
        let reviews = Family::<Outcome, Counter>::default();
        let bounds: fn() -> Histogram = || Histogram::new(BOUNDS);
        let seconds = Family::<Which, Histogram, fn() -> Histogram>::new_with_constructor(bounds);
        let (unreadable, expiry) = (Counter::default(), Gauge::<f64, AtomicU64>::default());
        registry.register("injector_reviews", "Reviews answered, by outcome", reviews.clone());
        registry.register(
            "injector_review_seconds",
            "Time from a review's last byte to its answer",
            seconds.clone(),
        );
        registry.register("injector_unreadable", "Requests that were no reviews", unreadable.clone());
        registry.register(
            "webhook_cert_expiry_seconds",
            "Time until the certificate of the webhook's port ends; 0 when there is none",
            expiry.clone(),
        );
        Self { registry: Mutex::new(registry), reviews, seconds, unreadable, expiry }
    }

    /// Counts a review.
    pub(crate) fn answered(&self, webhook: Webhook, outcome: &'static str, took: Duration) {
        let webhook = webhook.name();
        self.reviews.get_or_create(&Outcome { webhook, outcome }).inc();
        self.seconds.get_or_create(&Which { webhook }).observe(took.as_secs_f64());
    }

    /// Counts something that was no review.
    pub(crate) fn unreadable(&self) {
        self.unreadable.inc();
    }

    /// All of them, as Prometheus reads them.
    pub(crate) fn exposition(&self, expires: Option<Timestamp>, now: Timestamp) -> String {
        let left = expires.map_or(0, |expires| expires.seconds().saturating_sub(now.seconds()));
        // Below 2^52 for as long as certificates have four-digit years.
        #[expect(clippy::cast_precision_loss, reason = "seconds")]
        self.expiry.set(left as f64);
        telemetry::exposition(&self.registry.lock())
    }
}
