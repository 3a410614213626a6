//! The schemas that the chart ships are those of the types: what is shipped fits them, what is not known they refuse.

use std::path::{Path, PathBuf};

use harness::cluster::{definitions, faults};
use serde_json::{Value, json};
use sideguard_policy::source::{self, Source};

fn schema(kind: &str) -> Value {
    let fits = |one: &Value| one["spec"]["names"]["kind"] == kind;
    let definition =
        definitions().into_iter().find(fits).unwrap_or_else(|| panic!("no definition of `{kind}`"));
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn every_shipped_object_fits_its_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for folder in ["policies/bundles", "deploy/examples"] {
        files(&root.join(folder), &mut found);
    }
    let mut looked_at = 0;
    for path in found {
        let text = std::fs::read_to_string(&path).expect("a text");
        // Cases of policies and configurations are no objects.
        let loaded = source::load(&[Source::new(path.display().to_string(), text)]);
        for document in loaded.documents {
            let resource = &document.resource;
            // No kinds of the cluster's.
            if matches!(resource.spec.kind(), "Sink" | "Workflow") {
                continue;
            }
            let spec = serde_json::to_value(&resource.spec).expect("JSON")["spec"].clone();
            let object = json!({
                "apiVersion": "sideguard.dev/v1", "kind": resource.spec.kind(),
                "metadata": { "name": resource.metadata.name }, "spec": spec,
            });
            let faults = faults(&schema(resource.spec.kind()), &object);
            assert!(faults.is_empty(), "{}: {faults:?}", path.display());
            looked_at += 1;
        }
    }
    assert!(looked_at >= 6, "{looked_at}");
}

#[test]
fn what_has_another_form_the_schemas_refuse() {
    let refused = |kind: &str, spec: Value, at: &str| {
        let faults = faults(&schema(kind), &json!({ "spec": spec }));
        assert!(faults.iter().any(|fault| fault.starts_with(at)), "{kind} {spec}: {faults:?}");
    };
    let rule = |matches: Value| json!({ "rules": [{ "id": "a", "decision": "deny", "match": matches }] });
    refused("Policy", rule(json!({ "topics": "x" })), ".spec.rules[0].match.topics");
    refused("Policy", rule(json!({ "verbs": ["destroy"] })), ".spec.rules[0].match.verbs[0]");
    refused(
        "Policy",
        rule(json!({ "delegation": { "max_depth": -1 } })),
        ".spec.rules[0].match.delegation.max_depth",
    );
    refused("Policy", json!({ "rules": [{ "id": "a" }] }), ".spec.rules[0].decision");
    refused("Budget", json!({}), ".spec.limits");
    refused("Budget", json!({ "limits": [{ "unit": "euro", "amount": 1 }] }), ".spec.limits[0].unit");
    refused(
        "Upstream",
        json!({ "baseUrl": "https://x", "credential": { "header": "a" } }),
        ".spec.credential.value",
    );
    refused("Agent", json!({ "keys": [{ "md5": "" }] }), ".spec.keys[0]");
    refused("ToolCatalog", json!({ "tools": [{ "tool": "x", "verb": "eat" }] }), ".spec.tools[0].verb");
}

/// What an API server asks of a structural schema: a type wherever something stands, unless anything may stand there.
fn structural(schema: &Value, at: &str) {
    const FORBIDDEN: [&str; 8] =
        ["$ref", "anyOf", "oneOf", "allOf", "definitions", "$defs", "const", "patternProperties"];
    for keyword in FORBIDDEN {
        assert!(schema.get(keyword).is_none(), "{at}: {keyword}");
    }
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    assert!(schema["type"].is_string() || open, "{at} has no type");
    assert!(schema.get("properties").is_none() || schema.get("additionalProperties").is_none(), "{at}");
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        structural(field, &format!("{at}.{name}"));
    }
    for inside in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inside) {
            structural(inner, &format!("{at}.{inside}"));
        }
    }
}

#[test]
fn the_schemas_are_structural_and_open_only_where_values_are_free() {
    let mut open = Vec::new();
    for definition in definitions() {
        let kind = definition["spec"]["names"]["kind"].as_str().expect("a kind").to_owned();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        structural(schema, &kind);
        opens(schema, &kind, &mut open);
    }
    open.sort();
    assert_eq!(
        open,
        ["Budget.spec.limits[].amount", "Policy.spec.mode", "Policy.spec.rules[].constraints.set_args{}",]
    );
}

fn opens(schema: &Value, at: &str, found: &mut Vec<String>) {
    // Where fields are known, others come to control, which refuses them.
    if schema["x-kubernetes-preserve-unknown-fields"] == true && schema.get("properties").is_none() {
        found.push(at.to_owned());
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        opens(field, &format!("{at}.{name}"), found);
    }
    for (inside, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get(inside) {
            opens(inner, &format!("{at}{mark}"), found);
        }
    }
}
