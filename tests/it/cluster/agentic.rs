//! Policies of kube-agentic-networking are put in force where they can be, and told under our name where they cannot.

use harness::{Cluster, Service, until};
use serde_json::{Value, json};

const GROUP: &str = "agentic.networking.x-k8s.io";

/// Definitions of their kinds, as far as an API server acts on them here.
fn definitions(cluster: &Cluster) {
    for (kind, plural) in [("XAccessPolicy", "xaccesspolicies"), ("XBackend", "xbackends")] {
        cluster.put(&json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.{GROUP}") },
            "spec": {
                "group": GROUP, "names": { "kind": kind, "plural": plural },
                "versions": [{ "schema": { "openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                } } }],
            },
        }));
    }
}

fn access(name: &str, action: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "XAccessPolicy",
        "metadata": { "name": name, "namespace": "team" },
        "spec": {
            "targetRefs": [{ "group": GROUP, "kind": "XBackend", "name": "db" }],
            "action": action,
            "rules": [{
                "name": "queries",
                "source": { "type": "ServiceAccount", "serviceAccount": { "name": "reader" } },
                "authorization": { "type": "Inline", "mcp": { "methods": [{ "name": "tools/call", "params": ["query"] }] } },
            }],
        },
    })
}

fn accepted(cluster: &Cluster, name: &str) -> Option<(String, String)> {
    let object = cluster.object("xaccesspolicies", "team", name)?;
    let own = object["status"]["ancestors"].as_array()?;
    let own = own.iter().find(|one| one["controllerName"] == "sideguard.dev/control")?;
    let condition = &own["conditions"][0];
    Some((condition["status"].as_str()?.to_owned(), condition["reason"].as_str()?.to_owned()))
}

#[tokio::test]
async fn an_access_policy_is_in_force_as_ours_or_told_to_be_unsupported() {
    let cluster = Cluster::start().await;
    definitions(&cluster);
    cluster.namespace("team", json!({ "sideguard.dev/tenant": "acme" }));
    let service = Service::with(&cluster.control(", agenticNetworking: true"));
    cluster.put(&access("good", "Allow"));
    let is = |name: &'static str, status: &'static str, reason: &'static str| {
        let cluster = &cluster;
        move || accepted(cluster, name) == Some((status.to_owned(), reason.to_owned()))
    };
    until("its backend is missing", is("good", "False", "Unsupported")).await;
    cluster.put(&json!({
        "apiVersion": format!("{GROUP}/v0alpha0"), "kind": "XBackend",
        "metadata": { "name": "db", "namespace": "team" },
        "spec": { "mcp": { "serviceName": "db", "port": 8080 } },
    }));
    until("it is accepted", is("good", "True", "Accepted")).await;
    let ours = service.json(&["get", "policy", "agentic.good", "--tenant", "acme"]).await.to_string();
    assert!(ours.contains("otherwise") && ours.contains("db.team.svc.cluster.local"), "{ours}");
    service.json(&["get", "upstream", "agentic.db", "--tenant", "acme"]).await;
    cluster.put(&access("asks", "ExternalAuth"));
    until("it is unsupported", is("asks", "False", "Unsupported")).await;
    assert_ne!(service.run(&["get", "policy", "agentic.asks", "--tenant", "acme"]).await.code, Some(0));
}
