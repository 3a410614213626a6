use serde_json::{Value, json};

use super::{BACKEND, GROUP, POLICY, status, translate};

fn backend(name: &str) -> Option<Value> {
    (name == "db").then(|| json!({ "mcp": { "serviceName": "db", "port": 8080, "path": "/mcp" } }))
}

fn spec(source: &Value, authorization: &Value) -> Value {
    json!({
        "targetRefs": [{ "group": GROUP, "kind": BACKEND, "name": "db" }],
        "action": "Allow",
        "rules": [{ "name": "r", "source": source, "authorization": authorization }],
    })
}

fn account() -> Value {
    json!({ "type": "ServiceAccount", "serviceAccount": { "name": "reader" } })
}

fn read(spec: &Value) -> Result<Value, String> {
    translate(POLICY, "team", "p", spec, &backend).map(|ours| ours.spec).map_err(|error| error.to_string())
}

#[test]
fn a_right_to_tools_is_a_rule_and_all_else_there_is_denied() {
    let methods = json!([{ "name": "tools/call", "params": ["query"] }, { "name": "prompts/get" }]);
    let ours = read(&spec(&account(), &json!({ "type": "Inline", "mcp": { "methods": methods } })))
        .expect("a policy");
    let rules = ours["rules"].as_array().expect("rules");
    let decisions: Vec<&str> = rules.iter().filter_map(|rule| rule["decision"].as_str()).collect();
    assert_eq!(decisions, ["allow", "allow", "allow", "deny"]);
    let hosts = json!(["db.team.svc", "db.team.svc.cluster.local", "db.team", "db"]);
    assert_eq!(
        rules[1]["match"],
        json!({ "agents": ["reader"], "hosts": hosts, "points": ["tool.call", "mcp.list"], "tools": ["query"] })
    );
    assert_eq!(rules[2]["match"]["topics"], json!(["mcp.*.prompts.get"]));
    assert_eq!(rules[3]["match"], json!({ "hosts": hosts }), "for whoever asks");
    assert!(ours.get("default_decision").is_none(), "nothing is said about other hosts");
}

#[test]
fn a_spiffe_id_of_the_same_namespace_is_its_service_account() {
    let id = |id: &str| json!({ "type": "SPIFFE", "spiffe": id });
    let ours = read(&spec(&id("spiffe://td/ns/team/sa/reader"), &Value::Null)).expect("a policy");
    assert_eq!(ours["rules"][0]["match"]["agents"], json!(["reader"]));
    for other in ["spiffe://td/ns/other/sa/reader", "spiffe://td/workload", "spiffe://td/ns/team/sa/r*"] {
        assert!(read(&spec(&id(other), &Value::Null)).is_err(), "{other}");
    }
}

#[test]
fn a_backend_is_an_upstream() {
    let ours = |mcp: Value| translate(BACKEND, "team", "db", &json!({ "mcp": mcp }), &backend);
    let own = ours(json!({ "serviceName": "db", "port": 8080 })).expect("an upstream");
    assert_eq!((own.kind, own.name.as_str()), ("Upstream", "agentic.db"));
    assert_eq!(own.spec, json!({ "baseUrl": "http://db.team.svc:8080", "dialect": "mcp" }));
    let far = ours(json!({ "hostname": "mcp.example.com", "port": 443, "path": "/x" })).expect("an upstream");
    assert_eq!(far.spec["baseUrl"], "https://mcp.example.com:443");
    for wrong in [
        json!({ "serviceName": "db", "hostname": "x", "port": 1 }),
        json!({ "port": 1 }),
        json!({ "serviceName": "db", "port": 0 }),
        json!({ "serviceName": "db", "port": 1, "tls": {} }),
        json!({ "hostname": "*", "port": 1 }),
    ] {
        assert!(ours(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn what_cannot_be_said_in_our_words_is_refused_as_a_whole() {
    let inline = |mcp: Value| json!({ "type": "Inline", "mcp": mcp });
    let with = |key: &str, value: Value| {
        let mut spec = spec(&account(), &Value::Null);
        spec[key] = value;
        spec
    };
    let other =
        json!({ "type": "ServiceAccount", "serviceAccount": { "name": "reader", "namespace": "other" } });
    for (spec, place) in [
        (with("action", json!("ExternalAuth")), "spec.action"),
        (with("externalAuth", json!({})), "spec.externalAuth"),
        (
            with(
                "targetRefs",
                json!([{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g" }]),
            ),
            "spec.targetRefs[0]",
        ),
        (
            with("targetRefs", json!([{ "group": GROUP, "kind": BACKEND, "name": "none" }])),
            "spec.targetRefs[0]",
        ),
        (
            with(
                "targetRefs",
                json!([{ "group": GROUP, "kind": BACKEND, "name": "db", "sectionName": "x" }]),
            ),
            "spec.targetRefs[0].sectionName",
        ),
        (with("targetRefs", json!([])), "spec.targetRefs"),
        (with("rules", json!([])), "spec.rules"),
        (with("deny", json!([])), "spec.deny"),
        (spec(&other, &Value::Null), "spec.rules[0].source.serviceAccount"),
        (spec(&json!({ "type": "JWT" }), &Value::Null), "spec.rules[0].source.type"),
        (
            spec(&account(), &json!({ "type": "CEL", "cel": { "expression": "true" } })),
            "spec.rules[0].authorization.type",
        ),
        (
            spec(&account(), &json!({ "type": "Inline", "paths": ["/x"] })),
            "spec.rules[0].authorization.paths",
        ),
        (
            spec(&account(), &inline(json!({ "methods": [{ "name": "sampling" }] }))),
            "spec.rules[0].authorization.mcp.methods[0].name",
        ),
        (
            spec(&account(), &inline(json!({ "methods": [{ "name": "prompts/get", "params": ["x"] }] }))),
            "spec.rules[0].authorization.mcp.methods[0].params",
        ),
        (
            spec(&account(), &inline(json!({ "methods": [{ "name": "tools/call", "params": ["*"] }] }))),
            "spec.rules[0].authorization.mcp.methods[0].params",
        ),
    ] {
        let refused = read(&spec).expect_err("nothing of it");
        assert!(refused.starts_with(&format!("{place}: ")), "{refused}");
    }
}

#[test]
fn what_others_say_of_an_object_stays() {
    let spec = spec(&account(), &Value::Null);
    let theirs = json!({ "ancestorRef": { "name": "g" }, "controllerName": "other", "conditions": [] });
    let before = json!({ "ancestors": [theirs] });
    let condition = |before: &Value| json!({ "type": "Accepted", "before": before });
    let after = status(POLICY, &before, &spec, "own", condition);
    assert_eq!((&after["ancestors"][0], &after["ancestors"][1]["controllerName"]), (&theirs, &json!("own")));
    let again = status(POLICY, &after, &spec, "own", condition);
    assert_eq!(again["ancestors"].as_array().map(Vec::len), Some(2));
    assert!(again["ancestors"][1]["conditions"][0]["before"].is_array(), "its own is known again");
    let before = json!({ "conditions": [{ "type": "Available" }] });
    let after = status(BACKEND, &before, &spec, "own", condition);
    assert_eq!(
        (&after["conditions"][0]["type"], &after["conditions"][1]["type"]),
        (&json!("Available"), &json!("sideguard.dev/Accepted"))
    );
}
