//! What the tests of this crate share: reviews, and the checks that an API server makes of their answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sideguard_injector::known::{Facts, Known};
use sideguard_injector::review::{Webhook, answer};
use sideguard_injector::settings::Settings;

/// Uid of every review.
pub(crate) const UID: &str = "705ab4f5-6393-11e8-b7cc-42010a800002";

/// What came of a review.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Allowed: the patch, the patched pod, the warnings.
    Allowed(Vec<Value>, Value, Vec<String>),
    /// Refused: status and message.
    Refused(u64, String),
}

impl Verdict {
    pub(crate) fn pod(self) -> Value {
        match self {
            Self::Allowed(_, pod, _) => pod,
            Self::Refused(_, message) => panic!("refused: {message}"),
        }
    }
}

/// A namespace `team`, opted in, and its Agent `researcher`.
pub(crate) fn known(namespace: &Value, profile: &Value) -> Known {
    let mut labels =
        json!({"sideguard.dev/inject": "enabled", "sideguard.dev/default-profile": "researcher"});
    merge(&mut labels, namespace.get("labels"));
    let mut annotations = json!({});
    merge(&mut annotations, namespace.get("annotations"));
    let mut known = Known::default();
    let metadata = json!({"name": "team", "labels": labels, "annotations": annotations});
    known.take(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).expect("a namespace");
    let metadata = json!({"name": "researcher", "namespace": "team", "generation": 3});
    let agent =
        json!({"apiVersion": "sideguard.dev/v1", "kind": "Agent", "metadata": metadata, "spec": profile});
    known.take(&agent).expect("an agent");
    known
}

fn merge(into: &mut Value, from: Option<&Value>) {
    for (key, value) in from.and_then(Value::as_object).into_iter().flatten() {
        match value {
            Value::Null => drop(into.as_object_mut().expect("a map").remove(key)),
            value => into[key] = value.clone(),
        }
    }
}

/// A review of a pod that is made.
pub(crate) fn review(pod: &Value, namespace: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": UID,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": "CREATE",
            "userInfo": {"username": "alice", "groups": ["system:authenticated"]},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

/// Asks, and checks the answer as an API server does: its version, the uid, the kind of patch, and that it applies.
pub(crate) fn ask(webhook: Webhook, review: &Value, known: &Known, settings: &Settings) -> Verdict {
    let facts = Facts::new(known.clone());
    let answered = answer(webhook, review.to_string().as_bytes(), &facts, settings).expect("a review");
    verdict(&answered.review, &review["request"]["object"])
}

/// As [`ask`], of an answer.
pub(crate) fn verdict(answer: &Value, pod: &Value) -> Verdict {
    assert_eq!(
        (answer["apiVersion"].as_str(), answer["kind"].as_str()),
        (Some("admission.k8s.io/v1"), Some("AdmissionReview"))
    );
    let response = &answer["response"];
    assert_eq!(response["uid"], UID);
    if response["allowed"] != true {
        assert!(response.get("patch").is_none(), "a refusal with a patch");
        let status = &response["status"];
        return Verdict::Refused(
            status["code"].as_u64().expect("a code"),
            status["message"].as_str().expect("a message").to_owned(),
        );
    }
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let warnings = warnings.map(|warning| warning.as_str().expect("a text").to_owned()).collect();
    let Some(patch) = response.get("patch") else {
        assert!(response.get("patchType").is_none());
        return Verdict::Allowed(Vec::new(), pod.clone(), warnings);
    };
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = STANDARD.decode(patch.as_str().expect("a text")).expect("base64");
    let operations: Vec<Value> = serde_json::from_slice(&patch).expect("operations");
    assert!(!operations.is_empty(), "an empty patch is not sent");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a patch");
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch).expect("it applies");
    Verdict::Allowed(operations, patched, warnings)
}
