//! The REST interface below `/v1`. Each route is one line of [`ROUTES`], with the role that it takes; there is no other way to
//! add one, so that none can be reached without having been thought about.

mod approvals;
mod budgets;
mod delegations;
mod described;
mod desired;
mod fleet;
mod guard;
mod jobs;
mod keys;
mod records;
mod session;
mod watch;
mod workflows;

use std::sync::{Arc, LazyLock};

use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::middleware::Next;
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router, middleware};
use http::{HeaderMap, Method, StatusCode, header};
use serde::de::DeserializeOwned;
use sideguard_store::Store;

use crate::approvals::Webhooks;
use crate::budgets::Budgets;
use crate::cluster::Accounts;
use crate::error::Failure;
use crate::feed::Waiting;
use crate::jobs::Jobs;
use crate::keys::Principal;
use crate::known::Known;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::openapi;
use crate::page as files;
use crate::records::Records;
use crate::signer::Signer;

pub(crate) use guard::Hosts;

/// Longest body of a request.
const LONGEST: usize = 16 << 20;
/// Longest body of a request that carries a few names and numbers.
const SHORT: usize = 64 << 10;

/// What every route works with.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) store: Store,
    pub(crate) signer: Signer,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) limits: Limits,
    pub(crate) hosts: Hosts,
    /// Whether clients need a certificate.
    pub(crate) certificates: bool,
    pub(crate) records: Records,
    pub(crate) webhooks: Arc<Webhooks>,
    pub(crate) known: Arc<Known>,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether only this machine reaches the port.
    pub(crate) loopback: bool,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) jobs: Arc<Jobs>,
    /// The cluster whose service accounts enrol.
    pub(crate) kubernetes: Option<Arc<Accounts>>,
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
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
    /// The same, of all tenants.
    Overseers,
    /// Operators and approvers.
    Voters,
    /// Operators.
    Operators,
    /// Operators and sidecars.
    Submitters,
    /// People and sidecars.
    Known,
    /// Operators of all tenants.
    Owners,
    /// Operators and viewers of all tenants; where the port is on loopback alone, whoever asks.
    Scrape,
}

