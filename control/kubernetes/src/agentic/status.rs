//! The status of objects that belong to others: what they say of them stays.

use serde_json::{Value, json};

use super::{GROUP, POLICY};

/// Type of our condition where it stands beside those of others.
const CONDITION: &str = "sideguard.dev/Accepted";

/// The status of an object with our word on it: for a policy one for each target, under our controller's name (Gateway API,
/// GEP-713), for a backend a condition of a type of ours. `condition` makes it from the conditions that stood there, as type
/// `Accepted`.
pub fn status(
    kind: &str,
    before: &Value,
    spec: &Value,
    controller: &str,
    condition: impl Fn(&Value) -> Value,
) -> Value {
    let others = |list: &Value, key: &str, own: &str| -> Vec<Value> {
        list.as_array().into_iter().flatten().filter(|one| one[key] != own).cloned().collect()
    };
    if kind != POLICY {
        let mut own = condition(&renamed(&before["conditions"], CONDITION, "Accepted"));
        own["type"] = json!(CONDITION);
        let mut all = others(&before["conditions"], "type", CONDITION);
        all.push(own);
        return json!({ "conditions": all });
    }
    let mut all = others(&before["ancestors"], "controllerName", controller);
    for target in spec["targetRefs"].as_array().into_iter().flatten() {
        let group = target["group"].as_str().unwrap_or(GROUP);
        let reference = json!({ "group": group, "kind": target["kind"], "name": target["name"] });
        let stood = before["ancestors"].as_array().into_iter().flatten();
        let stood = stood.filter(|one| one["controllerName"] == controller);
        let stood = stood.into_iter().find(|one| one["ancestorRef"] == reference);
        let before = stood.map_or(Value::Null, |one| one["conditions"].clone());
        all.push(json!({
            "ancestorRef": reference,
            "controllerName": controller,
            "conditions": [condition(&before)],
        }));
    }
    json!({ "ancestors": all })
}

fn renamed(conditions: &Value, from: &str, to: &str) -> Value {
    let own = conditions.as_array().into_iter().flatten().filter(|one| one["type"] == from).cloned();
    let named = own.map(|mut one| {
        one["type"] = json!(to);
        one
    });
    named.collect()
}
