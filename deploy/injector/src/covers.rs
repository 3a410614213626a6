//! Whether what came back from the API server is what was sent: it fills in defaults, writes quantities in a form of its own,
//! and lets other webhooks add what they add to every container.

use serde_json::Value;

use crate::pod::text;
use crate::quantity;

/// Keys that the API server fills in where they are absent, and that change nothing of what runs.
const FILLED_IN: [&str; 13] = [
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "scheme",
    "timeoutSeconds",
    "successThreshold",
    "periodSeconds",
    "failureThreshold",
    "protocol",
    "hostPort",
    "apiVersion",
    "defaultMode",
    "recursiveReadOnly",
];
/// Where tokens of the pod's account are mounted in every container, by the API server and by clouds.
const TOKENS: [&str; 3] = [
    "/var/run/secrets/kubernetes.io/serviceaccount",
    "/var/run/secrets/eks.amazonaws.com/serviceaccount",
    "/var/run/secrets/azure/tokens",
];
/// Beginnings of variables that others put into every container and that change nothing of what our programs do. What is not
/// among them may: `PATH`, `SSL_CERT_FILE`, `LD_PRELOAD`, `HTTPS_PROXY`.
const OTHERS: [&str; 4] = ["AWS_", "AZURE_", "KUBERNETES_", "GOOGLE_CLOUD_"];

/// Whether `found` is `wanted`, and nothing beside it but what is added to every pod.
pub(crate) fn covers(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| within(key, wanted, found)))
                && found.iter().all(|(key, found)| wanted.contains_key(key) || filled_in(key, found))
        }
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len()
                && wanted.iter().zip(found).all(|(wanted, found)| covers(wanted, found))
        }
        _ => wanted == found,
    }
}

fn filled_in(key: &str, found: &Value) -> bool {
    match found {
        _ if key == "resizePolicy" => true,
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(_) => within(key, &Value::Array(Vec::new()), found),
        Value::String(found) if key == "procMount" => found == "Default",
        _ => FILLED_IN.contains(&key),
    }
}

/// As [`covers`], of what stands under a key.
fn within(key: &str, wanted: &Value, found: &Value) -> bool {
    let further: fn(&Value) -> bool = match key {
        "volumeMounts" => |mount| {
            let at = text(mount, "mountPath").trim_end_matches('/');
            let plain = mount.get("subPath").is_none() && mount.get("subPathExpr").is_none();
            plain && TOKENS.contains(&at) && mount.get("readOnly") == Some(&Value::Bool(true))
        },
        "env" => |variable| OTHERS.iter().any(|others| text(variable, "name").starts_with(others)),
        "cpu" | "memory" | "sizeLimit" => {
            let (Some(wanted), Some(found)) = (wanted.as_str(), found.as_str()) else { return false };
            return quantity::same(wanted, found);
        }
        _ => return covers(wanted, found),
    };
    let (Some(wanted), Some(found)) = (wanted.as_array(), found.as_array()) else { return false };
    // What others add, they add before or behind or between.
    let mut left = found.iter();
    let in_order = wanted.iter().all(|wanted| {
        left.by_ref()
            .find(|found| covers(wanted, found) || !further(found))
            .is_some_and(|found| covers(wanted, found))
    });
    in_order && left.all(further)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::covers;

    #[test]
    fn what_the_api_server_fills_in_is_no_change() {
        let wanted = json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}], "resources": {"limits": {"cpu": "0.5"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let found = json!({"name": "a", "env": [{"name": "AWS_REGION", "value": "x"}, {"name": "SIDEGUARD_X", "value": "1"}],
            "resources": {"limits": {"cpu": "500m"}}, "terminationMessagePath": "/dev/termination-log",
            "volumeMounts": [{"name": "v", "mountPath": "/v"},
                {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]});
        assert!(covers(&wanted, &found));
    }

    #[test]
    fn what_changes_what_runs_is_one() {
        let wanted = json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}], "volumeMounts": [], "image": "i"});
        for found in [
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "2"}], "volumeMounts": [], "image": "i"}),
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}, {"name": "LD_PRELOAD", "value": "x"}],
                "volumeMounts": [], "image": "i"}),
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}, {"name": "SIDEGUARD_X", "value": "2"}],
                "volumeMounts": [], "image": "i"}),
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}, {"name": "PATH", "value": "/var/run/secrets/x"}],
                "volumeMounts": [], "image": "i"}),
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}, {"name": "SSL_CERT_FILE", "value": "x"}],
                "volumeMounts": [], "image": "i"}),
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}], "image": "i",
                "volumeMounts": [{"name": "v", "mountPath": "/usr/bin"}]}),
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}], "image": "i",
                "volumeMounts": [{"name": "v", "mountPath": "/var/run/secrets/x", "readOnly": true}]}),
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}], "image": "i",
                "volumeMounts": [{"name": "v", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}),
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}], "volumeMounts": [], "image": "i",
                "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}),
            json!({"name": "a", "env": [{"name": "SIDEGUARD_X", "value": "1"}], "volumeMounts": []}),
        ] {
            assert!(!covers(&wanted, &found), "{found}");
        }
    }
}
