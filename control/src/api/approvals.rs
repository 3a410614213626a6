//! Routes of approvals: sidecars ask and redeem, people look and answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use http::HeaderMap;
use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_runtime::clock;
use sideguard_types::control::Page;
use sideguard_types::control::approvals::{self as told, Answer, Approval, Ask, Redeem, Standing};

use super::{Body, Control, Who};
use crate::approvals;
use crate::error::Failure;

/// Most approvals of one page.
const PAGE: usize = 200;
/// Longest body of a webhook's answer, whoever sends it.
pub(super) const CALLBACK: usize = 64 << 10;
/// Longest that a sidecar's question is held.
const HELD: u64 = 25;

pub(super) async fn ask(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(ask): Body<Ask>,
) -> Result<Json<Standing>, Failure> {
    approvals::ask(&control.store, &control.webhooks, clock::now(), &who, ask).await.map(Json)
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Wait {
    /// Seconds to wait for a decision.
    #[serde(default)]
    wait: u64,
}

/// Answered when the approval is decided, or after `wait` seconds.
pub(super) async fn wait(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Query(Wait { wait }): Query<Wait>,
) -> Result<Json<Standing>, Failure> {
    approvals::wait(&control.store, &who, &id, Duration::from_secs(wait.min(HELD))).await.map(Json)
}

pub(super) async fn redeem(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Body(redeem): Body<Redeem>,
) -> Result<Json<Standing>, Failure> {
    approvals::redeem(&control.store, &who, &id, &redeem).await.map(Json)
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Wanted {
    /// Only those in this state.
    state: Option<told::State>,
    /// A page's `next`.
    after: Option<String>,
    /// Most items of the page.
    limit: Option<usize>,
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Wanted { state, after, limit }): Query<Wanted>,
) -> Result<Json<Page<Approval>>, Failure> {
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE);
    approvals::list(&control.store, clock::now(), &who, state, after.as_deref(), limit).await.map(Json)
}

pub(super) async fn one(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
) -> Result<Json<Approval>, Failure> {
    approvals::whole(&control.store, clock::now(), &who, &id).await.map(Json)
}

pub(super) async fn answer(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Body(answer): Body<Answer>,
) -> Result<Json<Approval>, Failure> {
    approvals::answer(&control.store, &who, &id, &answer).await.map(Json)
}

/// The body is taken as it came: that is what is signed.
pub(super) async fn webhook(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Approval>, Failure> {
    control.webhooks.answered(&control.store, &id, &headers, &body).await.map(Json)
}
