//! What deploy/README.md tells people to type.

use std::process::Command;

use super::{deploy, read, root};

fn lines() -> Vec<String> {
    let text = read(&deploy("README.md")).replace("\\\n", " ");
    let blocks =
        text.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block);
    let lines = blocks.flat_map(str::lines).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// The line as it is tried without a cluster: Helm renders, kubectl makes objects of what it is told; nothing when a
/// cluster would have to answer.
fn offline(line: &str) -> Option<String> {
    let part = |rest: &str| rest.to_owned();
    if let Some(rest) = line.strip_prefix("helm upgrade --install ") {
        return Some(format!(
            "helm template {}",
            part(rest).replace(" --create-namespace", "").replace(" --wait", "")
        ));
    }
    if line.starts_with("kubectl create ")
        || line.contains(" create secret ")
        || line.contains(" create configmap ")
    {
        return Some(format!("{line} --dry-run=client -o yaml"));
    }
    let alone =
        line.starts_with("openssl ") || line.starts_with("echo ") || line.starts_with("kubectl kustomize ");
    alone.then(|| part(line))
}

#[test]
fn what_can_be_typed_without_a_cluster_works() {
    let dir = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink(deploy(""), dir.path().join("deploy")).expect("a link");
    let path = format!("{}:/usr/bin:/bin", root().join("target/clients/kubernetes").display());
    let mut tried = 0;
    for line in lines() {
        let Some(line) = offline(&line) else { continue };
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &line])
            .current_dir(dir.path())
            .env("PATH", &path)
            .env("KUBECONFIG", "/dev/null")
            .output()
            .expect("bash runs");
        assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
        tried += 1;
    }
    assert!(tried >= 6, "{tried}");
}

#[test]
fn files_that_it_names_are_there() {
    for line in lines() {
        for word in line.split([' ', '=', ',']).filter(|word| word.starts_with("deploy/")) {
            assert!(
                root().join(word).exists() || word.ends_with("operator.key") || word.ends_with("token"),
                "`{line}`"
            );
        }
    }
}
