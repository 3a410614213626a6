use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_store::Store;
use sideguard_types::control::budgets::{Answer, Ask, LeaseStanding, Line, Subject, Turn, Turns};
use sideguard_types::control::{Apply, Text};

use super::Budgets;
use crate::api::router;
use crate::desired::{self, Wish};
use crate::error::Failure;
use crate::keys::{self, Principal, Role};

const BUDGETS: &str = "\
apiVersion: sideguard.dev/v1
kind: Budget
metadata: {name: own, tenant: acme}
spec: {limits: [{unit: calls, amount: 100}]}
---
apiVersion: sideguard.dev/v1
kind: Budget
metadata: {name: others, tenant: globex}
spec: {limits: [{unit: calls, amount: 100, per: agent}]}
---
apiVersion: sideguard.dev/v1
kind: Budget
metadata: {name: all}
spec: {limits: [{unit: calls, amount: 1000000000, window: 1h}]}
";

fn principal(role: Role, tenant: Option<&str>) -> Principal {
    Principal::new("x", role, tenant.map(str::to_owned))
}

async fn opened(dir: &std::path::Path) -> (Store, Budgets) {
    let store = Store::open_embedded(dir).await.expect("a store");
    let documents = vec![Text { name: "b.yaml".to_owned(), text: BUDGETS.to_owned() }];
    let apply = Apply { documents, dry_run: false, prune: None, expect: None };
    let owner = principal(Role::Operator, None);
    desired::change(&store, clock::now(), &owner, Wish::Apply(apply)).await.expect("a generation");
    let budgets = Budgets::open(&store, Duration::from_secs(30)).await.expect("budgets");
    (store, budgets)
}

/// Name of the limit of a budget.
async fn limit(store: &Store, budgets: &Budgets, budget: &str) -> String {
    let rules = budgets.rules(store).await.expect("limits");
    let limit = rules.ledger.all().find(|limit| limit.budget == budget);
    limit.expect("the limit").limit.to_string()
}

fn ask(lease: &str, limits: &[&str], least: u64) -> Ask {
    let subject = Subject { agent: "a".to_owned(), labels: Default::default(), session: None, model: None };
    let line = |limit: &&str| Line { limit: (*limit).to_owned(), least, want: least };
    Ask { lease: lease.to_owned(), subject, lines: limits.iter().map(line).collect() }
}

