//! Tenants: what belongs to one, another one's key neither sees nor names nor changes, and is answered as if it were not
//! there.

use std::time::Duration;

use harness::client::Reply;
use harness::{Service, Sidecar};
use serde_json::{Value, json};

fn policy(tenant: &str, name: &str) -> String {
    format!(
        "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {{name: {name}, tenant: {tenant}, labels: {{app: crm}}}}\n\
         spec: {{default_decision: allow}}\n---\n"
    )
}

/// A fleet of two tenants, each with all that a tenant has.
struct Two {
    service: Service,
    _sidecars: Vec<Sidecar>,
    acme: String,
}

impl Two {
    async fn new() -> Self {
        let service = Service::start();
        service.apply(&(policy("acme", "own-policy") + &policy("umbra", "secret-policy"))).await;
        let sidecars = vec![
            service.sidecar("acme/own-agent", "").await,
            service.sidecar("umbra/secret-agent", "").await,
        ];
        service.all_stand(2, "current").await;
        service.out(&["kill", "tenant/umbra", "--reason", "secret-reason"]).await;
        service.out(&["kill", "agent/umbra/secret-agent"]).await;
        service.new_key(&["secret-person", "--tenant", "umbra"]).await;
        let acme = service.new_key(&["own-person", "--role", "operator", "--tenant", "acme"]).await;
        Self { service, _sidecars: sidecars, acme }
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.service.ask(&self.acme, method, path, &body).await
    }

    /// What is asked about something of the other tenant is answered in the same words as about what is nowhere.
    async fn alike(&self, method: &str, path: &str, body: &Value, there: &str, nowhere: &str) {
        let body = body.to_string();
        let swap = |text: &str| text.replace(there, nowhere);
        let body = if body == "null" { String::new() } else { body };
        let one = self.service.ask(&self.acme, method, path, &body).await;
        let other = self.service.ask(&self.acme, method, &swap(path), &swap(&body)).await;
        assert!(one.status >= 400 && one.status != 403, "{method} {path}: {}", one.text());
        assert_eq!((one.status, swap(&one.text())), (other.status, other.text()), "{method} {path}");
        assert_eq!(one.headers.len(), other.headers.len());
    }
}

#[tokio::test]
async fn a_tenants_key_sees_nothing_of_another_tenant() {
    let two = Two::new().await;
    for path in
        ["/v1/objects", "/v1/sidecars", "/v1/kills", "/v1/keys", "/session", "/version", "/openapi.json"]
    {
        for query in ["", "?limit=1", "?tenant=umbra", "?limit=1&tenant=umbra", "?kind=policy&labels=app=crm"]
        {
            let reply = two.ask("GET", &format!("{path}{query}"), &Value::Null).await;
            assert_eq!(reply.status, 200, "{path}{query}");
            let text = reply.text();
            for word in ["umbra", "secret-"] {
                assert!(!text.contains(word), "{path}{query}: {text}");
            }
        }
    }
    let own = two.ask("GET", "/v1/sidecars", &Value::Null).await.json();
    assert_eq!(own["items"][0]["agents"], json!(["own-agent"]), "its own it sees");
    assert_eq!(own["items"].as_array().map(Vec::len), Some(1));
    let names = two.ask("GET", "/v1/keys", &Value::Null).await.json();
    assert!(names["items"].as_array().expect("keys").iter().all(|key| key["tenant"] == "acme"), "{names}");
}

