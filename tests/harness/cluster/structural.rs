//! What an API server checks of a custom resource, with `fieldValidation=Strict`, as kubectl asks for it.

use serde_json::Value;

const OPEN: &str = "x-kubernetes-preserve-unknown-fields";

/// Everything in an object that its structural schema does not allow.
#[must_use]
pub fn faults(schema: &Value, object: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    look(schema, object, "", &mut faults);
    faults
}

fn look(schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let fits = match schema["type"].as_str() {
        None => return,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("no type `{other}` in a structural schema"),
    };
    if !fits {
        faults.push(format!("{at}: must be {}", schema["type"]));
        return;
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        faults.push(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    if schema["minimum"].as_f64().zip(value.as_f64()).is_some_and(|(least, value)| value < least) {
        faults.push(format!("{at}: {value} is less than {}", schema["minimum"]));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        look(&schema["items"], item, &format!("{at}[{index}]"), faults);
    }
    let Value::Object(fields) = value else { return };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            faults.push(format!("{at}.{name}: is required"));
        }
    }
    // Only what stands in its own schema is known of metadata here.
    if at == ".metadata" {
        return;
    }
    for (name, field) in fields {
        let at = format!("{at}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema)) => look(schema, field, &at, faults),
            (None, None) if schema[OPEN] == true => {}
            (None, None) => faults.push(format!("{at}: is not known")),
        }
    }
}
