//! Routes of budgets: leases for sidecars, and how the accounts stand.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_types::control::Page;
use sideguard_types::control::budgets::{Account, Answer, Ask, History, Turned, Turns};

use super::{Body, Control, Who};
use crate::budgets::Wanted;
use crate::error::Failure;

pub(super) async fn hold(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(ask): Body<Ask>,
) -> Result<Json<Answer>, Failure> {
    control.budgets.hold(&control.store, &who, ask).await.map(Json)
}

pub(super) async fn turn(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(turns): Body<Turns>,
) -> Result<Json<Turned>, Failure> {
    control.budgets.turn(&control.store, &who, turns).await.map(Json)
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Which {
    /// Tenant.
    tenant: Option<String>,
    /// A page's `next`.
    after: Option<String>,
    /// Most items of the page.
    limit: Option<usize>,
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Which { tenant, after, limit }): Query<Which>,
) -> Result<Json<Page<Account>>, Failure> {
    let part = (after.as_deref(), limit);
    control.budgets.list(&control.store, &who, tenant.as_deref(), part).await.map(Json)
}

pub(super) async fn history(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<History>, Failure> {
    let Query(wanted) = wanted.map_err(|error| Failure::Invalid(error.body_text()))?;
    control.budgets.history(&control.store, &who, &wanted).await.map(Json)
}
