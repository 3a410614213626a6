//! Every object against the API's own schemas, unknown fields refused.

use std::path::PathBuf;
use std::process::Command;

use super::{all_rendered, deploy, files, objects, read, root};

/// The oldest version that the chart takes, one in use, and the newest whose schemas are published.
const VERSIONS: [&str; 3] = ["1.29", "1.33", "1.37"];
/// Kinds of others and our own: Kubernetes has no schemas of theirs.
const FOREIGN: [&str; 5] = ["Certificate", "Issuer", "ServiceMonitor", "Agent", "Policy"];

fn python() -> PathBuf {
    let venv = std::env::var_os("SIDEGUARD_CLIENTS_VENV");
    let venv = venv.map_or_else(|| root().join("target/clients/python"), PathBuf::from);
    venv.join("bin/python")
}

/// What the validator says of a manifest, and whether it is content.
fn validated(text: &str, version: &str) -> (bool, String) {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
    std::fs::write(file.path(), text).expect("a file");
    let output = Command::new(python())
        .args(["-m", "kubernetes_validate", "--strict", "-k", version])
        .arg(file.path())
        .output()
        .expect("python runs (tests/setup installs it)");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn every_object_is_valid_in_every_version() {
    let further = files(&deploy("helm/sideguard/crds"), ".yaml").into_iter();
    let further = further.chain([deploy("examples/kubernetes/agents.yaml")]);
    let further = further.map(|path| (path.display().to_string(), read(&path)));
    let all: Vec<(String, String)> = all_rendered().into_iter().chain(further).collect();
    std::thread::scope(|scope| {
        for version in VERSIONS {
            let all = &all;
            scope.spawn(move || {
                for (set, text) in all {
                    let (content, said) = validated(text, version);
                    assert!(content, "{set} in {version}: {said}");
                    for line in said.lines().filter(|line| line.starts_with("WARN")) {
                        let known = FOREIGN.iter().any(|kind| line.contains(&format!("kind {kind} ")));
                        assert!(known, "{set} in {version}: {line}");
                    }
                }
            });
        }
    });
}

#[test]
fn an_unknown_field_is_seen() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {bogus: 1, containers: [{name: x, image: y}]}\n";
    for version in VERSIONS {
        let (content, said) = validated(pod, version);
        assert!(!content && said.contains("bogus"), "{version}: {said}");
    }
}

#[test]
fn configurations_are_as_their_schemas_say() {
    let script = "import json, sys, jsonschema, yaml\n\
        jsonschema.validate(yaml.safe_load(sys.argv[1]), json.load(open(sys.argv[2])))";
    let mut tried = 0;
    for (set, text) in all_rendered() {
        for object in objects(&text).iter().filter(|object| object["kind"] == "ConfigMap") {
            for (file, text) in object["data"].as_object().into_iter().flatten() {
                let Some(kind) = file.strip_suffix(".yaml") else { continue };
                let schema = root().join(format!("policies/schema/{kind}.json"));
                let checked = Command::new(python())
                    .args(["-c", script, text.as_str().expect("text")])
                    .arg(schema)
                    .output();
                let checked = checked.expect("python runs");
                assert!(
                    checked.status.success(),
                    "{set}: {file}: {}",
                    String::from_utf8_lossy(&checked.stderr)
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 10, "{tried}");
}
