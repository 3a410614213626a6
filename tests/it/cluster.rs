//! A Kubernetes cluster: what its users write is what its agents are judged by, each learns what became of it, and its service
//! accounts are who they are.

mod accounts;
mod agentic;
mod injector;
mod schemas;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Cluster, Fake, Service, Sidecar, client};
use serde_json::json;
use sideguard_runtime::clock::Stopwatch;

/// A Policy of a namespace, with this text below `spec`.
fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

const ALLOW: &str = "{default_decision: allow}";
const NO_POSTS: &str = "{default_decision: allow, rules: [{id: no-posts, match: {methods: [POST]}, decision: deny, reason: not now}]}";

async fn tool() -> Fake {
    Fake::json("{}").await
}

/// Calls until the answer is `wanted`.
async fn answers(sidecar: &Sidecar, method: &str, to: &Fake, wanted: u16) {
    let since = Stopwatch::start();
    loop {
        let status = call(sidecar, method, to).await;
        if status == wanted {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{status}, never {wanted}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn call(sidecar: &Sidecar, method: &str, to: &Fake) -> u16 {
    let url = format!("{}/{}", to.url(), sideguard_runtime::id::token(8));
    client::absolute(sidecar, method, &url, &[], "").await.status
}

/// A cluster with the namespace `team` of the tenant `acme`, and a service that belongs to it.
async fn setting(keys: &str) -> (Cluster, Service) {
    let cluster = Cluster::start().await;
    cluster.namespace("team", json!({ "sideguard.dev/tenant": "acme" }));
    let service = Service::with(&cluster.control(keys));
    (cluster, service)
}

async fn generation(service: &Service) -> u64 {
    let known = service.ask(&service.key(), "GET", "/v1/generations?limit=1", "").await.json();
    known["items"][0]["number"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn what_stands_in_the_cluster_is_what_its_sidecars_judge_by() {
    let (cluster, service) = setting("").await;
    let tool = tool().await;
    let sidecar = service.sidecar("acme/reader", "").await;
    cluster.apply(&policy("team", "own", ALLOW));
    answers(&sidecar, "POST", &tool, 200).await;
    let accepted = cluster.accepted("policies", "team", "own", "True").await;
    assert_eq!(
        (accepted["reason"].as_str(), accepted["message"].as_str()),
        (Some("InForce"), Some("in force since generation 1"))
    );
    let status = cluster.object("policies", "team", "own").expect("it is there")["status"].clone();
    assert_eq!((&status["generation"], &status["observedGeneration"]), (&json!(1), &json!(1)));
    assert!(status["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{status}");
    cluster.apply(&policy("team", "own", NO_POSTS));
    answers(&sidecar, "POST", &tool, 403).await;
    // Namespaces of other tenants are not asked.
    cluster.apply(&policy("default", "own", "{default_decision: deny}"));
    cluster.accepted("policies", "default", "own", "True").await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    // People see whose it is.
    let known = service.json(&["get", "policy", "own", "--tenant", "acme"]).await;
    assert!(known.to_string().contains("Policy/team/own"), "{known}");
    cluster.remove("policies", "team", "own");
    answers(&sidecar, "GET", &tool, 403).await;
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_place_and_the_last_good_one_stays() {
    let (cluster, service) = setting("").await;
    let tool = tool().await;
    let sidecar = service.sidecar("acme/reader", "").await;
    cluster.apply(&policy("team", "own", NO_POSTS));
    answers(&sidecar, "POST", &tool, 403).await;
    // The schema cannot know what is an expression.
    cluster.apply(&policy(
        "team",
        "own",
        "{default_decision: allow, rules: [{id: a, when: \"1 +\", decision: deny}]}",
    ));
    let refused = cluster.accepted("policies", "team", "own", "False").await;
    let message = refused["message"].as_str().unwrap_or_default();
    assert_eq!(refused["reason"], "Invalid");
    assert!(message.starts_with("spec.rules[0].when: "), "{message}");
    assert!(message.ends_with("; what came with generation 1 stays in force"), "{message}");
    // Nor does an API server leave out what it does not know: the rule would match more than was meant.
    cluster.apply(&policy(
        "team",
        "own",
        "{default_decision: allow, rules: [{id: a, match: {topcs: [x]}, decision: deny}]}",
    ));
    let since = Stopwatch::start();
    loop {
        let refused = cluster.accepted("policies", "team", "own", "False").await;
        let message = refused["message"].as_str().unwrap_or_default().to_owned();
        if message.contains("topcs") {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{message}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Others come into force beside it.
    cluster.apply(&policy(
        "team",
        "other",
        "{rules: [{id: no-puts, match: {methods: [PUT]}, decision: deny}]}",
    ));
    answers(&sidecar, "PUT", &tool, 403).await;
    assert_eq!((call(&sidecar, "GET", &tool).await, call(&sidecar, "POST", &tool).await), (200, 403));
    // What goes, goes, although it was wrong last.
    cluster.remove("policies", "team", "own");
    answers(&sidecar, "GET", &tool, 403).await;
    cluster.apply(&policy("team", "own", ALLOW));
    answers(&sidecar, "POST", &tool, 200).await;
}

#[tokio::test]
async fn names_that_are_somebody_elses_are_left_alone() {
    let (cluster, service) = setting("").await;
    cluster.namespace("second", json!({ "sideguard.dev/tenant": "acme" }));
    let own = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: peoples, tenant: acme}\nspec: {default_decision: deny}\n";
    service.apply(own).await;
    cluster.apply(&policy("team", "peoples", ALLOW));
    let refused = cluster.accepted("policies", "team", "peoples", "False").await;
    assert_eq!(refused["reason"], "Conflict");
    // Of two namespaces of one tenant the older object has the name.
    cluster.apply(&policy("team", "twice", ALLOW));
    cluster.accepted("policies", "team", "twice", "True").await;
    cluster.apply(&policy("second", "twice", ALLOW));
    let refused = cluster.accepted("policies", "second", "twice", "False").await;
    assert!(refused["message"].as_str().is_some_and(|told| told.contains("Policy/team/twice")), "{refused}");
    // What people apply and prune is theirs, what the cluster has is the cluster's.
    let known = service.json(&["get", "policy", "peoples", "--tenant", "acme"]).await;
    assert_eq!(known["spec"]["default_decision"], "deny", "{known}");
    service.out(&["delete", "policy", "peoples", "--tenant", "acme"]).await;
    cluster.accepted("policies", "team", "peoples", "True").await;
    cluster.remove("policies", "team", "twice");
    cluster.accepted("policies", "second", "twice", "True").await;
}

#[tokio::test]
async fn while_the_api_server_is_away_everything_stays_and_after_a_restart_too() {
    let (cluster, service) = setting("").await;
    let tool = tool().await;
    let sidecar = service.sidecar("acme/reader", "").await;
    cluster.apply(&policy("team", "own", NO_POSTS));
    answers(&sidecar, "POST", &tool, 403).await;
    cluster.accepted("policies", "team", "own", "True").await;
    let before = generation(&service).await;
    cluster.cut();
    // A service that knows nothing of the cluster yet takes nothing for gone.
    let service = service.again();
    assert_eq!(client::direct(service.url(), "GET", "/readyz", &[], "").await.status, 200);
    answers(&sidecar, "GET", &tool, 200).await;
    assert_eq!(call(&sidecar, "POST", &tool).await, 403);
    assert_eq!(generation(&service).await, before);
    cluster.apply(&policy("team", "own", ALLOW));
    cluster.mend();
    answers(&sidecar, "POST", &tool, 200).await;
    // A watch whose place in history is forgotten begins anew, and sees what went meanwhile.
    cluster.cut();
    cluster.remove("policies", "team", "own");
    cluster.compact();
    cluster.mend();
    answers(&sidecar, "GET", &tool, 403).await;
}

#[tokio::test]
async fn a_kind_that_the_api_server_does_not_serve_is_another_thing_than_one_without_objects() {
    let (cluster, service) = setting("").await;
    cluster.apply(&policy("team", "own", ALLOW));
    cluster.accepted("policies", "team", "own", "True").await;
    let before = generation(&service).await;
    cluster.cut();
    let service = service.again();
    cluster.remove("customresourcedefinitions", "", "policies.sideguard.dev");
    cluster.mend();
    // Another kind shows that it works again.
    cluster.apply(
        "apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: reader, namespace: team}\nspec: {models: [gpt-5]}\n",
    );
    cluster.accepted("agents", "team", "reader", "True").await;
    assert_eq!(generation(&service).await, before + 1);
    service.json(&["get", "policy", "own", "--tenant", "acme"]).await;
}

#[tokio::test]
async fn config_maps_do_where_there_are_no_kinds() {
    let cluster = Cluster::bare().await;
    cluster.namespace("team", json!({ "sideguard.dev/tenant": "acme" }));
    let service = Service::with(&cluster.control(""));
    let tool = tool().await;
    let sidecar = service.sidecar("acme/reader", "").await;
    let map = |text: &str| {
        cluster.put(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "rules", "namespace": "team", "labels": { "sideguard.dev/kind": "Policy" } },
            "data": { "safety.yaml": text },
        }));
    };
    let said = async |reason: &str, part: &str| {
        let fits = |event: &serde_json::Value| {
            event["reason"] == reason && event["note"].as_str().is_some_and(|note| note.contains(part))
        };
        harness::until(&format!("{reason} {part}"), || cluster.all("events", "team").iter().any(fits)).await;
    };
    map("version: v1\nrules:\n  - {id: all, match: {methods: [GET]}, decision: allow}\n");
    answers(&sidecar, "GET", &tool, 200).await;
    said("InForce", "generation 1").await;
    map("version: v1\nrules:\n  - {id: all, mtch: {methods: [GET]}, decision: deny}\n");
    said("Invalid", "safety.yaml:3:").await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    cluster.remove("configmaps", "team", "rules");
    answers(&sidecar, "GET", &tool, 403).await;
}

#[tokio::test]
async fn only_a_shared_namespace_governs_all_tenants() {
    let (cluster, service) = setting(", sharedNamespaces: [sideguard-system]").await;
    let tool = tool().await;
    let sidecar = service.sidecar("acme/reader", "").await;
    cluster.apply(&policy("sideguard-system", "fleet", NO_POSTS));
    answers(&sidecar, "GET", &tool, 200).await;
    assert_eq!(call(&sidecar, "POST", &tool).await, 403);
    // A tenant's own can only narrow it.
    cluster.apply(&policy("team", "fleet", ALLOW));
    cluster.accepted("policies", "team", "fleet", "True").await;
    assert_eq!(call(&sidecar, "POST", &tool).await, 403);
    // A namespace that changes hands takes its objects along.
    cluster.apply(&policy("team", "fleet", "{default_decision: deny}"));
    answers(&sidecar, "GET", &tool, 403).await;
    cluster.namespace("team", json!({ "sideguard.dev/tenant": "umbrella" }));
    answers(&sidecar, "GET", &tool, 200).await;
    cluster.namespace("team", json!({ "sideguard.dev/tenant": "sideguard.control" }));
    let told = cluster.accepted("policies", "team", "fleet", "False").await;
    assert_eq!(told["reason"], "TenantInvalid");
}

#[tokio::test]
async fn of_several_replicas_one_acts() {
    let cluster = Cluster::start().await;
    let spec = format!("{}{}", cluster.control(""), harness::service::shared(&harness::servers::SERVERS));
    let first = Service::with(&spec);
    let mut second = first.replica();
    cluster.apply(&policy("default", "own", ALLOW));
    cluster.accepted("policies", "default", "own", "True").await;
    assert_eq!(generation(&first).await, 1);
    let lease = cluster.object("leases", "sideguard-system", "sideguard-control").expect("a lease");
    assert!(lease["spec"]["holderIdentity"].is_string(), "{lease}");
    // Whichever ends, the other goes on once the lease is over.
    second.kill();
    cluster.apply(&policy("default", "own", NO_POSTS));
    let since = Stopwatch::start();
    while generation(&first).await < 2 {
        assert!(since.elapsed() < Duration::from_secs(40), "nobody acts");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn control_asks_for_no_more_than_its_role_allows() {
    let (cluster, service) = setting(", agents: profile").await;
    cluster.apply(&policy("team", "own", ALLOW));
    cluster.accepted("policies", "team", "own", "True").await;
    drop(service);
    let own = ["policies", "budgets", "agents", "toolcatalogs", "upstreams", "workerpools"];
    let mut allowed: BTreeSet<String> =
        ["get leases", "create leases", "patch leases", "create tokenreviews", "create events", "get pods"]
            .map(str::to_owned)
            .into();
    allowed.extend(own.map(|kind| format!("patch {kind}/status")));
    for kind in own.into_iter().chain(["namespaces", "configmaps"]) {
        allowed.extend(["list", "watch"].map(|verb| format!("{verb} {kind}")));
    }
    let beyond: Vec<String> = cluster.asked().difference(&allowed).cloned().collect();
    assert!(beyond.is_empty(), "{beyond:?} is not among what the chart's role allows");
}
