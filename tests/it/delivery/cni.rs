//! The plugin of a node's network: how it gets there, and what it does to a pod, run as a container runtime runs it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::command::{self, Ran};
use harness::fake::{self, Fake};
use harness::pod::{AGENT, SIDECAR, WORLD};
use harness::{Pod, sidecar};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{images, read};

/// A node, as a directory.
struct Node {
    dir: TempDir,
    image: TempDir,
}

impl Node {
    /// One whose network is set up by two plugins.
    fn new() -> Self {
        let node = Self { dir: tempfile::tempdir().expect("a directory"), image: images::image() };
        for part in ["bin", "conf", "home"] {
            fs::create_dir(node.path(part)).expect("a directory");
        }
        fs::write(node.list(), Self::others().to_string()).expect("a file");
        node
    }

    fn others() -> Value {
        json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "ptp", "ipam": {"type": "host-local"}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]})
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    fn list(&self) -> PathBuf {
        self.path("conf/10-pods.conflist")
    }

    fn content(&self) -> Value {
        serde_json::from_str(&read(&self.list())).expect("JSON")
    }

    async fn does(&self, verb: &str, flags: &[&str]) -> Ran {
        let at = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        let mut cni = command::command(self.dir.path(), &["cni", verb, "--host=/"]);
        cni.args(["bin", "conf", "home"].map(|part| at(part, &self.path(part))));
        cni.arg(at("image", self.image.path())).args(flags);
        command::ran(cni).await
    }

    async fn installed(&self) {
        let ran = self.does("install", &["--once", "--", "--proxy-uid=14102"]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
    }

    /// What a runtime does for a pod: the plugin's program, the environment, configuration on standard input.
    fn plugin(&self, command: &str, network: &Path, status: Option<&str>) -> (bool, Value) {
        let mut config =
            self.content()["plugins"].as_array().and_then(|all| all.last().cloned()).expect("an entry");
        let annotations = status.map_or(json!({}), |status| json!({"sideguard.dev/status": status}));
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("pods");
        config["runtimeConfig"] = json!({"io.kubernetes.cri.pod-annotations": annotations});
        config["prevResult"] = made();
        let mut plugin = Command::new(self.path("bin/sideguard-cni"));
        plugin
            .env_clear()
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")])
            .env("CNI_NETNS", network)
            .env("CNI_PATH", self.path("bin"));
        let mut child = plugin
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("a start");
        child.stdin.take().expect("its input").write_all(config.to_string().as_bytes()).expect("its input");
        let Output { status, stdout, .. } = child.wait_with_output().expect("an end");
        (status.success(), serde_json::from_slice(&stdout).unwrap_or_default())
    }
}

/// What the plugins before have made.
fn made() -> Value {
    json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "ips": [{"address": "192.0.2.2/24", "interface": 0}]})
}