#[tokio::test]
async fn another_tenants_things_are_answered_as_if_they_were_not_there() {
    let two = Two::new().await;
    let nothing = Value::Null;
    two.alike("GET", "/v1/objects/umbra/Policy/secret-policy", &nothing, "secret-policy", "no-policy").await;
    two.alike("GET", "/v1/objects/umbra/Policy/secret-policy", &nothing, "umbra", "nobody").await;
    let delete = json!({ "names": [{ "tenant": "umbra", "kind": "Policy", "name": "secret-policy" }] });
    two.alike("POST", "/v1/delete", &delete, "secret-policy", "no-policy").await;
    two.alike("POST", "/v1/delete", &delete, "umbra", "nobody").await;
    let apply = json!({ "documents": [{ "name": "a.yaml", "text": policy("umbra", "secret-policy") }] });
    two.alike("POST", "/v1/apply", &apply, "umbra", "nobody").await;
    two.alike("POST", "/v1/apply", &apply, "secret-policy", "no-policy").await;
    two.alike("POST", "/v1/kills", &json!({ "scope": "tenant/umbra" }), "umbra", "nobody").await;
    two.alike("DELETE", "/v1/kills?scope=tenant/umbra", &nothing, "umbra", "nobody").await;
    two.alike("DELETE", "/v1/kills?scope=agent/umbra/secret-agent", &nothing, "secret-agent", "no-agent")
        .await;
    two.alike("POST", "/v1/tokens", &json!({ "tenant": "umbra" }), "umbra", "nobody").await;
    let key = json!({ "name": "x", "role": "viewer", "tenant": "umbra" });
    two.alike("POST", "/v1/keys", &key, "umbra", "nobody").await;
    let keys = two.service.json(&["key", "list"]).await;
    let keys = keys["items"].as_array().expect("keys").clone();
    let secret = keys.iter().find(|key| key["name"] == "secret-person").expect("the key");
    let id = secret["id"].as_str().expect("an id");
    two.alike("DELETE", &format!("/v1/keys?id={id}"), &nothing, id, "0000000000000000").await;
    // Nothing of it has happened.
    assert_eq!(two.service.json(&["get", "policies"]).await["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(two.service.json(&["get", "kills"]).await["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(two.service.json(&["key", "list"]).await["items"].as_array().map(Vec::len), Some(keys.len()));
}

#[tokio::test]
async fn a_tenants_operator_changes_its_own_and_nothing_that_holds_for_all() {
    let two = Two::new().await;
    let apply = |text: &str, prune: Value| {
        let mut body = json!({ "documents": [{ "name": "a.yaml", "text": text }] });
        if !prune.is_null() {
            body["prune"] = prune;
        }
        body
    };
    // Objects with the same labels of another tenant stay, and are not spoken of.
    let pruned = two.ask("POST", "/v1/apply", &apply(&policy("acme", "new"), json!({ "app": "crm" }))).await;
    assert_eq!(pruned.status, 200, "{}", pruned.text());
    assert!(pruned.text().contains("own-policy") && !pruned.text().contains("secret"), "{}", pruned.text());
    let kept = two.service.json(&["get", "policies"]).await;
    assert!(kept.to_string().contains("secret-policy") && !kept.to_string().contains("own-policy"), "{kept}");
    let shared = "version: v1\nrules: [{id: none, decision: deny}]\n";
    assert_ne!(two.ask("POST", "/v1/apply", &apply(shared, Value::Null)).await.status, 200);
    // A key of the tenant `default` is a tenant's key too: what names no tenant holds for all.
    let default = two.service.new_key(&["dora", "--role", "operator", "--tenant", "default"]).await;
    let refused =
        two.service.ask(&default, "POST", "/v1/apply", &apply(shared, Value::Null).to_string()).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let own = apply(&policy("default", "own"), Value::Null).to_string();
    assert_eq!(two.service.ask(&default, "POST", "/v1/apply", &own).await.status, 200);
    for path in ["/v1/generations", "/v1/generations/1", "/v1/generations/1/changes"] {
        assert_eq!(two.ask("GET", path, &Value::Null).await.status, 403, "they are about all tenants");
    }
    assert_eq!(two.ask("POST", "/v1/kills", &json!({ "scope": "tenant/acme" })).await.status, 200);
    assert_eq!(two.ask("POST", "/v1/kills", &json!({ "scope": "fleet" })).await.status, 404);
}

#[tokio::test]
async fn sidecars_of_two_tenants_with_one_name_are_two() {
    let service = Service::start();
    for tenant in ["acme", "umbra"] {
        let token = service.out(&["token", "--tenant", tenant]).await;
        let ask = json!({ "token": token.trim(), "sidecar": "one" }).to_string();
        let enrolled = service.ask("none", "POST", "/v1/enrol", &ask).await.json();
        let report = json!({
            "agents": [tenant], "version": "1", "generation": 0, "digest": "", "ready": true, "calls": 0, "denied": 0,
        });
        let key = enrolled["key"].as_str().expect("a key");
        assert_eq!(service.ask(key, "POST", "/v1/report", &report.to_string()).await.status / 100, 2);
    }
    let known = service.json(&["get", "sidecars"]).await;
    let known: Vec<(&str, &str)> = known["items"]
        .as_array()
        .expect("sidecars")
        .iter()
        .filter_map(|one| Some((one["tenant"].as_str()?, one["agents"][0].as_str()?)))
        .collect();
    assert_eq!(known, [("acme", "acme"), ("umbra", "umbra")]);
    tokio::time::timeout(Duration::from_secs(5), service.out(&["get", "agents"])).await.expect("in time");
}