/// One line of the table: method, path, who may, and what answers.
type Route = (Method, &'static str, Access, fn() -> MethodRouter<Arc<Control>>);

/// Every route.
fn routes() -> Vec<Route> {
    use Access::{
        Known, Open, Operators, Overseers, Owners, People, Scrape, Sidecars, Signature, Submitters, Token,
        Voters,
    };
    vec![
        (Method::GET, "/", Open, || get(files::index)),
        (Method::GET, "/page/{file}", Open, || get(files::asset)),
        (Method::GET, "/healthz", Open, || get(fleet::healthy)),
        (Method::GET, "/readyz", Open, || get(fleet::ready)),
        (Method::GET, "/version", Open, || get(fleet::version)),
        (Method::GET, "/metrics", Scrape, || get(watch::metrics)),
        (Method::GET, "/v1/sinks", People, || get(watch::sinks)),
        (Method::GET, "/openapi.json", Open, || get(openapi)),
        (Method::POST, "/session", Token, || post(session::begin)),
        (Method::GET, "/session", People, || get(session::whose)),
        (Method::DELETE, "/session", People, || delete(session::end)),
        (Method::GET, "/v1/keys", Operators, || get(keys::list)),
        (Method::POST, "/v1/keys", Operators, || post(keys::create)),
        (Method::DELETE, "/v1/keys", Operators, || delete(keys::revoke)),
        (Method::POST, "/v1/enrol", Token, || post(fleet::enrol)),
        (Method::GET, "/v1/feed", Sidecars, || get(fleet::feed)),
        (Method::GET, "/v1/feed/stream", Sidecars, || get(fleet::feed_stream)),
        (Method::POST, "/v1/leave", Sidecars, || post(fleet::leave)),
        (Method::POST, "/v1/report", Sidecars, || post(fleet::report)),
        (Method::POST, "/v1/passports", Sidecars, || post(delegations::passport)),
        (Method::POST, "/v1/delegations/revoke", Operators, || post(delegations::revoke)),
        (Method::POST, "/v1/leases", Sidecars, || post(budgets::hold)),
        (Method::POST, "/v1/leases/turns", Sidecars, || post(budgets::turn)),
        (Method::GET, "/v1/budgets", People, || get(budgets::list)),
        (Method::GET, "/v1/budgets/history", People, || get(budgets::history)),
        (Method::GET, "/v1/sidecars", People, || get(fleet::sidecars)),
        (Method::POST, "/v1/tokens", Operators, || post(fleet::token)),
        (Method::GET, "/v1/kills", People, || get(fleet::kills)),
        (Method::POST, "/v1/kills", Operators, || post(fleet::kill)),
        (Method::DELETE, "/v1/kills", Operators, || delete(fleet::unkill)),
        (Method::POST, "/v1/records/{sidecar}", Sidecars, || post(records::take)),
        (Method::GET, "/v1/records", People, || get(records::find)),
        (Method::GET, "/v1/records/stream", People, || get(records::watch)),
        (Method::GET, "/v1/records/{sidecar}", People, || get(records::journal)),
        (Method::GET, "/v1/journals", People, || get(records::journals)),
        (Method::GET, "/v1/records/proof", People, || get(records::prove)),
        (Method::POST, "/v1/apply", Operators, || post(desired::apply)),
        (Method::POST, "/v1/delete", Operators, || post(desired::delete)),
        (Method::POST, "/v1/rollback", Owners, || post(desired::rollback)),
        (Method::GET, "/v1/generations", Overseers, || get(desired::generations)),
        (Method::GET, "/v1/generations/{number}", Overseers, || get(desired::generation)),
        (Method::GET, "/v1/generations/{number}/changes", Overseers, || get(desired::changes)),
        (Method::GET, "/v1/objects", People, || get(desired::objects)),
        (Method::GET, "/v1/objects/{tenant}/{kind}/{name}", People, || get(desired::object)),
        (Method::POST, "/v1/jobs", Submitters, || post(jobs::submit)),
        (Method::GET, "/v1/jobs", People, || get(jobs::list)),
        (Method::GET, "/v1/jobs/{id}", Known, || get(jobs::one)),
        (Method::DELETE, "/v1/jobs/{id}", Submitters, || delete(jobs::cancel)),
        (Method::GET, "/v1/jobs/{id}/input", Known, || get(jobs::input)),
        (Method::GET, "/v1/jobs/{id}/result", Known, || get(jobs::result)),
        (Method::POST, "/v1/jobs/{id}/retry", Operators, || post(jobs::retry)),
        (Method::POST, "/v1/jobs/{id}/start", Sidecars, || post(jobs::start)),
        (Method::POST, "/v1/jobs/{id}/progress", Sidecars, || post(jobs::progress)),
        (Method::POST, "/v1/jobs/{id}/result", Sidecars, || post(jobs::ended)),
        (Method::POST, "/v1/work", Sidecars, || post(jobs::work)),
        (Method::GET, "/v1/workers", People, || get(jobs::workers)),
        (Method::POST, "/v1/workers/{tenant}/{id}", Operators, || post(jobs::drain)),
        (Method::POST, "/v1/approvals", Sidecars, || post(approvals::ask)),
        (Method::GET, "/v1/approvals/{id}/grant", Sidecars, || get(approvals::wait)),
        (Method::POST, "/v1/approvals/{id}/grant", Sidecars, || post(approvals::redeem)),
        (Method::GET, "/v1/approvals", People, || get(approvals::list)),
        (Method::GET, "/v1/approvals/{id}", People, || get(approvals::one)),
        (Method::POST, "/v1/approvals/{id}", Voters, || post(approvals::answer)),
        (Method::POST, "/v1/runs", Operators, || post(workflows::start)),
        (Method::GET, "/v1/runs", People, || get(workflows::list)),
        (Method::GET, "/v1/runs/{id}", People, || get(workflows::one)),
        (Method::POST, "/v1/runs/{id}/cancel", Operators, || post(workflows::cancel)),
        (Method::POST, "/v1/runs/{id}/rerun", Operators, || post(workflows::rerun)),
        (Method::POST, "/v1/approvals/{id}/webhook", Signature, || {
            post(approvals::webhook).layer(DefaultBodyLimit::max(approvals::CALLBACK))
        }),
    ]
}

/// Whether a route's answer is held until there is something to tell, or goes on without end.
fn held(path: &str) -> bool {
    ["/feed", "/grant", "/stream", "/work"].iter().any(|end| path.ends_with(end))
}

/// Longest body that a route takes.
fn longest(path: &str) -> usize {
    match path {
        "/session"
        | "/v1/keys"
        | "/v1/enrol"
        | "/v1/tokens"
        | "/v1/kills"
        | "/v1/rollback"
        | "/v1/passports"
        | "/v1/delegations/revoke" => SHORT,
        "/v1/report" | "/v1/delete" => 1 << 20,
        "/v1/work" => 256 << 10,
        "/v1/jobs" | "/v1/jobs/{id}/result" => 4 << 20,
        _ if path.starts_with("/v1/jobs/") || path.starts_with("/v1/workers/") => SHORT,
        "/v1/approvals" => 2 << 20,
        "/v1/runs" => 512 << 10,
        _ if path.starts_with("/v1/runs/") => SHORT,
        _ if path.starts_with("/v1/approvals/") => SHORT,
        _ if path.starts_with("/v1/leases") => 256 << 10,
        _ => LONGEST,
    }
}

/// The service.
pub(crate) fn router(control: Arc<Control>) -> Router {
    let mut router = Router::new();
    for (_, path, access, route) in routes() {
        let guard = middleware::from_fn_with_state(
            Arc::clone(&control),
            move |state: State<Arc<Control>>, request: Request, next: Next| {
                guard::guard(access, held(path), state, request, next)
            },
        );
        let limit = DefaultBodyLimit::max(longest(path));
        let told = middleware::from_fn_with_state((Arc::clone(&control), path), watch::told);
        router = router.route(path, route().layer(limit).layer(guard).layer(told));
    }
    let outermost = middleware::from_fn_with_state(Arc::clone(&control), guard::outermost);
    router
        .fallback(|| async { Failure::Missing("route of this name".to_owned()) })
        .method_not_allowed_fallback(|| async {
            Failure::Missing("route of this name and method".to_owned())
        })
        .layer(outermost)
        .with_state(control)
}

/// The interface's description.
async fn openapi() -> Json<&'static serde_json::Value> {
    static DOCUMENT: LazyLock<serde_json::Value> = LazyLock::new(|| {
        let routes = routes().into_iter().map(|(method, path, access, _)| (method, path, access));
        openapi::document(routes, described::described())
    });
    Json(&DOCUMENT)
}

/// How many items a page has: what was asked for, within the route's own most.
fn page(asked: Option<usize>, most: usize) -> usize {
    asked.unwrap_or(most).clamp(1, most)
}

/// The key that a request brings.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
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
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Failure::TooLarge),
            Err(error) => Err(Failure::Invalid(error.body_text())),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
