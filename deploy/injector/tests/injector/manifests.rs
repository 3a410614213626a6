//! Manifests on standard input: what is changed, and that the rest keeps its bytes.

use serde_json::{Value, json};
use sideguard_injector::manifest::{ManifestError, Manifests};
use sideguard_injector::settings::Settings;

use crate::common::known;

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: agent\n    image: a\n";

fn inject(text: &str) -> Result<sideguard_injector::manifest::Done, ManifestError> {
    let settings = Settings::default();
    Manifests { settings: &settings, known: None, namespace: "team", profile: Some("researcher") }
        .inject(text)
}

fn read(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).expect("YAML")
}

#[test]
fn what_has_no_pod_keeps_every_byte() {
    let other = "# a comment\napiVersion: v1\nkind: ConfigMap # another\nmetadata: {name:   spaced}\ndata: {a: \"1\"}\n";
    for text in [
        other.to_owned(),
        format!("---\n{other}---\n\n# nothing here\n---\n{other}"),
        String::new(),
        "# only\n".to_owned(),
        "{\"kind\":\"Service\",   \"a\": 1e2}\n".to_owned(),
    ] {
        let done = inject(&text).expect("no pod");
        assert_eq!((done.text, done.injected), (text, 0));
    }
    let text = format!("{other}---\n{POD}---\r\n{other}");
    let done = inject(&text).expect("a pod");
    assert!(done.text.starts_with(other) && done.text.ends_with(&format!("---\r\n{other}")), "{}", done.text);
    assert_eq!(done.injected, 1);
}

#[test]
fn every_kind_with_a_template_is_injected_once() {
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "agent", "image": "a"}]}});
    let mut items =
        vec![json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": template["spec"]})];
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"] {
        items.push(
            json!({"kind": kind, "metadata": {"name": "a"}, "spec": {"replicas": 2, "template": template}}),
        );
    }
    items.push(json!({"kind": "CronJob", "metadata": {"name": "a"}, "spec": {"jobTemplate": {"spec": {"template": template}}}}));
    let count = items.len();
    let texts = [
        items.iter().map(|item| format!("---\n{item:#}\n")).collect::<String>(),
        items.iter().map(Value::to_string).collect::<String>(),
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string(),
    ];
    for text in texts {
        let done = inject(&text).expect("pods");
        assert_eq!(done.injected, count);
        assert_eq!(done.text.matches("\"sideguard-proxy\"").count(), count);
        let again = inject(&done.text).expect("pods");
        assert_eq!((again.injected, again.text), (0, done.text));
    }
}

#[test]
fn a_changed_document_keeps_its_keys_in_order_and_what_nobody_knows() {
    let text = "kind: Deployment\nzeta: {future: [1, 2.5, null, true]}\napiVersion: apps/v1\nmetadata:\n  name: b\n  annotations:\n    \
        on: \"yes\"\n    port: \"0123\"\n    time: \"12:30\"\n    multi: |\n      one\n      two\nspec:\n  template:\n    spec:\n      \
        containers:\n      - image: a\n        name: agent\n        command: [\"sh\", \"-c\", \"echo {a}: #b\"]\n";
    let text = text.replace("    on:", "    \"on\":");
    let done = inject(&text).expect("a pod");
    let (before, after) = (&read(&text)[0], &read(&done.text)[0]);
    for key in ["zeta", "metadata", "apiVersion"] {
        assert_eq!(before[key], after[key], "{}", done.text);
    }
    let order = ["kind:", "zeta:", "apiVersion:", "metadata:", "spec:"];
    let places: Vec<usize> =
        order.iter().map(|key| done.text.find(&format!("\n{key}")).unwrap_or(0)).collect();
    assert!(places.is_sorted(), "{}", done.text);
    // Readers of YAML 1.1, such as kubectl, take these for something else when they are not in quotes.
    for quoted in ["\"yes\"", "\"0123\"", "\"12:30\""] {
        assert!(done.text.contains(quoted), "{quoted}: {}", done.text);
    }
    let container = &after["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["command"], json!(["sh", "-c", "echo {a}: #b"]));
    assert_eq!(after["spec"]["template"]["spec"]["initContainers"][1]["name"], "sideguard-proxy");
}

#[test]
fn a_pod_that_is_refused_stops_everything() {
    let text = format!("{POD}---\n{}", POD.replace("spec:", "spec:\n  hostNetwork: true"));
    let error = inject(&text).expect_err("a refusal").to_string();
    assert!(error.starts_with("Pod/a: sideguard: `hostNetwork`"), "{error}");
    for text in ["a: b: c\n", "{\"a\": \n", "kind: Pod\nkind: Pod\n"] {
        let error = inject(text).expect_err("no document");
        assert!(matches!(error, ManifestError::Unreadable { .. }), "{error}");
    }
}

#[test]
fn what_is_known_of_the_cluster_decides() {
    let settings = Settings::default();
    let known = known(&json!({}), &json!({"injection": {"capture": "explicit"}}));
    let by = |namespace| Manifests { settings: &settings, known: Some(&known), namespace, profile: None };
    let done = by("team").inject(POD).expect("a pod");
    assert!(done.text.contains("HTTPS_PROXY") && !done.text.contains("sideguard-init"), "{}", done.text);
    assert!(by("elsewhere").inject(POD).is_err());
    let done = by("kube-system").inject(POD).expect("left alone");
    assert_eq!(done.text, POD);
    assert!(done.warnings[0].contains("left as it is"));
    let nameless =
        Manifests { settings: &settings, known: None, namespace: "team", profile: None }.inject(POD);
    assert!(nameless.is_err_and(|error| error.to_string().contains("no profile")));
}
