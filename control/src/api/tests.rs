use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use http::{Method, StatusCode};
use sideguard_runtime::clock;
use sideguard_store::Store;
use sideguard_types::resource::ControlLimits;

use super::described::described;
use super::{Access, Control, Hosts, router, routes};
use crate::budgets::Budgets;
use crate::feed::Waiting;
use crate::jobs::Jobs;
use crate::keys::{self, Principal, Role};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::openapi;
use crate::records::Records;
use crate::signer::Signer;

async fn control(dir: &tempfile::TempDir) -> Arc<Control> {
    control_over(Store::open_embedded(dir.path()).await.expect("a store")).await
}

/// What routes work with, over a store.
pub(crate) async fn control_over(store: Store) -> Arc<Control> {
    let signer = Signer::open(&store, clock::now()).await.expect("a key");
    let budgets = Budgets::open(&store, std::time::Duration::from_secs(30)).await.expect("budgets");
    Arc::new(Control {
        jobs: Arc::new(Jobs::new(store.clone())),
        store,
        signer,
        waiting: Arc::new(Waiting::new()),
        records: Records::new(),
        known: Arc::default(),
        budgets: Arc::new(budgets),
        metrics: Arc::new(Metrics::new(None)),
        loopback: false,
        webhooks: Arc::default(),
        limits: Limits::new(&ControlLimits::default()),
        hosts: Hosts::new(Ipv4Addr::LOCALHOST.into(), &[]),
        certificates: false,
        kubernetes: None,
    })
}

async fn status(router: &axum::Router, method: &Method, path: &str, key: Option<&str>) -> StatusCode {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1")
        .header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(Body::from("{}")).expect("a request");
    let answer = tower::ServiceExt::oneshot(router.clone(), request).await.expect("an answer");
    answer.status()
}

/// A path with something in place of each of its names.
fn filled(path: &str) -> String {
    path.replace("{number}", "1")
        .split('/')
        .map(|part| part.trim_matches(['{', '}']))
        .collect::<Vec<_>>()
        .join("/")
}

#[tokio::test(start_paused = true)]
async fn every_route_is_closed_to_whoever_may_not_use_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let control = control(&dir).await;
    let router = router(Arc::clone(&control));
    let acme = Some("acme".to_owned());
    let mut keys = Vec::new();
    for (role, tenant) in [
        (Role::Operator, None),
        (Role::Operator, acme.clone()),
        (Role::Approver, acme.clone()),
        (Role::Viewer, None),
        (Role::Viewer, acme.clone()),
        (Role::Sidecar, acme.clone()),
    ] {
        let principal = Principal::new("x", role, tenant.clone());
        let key = keys::make(&control.store, clock::now(), &principal).await.expect("a key");
        keys.push((role, tenant, key));
    }
    let unknown = format!("sgk_{}", "0".repeat(64));
    let mut untested = Vec::new();
    for (method, path, access, _) in routes() {
        if matches!(access, Access::Open | Access::Token | Access::Signature) {
            untested.push(format!("{method} {path}"));
            continue;
        }
        let path = filled(path);
        for key in [None, Some("sgk_no"), Some(unknown.as_str())] {
            assert_eq!(
                status(&router, &method, &path, key).await,
                StatusCode::UNAUTHORIZED,
                "{method} {path}"
            );
        }
        for (role, tenant, key) in &keys {
            let person = *role != Role::Sidecar;
            let may = match access {
                Access::Sidecars => !person,
                Access::People => person,
                Access::Overseers | Access::Scrape => person && tenant.is_none(),
                Access::Voters => matches!(role, Role::Operator | Role::Approver),
                Access::Operators => *role == Role::Operator,
                Access::Submitters => !person || *role == Role::Operator,
                Access::Known => true,
                Access::Owners => *role == Role::Operator && tenant.is_none(),
                Access::Open | Access::Token | Access::Signature => true,
            };
            let status = status(&router, &method, &path, Some(key)).await;
            assert_eq!(status != StatusCode::FORBIDDEN, may, "{method} {path} {role:?} {tenant:?}: {status}");
        }
    }
    // Routes that take no key. A line more here is a decision.
    let open = [
        "GET /",
        "GET /page/{file}",
        "GET /healthz",
        "GET /readyz",
        "GET /version",
        "GET /openapi.json",
        "POST /session",
        "POST /v1/enrol",
        "POST /v1/approvals/{id}/webhook",
    ];
    assert_eq!(untested, open);
}

#[tokio::test]
async fn a_request_for_another_host_is_answered_by_no_route_but_the_probes() {
    let dir = tempfile::tempdir().expect("a directory");
    let router = router(control(&dir).await);
    for (path, wanted) in
        [("/", 421), ("/version", 421), ("/v1/kills", 421), ("/none", 421), ("/healthz", 200)]
    {
        let request = Request::builder().uri(path).header("host", "evil.example").body(Body::empty());
        let answer =
            tower::ServiceExt::oneshot(router.clone(), request.expect("a request")).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), wanted, "{path}");
    }
}

#[test]
fn the_description_has_every_route_and_no_other() {
    let table: BTreeSet<String> =
        routes().iter().map(|(method, path, ..)| format!("{method} {path}")).collect();
    let told: BTreeSet<String> =
        described().iter().map(|one| format!("{} {}", one.method, one.path)).collect();
    let (missing, extra): (Vec<_>, Vec<_>) =
        (table.difference(&told).collect(), told.difference(&table).collect());
    assert!(missing.is_empty(), "say in `api/described.rs` what these do: {missing:?}");
    assert!(extra.is_empty(), "no such routes: {extra:?}");
    assert_eq!(openapi::misfits(&described()), Vec::<String>::new(), "examples that are none");
}
