//! Routes of the record.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::{Extension, Json};
use serde::Deserialize;
use sideguard_runtime::clock;
use sideguard_types::control::Page;
use sideguard_types::control::records::{Entry, Position};

use super::{Control, Who};
use crate::error::Failure;
use crate::records::query::{Filter, query};
use crate::records::{self, Sent};

/// Longest time that a batch may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shipped {
    key: String,
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

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Entry>>, Failure> {
    query(&control.store, clock::now(), &who, &filter).await.map(Json)
}