const CAPTURED: Option<&str> = Some(r#"{"capture": "cni", "version": "0.1.0"}"#);

async fn reaches(pod: &Pod, uid: u32) -> bool {
    let url = format!("http://{}/", WORLD[0]);
    let curl = pod.container(uid, &["curl", "-sS", "-m", "5", &url]).output().await.expect("a start");
    curl.status.success()
}

fn world(pod: &Pod) -> Fake {
    Fake::on(pod.listen(&format!("{}:80", WORLD[0])), None, |_| {
        fake::reply("text/plain", fake::whole("there"))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_its_node_captures_reaches_nothing_but_the_sidecar() {
    let node = Node::new();
    node.installed().await;
    let pod = Pod::new();
    let _fake = world(&pod);
    assert!(reaches(&pod, AGENT).await, "nothing holds it before");
    assert_eq!(node.plugin("ADD", &pod.network(), CAPTURED), (true, made()));
    assert!(!reaches(&pod, AGENT).await);
    assert!(!reaches(&pod, 0).await);
    assert!(reaches(&pod, SIDECAR).await);
    assert_eq!(node.plugin("CHECK", &pod.network(), CAPTURED), (true, Value::Null));
    // The same rules as those of the init step.
    let listed = |pod: &Pod| {
        let net = format!("--net={}", pod.network().display());
        let nft =
            Command::new("nsenter").args([&net, "nft", "-s", "list", "table", "inet", "sideguard"]).output();
        String::from_utf8(nft.expect("nft runs").stdout).expect("text")
    };
    let other = Pod::new();
    assert!(other.init(&["init", "--proxy-uid", "14102"]).status.success());
    assert_eq!(listed(&pod), listed(&other));
    assert!(listed(&pod).contains("14102"));
    assert_eq!(node.plugin("DEL", &pod.network(), CAPTURED), (true, Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_pods_are_left_alone_and_a_lost_rule_is_told() {
    let node = Node::new();
    node.installed().await;
    let pod = Pod::new();
    let _fake = world(&pod);
    for status in [None, Some(r#"{"capture": "init"}"#)] {
        assert_eq!(node.plugin("ADD", &pod.network(), status), (true, made()));
        assert!(reaches(&pod, AGENT).await);
        assert_eq!(node.plugin("CHECK", &pod.network(), status), (true, Value::Null));
    }
    let (content, told) = node.plugin("CHECK", &pod.network(), CAPTURED);
    assert!(!content && told["code"] == 100, "{told}");
    let (content, told) = node.plugin("ADD", Path::new("/run/netns/none"), CAPTURED);
    assert!(!content && told["msg"].as_str().is_some_and(|msg| msg.contains("/run/netns/none")), "{told}");
    let (content, told) = node.plugin("VERSION", &pod.network(), None);
    assert!(content && told["supportedVersions"].as_array().is_some_and(|all| all.contains(&json!("1.0.0"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_comes_last_stays_there_and_goes_without_a_trace() {
    let node = Node::new();
    assert_eq!(node.does("status", &[]).await.code, Some(1));
    node.installed().await;
    let first = node.content();
    let plugins = first["plugins"].as_array().expect("plugins");
    assert_eq!(plugins[..2], Node::others()["plugins"].as_array().expect("plugins")[..]);
    assert_eq!(plugins[2]["type"], "sideguard-cni");
    assert_eq!(plugins.len(), 3);
    assert_eq!(node.does("status", &[]).await.code, Some(0));
    node.installed().await;
    assert_eq!(node.content(), first, "a second time changes nothing");
    // Another installer writes its list anew, or adds itself behind.
    fs::write(node.list(), Node::others().to_string()).expect("a file");
    assert_eq!(node.does("status", &[]).await.code, Some(1));
    node.installed().await;
    assert_eq!(node.content(), first);
    let flags = ["--once", "--", "--proxy-uid=14102", "--loopback=8080"];
    assert_eq!(node.does("install", &flags).await.code, Some(0));
    assert_eq!(node.content()["plugins"][2]["rules"], json!(["--proxy-uid=14102", "--loopback=8080"]));
    assert_eq!(node.content()["plugins"].as_array().map(Vec::len), Some(3));
    for wrong in [["--once", "--", "--proxy-uid=0"], ["--once", "--", "--nonsense"]] {
        assert_eq!(node.does("install", &wrong).await.code, Some(2));
    }
    assert_eq!(node.does("remove", &[]).await.code, Some(0));
    assert_eq!(node.content(), Node::others());
    for part in ["bin", "home"] {
        assert_eq!(fs::read_dir(node.path(part)).expect("a directory").count(), 0, "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_installer_waits_for_a_network_and_keeps_the_plugin_until_it_is_told_to_end() {
    let node = Node::new();
    fs::remove_file(node.list()).expect("a file that was there");
    let ran = node.does("install", &["--once"]).await;
    assert_eq!(ran.code, Some(125));
    assert!(ran.err.contains("no list of plugins"), "{}", ran.err);
    let mut keeper = Command::new(sidecar::binary());
    keeper.args(["cni", "install", "--host=/"]);
    for part in ["bin", "conf", "home"] {
        keeper.arg(format!("--{part}={}", node.path(part).display()));
    }
    let mut keeper = keeper.arg(format!("--image={}", node.image.path().display())).spawn().expect("a start");
    fs::write(node.list(), Node::others().to_string()).expect("a file");
    harness::until("the plugin is there", || node.content()["plugins"].as_array().map(Vec::len) == Some(3))
        .await;
    let sent = Command::new("kill").arg("-TERM").arg(keeper.id().to_string()).status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(keeper.wait().expect("an end").code(), Some(0));
    assert_eq!(
        node.content()["plugins"].as_array().map(Vec::len),
        Some(3),
        "it stays when the installer ends"
    );
}
