//! Custom resource definitions of our kinds.

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use crate::kinds::{Column, GROUP, Kind, VERSION};
use crate::schema::{SchemaError, structural};
use crate::yaml;

/// Columns that every kind has, before and after its own.
const FIRST: [Column; 2] = [
    ("Accepted", "string", ".status.conditions[?(@.type==\"Accepted\")].status"),
    ("Reason", "string", ".status.conditions[?(@.type==\"Accepted\")].reason"),
];
const LAST: [Column; 2] =
    [("Generation", "integer", ".status.generation"), ("Age", "date", ".metadata.creationTimestamp")];

/// The definition of a kind, as `kubectl apply` takes it.
///
/// # Errors
/// When its type has no structural schema.
pub fn definition(kind: Kind) -> Result<Value, SchemaError> {
    let Kind { name, plural, columns, .. } = kind;
    let singular = name.to_ascii_lowercase();
    let columns: Vec<Value> = FIRST
        .iter()
        .chain(columns)
        .chain(&LAST)
        .map(|(name, kind, path)| json!({ "name": name, "type": kind, "jsonPath": path }))
        .collect();
    Ok(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{GROUP}") },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": name,
                "listKind": format!("{name}List"),
                "plural": plural,
                "singular": singular,
                "categories": ["sideguard"],
            },
            "scope": "Namespaced",
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns,
                "schema": { "openAPIV3Schema": schema(kind)? },
            }],
        },
    }))
}

/// The structural schema of a kind's objects.
///
/// # Errors
/// When its type has none.
pub fn schema(kind: Kind) -> Result<Value, SchemaError> {
    let mut generator = SchemaGenerator::default();
    let spec = (kind.spec)(&mut generator);
    let definitions: Map<String, Value> = generator.take_definitions(true);
    let spec = structural(spec.as_value(), &definitions)?;
    Ok(json!({
        "type": "object",
        "description": spec["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": spec,
            "status": status(),
        },
    }))
}

/// What control tells of an object.
fn status() -> Value {
    json!({
        "type": "object",
        "description": "What control has made of it.",
        "properties": {
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "description": "The object's generation that this is about.",
            },
            "generation": {
                "type": "integer",
                "format": "int64",
                "description": "The generation of the desired state that it came into force with.",
            },
            "digest": { "type": "string", "description": "Digest of what is in force of it." },
            "conditions": {
                "type": "array",
                "description": "`Accepted`: whether it is in force as it stands.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                    "properties": {
                        "type": { "type": "string" },
                        "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                        "reason": { "type": "string" },
                        "message": { "type": "string" },
                        "observedGeneration": { "type": "integer", "format": "int64" },
                        "lastTransitionTime": { "type": "string", "format": "date-time" },
                    },
                },
            },
        },
    })
}

/// The definition as the chart ships it: the name of its file, and its text.
///
/// # Errors
/// When the kind's type has no structural schema.
pub fn file(kind: Kind) -> Result<(String, String), SchemaError> {
    let text = yaml::write(&definition(kind)?).text;
    let head = "# Made of the types by `cargo run -p sideguard-kubernetes --example crds`; a test fails when it is out of date.\n";
    Ok((format!("{}.yaml", kind.plural), format!("{head}{text}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::file;
    use crate::kinds::KINDS;

    #[test]
    fn the_charts_definitions_are_those_of_the_types() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/sideguard/crds");
        let shipped = std::fs::read_dir(&folder).expect("the chart's definitions").count();
        assert_eq!(shipped, KINDS.len(), "one file a kind");
        for kind in KINDS {
            let (name, text) = file(kind).expect("a structural schema");
            let kept = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(
                kept == text,
                "`{name}`: write it anew: cargo run -p sideguard-kubernetes --example crds"
            );
        }
    }
}
