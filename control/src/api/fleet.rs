//! Routes of sidecars: enrolment, feed, reports, kill switches; and of the service's own health.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::{Extension, Json};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sideguard_runtime::clock;
use sideguard_types::control::{
    Enrol, Enrolled, Feed, Kill, Page, Report, Scope, Sidecar, Token, TokenRequest,
};

use super::{Body, Control, Who};
use crate::error::Failure;
use crate::keys::{self, Principal};
use crate::{desired, kills, registry};

pub(super) async fn healthy() -> &'static str {
    "ok\n"
}

pub(super) async fn ready(State(control): State<Arc<Control>>) -> Result<&'static str, Failure> {
    control.store.health().await?;
    Ok("ready\n")
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

pub(super) async fn enrol(
    State(control): State<Arc<Control>>,
    Body(Enrol { token, sidecar }): Body<Enrol>,
) -> Result<Json<Enrolled>, Failure> {
    let signer = control.signer.public();
    keys::enrol(&control.store, clock::now(), &token, &sidecar, signer).await.map(Json)
}

#[derive(Deserialize)]
pub(super) struct Has {
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    kills: u64,
}

pub(super) async fn feed(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(has): Query<Has>,
) -> Result<Json<Feed>, Failure> {
    let tenant = who.tenant.as_deref().unwrap_or("default");
    let Control { store, signer, waiting, .. } = &*control;
    waiting.wait(store, signer, tenant, has.generation, has.kills).await.map(Json)
}

pub(super) async fn report(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(report): Body<Report>,
) -> Result<StatusCode, Failure> {
    registry::heard(&control.store, clock::now(), &who, report).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(super) struct Which {
    after: Option<String>,
    tenant: Option<String>,
}

pub(super) async fn sidecars(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Which { after, tenant }): Query<Which>,
) -> Result<Json<Page<Sidecar>>, Failure> {
    let now = clock::now();
    let head = desired::head(&control.store, now).await?.kept.told.number;
    let mut page = registry::list(&control.store, now, &who, head, after.as_deref()).await?;
    page.items.retain(|sidecar| tenant.as_ref().is_none_or(|tenant| *tenant == sidecar.tenant));
    Ok(Json(page))
}

pub(super) async fn token(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(asked): Body<TokenRequest>,
) -> Result<Json<Token>, Failure> {
    if !who.reaches(asked.tenant.as_deref().unwrap_or("default")) {
        return Err(Failure::Missing("tenant of that name".to_owned()));
    }
    keys::token(&control.store, clock::now(), asked).await.map(Json)
}

pub(super) async fn kills(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
) -> Result<Json<Page<Kill>>, Failure> {
    let kept = kills::kept(&control.store, clock::now()).await?;
    let items = kept.kills.into_iter().filter(|kill| may_see(&who, &kill.scope)).collect();
    Ok(Json(Page { items, next: None }))
}

fn may_see(who: &Principal, scope: &Scope) -> bool {
    match scope {
        Scope::Fleet => true,
        Scope::Tenant(tenant) | Scope::Agent { tenant, .. } => who.reaches(tenant),
    }
}

/// Only who reaches all that a switch stops may touch it.
fn may_stop(who: &Principal, scope: &Scope) -> Result<(), Failure> {
    let may = match scope {
        Scope::Fleet => who.tenant.is_none(),
        Scope::Tenant(tenant) | Scope::Agent { tenant, .. } => who.reaches(tenant),
    };
    if may { Ok(()) } else { Err(Failure::Missing("scope of that name".to_owned())) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    scope: String,
    #[serde(default)]
    reason: String,
}

fn scope(text: &str) -> Result<Scope, Failure> {
    Scope::parse(text).ok_or_else(|| {
        Failure::Invalid(format!(
            "`{text}` is no scope: write fleet, tenant/NAME, agent/NAME or agent/TENANT/NAME"
        ))
    })
}

pub(super) async fn kill(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(Stop { scope: text, reason }): Body<Stop>,
) -> Result<Json<Kill>, Failure> {
    let scope = scope(&text)?;
    may_stop(&who, &scope)?;
    let kill = Kill { scope, reason, by: who.name, time: clock::now() };
    kills::on(&control.store, clock::now(), &kill).await?;
    control.waiting.look(&control.store).await?;
    Ok(Json(kill))
}

#[derive(Deserialize)]
pub(super) struct Off {
    scope: String,
}

pub(super) async fn unkill(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Off { scope: text }): Query<Off>,
) -> Result<StatusCode, Failure> {
    let scope = scope(&text)?;
    may_stop(&who, &scope)?;
    kills::off(&control.store, clock::now(), &scope).await?;
    control.waiting.look(&control.store).await?;
    Ok(StatusCode::NO_CONTENT)
}
