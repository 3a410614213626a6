//! Objects, from their text.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sideguard_types::control::{Name, Object};
use sideguard_types::resource::API_VERSION;

/// An object as a value, in the shape of every kind: what its author left out is put in, and its generation.
pub(crate) fn structured(object: &Object) -> Value {
    let mut parsed: Map<String, Value> = serde_saphyr::from_str(&object.text).unwrap_or_default();
    let Name { tenant, kind, name } = &object.name;
    if !parsed.contains_key("kind") {
        // A safety.yaml document: all of it but its version is what a Policy has as its `spec`.
        parsed.remove("version");
        parsed = Map::from_iter([("spec".to_owned(), Value::Object(parsed))]);
    }
    let mut metadata = json!({ "name": name, "tenant": tenant });
    if !object.labels.is_empty() {
        metadata["labels"] = json!(object.labels);
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": metadata,
        "spec": parsed.remove("spec").unwrap_or_default(),
        "generation": object.generation,
    })
}

/// `kind/tenant/name`, as it is shown.
pub(crate) fn shown(name: &Name) -> String {
    format!("{}/{}/{}", name.kind.to_ascii_lowercase(), name.tenant, name.name)
}

/// Labels, as they are shown.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use sideguard_types::control::{Name, Object};

    use super::structured;

    #[test]
    fn a_safety_document_has_the_shape_of_every_object() {
        let name = Name { tenant: "acme".to_owned(), kind: "Policy".to_owned(), name: "guard".to_owned() };
        let text = "version: v1\nrules: [{id: a, decision: deny}]\n".to_owned();
        let value = structured(&Object { name, labels: Default::default(), generation: 3, text });
        assert_eq!(value["spec"]["rules"][0]["id"], "a");
        assert_eq!((&value["metadata"]["tenant"], &value["kind"]), (&"acme".into(), &"Policy".into()));
        assert_eq!(value["spec"].get("version"), None);
    }
}
