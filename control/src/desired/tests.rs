use std::collections::BTreeMap;

use sideguard_store::Store;
use sideguard_types::control::{Apply, Name, Text};
use sideguard_types::time::Timestamp;
use tempfile::TempDir;

use super::{Wish, change, head};
use crate::error::Failure;
use crate::keys::{Principal, Role};

const NOW: Timestamp = Timestamp(1_000_000);

async fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open_embedded(dir.path()).await.expect("a store");
    (dir, store)
}

fn operator(tenant: Option<&str>) -> Principal {
    Principal::new("x", Role::Operator, tenant.map(str::to_owned))
}

fn policy(tenant: &str, name: &str, decision: &str) -> Text {
    let tenant = if tenant.is_empty() { String::new() } else { format!(", tenant: {tenant}") };
    Text {
        name: format!("{name}.yaml"),
        text: format!(
            "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {{name: {name}{tenant}, labels: {{app: a}}}}\n\
             spec: {{default_decision: {decision}}}\n"
        ),
    }
}

async fn apply(store: &Store, by: &Principal, documents: Vec<Text>, prune: bool) -> Result<u64, Failure> {
    let prune = prune.then(|| BTreeMap::from([("app".to_owned(), "a".to_owned())]));
    let wish = Wish::Apply(Apply { documents, dry_run: false, prune, expect: None });
    change(store, NOW, by, wish).await.map(|applied| applied.generation)
}

async fn names(store: &Store) -> Vec<String> {
    let head = head(store, NOW).await.expect("a head");
    head.kept.entries.iter().map(|entry| format!("{}/{}", entry.name.tenant, entry.name.name)).collect()
}

#[tokio::test]
async fn a_tenants_operator_changes_only_what_is_the_tenants() {
    let (_dir, store) = store().await;
    let (owner, acme, default) = (operator(None), operator(Some("acme")), operator(Some("default")));
    let all =
        vec![policy("", "floor", "deny"), policy("acme", "own", "allow"), policy("zeta", "own", "allow")];
    assert!(matches!(apply(&store, &owner, all, false).await, Ok(1)));
    // Another tenant's, one for all, and one for all by the name of its tenant.
    let zeta = apply(&store, &acme, vec![policy("zeta", "own", "deny")], false).await;
    assert!(matches!(&zeta, Err(Failure::Missing(what)) if what == "tenant `zeta`"), "{zeta:?}");
    let unknown = apply(&store, &acme, vec![policy("nobody", "own", "deny")], false).await;
    assert!(matches!(&unknown, Err(Failure::Missing(what)) if what == "tenant `nobody`"), "{unknown:?}");
    for by in [&acme, &default] {
        let shared = apply(&store, by, vec![policy("", "new", "allow")], false).await;
        assert!(matches!(shared, Err(Failure::Forbidden(_))), "{shared:?}");
    }
    let narrower = apply(&store, &default, vec![policy("default", "floor", "allow")], false).await;
    assert!(matches!(narrower, Err(Failure::Forbidden(_))), "{narrower:?}");
    let gone = |tenant: &str, name: &str| {
        let (tenant, kind, name) = (tenant.to_owned(), "Policy".to_owned(), name.to_owned());
        Wish::Delete(vec![Name { tenant, kind, name }])
    };
    let floor = change(&store, NOW, &default, gone("default", "floor")).await;
    assert!(matches!(floor, Err(Failure::Forbidden(_))), "{floor:?}");
    let (there, not_there) = (
        change(&store, NOW, &acme, gone("zeta", "own")).await.expect_err("not its own").to_string(),
        change(&store, NOW, &acme, gone("zeta", "none")).await.expect_err("not there").to_string(),
    );
    assert_eq!(there.replace("own", "none"), not_there, "nobody can tell whether another tenant's is there");
    // What is pruned is its own: the others' have the same label.
    assert!(matches!(apply(&store, &acme, vec![policy("acme", "other", "deny")], true).await, Ok(2)));
    assert_eq!(names(&store).await, ["acme/other", "default/floor", "zeta/own"]);
}

#[tokio::test]
async fn a_set_is_checked_as_each_tenant_will_have_it() {
    let (_dir, store) = store().await;
    let upstream = |tenant: &str, url: &str| Text {
        name: "upstream.yaml".to_owned(),
        text: format!(
            "apiVersion: sideguard.dev/v1\nkind: Upstream\nmetadata: {{name: crm, tenant: {tenant}}}\n\
             spec: {{baseUrl: \"{url}\"}}\n"
        ),
    };
    let owner = operator(None);
    let both = vec![upstream("acme", "https://a.example"), upstream("zeta", "https://b.example")];
    apply(&store, &owner, both, false).await.expect("two tenants may use one name");
    let key = |name: &str, tenant: &str| Text {
        name: "agent.yaml".to_owned(),
        text: format!(
            "apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {{name: {name}, tenant: {tenant}}}\n\
             spec: {{keys: [{{sha256: {}}}]}}\n",
            "ab".repeat(32)
        ),
    };
    apply(&store, &owner, vec![key("a", "acme")], false).await.expect("a key");
    // The same key for another agent is an error within a tenant, and none of another tenant's business.
    let twice = apply(&store, &operator(Some("acme")), vec![key("b", "acme")], false).await;
    assert!(matches!(twice, Err(Failure::Findings(_))), "{twice:?}");
    apply(&store, &operator(Some("zeta")), vec![key("a", "zeta")], false).await.expect("another tenant's");
}
