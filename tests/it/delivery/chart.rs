//! The Helm chart: its goldens, what it refuses, and what it never renders.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{
    NAMESPACE, all_rendered, called, deploy, files, kubernetes, manifest, name, objects, read, refusal, root,
};

#[test]
fn what_the_chart_renders_is_what_is_kept() {
    let fresh = tempfile::tempdir().expect("a directory");
    let rendered = Command::new(deploy("helm/render"))
        .arg(fresh.path())
        .env("HELM", root().join("target/clients/kubernetes/helm"))
        .output()
        .expect("the script runs");
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    for part in ["helm/golden", "kustomize/base", "kustomize/overlays/cni"] {
        let written: Vec<String> =
            files(&fresh.path().join(part), ".yaml").iter().map(|path| name(path)).collect();
        for name in &written {
            let file = format!("{part}/{name}.yaml");
            let same = read(&fresh.path().join(&file)) == read(&deploy(&file));
            assert!(same, "deploy/{file} is out of date: run deploy/helm/render and look at the difference");
        }
        if part == "helm/golden" {
            let kept: Vec<String> = files(&deploy(part), ".yaml").iter().map(|path| name(path)).collect();
            assert_eq!(kept, written);
        }
    }
}

#[test]
fn the_chart_passes_helms_own_check_with_every_set_of_values() {
    let sets = files(&deploy("helm/sideguard/examples"), ".yaml");
    for set in std::iter::once(None).chain(sets.iter().map(Some)) {
        let mut helm = kubernetes("helm");
        helm.args(["lint", "--strict"]).arg(deploy("helm/sideguard"));
        if let Some(file) = set {
            helm.arg("--values").arg(file);
        }
        let output = helm.output().expect("helm runs");
        assert!(output.status.success(), "{set:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn an_upgrade_changes_nothing_when_nothing_changed() {
    let first = manifest(&[]);
    assert_eq!(manifest(&["--is-upgrade"]), first);
    // Nothing in the templates asks the cluster, the clock or chance.
    let mut folders = vec![deploy("helm/sideguard/templates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("templates") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = read(&path);
            let actions = text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}"));
            for (action, _) in actions.filter(|(action, _)| !action.contains("/*")) {
                for word in action.split(|letter: char| !letter.is_alphanumeric()) {
                    let asks = ["lookup", "now", "uuidv4"].contains(&word)
                        || ["gen", "rand", "derive"].iter().any(|start| word.starts_with(start));
                    assert!(!asks, "`{word}` in {}", path.display());
                }
            }
        }
    }
}

#[test]
fn what_helm_says_after_an_installation_warns_of_what_is_not_safe() {
    let said = |flags: &[&str]| {
        let mut helm = kubernetes("helm");
        helm.args(["install", "sideguard", "--namespace", NAMESPACE, "--dry-run=client"]);
        let output = helm.arg(deploy("helm/sideguard")).args(flags).output().expect("helm runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
        text.split_once("NOTES:").map(|(_, notes)| notes.to_owned()).expect("notes")
    };
    let plain = said(&[]);
    assert!(plain.contains("sideguard.dev/inject=enabled") && !plain.contains("WARNING"), "{plain}");
    assert!(said(&["--set", "control.tls.enabled=false"]).contains("WARNING: control speaks plain HTTP"));
    assert!(said(&["--set", "networkPolicy.enabled=false"]).contains("WARNING: no NetworkPolicy"));
}

#[test]
fn nothing_secret_is_rendered() {
    for (set, text) in all_rendered() {
        assert!(!text.contains("PRIVATE KEY"), "{set}");
        for secret in objects(&text).iter().filter(|object| object["kind"] == "Secret") {
            assert!(secret.get("data").is_none(), "{set}: {}", called(secret));
            assert!(secret.get("stringData").is_none(), "{set}: {}", called(secret));
        }
    }
}

#[test]
fn values_that_mean_nothing_are_refused_by_name() {
    for (flags, part) in [
        (["--set", "control.replica=2"], "replica"),
        (["--set", "images.control.tag=latest"], "tag"),
        (["--set", "images.control.digest=sha256:12"], "digest"),
        (["--set", "control.tls.ca=nonsense"], "ca"),
        (["--set", "control.replicas=2"], "control.replicas: more than one needs a shared store"),
        (
            ["--set", "control.store.secretName=s,control.operatorKey.secretName="],
            "control.operatorKey.secretName: with a shared store",
        ),
    ] {
        let said = refusal(&flags);
        assert!(said.contains(part), "{flags:?}: {said}");
    }
}

#[test]
fn clusters_without_native_sidecars_are_refused() {
    assert!(refusal(&["--kube-version", "1.28.15"]).contains(">=1.29.0-0"));
    manifest(&["--kube-version", "1.29.0"]);
    manifest(&["--kube-version", "v1.30.4-gke.100"]);
}

#[test]
fn webhooks_fail_closed_for_namespaces_that_opted_in_and_no_others() {
    let all = objects(&manifest(&[]));
    let hooks: Vec<&Value> = all
        .iter()
        .filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("WebhookConfiguration")))
        .flat_map(|object| object["webhooks"].as_array().into_iter().flatten())
        .collect();
    assert_eq!(hooks.len(), 2);
    for hook in &hooks {
        let selector = serde_json::json!({"matchExpressions": [
            {"key": "sideguard.dev/inject", "operator": "In", "values": ["enabled"]},
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn",
             "values": ["kube-system", "kube-node-lease", "sideguard-system"]},
        ]});
        assert_eq!(hook["namespaceSelector"], selector);
        assert_eq!(hook["failurePolicy"], "Fail");
        assert_eq!(hook["sideEffects"], "None");
        assert_eq!(hook["matchPolicy"], "Equivalent");
        assert_eq!(hook["timeoutSeconds"], 5);
        // The injector's to write: one here, even an empty one, would take its own away at each upgrade.
        assert!(hook["clientConfig"].get("caBundle").is_none());
    }
    assert_eq!(hooks[0]["reinvocationPolicy"], "IfNeeded");
    assert_eq!(hooks[1]["rules"][1]["resources"][0], "pods/ephemeralcontainers");
}

#[test]
fn agents_namespaces_get_a_fence_and_controls_roots() {
    let roots = "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n";
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), roots).expect("a file");
    let ca = format!("control.tls.ca={}", file.path().display());
    let all = objects(&manifest(&["--set", "agents.namespaces={a,b}", "--set-file", &ca]));
    let inside = |namespace: &str, kind: &str| -> Vec<Value> {
        let there = |object: &&Value| object["metadata"]["namespace"] == namespace && object["kind"] == kind;
        all.iter().filter(there).cloned().collect()
    };
    for namespace in ["a", "b"] {
        let kept = &inside(namespace, "ConfigMap")[0];
        assert_eq!(kept["metadata"]["name"], "sideguard-control-ca");
        assert_eq!(kept["data"]["ca.crt"], roots);
        let fence = &inside(namespace, "NetworkPolicy")[0]["spec"];
        assert_eq!(fence["podSelector"], serde_json::json!({}));
        assert_eq!(fence["policyTypes"], serde_json::json!(["Egress"]));
        let public = &fence["egress"][2];
        assert_eq!(public["ports"], serde_json::json!([{"protocol": "TCP", "port": 443}]));
        let except = public["to"][0]["ipBlock"]["except"].as_array().expect("what is left out");
        assert!(
            except.contains(&Value::from("169.254.0.0/16")) && except.contains(&Value::from("10.0.0.0/8"))
        );
    }
}
