//! Routes of runs of workflows.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_types::control::Page;
use sideguard_types::control::workflows::{Cancel, Rerun, Start, Summary};
use sideguard_types::workflow::{Run, RunState};

use super::{Body, Control, Who, page};
use crate::error::Failure;
use crate::workflows;

/// Most runs of one page.
const PAGE: usize = 200;

pub(super) async fn start(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(start): Body<Start>,
) -> Result<Json<Run>, Failure> {
    workflows::start(&control.store, &who, start).await.map(Json)
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Wanted {
    /// Only those of this workflow.
    workflow: Option<String>,
    /// Only those of this tenant.
    tenant: Option<String>,
    /// Only those in this state.
    state: Option<RunState>,
    /// A page's `next`.
    after: Option<String>,
    /// Most items of the page.
    limit: Option<usize>,
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Wanted { workflow, tenant, state, after, limit }): Query<Wanted>,
) -> Result<Json<Page<Summary>>, Failure> {
    let wanted = workflows::Wanted { workflow, tenant, state, after, limit: page(limit, PAGE) };
    workflows::list(&control.store, &who, &wanted).await.map(Json)
}

pub(super) async fn one(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
) -> Result<Json<Run>, Failure> {
    workflows::one(&control.store, &who, &id).await.map(Json)
}

pub(super) async fn cancel(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Body(how): Body<Cancel>,
) -> Result<Json<Run>, Failure> {
    workflows::cancel(&control.store, &who, &id, &how).await.map(Json)
}

pub(super) async fn rerun(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Body(how): Body<Rerun>,
) -> Result<Json<Run>, Failure> {
    workflows::rerun(&control.store, &who, &id, &how).await.map(Json)
}
