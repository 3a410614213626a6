//! Routes of delegation.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use sideguard_runtime::clock;
use sideguard_types::control::Kill;
use sideguard_types::delegation::{Passport, PassportRequest, Revoke};

use super::{Body, Control, Who};
use crate::delegations;
use crate::error::Failure;

pub(super) async fn passport(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(asked): Body<PassportRequest>,
) -> Result<Json<Passport>, Failure> {
    delegations::passport(&control.store, &control.signer, clock::now(), &who, asked).await.map(Json)
}

pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(asked): Body<Revoke>,
) -> Result<Json<Kill>, Failure> {
    let kill = delegations::revoke(&control.store, clock::now(), &who, asked).await?;
    control.waiting.look_after(&control.store).await;
    Ok(Json(kill))
}
