//! Routes of the desired state.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_runtime::clock;
use sideguard_types::control::{Applied, Apply, Change, Generation, Name, Object, Page};

use super::{Body, Control, Who, page};
use crate::desired::{self, Wish};
use crate::error::Failure;

/// Most objects of one page.
const PAGE: usize = 200;

pub(super) async fn apply(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(apply): Body<Apply>,
) -> Result<Json<Applied>, Failure> {
    change(&control, &who, Wish::Apply(apply)).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Delete {
    /// The objects.
    names: Vec<Name>,
}

pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(Delete { names }): Body<Delete>,
) -> Result<Json<Applied>, Failure> {
    change(&control, &who, Wish::Delete(names)).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    /// The generation.
    to: u64,
}

pub(super) async fn rollback(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(Rollback { to }): Body<Rollback>,
) -> Result<Json<Applied>, Failure> {
    change(&control, &who, Wish::Rollback(to)).await
}

async fn change(
    control: &Control,
    who: &crate::keys::Principal,
    wish: Wish,
) -> Result<Json<Applied>, Failure> {
    let applied = desired::change(&control.store, clock::now(), who, wish).await?;
    control.waiting.look_after(&control.store).await;
    Ok(Json(applied))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Since {
    /// A page's `next`.
    after: Option<u64>,
    /// Most items of the page.
    limit: Option<usize>,
}

/// Newest first; `after` is the number of the last one of the page before.
pub(super) async fn generations(
    State(control): State<Arc<Control>>,
    Query(Since { after, limit }): Query<Since>,
) -> Result<Json<Page<Generation>>, Failure> {
    let now = clock::now();
    let newest = desired::number(&control.store, now).await?;
    let mut number = after.map_or(newest, |after| after.saturating_sub(1).min(newest));
    let mut items = Vec::new();
    let limit = page(limit, PAGE);
    while number > 0 && items.len() < limit {
        items.push(desired::told(&control.store, now, number).await?);
        number -= 1;
    }
    let next = items.last().filter(|_| number > 0).map(|last| last.number.to_string());
    Ok(Json(Page { items, next }))
}

pub(super) async fn generation(
    State(control): State<Arc<Control>>,
    Path(number): Path<u64>,
) -> Result<Json<Generation>, Failure> {
    Ok(Json(desired::told(&control.store, clock::now(), number).await?))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Before {
    /// The generation to compare with; the one before when absent, zero for none.
    from: Option<u64>,
}

/// What changed from one generation to another.
pub(super) async fn changes(
    State(control): State<Arc<Control>>,
    Path(number): Path<u64>,
    Query(Before { from }): Query<Before>,
) -> Result<Json<Page<Change>>, Failure> {
    let from = from.unwrap_or(number.saturating_sub(1));
    let items = desired::between(&control.store, clock::now(), from, number).await?;
    Ok(Json(Page { items, next: None }))
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Wanted {
    /// Kind, such as `Policy`.
    kind: Option<String>,
    /// Tenant.
    tenant: Option<String>,
    /// Labels that they must have, as `key=value,key=value`.
    labels: Option<String>,
    /// A page's `next`.
    after: Option<String>,
    /// Most items of the page.
    limit: Option<usize>,
}

pub(super) async fn objects(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Page<Object>>, Failure> {
    let now = clock::now();
    let head = desired::head(&control.store, now).await?.kept;
    let labels: Vec<(&str, &str)> = wanted
        .labels
        .as_deref()
        .unwrap_or_default()
        .split(',')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            pair.split_once('=').ok_or_else(|| Failure::Invalid(format!("`{pair}` is not KEY=VALUE")))
        })
        .collect::<Result<_, _>>()?;
    let place = |name: &Name| format!("{}/{}/{}", name.tenant, name.kind, name.name);
    let mut fitting = head.entries.iter().filter(|entry| {
        let Name { tenant, kind, .. } = &entry.name;
        entry.seen_by(&who)
            && wanted.kind.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(kind))
            && wanted.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
            && labels.iter().all(|(key, value)| entry.labels.get(*key).is_some_and(|own| own == value))
            && wanted.after.as_ref().is_none_or(|after| place(&entry.name) > *after)
    });
    let mut items = Vec::new();
    for entry in fitting.by_ref().take(page(wanted.limit, PAGE)) {
        items.push(desired::object(&control.store, now, entry).await?);
    }
    let next = fitting.next().and(items.last()).map(|last| place(&last.name));
    Ok(Json(Page { items, next }))
}

pub(super) async fn object(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Path((tenant, kind, name)): Path<(String, String, String)>,
) -> Result<Json<Object>, Failure> {
    let now = clock::now();
    let head = desired::head(&control.store, now).await?.kept;
    let found = head.entries.iter().find(|entry| {
        entry.name.tenant == tenant
            && entry.name.kind.eq_ignore_ascii_case(&kind)
            && entry.name.name == name
            && entry.seen_by(&who)
    });
    let entry = found.ok_or_else(|| Failure::Missing(format!("{kind} `{name}` in tenant `{tenant}`")))?;
    Ok(Json(desired::object(&control.store, now, entry).await?))
}
