//! What the admin port answers: health, readiness, metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use sideguard_runtime::admin::{Answer, Ask, Reply};
use sideguard_runtime::clock;
use sideguard_types::time::Timestamp;

use crate::serve::Desk;

/// A certificate that ends sooner makes the injector not ready: somebody should look before no pod can be made.
const SOON: Duration = Duration::from_secs(86_400);

/// The admin port of an injector.
pub(crate) struct Admin {
    pub(crate) desk: Arc<Desk>,
    pub(crate) stopping: Arc<AtomicBool>,
}

impl Answer for Admin {
    fn answer(&self, ask: &Ask<'_>) -> Reply {
        match (ask.method, ask.path) {
            (&Method::GET, "/healthz") => Reply::text(StatusCode::OK, "ok"),
            (&Method::GET, "/readyz") => match self.not_ready(clock::now()) {
                None => Reply::text(StatusCode::OK, "ready"),
                Some(why) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            (&Method::GET, "/metrics") => Reply {
                status: StatusCode::OK,
                content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                body: self.desk.metrics.exposition(self.desk.certificate.expires(), clock::now()),
            },
            (&Method::GET, "/version") => Reply::json(&json!({"version": env!("CARGO_PKG_VERSION")})),
            (_, "/healthz" | "/readyz" | "/metrics" | "/version") => {
                Reply::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
            }
            _ => Reply::text(StatusCode::NOT_FOUND, "not found"),
        }
    }
}

impl Admin {
    fn not_ready(&self, now: Timestamp) -> Option<&'static str> {
        if self.stopping.load(Ordering::Acquire) {
            return Some("stopping");
        }
        if self.desk.facts.known().is_none() {
            return Some("nothing is known of the cluster yet");
        }
        match self.desk.certificate.expires() {
            None => Some("there is no certificate yet"),
            Some(expires) if expires <= now.plus(SOON) => Some("the certificate ends within a day"),
            Some(_) => None,
        }
    }
}
