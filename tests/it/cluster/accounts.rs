//! A sidecar in a pod enrols with its service account's token: tenant and agent are the token's, whatever the pod says.

use std::time::Duration;

use harness::cluster::Reviewed;
use harness::{Cluster, Service, Sidecar, client};
use serde_json::{Value, json};

use super::{ALLOW, answers, call, policy, setting, tool};

/// A sidecar that says to be an agent, with a token in a file.
fn sidecar(service: &Service, tenant: &str, agent: &str, token: &str) -> Sidecar {
    let file = service.dir().join(format!("{}.token", sideguard_runtime::id::token(8)));
    std::fs::write(&file, token).expect("a file");
    Sidecar::fleet(&format!(
        "  agent: {{name: {agent}, tenant: {tenant}}}\n  control: {{url: \"{}\", token: {{file: \"{}\"}}}}\n",
        service.url(),
        file.display()
    ))
}

async fn enrol(service: &Service, token: &str, id: &str) -> (u16, Value) {
    let body = json!({ "token": token, "sidecar": id }).to_string();
    let headers = [("content-type", "application/json")];
    let reply = client::direct(service.url(), "POST", "/v1/enrol", &headers, &body).await;
    (reply.status, reply.json())
}

/// Enrols, once control knows the cluster's namespaces.
async fn enrolled(service: &Service, token: &str, id: &str) -> Value {
    for _ in 0..400 {
        let (status, answer) = enrol(service, token, id).await;
        if status == 200 {
            return answer;
        }
        assert_eq!(status, 503, "{answer}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never enrolled");
}

fn pod(cluster: &Cluster, name: &str, labels: Value) -> Reviewed {
    cluster.put(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "team", "labels": labels },
    }));
    let uid = cluster.object("pods", "team", name).expect("a pod")["metadata"]["uid"].clone();
    let uid = uid.as_str().expect("a uid").to_owned();
    Reviewed { pod: Some((name.to_owned(), uid)), ..Reviewed::new("team", "builder") }
}

#[tokio::test]
async fn a_service_accounts_token_enrols_its_own_agent_of_its_namespaces_tenant() {
    let (cluster, service) = setting("").await;
    let tool = tool().await;
    cluster.apply(&policy("team", "own", ALLOW));
    let token = cluster.token(Reviewed::new("team", "reader"));
    let own = sidecar(&service, "acme", "reader", &token);
    answers(&own, "GET", &tool, 200).await;
    // What the pod says widens nothing.
    let other_agent = sidecar(&service, "acme", "admin", &token);
    answers(&other_agent, "GET", &tool, 401).await;
    let other_tenant = sidecar(&service, "umbrella", "reader", &token);
    answers(&other_tenant, "GET", &tool, 401).await;
    assert_eq!(call(&own, "GET", &tool).await, 200);
    let known = service.json(&["get", "sidecars"]).await;
    for one in known["items"].as_array().expect("a list") {
        assert_eq!(one["tenant"], "acme");
    }
}

#[tokio::test]
async fn a_token_for_somebody_else_or_of_nobody_enrols_nobody() {
    let (cluster, service) = setting("").await;
    let good = cluster.token(Reviewed::new("team", "reader"));
    let answer = enrolled(&service, &good, "a").await;
    assert_eq!((&answer["tenant"], &answer["agent"]), (&json!("acme"), &json!("reader")));
    assert!(answer["renew"].is_string(), "{answer}");
    let audience = Reviewed { audience: "vault".to_owned(), ..Reviewed::new("team", "reader") };
    for token in [cluster.token(audience), "e30.forged.c2ln".to_owned()] {
        assert_eq!(enrol(&service, &token, "b").await.0, 401, "{token}");
    }
    // A sidecar's id stays its agent's: another one of the same tenant cannot put it out.
    let other = cluster.token(Reviewed::new("team", "writer"));
    let (status, refused) = enrol(&service, &other, "a").await;
    assert_eq!(status, 403, "{refused}");
    let key = answer["key"].as_str().expect("a key");
    assert_eq!(service.ask(key, "GET", "/v1/feed?generation=9&kills=0&nonce=x", "").await.status, 200);
    // The same one may come again: its older key ends then.
    let again = enrolled(&service, &good, "a").await;
    assert_ne!(again["key"], answer["key"]);
    assert_eq!(service.ask(key, "GET", "/v1/feed?generation=9&kills=0&nonce=x", "").await.status, 401);
}

#[tokio::test]
async fn while_the_api_server_is_away_nobody_enrols_and_those_who_have_go_on() {
    let (cluster, service) = setting("").await;
    let tool = tool().await;
    cluster.apply(&policy("team", "own", ALLOW));
    let token = cluster.token(Reviewed::new("team", "reader"));
    let before = sidecar(&service, "acme", "reader", &token);
    answers(&before, "GET", &tool, 200).await;
    let fresh = cluster.token(Reviewed::new("team", "reader"));
    cluster.cut();
    assert_eq!(enrol(&service, &fresh, "x").await.0, 503);
    assert_eq!(call(&before, "GET", &tool).await, 200);
    cluster.mend();
    enrolled(&service, &fresh, "x").await;
}

#[tokio::test]
async fn a_key_that_control_has_revoked_is_asked_for_anew_with_the_token_of_the_day() {
    let (cluster, service) = setting("").await;
    let tool = tool().await;
    cluster.apply(&policy("team", "own", ALLOW));
    let file = service.dir().join("rotating.token");
    std::fs::write(&file, cluster.token(Reviewed::new("team", "reader"))).expect("a file");
    let sidecar = Sidecar::fleet(&format!(
        "  agent: {{name: reader, tenant: acme}}\n  control: {{url: \"{}\", token: {{file: \"{}\"}}}}\n",
        service.url(),
        file.display()
    ));
    answers(&sidecar, "GET", &tool, 200).await;
    // The token that it enrolled with is over; the kubelet has put another one in its place.
    std::fs::write(&file, cluster.token(Reviewed::new("team", "reader"))).expect("a file");
    let keys = service.json(&["key", "list"]).await;
    let own =
        keys["items"].as_array().expect("keys").iter().find(|key| key["role"] == "sidecar").expect("its key");
    service.out(&["key", "revoke", own["id"].as_str().expect("an id")]).await;
    cluster.apply(&policy("team", "own", super::NO_POSTS));
    answers(&sidecar, "POST", &tool, 403).await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
}

#[tokio::test]
async fn by_profile_a_pod_is_the_agent_that_its_own_label_names() {
    let (cluster, service) = setting(", agents: profile").await;
    let named = pod(&cluster, "one", json!({ "sideguard.dev/profile": "researcher" }));
    let token = cluster.token(named.clone());
    assert_eq!(enrolled(&service, &token, "one").await["agent"], "researcher");
    let unnamed = pod(&cluster, "two", json!({}));
    let token = cluster.token(unnamed);
    assert_eq!(enrol(&service, &token, "two").await.0, 403, "neither pod nor namespace names one");
    // A later pod of the same name is another one.
    let (name, _) = named.pod.clone().expect("a pod");
    let gone = Reviewed { pod: Some((name, "another-uid".to_owned())), ..named };
    assert_eq!(enrol(&service, &cluster.token(gone), "three").await.0, 401);
    let unbound = cluster.token(Reviewed::new("team", "builder"));
    assert_eq!(enrol(&service, &unbound, "four").await.0, 403, "bound to no pod");
}
