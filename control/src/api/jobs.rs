//! Routes of jobs and workers: people and sidecars submit and look, sidecars work, operators decide about what was lost.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use http::{StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_runtime::clock;
use sideguard_types::control::Page;
use sideguard_types::control::jobs::{Ended, Progress, Start, Submit, Told, Work, Worker};
use sideguard_types::job::Job;

use super::{Body, Control, Who};
use crate::error::Failure;
use crate::jobs::{OF_RUNS, Wanted};
use crate::keys::Role;

pub(super) async fn submit(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(submit): Body<Submit>,
) -> Result<Json<Job>, Failure> {
    let Control { jobs, waiting, webhooks, .. } = &*control;
    if submit.idempotency_key.as_ref().is_some_and(|key| key.starts_with(OF_RUNS)) {
        let what = format!("idempotency keys that begin with `{OF_RUNS}` are of jobs of workflows");
        return Err(Failure::Invalid(what));
    }
    jobs.submit(waiting, webhooks, &who, submit).await.map(Json)
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Page<Job>>, Failure> {
    control.jobs.list(&who, &wanted).await.map(Json)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct Whose {
    /// Tenant; the key's own, or `default`, when absent.
    tenant: Option<String>,
}

pub(super) async fn one(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Query(Whose { tenant }): Query<Whose>,
) -> Result<Json<Job>, Failure> {
    control.jobs.one(&who, tenant.as_deref(), &id).await.map(Json)
}

async fn data(
    control: &Control,
    who: &crate::keys::Principal,
    tenant: Option<&str>,
    id: &str,
    what: &'static str,
) -> Result<impl IntoResponse + use<>, Failure> {
    let job = control.jobs.one(who, tenant, id).await?;
    let text = control.jobs.data(&job, what).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text))
}

pub(super) async fn input(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Query(Whose { tenant }): Query<Whose>,
) -> Result<impl IntoResponse, Failure> {
    data(&control, &who, tenant.as_deref(), &id, "input").await
}

pub(super) async fn result(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Query(Whose { tenant }): Query<Whose>,
) -> Result<impl IntoResponse, Failure> {
    data(&control, &who, tenant.as_deref(), &id, "result").await
}

/// Only for whoever may see the job; a sidecar takes back only what it passed on.
pub(super) async fn cancel(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Query(Whose { tenant }): Query<Whose>,
) -> Result<Json<Job>, Failure> {
    let job = control.jobs.one(&who, tenant.as_deref(), &id).await?;
    if who.role == Role::Sidecar && job.by.sidecar.as_ref() != Some(&who.name) {
        return Err(Failure::Forbidden("take back a job that it did not pass on"));
    }
    control.jobs.cancel(&who, &job.tenant, &id).await.map(Json)
}

pub(super) async fn retry(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Query(Whose { tenant }): Query<Whose>,
) -> Result<Json<Job>, Failure> {
    let job = control.jobs.one(&who, tenant.as_deref(), &id).await?;
    control.jobs.retry(&job.tenant, &id).await.map(Json)
}

/// Answered when there is something to tell, or after a while.
pub(super) async fn work(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(work): Body<Work>,
) -> Result<Json<Told>, Failure> {
    control.jobs.work(&control.waiting, &who, work).await.map(Json)
}

pub(super) async fn start(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Body(Start { epoch }): Body<Start>,
) -> Result<StatusCode, Failure> {
    control.jobs.start(&who, &id, epoch).await.map(|()| StatusCode::NO_CONTENT)
}

pub(super) async fn progress(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Body(progress): Body<Progress>,
) -> Result<StatusCode, Failure> {
    control.jobs.progress(&control.waiting, &who, &id, progress).await.map(|()| StatusCode::NO_CONTENT)
}

pub(super) async fn ended(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path(id): Path<String>,
    Body(ended): Body<Ended>,
) -> Result<StatusCode, Failure> {
    control.jobs.ended(&control.waiting, &who, &id, ended).await.map(|()| StatusCode::NO_CONTENT)
}

pub(super) async fn workers(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Whose { tenant }): Query<Whose>,
) -> Result<Json<Page<Worker>>, Failure> {
    let items = control.jobs.workers(&who, tenant.as_deref(), clock::now());
    Ok(Json(Page { items, next: None }))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    /// Whether it takes no more jobs.
    drain: bool,
}

pub(super) async fn drain(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path((tenant, id)): Path<(String, String)>,
    Body(Drain { drain }): Body<Drain>,
) -> Result<Json<Worker>, Failure> {
    control.jobs.drain(&who, &tenant, &id, drain).await.map(Json)
}
