//! Routes by which people sign in at the page and out of it.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::{Extension, Json};
use http::{HeaderName, StatusCode, header};
use sideguard_runtime::clock;
use sideguard_types::control::keys::{Session, SignIn};

use super::guard::{self, COOKIE};
use super::{Body, Control, Who};
use crate::error::Failure;
use crate::keys::Principal;
use crate::sessions;

type Cookie = [(HeaderName, String); 1];

fn set(id: &str, rest: &str, tls: bool) -> Cookie {
    let secure = if tls { "; Secure" } else { "" };
    [(header::SET_COOKIE, format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict{rest}{secure}"))]
}

fn told(who: Principal) -> Json<Session> {
    let Principal { name, role, tenant, .. } = who;
    Json(Session { name, role, tenant, version: env!("CARGO_PKG_VERSION").to_owned() })
}

pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    request: Request,
) -> Result<(Cookie, Json<Session>), Failure> {
    let tls = guard::peer(&request).tls;
    // Nobody is to be signed in by another site's page either.
    guard::own_page(request.method(), request.headers(), tls)?;
    let Body(SignIn { key }) = Body::from_request(request, &()).await?;
    let (id, who) = sessions::begin(&control.store, clock::now(), key.trim()).await?;
    Ok((set(&id, "", tls), told(who)))
}

pub(super) async fn whose(Extension(who): Who) -> Json<Session> {
    told(who)
}

pub(super) async fn end(
    State(control): State<Arc<Control>>,
    request: Request,
) -> Result<(StatusCode, Cookie), Failure> {
    if let Some(id) = guard::cookie(request.headers()) {
        sessions::end(&control.store, clock::now(), id).await?;
    }
    Ok((StatusCode::NO_CONTENT, set("", "; Max-Age=0", guard::peer(&request).tls)))
}
