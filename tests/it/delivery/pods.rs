//! The pods that are shipped: what they may do, which images they run, how they are probed.

use serde_json::{Value, json};

use super::{all_rendered, containers, objects, pod_of};

/// The one that has to do with nodes, and therefore not with Pod Security.
const NODE: &str = "DaemonSet/sideguard-cni";

fn every_pod(mut look: impl FnMut(&str, &Value)) {
    let mut count = 0;
    for (set, text) in all_rendered() {
        for object in objects(&text) {
            if let Some((name, pod)) = pod_of(&object) {
                count += 1;
                look(&format!("{set}: {name}"), pod);
            }
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn pods_pass_the_restricted_level_and_can_write_nowhere() {
    every_pod(|name, pod| {
        if name.ends_with(NODE) {
            return;
        }
        let whole = &pod["securityContext"];
        assert_eq!(whole["runAsNonRoot"], true, "{name}");
        assert_eq!((&whole["runAsUser"], &whole["runAsGroup"]), (&json!(65532), &json!(65532)), "{name}");
        assert_eq!(whole["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for key in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
            assert!(pod.get(key).is_none(), "{name}: {key}");
        }
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            assert!(volume.get("hostPath").is_none(), "{name}: {volume}");
        }
        for container in containers(pod) {
            let own = &container["securityContext"];
            assert_eq!(own["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(own["privileged"], false, "{name}");
            assert_eq!(own["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}), "{name}");
            assert!(own.get("runAsUser").is_none(), "{name}");
            for bound in ["requests", "limits"] {
                assert!(container["resources"][bound]["memory"].is_string(), "{name}: {bound}");
            }
        }
    });
}

#[test]
fn images_are_pinned() {
    let version = format!(":{}", env!("CARGO_PKG_VERSION"));
    let digest = |image: &str| {
        image
            .split_once("@sha256:")
            .is_some_and(|(_, hex)| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    every_pod(|name, pod| {
        for container in containers(pod) {
            let image = container["image"].as_str().expect("an image");
            assert!(image.ends_with(&version) || digest(image), "{name}: {image}");
            let own = image.rsplit('/').next().is_some_and(|image| image.starts_with("sideguard"));
            assert!(own, "{name}: {image}");
        }
    });
}

#[test]
fn daemons_tell_when_they_start_are_ready_and_live() {
    every_pod(|name, pod| {
        if name.ends_with("-test") || name.ends_with(NODE) {
            return;
        }
        for container in containers(pod) {
            for (probe, path) in
                [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
            {
                let get = &container[probe]["httpGet"];
                assert_eq!(get["path"], path, "{name}: {probe}");
                let port = get["port"].as_str().expect("a port's name");
                let mut ports = container["ports"].as_array().into_iter().flatten();
                assert!(ports.any(|open| open["name"] == port), "{name}: no port `{port}`");
            }
        }
    });
}

#[test]
fn the_nodes_pod_has_three_directories_of_the_node_and_no_other_right() {
    let mut count = 0;
    every_pod(|name, pod| {
        if !name.ends_with(NODE) {
            return;
        }
        count += 1;
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod.get(key).is_none(), "{name}: {key}");
        }
        let paths: Vec<&Value> = pod["volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|volume| &volume["hostPath"]["path"])
            .collect();
        assert_eq!(paths, ["/opt/cni/bin", "/etc/cni/net.d", "/opt/sideguard"], "{name}");
        let own = &pod["containers"][0]["securityContext"];
        assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}), "{name}");
        assert_eq!(
            (&own["privileged"], &own["allowPrivilegeEscalation"]),
            (&json!(false), &json!(false)),
            "{name}"
        );
        assert_eq!(own["readOnlyRootFilesystem"], true, "{name}");
    });
    assert_eq!(count, 2, "the chart's and kustomize's");
}
