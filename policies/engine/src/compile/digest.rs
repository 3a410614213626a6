//! The digest of a set: the same resources give the same digest wherever they stand.

use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sideguard_types::resource::{Metadata, Resource, Spec};

/// SHA-256 over the canonical JSON of each resource, in the given order.
pub(super) fn digest<'r>(resources: impl Iterator<Item = &'r Resource>) -> Arc<str> {
    let mut hash = Sha256::new();
    for resource in resources {
        let text = canonical(resource);
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text);
    }
    let mut digest = String::from("sha256:");
    for byte in hash.finalize() {
        digest.push_str(&format!("{byte:02x}"));
    }
    digest.into()
}

fn canonical(resource: &Resource) -> String {
    let Resource { metadata, spec } = resource;
    let value = (metadata as &Metadata, spec as &Spec);
    let mut out = String::new();
    // Data made of texts, numbers, lists and maps of texts always has a JSON form.
    write(&serde_json::to_value(value).unwrap_or_default(), &mut out);
    out
}

/// JSON without spaces, keys sorted, whatever order the map keeps.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(map) => write_map(map, out),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn write_map(map: &Map<String, Value>, out: &mut String) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    out.push('{');
    for (key, value) in entries {
        out.push_str(&Value::String(key.clone()).to_string());
        out.push(':');
        write(value, out);
        out.push(',');
    }
    out.push('}');
}
