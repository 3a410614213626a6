//! The kustomize base and its overlays.

use serde_json::{Value, json};

use super::{called, deploy, kubernetes, manifest, objects};

/// What each overlay renders, by name.
pub(super) fn overlays() -> Vec<(String, String)> {
    let dir = deploy("kustomize/overlays");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).expect("overlays") {
        let path = entry.expect("an entry").path();
        let output = kubernetes("kubectl").arg("kustomize").arg(&path).output().expect("kubectl runs");
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        all.push((super::name(&path), String::from_utf8(output.stdout).expect("text")));
    }
    all.sort();
    all
}

#[test]
fn overlays_differ_in_how_pods_are_captured_and_in_nothing_else() {
    let overlays = overlays();
    let names: Vec<&str> = overlays.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cni", "explicit", "init"]);
    let plain: Vec<Value> = objects(&manifest(&["--skip-tests"]));
    for (name, text) in &overlays {
        let mut all = objects(text);
        let injector = all.iter_mut().find(|object| called(object) == "Deployment/sideguard-injector");
        let container = &mut injector.expect("the injector")["spec"]["template"]["spec"]["containers"][0];
        let variables = container.as_object_mut().expect("a container").remove("env");
        let image = format!("sideguard:{}", env!("CARGO_PKG_VERSION"));
        let expected = json!([
            {"name": "SIDEGUARD_CAPTURE", "value": name},
            {"name": "SIDEGUARD_IMAGE", "value": image},
        ]);
        assert_eq!(variables, Some(expected));
        let namespace = all.iter().position(|object| object["kind"] == "Namespace").expect("the namespace");
        let namespace = all.remove(namespace);
        assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
        // What the nodes need, besides.
        all.retain(|object| object["kind"] != "DaemonSet");
        let find = |object: &Value| {
            let same = |other: &&Value| {
                called(other) == called(object)
                    && other["metadata"]["namespace"] == object["metadata"]["namespace"]
            };
            plain.iter().find(same)
        };
        assert_eq!(all.len(), plain.len(), "{name}");
        for object in &all {
            assert!(find(object) == Some(object), "{name}: {} is not as Helm makes it", called(object));
        }
    }
}
