//! What the admin port answers.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;
use sideguard_runtime::admin::{Answer, Ask, Reply};
use sideguard_runtime::clock;

use crate::app::Sidecar;
use crate::breaker::State;
use crate::work::Work;

/// The admin port of one sidecar.
pub(crate) struct Admin {
    pub(crate) sidecar: Arc<Sidecar>,
    /// What a request must bring to change anything.
    pub(crate) token: sideguard_runtime::secret::Secret<String>,
}

impl Answer for Admin {
    fn answer(&self, ask: &Ask<'_>) -> Reply {
        match (ask.method, ask.path) {
            (&Method::GET, "/healthz") => Reply::text(StatusCode::OK, "ok"),
            // Ready to judge calls, if only to refuse them.
            (&Method::GET, "/startz") => {
                self.started().unwrap_or_else(|| Reply::text(StatusCode::OK, "started"))
            }
            (&Method::GET, "/readyz/loaded") => self
                .works()
                .or_else(|| self.started())
                .unwrap_or_else(|| Reply::text(StatusCode::OK, "ready")),
            (&Method::GET, "/readyz") => self.ready(),
            (&Method::GET, "/metrics") => Reply {
                status: StatusCode::OK,
                content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                body: self.sidecar.metrics.exposition(),
            },
            (&Method::GET, "/version") => Reply::json(&json!({"version": env!("CARGO_PKG_VERSION")})),
            (&Method::GET, "/config") => Reply::json(&self.config()),
            (&Method::GET, "/status") => Reply::json(&self.status()),
            (&Method::POST, "/drain" | "/reload") if !self.authorised(ask.token) => Reply::text(
                StatusCode::UNAUTHORIZED,
                "send the token in `admin.token` as `authorization: Bearer …`",
            ),
            (&Method::POST, "/drain") => {
                self.sidecar.drain.begin();
                Reply::text(StatusCode::ACCEPTED, "draining")
            }
            (&Method::POST, "/reload") => match self.sidecar.reload() {
                Ok(digest) => Reply::text(StatusCode::OK, &digest),
                Err(error) => Reply::text(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
            },
            (
                _,
                "/healthz" | "/startz" | "/readyz" | "/readyz/loaded" | "/metrics" | "/version" | "/config"
                | "/status" | "/drain" | "/reload",
            ) => Reply::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
            _ => Reply::text(StatusCode::NOT_FOUND, "not found"),
        }
    }
}

impl Admin {
    fn authorised(&self, token: Option<&str>) -> bool {
        let (given, own) = (token.unwrap_or_default().as_bytes(), self.token.expose().as_bytes());
        // Every byte is looked at, whatever the ones before it were.
        given.len() == own.len() && given.iter().zip(own).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }

    /// Why there is nothing to judge calls by yet, if so.
    fn started(&self) -> Option<Reply> {
        let waits = self.sidecar.fleet.as_ref().is_some_and(|fleet| !fleet.loaded());
        waits.then(|| Reply::text(StatusCode::SERVICE_UNAVAILABLE, "no policy from control yet"))
    }

    /// Why no call can go out now, whatever policy says, if so.
    fn works(&self) -> Option<Reply> {
        if self.sidecar.drain.begun() {
            return Some(Reply::text(StatusCode::SERVICE_UNAVAILABLE, "draining"));
        }
        let healthy = self.sidecar.log.healthy();
        (!healthy).then(|| Reply::text(StatusCode::SERVICE_UNAVAILABLE, "the record cannot be written"))
    }

    fn ready(&self) -> Reply {
        if let Some(trouble) = self.works() {
            return trouble;
        }
        if self.sidecar.fleet.as_ref().is_some_and(|fleet| !fleet.governs()) {
            return Reply::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "no policy from control, or none that is fresh",
            );
        }
        Reply::text(StatusCode::OK, "ready")
    }

    fn config(&self) -> serde_json::Value {
        let mut config = serde_json::to_value(&self.sidecar.config).unwrap_or_default();
        if let Some(upstreams) = config.get_mut("upstreams").and_then(serde_json::Value::as_array_mut) {
            for upstream in upstreams {
                if let Some(value) = upstream.pointer_mut("/credential/value") {
                    *value = "***".into();
                }
            }
        }
        config
    }

    fn status(&self) -> serde_json::Value {
        let sidecar = &self.sidecar;
        let now = clock::now();
        let policy = sidecar.policy.load();
        let breakers: Vec<_> = sidecar
            .breakers
            .troubled()
            .into_iter()
            .map(|(key, state)| {
                let (state, until) = match state {
                    State::Healthy { .. } => ("healthy", None),
                    State::Tripped { until, .. } => ("tripped", Some(until)),
                    State::Probing { until, .. } => ("probing", Some(until)),
                };
                json!({"breaker": key, "state": state, "until": until})
            })
            .chain(sidecar.runaways.all(now).into_iter().map(|(agent, until)| {
                json!({"breaker": format!("agent/{agent}"), "state": "tripped", "until": until})
            }))
            .collect();
        let budgets: Vec<_> = sidecar
            .ledger
            .lock()
            .snapshot(now)
            .into_iter()
            .map(|account| {
                let shown = |amount| sideguard_policy::ledger::shown(account.unit, amount);
                json!({
                    "budget": account.budget, "unit": account.unit, "key": account.key, "limit": shown(account.limit),
                    "spent": shown(account.spent), "held": shown(account.held), "reset_at": account.reset_at,
                })
            })
            .collect();
        json!({
            "policy": {"digest": policy.set.digest().as_ref(), "rules": policy.set.rule_count()},
            "record": {"healthy": sidecar.log.healthy(), "last": sidecar.log.last()},
            "prices": {"date": sidecar.prices.date},
            "busy": sidecar.drain.count(),
            "worker": sidecar.work.as_ref().map(Work::status),
            "breakers": breakers,
            "budgets": budgets,
        })
    }
}
