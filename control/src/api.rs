//! The REST interface below `/v1`. Each route is one line of [`ROUTES`], with the role that it takes; there is no other way to
//! add one, so that none can be reached without having been thought about.

mod approvals;
mod desired;
mod fleet;
mod keys;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router, middleware};
use http::{Method, header};
use serde::de::DeserializeOwned;
use sideguard_runtime::clock;
use sideguard_store::Store;

use crate::approvals::Webhooks;
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::{Principal, Role};
use crate::signer::Signer;

/// Longest body of a request.
const LONGEST: usize = 16 << 20;

/// What every route works with.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) store: Store,
    pub(crate) signer: Signer,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) webhooks: Arc<Webhooks>,
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Whoever asks.
    Open,
    /// Whoever has the token that the request brings.
    Token,
    /// Whoever has signed the request.
    Signature,
    /// Sidecars.
    Sidecars,
    /// Operators, approvers and viewers.
    People,
    /// Operators and approvers.
    Voters,
    /// Operators.
    Operators,
    /// Operators of all tenants.
    Owners,
}

type Routes = [(Method, &'static str, Access, fn() -> MethodRouter<Arc<Control>>); 26];

/// Every route.
fn routes() -> Routes {
    use Access::{Open, Operators, Owners, People, Sidecars, Signature, Token, Voters};
    [
        (Method::GET, "/healthz", Open, || get(fleet::healthy)),
        (Method::GET, "/readyz", Open, || get(fleet::ready)),
        (Method::GET, "/version", Open, || get(fleet::version)),
        (Method::POST, "/v1/enrol", Token, || post(fleet::enrol)),
        (Method::GET, "/v1/feed", Sidecars, || get(fleet::feed)),
        (Method::POST, "/v1/report", Sidecars, || post(fleet::report)),
        (Method::GET, "/v1/sidecars", People, || get(fleet::sidecars)),
        (Method::POST, "/v1/tokens", Operators, || post(fleet::token)),
        (Method::GET, "/v1/kills", People, || get(fleet::kills)),
        (Method::POST, "/v1/kills", Operators, || post(fleet::kill)),
        (Method::DELETE, "/v1/kills", Operators, || delete(fleet::unkill)),
        (Method::POST, "/v1/apply", Operators, || post(desired::apply)),
        (Method::POST, "/v1/delete", Operators, || post(desired::delete)),
        (Method::POST, "/v1/rollback", Owners, || post(desired::rollback)),
        (Method::GET, "/v1/generations", Owners, || get(desired::generations)),
        (Method::GET, "/v1/generations/{number}", Owners, || get(desired::generation)),
        (Method::GET, "/v1/objects", People, || get(desired::objects)),
        (Method::GET, "/v1/objects/{tenant}/{kind}/{name}", People, || get(desired::object)),
        (Method::POST, "/v1/keys", Operators, || post(keys::make)),
        (Method::POST, "/v1/approvals", Sidecars, || post(approvals::ask)),
        (Method::GET, "/v1/approvals/{id}/grant", Sidecars, || get(approvals::wait)),
        (Method::POST, "/v1/approvals/{id}/grant", Sidecars, || post(approvals::redeem)),
        (Method::GET, "/v1/approvals", People, || get(approvals::list)),
        (Method::GET, "/v1/approvals/{id}", People, || get(approvals::one)),
        (Method::POST, "/v1/approvals/{id}", Voters, || post(approvals::answer)),
        (Method::POST, "/v1/approvals/{id}/webhook", Signature, || {
            post(approvals::webhook).layer(DefaultBodyLimit::max(approvals::CALLBACK))
        }),
    ]
}

/// The service.
pub(crate) fn router(control: Arc<Control>) -> Router {
    let mut router = Router::new();
    for (_, path, access, route) in routes() {
        let guard = middleware::from_fn_with_state(
            Arc::clone(&control),
            move |state: State<Arc<Control>>, request: Request, next: Next| {
                guard(access, state, request, next)
            },
        );
        router = router.route(path, route().layer(guard));
    }
    router
        .fallback(|| async { Failure::Missing("route of this name".to_owned()) })
        .layer(DefaultBodyLimit::max(LONGEST))
        .with_state(control)
}

/// Lets a request to its route when whoever makes it may.
async fn guard(
    access: Access,
    State(control): State<Arc<Control>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    if !matches!(access, Access::Open | Access::Token | Access::Signature) {
        let key = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or(Failure::Unauthenticated)?;
        let who = crate::keys::whose(&control.store, clock::now(), key.trim()).await?;
        let may = match access {
            Access::Open | Access::Token | Access::Signature => true,
            Access::Sidecars => who.role == Role::Sidecar,
            Access::People => matches!(who.role, Role::Operator | Role::Approver | Role::Viewer),
            Access::Voters => matches!(who.role, Role::Operator | Role::Approver),
            Access::Operators => who.role == Role::Operator,
            Access::Owners => who.role == Role::Operator && who.tenant.is_none(),
        };
        if !may {
            return Err(Failure::Forbidden("do this"));
        }
        request.extensions_mut().insert(who);
    }
    Ok(next.run(request).await)
}

/// Whoever makes a request; there for every route that is not open.
type Who = Extension<Principal>;

/// A JSON body; what is wrong with it is told in the form of every other error.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(error) => Err(Failure::Invalid(error.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::extract::Request;
    use http::{Method, StatusCode};
    use sideguard_runtime::clock;
    use sideguard_store::Store;

    use super::{Access, Control, router, routes};
    use crate::feed::Waiting;
    use crate::keys::{self, Principal, Role};
    use crate::signer::Signer;

    async fn status(router: &axum::Router, method: &Method, path: &str, key: Option<&str>) -> StatusCode {
        let mut request =
            Request::builder().method(method).uri(path).header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.body(Body::from("{}")).expect("a request");
        let answer = tower::ServiceExt::oneshot(router.clone(), request).await.expect("an answer");
        answer.status()
    }

    #[tokio::test(start_paused = true)]
    async fn every_route_is_closed_to_whoever_may_not_use_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        let now = clock::now();
        let signer = Signer::open(&store, now).await.expect("a key");
        let control =
            Arc::new(Control { store, signer, waiting: Arc::new(Waiting::new()), webhooks: Arc::default() });
        let router = router(Arc::clone(&control));
        let mut keys = Vec::new();
        for (role, tenant) in [
            (Role::Operator, None),
            (Role::Operator, Some("acme".to_owned())),
            (Role::Viewer, None),
            (Role::Approver, Some("acme".to_owned())),
            (Role::Sidecar, Some("acme".to_owned())),
        ] {
            let principal = Principal::new("x", role, tenant.clone());
            keys.push((role, tenant, keys::make(&control.store, now, &principal).await.expect("a key")));
        }
        for (method, path, access, _) in routes() {
            let path = path
                .replace("{tenant}", "acme")
                .replace("{kind}", "Policy")
                .replace("{name}", "p")
                .replace("{number}", "1");
            if matches!(access, Access::Open | Access::Token | Access::Signature) {
                continue;
            }
            assert_eq!(
                status(&router, &method, &path, None).await,
                StatusCode::UNAUTHORIZED,
                "{method} {path}"
            );
            assert_eq!(status(&router, &method, &path, Some("sgk_no")).await, StatusCode::UNAUTHORIZED);
            for (role, tenant, key) in &keys {
                let may = match access {
                    Access::Sidecars => *role == Role::Sidecar,
                    Access::People => *role != Role::Sidecar,
                    Access::Voters => matches!(role, Role::Operator | Role::Approver),
                    Access::Operators => *role == Role::Operator,
                    Access::Owners => *role == Role::Operator && tenant.is_none(),
                    Access::Open | Access::Token | Access::Signature => true,
                };
                let status = status(&router, &method, &path, Some(key)).await;
                assert_eq!(
                    status != StatusCode::FORBIDDEN,
                    may,
                    "{method} {path} {role:?} {tenant:?}: {status}"
                );
            }
        }
    }
}