#[tokio::test]
async fn a_tenant_draws_on_and_sees_its_own_budgets_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, budgets) = opened(dir.path()).await;
    let acme = principal(Role::Sidecar, Some("acme"));
    let globex = principal(Role::Sidecar, Some("globex"));
    let [own, others, all] = [
        limit(&store, &budgets, "own").await,
        limit(&store, &budgets, "others").await,
        limit(&store, &budgets, "all").await,
    ];
    let refused = budgets.hold(&store, &acme, ask("l-1", &[&others], 1)).await;
    assert!(matches!(refused, Err(Failure::Conflict(_))), "{refused:?}");
    let refused = budgets.hold(&store, &acme, ask("../x", &[&own], 1)).await;
    assert!(matches!(refused, Err(Failure::Invalid(_))), "{refused:?}");
    for (who, limit) in [(&acme, &own), (&globex, &others)] {
        let held = budgets.hold(&store, who, ask("l-1", &[limit, &all], 7)).await.expect("an answer");
        assert!(matches!(&held, Answer::Held { granted, .. } if granted == &[7, 7]), "{held:?}");
    }
    budgets.look(&store).await.expect("a look");
    for (tenant, sees) in
        [(Some("acme"), vec!["own"]), (Some("globex"), vec!["others"]), (Some("no"), vec![])]
    {
        let who = principal(Role::Viewer, tenant);
        let page = budgets.list(&store, &who, None, (None, None)).await.expect("a page");
        let names: Vec<&str> = page.items.iter().map(|item| item.budget.as_str()).collect();
        assert_eq!(names, sees);
        assert!(page.items.iter().all(|item| item.held == "7"));
        let page = budgets.list(&store, &who, Some("*"), (None, None)).await.expect("a page");
        assert!(page.items.is_empty());
    }
    let owner = principal(Role::Operator, None);
    let (mut after, mut names) = (None, Vec::new());
    loop {
        let page = budgets.list(&store, &owner, None, (after.as_deref(), Some(1))).await.expect("a page");
        names.extend(page.items.into_iter().map(|item| (item.tenant, item.budget, item.held)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let row =
        |tenant: &str, budget: &str, held: &str| (tenant.to_owned(), budget.to_owned(), held.to_owned());
    assert_eq!(names, [row("acme", "own", "7"), row("globex", "others", "7"), row("*", "all", "14")]);
}

#[tokio::test]
async fn all_lines_are_held_or_none_and_a_turn_counts_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, budgets) = opened(dir.path()).await;
    let acme = principal(Role::Sidecar, Some("acme"));
    let (own, all) = (limit(&store, &budgets, "own").await, limit(&store, &budgets, "all").await);
    let short = budgets.hold(&store, &acme, ask("l-1", &[&all, &own], 101)).await.expect("an answer");
    assert!(matches!(&short, Answer::Short { limit, free: 100, .. } if *limit == own), "{short:?}");
    let held = async |tenant: &str| {
        let owner = principal(Role::Operator, None);
        let page = budgets.list(&store, &owner, Some(tenant), (None, None)).await.expect("a page");
        page.items.first().map(|item| (item.spent.clone(), item.held.clone()))
    };
    let pair = |spent: &str, held: &str| Some((spent.to_owned(), held.to_owned()));
    assert_eq!(held("*").await, pair("0", "0"));
    budgets.hold(&store, &acme, ask("l-2", &[&all, &own], 60)).await.expect("an answer");
    let turn = |number, spent, keep| Turns {
        turns: vec![Turn { lease: "l-2".to_owned(), number, spent: vec![spent; 2], keep: vec![keep; 2] }],
    };
    for _ in 0..3 {
        let turned = budgets.turn(&store, &acme, turn(1, 10, 20)).await.expect("an answer");
        assert_eq!(turned.standings, [LeaseStanding::Open]);
        assert_eq!(held("acme").await, pair("10", "20"));
    }
    let turned = budgets.turn(&store, &acme, turn(2, 30, 1)).await.expect("an answer");
    assert_eq!(turned.standings, [LeaseStanding::Beyond]);
    for _ in 0..2 {
        let turned = budgets.turn(&store, &acme, turn(3, 20, 0)).await.expect("an answer");
        assert_eq!(turned.standings, [LeaseStanding::Gone]);
        assert_eq!((held("acme").await, held("*").await), (pair("30", "0"), pair("30", "0")));
    }
}

/// `cargo nextest run --release -p sideguard-control --run-ignored only lease_calls --no-capture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark"]
async fn lease_calls_per_second() {
    const CALLS: u32 = 2_000;
    const AT_ONCE: u32 = 16;
    let dir = tempfile::tempdir().expect("a directory");
    let (store, budgets) = opened(dir.path()).await;
    let all = limit(&store, &budgets, "all").await;
    let key = keys::make(&store, clock::now(), &principal(Role::Sidecar, Some("acme"))).await.expect("a key");
    let mut control = Arc::into_inner(crate::api::tests::control_over(store).await).expect("its only owner");
    control.budgets = Arc::new(budgets);
    let router = router(Arc::new(control));
    let since = Stopwatch::start();
    let mut work = tokio::task::JoinSet::new();
    for worker in 0..AT_ONCE {
        let (router, key, all) = (router.clone(), key.clone(), all.clone());
        work.spawn(async move {
            for number in 0..CALLS / AT_ONCE / 2 {
                let lease = format!("l-{worker}-{number}");
                let turn = Turn { lease: lease.clone(), number: 1, spent: vec![1], keep: vec![0] };
                let bodies = [
                    ("/v1/leases", serde_json::to_vec(&ask(&lease, &[&all], 1))),
                    ("/v1/leases/turns", serde_json::to_vec(&Turns { turns: vec![turn] })),
                ];
                for (path, body) in bodies {
                    let request = Request::post(path)
                        .header("authorization", format!("Bearer {key}"))
                        .header("content-type", "application/json")
                        .body(Body::from(body.expect("JSON")))
                        .expect("a request");
                    let answer =
                        tower::ServiceExt::oneshot(router.clone(), request).await.expect("an answer");
                    assert!(answer.status().is_success(), "{}", answer.status());
                }
            }
        });
    }
    work.join_all().await;
    let took = since.elapsed();
    println!(
        "{CALLS} calls, {AT_ONCE} at once, in {took:?}: {:.0} a second",
        f64::from(CALLS) / took.as_secs_f64()
    );
}
