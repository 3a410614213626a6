//! What is shipped for deployment says what it should, is valid where it goes, and starts the product that was built.

mod chart;
mod cni;
mod compose;
mod configurations;
mod guide;
mod images;
mod kustomize;
mod pods;
mod rights;
mod schemas;
mod systemd;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The namespace that the goldens are for.
const NAMESPACE: &str = "sideguard-system";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

fn deploy(path: &str) -> PathBuf {
    root().join("deploy").join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()))
}

/// Helm or kubectl, as tests/setup has installed it, without anybody's own settings.
fn kubernetes(program: &str) -> Command {
    let path = root().join("target/clients/kubernetes").join(program);
    assert!(path.exists(), "`{}` is missing: run tests/setup", path.display());
    let mut command = Command::new(path);
    command.current_dir(root()).env("HELM_NO_PLUGINS", "1").env("KUBECONFIG", "/dev/null");
    command
}

/// The chart, rendered with these flags.
fn rendered(flags: &[&str]) -> Output {
    let chart = deploy("helm/sideguard");
    let mut helm = kubernetes("helm");
    helm.args(["template", "sideguard"]).arg(chart).args(["--namespace", NAMESPACE]).args(flags);
    helm.output().expect("helm runs")
}

/// The chart's output for flags that it takes.
fn manifest(flags: &[&str]) -> String {
    let output = rendered(flags);
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What the chart says to flags that it refuses.
fn refusal(flags: &[&str]) -> String {
    let output = rendered(flags);
    assert!(!output.status.success(), "{flags:?} were taken");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The objects of a manifest.
fn objects(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
    all.into_iter().filter(|object| !object.is_null()).collect()
}

/// Files of a directory with this ending, by name.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("`{}`: {error}", dir.display()));
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.retain(|path| path.to_string_lossy().ends_with(ending));
    all.sort();
    assert!(!all.is_empty(), "nothing in `{}`", dir.display());
    all
}

/// Everything that is rendered and kept: the chart's goldens and kustomize's overlays, each with a name.
fn all_rendered() -> Vec<(String, String)> {
    let goldens = files(&deploy("helm/golden"), ".yaml").into_iter().map(|path| (name(&path), read(&path)));
    goldens.chain(kustomize::overlays()).collect()
}

fn name(path: &Path) -> String {
    path.file_stem().expect("a name").to_string_lossy().into_owned()
}

/// Kind and name of an object, to speak of it.
fn called(object: &Value) -> String {
    format!(
        "{}/{}",
        object["kind"].as_str().unwrap_or_default(),
        object["metadata"]["name"].as_str().unwrap_or_default()
    )
}

/// The pod that an object makes, with its name.
fn pod_of(object: &Value) -> Option<(String, &Value)> {
    let spec = match object["kind"].as_str()? {
        "Pod" => &object["spec"],
        "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => &object["spec"]["template"]["spec"],
        _ => return None,
    };
    Some((called(object), spec))
}

/// All containers of a pod, init containers first.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let list = |key: &str| pod[key].as_array().into_iter().flatten();
    list("initContainers").chain(list("containers"))
}
