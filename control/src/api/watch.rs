//! Routes that tell how the service itself does, and the sinks of the record; and what is told of every request.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header;
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_types::control::Page;
use sideguard_types::control::sinks::SinkState;

use super::{Control, Who};
use crate::error::Failure;
use crate::metrics::{Asked, Now};
use crate::{registry, sinks};

/// The form that Prometheus reads.
const FORM: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(State(control): State<Arc<Control>>) -> Result<Response, Failure> {
    let Control { store, waiting, metrics, .. } = &*control;
    let standings = metrics.standings(clock::now(), || registry::standings(store, waiting.number())).await?;
    let now = Now {
        standings: &standings,
        generation: waiting.number(),
        feed_waiters: waiting.waiting(),
        records: control.records.counts(),
        jobs: control.jobs.counts(),
    };
    let text = metrics.exposition(&now);
    Ok(([(header::CONTENT_TYPE, FORM)], text).into_response())
}

pub(super) async fn sinks(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
) -> Result<Json<Page<SinkState>>, Failure> {
    let items = sinks::states(&control.store, clock::now(), &who).await?;
    Ok(Json(Page { items, next: None }))
}

/// Counts a request, whoever makes it and however it ends.
pub(super) async fn told(
    State((control, route)): State<(Arc<Control>, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let since = Stopwatch::start();
    let (began, method) = (clock::now(), request.method().clone());
    let parent = control.metrics.parent(request.headers());
    let response = next.run(request).await;
    let asked = Asked { method: &method, route, began, parent };
    control.metrics.answered(&asked, response.status(), since.elapsed());
    response
}
