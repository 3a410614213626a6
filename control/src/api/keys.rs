//! Routes of keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use sideguard_runtime::clock;

use super::{Body, Control, Who};
use crate::error::Failure;
use crate::keys::{self, Principal, Role};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    name: String,
    role: Role,
    tenant: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Makes a key; it is told once. Sidecars get theirs by enrolment.
pub(super) async fn make(
    State(control): State<Arc<Control>>,
    Extension(who): Who,
    Body(New { name, role, tenant, labels }): Body<New>,
) -> Result<Json<Value>, Failure> {
    let tenant = tenant.or_else(|| who.tenant.clone());
    if who.tenant.is_some() && tenant != who.tenant {
        return Err(Failure::Forbidden("make keys of another tenant"));
    }
    if role == Role::Sidecar {
        return Err(Failure::Invalid("a sidecar gets its key by enrolment".to_owned()));
    }
    if name.trim().is_empty() || name.contains(':') || name.len() > 100 {
        return Err(Failure::Invalid(format!("`{name}` is no name for a key")));
    }
    let principal = Principal { labels, ..Principal::new(name, role, tenant) };
    let key = keys::make(&control.store, clock::now(), &principal).await?;
    Ok(Json(
        json!({ "key": key, "name": principal.name, "role": principal.role, "tenant": principal.tenant }),
    ))
}
