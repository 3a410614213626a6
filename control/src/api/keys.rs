//! Routes of keys.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::{Extension, Json};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_runtime::clock;
use sideguard_types::control::Page;
use sideguard_types::control::keys::{KeyEntry, KeyRequest, NewKey};

use super::{Body, Control, Who, page};
use crate::error::Failure;
use crate::keys::Role;
use crate::{delegations, keys};

#[derive(Deserialize, JsonSchema)]
pub(super) struct Which {
    /// A page's `next`.
    after: Option<String>,
    /// Most items of the page.
    limit: Option<usize>,
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Which { after, limit }): Query<Which>,
) -> Result<Json<Page<KeyEntry>>, Failure> {
    keys::list(&control.store, clock::now(), &who, after.as_deref(), page(limit, 200)).await.map(Json)
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(asked): Body<KeyRequest>,
) -> Result<Json<NewKey>, Failure> {
    keys::create(&control.store, clock::now(), &who, asked).await.map(Json)
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct One {
    /// Its id, as the listing tells it.
    id: String,
}

pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(One { id }): Query<One>,
) -> Result<StatusCode, Failure> {
    let now = clock::now();
    let revoked = keys::revoke(&control.store, now, &who, &id).await?;
    if revoked.role == Role::Sidecar {
        // Its passport outlives its key: what it has signed is believed by nobody from now on.
        delegations::put_out(&control.store, now, &who, &revoked).await?;
        control.waiting.look_after(&control.store).await;
    }
    Ok(StatusCode::NO_CONTENT)
}
