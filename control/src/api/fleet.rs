//! Routes of sidecars: enrolment, feed, reports, kill switches; and of the service's own health.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sideguard_kubernetes::reviews as tokens;
use sideguard_runtime::clock;
use sideguard_types::control::feed::{Beat, Has, Leave};
use sideguard_types::control::{
    Enrol, Enrolled, Feed, Kill, Page, Report, Scope, Sidecar, Token, TokenRequest,
};

use super::{Body, Control, Who, page};
use crate::error::Failure;
use crate::keys::{self, Principal};
use crate::{feed, kills, registry};

/// How long a stream of the feed lasts.
const LONGEST_STREAM: std::time::Duration = std::time::Duration::from_secs(600);

/// Longest scope and reason of a kill switch, in bytes.
const LONGEST_SCOPE: usize = 400;
const LONGEST_REASON: usize = 500;

pub(super) async fn healthy() -> &'static str {
    "ok\n"
}

pub(super) async fn ready(State(control): State<Arc<Control>>) -> Result<&'static str, Failure> {
    control.store.health().await?;
    Ok("ready\n")
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Version {
    /// Version of the service.
    version: String,
}

pub(super) async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION").to_owned() })
}

pub(super) async fn enrol(
    State(control): State<Arc<Control>>,
    Body(enrol): Body<Enrol>,
) -> Result<Json<Enrolled>, Failure> {
    let signer = control.signer.public();
    if let Some(kubernetes) = control.kubernetes.as_ref().filter(|_| tokens::is_plausible(&enrol.token)) {
        return kubernetes.enrol(&control.store, clock::now(), enrol, signer).await.map(Json);
    }
    keys::enrol(&control.store, clock::now(), enrol, signer).await.map(Json)
}

pub(super) async fn feed(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(has): Query<Has>,
) -> Result<Json<Feed>, Failure> {
    let Control { store, signer, waiting, .. } = &*control;
    waiting.wait(store, signer, &who, &has).await.map(Json)
}

pub(super) async fn feed_stream(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(has): Query<Has>,
) -> Result<impl IntoResponse, Failure> {
    let stream = feed::stream(control, &who, has)?;
    let told = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // What nginx heeds: an event that waits in a buffer is none.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    // An end now and then: whoever may no longer listen is asked for the key again.
    let stream = stream.take_until(Box::pin(tokio::time::sleep(LONGEST_STREAM)));
    Ok((told, axum::body::Body::from_stream(stream)))
}

/// Answered with what is in force, signed with the report's nonce.
pub(super) async fn report(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(mut report): Body<Report>,
) -> Result<Json<Option<Beat>>, Failure> {
    let nonce = std::mem::take(&mut report.nonce);
    registry::heard(&control.store, clock::now(), &who, report).await?;
    Ok(Json(control.waiting.beat(&control.signer, who.sidecars_tenant(), &nonce)))
}

pub(super) async fn leave(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    headers: HeaderMap,
    Body(Leave { forget }): Body<Leave>,
) -> Result<StatusCode, Failure> {
    let key = super::bearer(&headers).filter(|_| forget);
    registry::left(&control.store, clock::now(), &who, key).await?;
    if let Some(key) = key {
        control.known.forget(key);
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Which {
    /// A page's `next`.
    after: Option<String>,
    /// Most items of the page.
    limit: Option<usize>,
    /// Tenant; all that the key reaches when absent.
    tenant: Option<String>,
}

pub(super) async fn sidecars(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Which { after, limit, tenant }): Query<Which>,
) -> Result<Json<Page<Sidecar>>, Failure> {
    let now = clock::now();
    let head = control.waiting.number();
    let limit = page(limit, 500);
    let (tenant, after) = (tenant.as_deref(), after.as_deref());
    registry::list(&control.store, now, &who, tenant, head, after, limit).await.map(Json)
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
        Scope::Tenant(tenant) | Scope::Agent { tenant, .. } | Scope::Delegation { tenant, .. } => {
            who.reaches(tenant)
        }
    }
}

/// Only who reaches all that a switch stops may touch it.
fn may_stop(who: &Principal, scope: &Scope) -> Result<(), Failure> {
    let may = match scope {
        Scope::Fleet => who.tenant.is_none(),
        Scope::Tenant(tenant) | Scope::Agent { tenant, .. } | Scope::Delegation { tenant, .. } => {
            who.reaches(tenant)
        }
    };
    if may { Ok(()) } else { Err(Failure::Missing("scope of that name".to_owned())) }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    /// What: `fleet`, `tenant/NAME`, `agent/NAME`, `agent/TENANT/NAME` or `delegation/TENANT/ID`.
    scope: String,
    /// Why.
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
    if text.len() > LONGEST_SCOPE || reason.len() > LONGEST_REASON {
        return Err(Failure::Invalid("the scope or the reason is too long".to_owned()));
    }
    let scope = scope(&text)?;
    may_stop(&who, &scope)?;
    let kill = Kill { scope, reason, by: who.name, owner: who.tenant.is_none(), time: clock::now() };
    kills::on(&control.store, clock::now(), &kill).await?;
    control.waiting.look_after(&control.store).await;
    Ok(Json(kill))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Off {
    /// What goes on: as it was stopped.
    scope: String,
}

pub(super) async fn unkill(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(Off { scope: text }): Query<Off>,
) -> Result<StatusCode, Failure> {
    let scope = scope(&text)?;
    may_stop(&who, &scope)?;
    kills::off(&control.store, clock::now(), &scope, who.tenant.is_none()).await?;
    control.waiting.look_after(&control.store).await;
    Ok(StatusCode::NO_CONTENT)
}
