//! Routes of the record.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::StreamExt;
use http::header;
use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_runtime::clock;
use sideguard_types::control::Page;
use sideguard_types::control::records::{Entry, Journal, Position};

use super::{Control, Who};
use crate::error::Failure;
use crate::records::live::Seen;
use crate::records::query::{Filter, query};
use crate::records::{self, Sent};

/// Longest time that a batch may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(20);
/// How often a stream without entries says that it is alive.
const ALIVE: Duration = Duration::from_secs(15);
/// How long a stream lasts.
const LONGEST_WATCH: Duration = Duration::from_secs(3_600);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Shipped {
    /// The public key of the sidecar's record, in hex.
    key: String,
    /// Position of the first line.
    #[serde(default, rename = "from")]
    _from: u64,
}

pub(super) async fn take(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(sidecar): Path<String>,
    Query(Shipped { key, .. }): Query<Shipped>,
    request: Request,
) -> Result<Json<Position>, Failure> {
    // Whoever has no place is not read yet, so that a thousand sidecars at once take no more memory than a few.
    let _place = control.records.places.acquire().await.map_err(|_| Failure::Missing("place".to_owned()))?;
    let read = axum::body::to_bytes(request.into_body(), records::LONGEST);
    let lines = tokio::time::timeout(ARRIVAL, read)
        .await
        .map_err(|_| Failure::Invalid("the batch did not arrive in time".to_owned()))?
        .map_err(|error| Failure::Invalid(error.to_string()))?;
    let sent = Sent { sidecar: &sidecar, key: &key, lines: &lines };
    control.records.take(&control.store, clock::now(), &who, sent).await.map(Json)
}

pub(super) async fn journals(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
) -> Result<Json<Page<Journal>>, Failure> {
    let items = records::journals(&control.store, clock::now(), &who).await?;
    Ok(Json(Page { items, next: None }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// Tenant.
    tenant: Option<String>,
    /// Where the page begins.
    after: Option<String>,
}

pub(super) async fn journal(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(sidecar): Path<String>,
    Query(Part { tenant, after }): Query<Part>,
) -> Result<Json<Page<Entry>>, Failure> {
    let which = (sidecar.as_str(), tenant.as_deref());
    records::follow::journal(&control.store, &who, which, after.as_deref()).await.map(Json)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Id of the sidecar.
    sidecar: String,
    /// Position of the record.
    position: u64,
    /// Tenant of the sidecar.
    tenant: Option<String>,
}

pub(super) async fn prove(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Which { sidecar, position, tenant }): Query<Which>,
) -> Result<Response, Failure> {
    let which = (sidecar.as_str(), tenant.as_deref());
    let Control { store, signer, .. } = &*control;
    let proof = records::prove::prove(store, clock::now(), signer, &who, which, position).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], proof).into_response())
}

pub(super) async fn watch(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(filter): Query<Filter>,
) -> Result<impl IntoResponse, Failure> {
    let seen = control.records.live.watch(who, filter).await?;
    let events = seen.map(|seen| match seen {
        Seen::Entry(entry) => Event::default().json_data(&*entry),
        // Not a message: whoever reads only those does not stumble over it.
        Seen::Missed(count) => Ok(Event::default().event("missed").data(count.to_string())),
    });
    // An end now and then: whoever may no longer watch is asked for the key again.
    let events = events.take_until(Box::pin(tokio::time::sleep(LONGEST_WATCH)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Entry>>, Failure> {
    query(&control.store, clock::now(), &who, &filter).await.map(Json)
}
