//! The configuration files that are shipped, with the binary that was built.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::servers::SERVERS;
use harness::tls::Authority;
use harness::{command, sidecar};
use serde_json::Value;
use tempfile::TempDir;

use super::{all_rendered, containers, deploy, objects, pod_of, read};

const START: Duration = Duration::from_secs(20);
/// The key that every operator's Secret of these tests holds.
const KEY: &str = "sgk_00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// What a daemon finds where its configuration says: the mounts of a pod, in a directory.
struct Mounts {
    dir: TempDir,
    authority: Authority,
}

impl Mounts {
    fn new() -> Self {
        let mounts = Self { dir: tempfile::tempdir().expect("a directory"), authority: Authority::new() };
        let (certificate, key) = mounts.authority.issue(&["localhost"]);
        mounts.put("etc/tls/tls.crt", &certificate);
        mounts.put("etc/tls/tls.key", &key);
        mounts.put("etc/tls/ca.crt", mounts.authority.pem());
        mounts.put("etc/operator/operator.key", KEY);
        mounts.put("etc/secrets/approvals/secret", "a secret of 16 bytes or more");
        mounts
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn path(&self, path: &str) -> String {
        self.dir.path().join(path).display().to_string()
    }

    /// A configuration with its paths moved here, in a file.
    fn moved(&self, name: &str, text: &str) -> String {
        let text = text
            .replace("/etc/sideguard", &self.path("etc"))
            .replace("/run/secrets", &self.path("etc/operator"))
            .replace("/var/lib/sideguard", &self.path("state"));
        self.put(name, &text);
        self.path(name)
    }
}

/// A daemon that runs. It ends with this.
struct Daemon(Child);

impl Daemon {
    /// Starts one, and gives what stands behind `sign` in the line that says where it is.
    fn start(mut command: Command, sign: &str) -> (Self, String) {
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("standard error");
        let daemon = Self(child);
        let (send, receive) = std::sync::mpsc::channel();
        let sign = sign.to_owned();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{line}");
                if let Some(rest) = line.strip_prefix(&sign) {
                    // The test may have given up.
                    let _ = send.send(rest.to_owned());
                }
            }
        });
        let told = receive.recv_timeout(START).expect("the daemon says where it is");
        (daemon, told)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `sideguard` with arguments, in an environment of its own.
fn sideguard(mounts: &Mounts, arguments: &[&str]) -> Command {
    let mut command = Command::new(sidecar::binary());
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command.env("SIDEGUARD_STATE", mounts.path("state"));
    command
}

/// A configuration of control that asks nothing of a cluster.
fn without_cluster(config: &str) -> String {
    let mut all = objects(config);
    all[0]["spec"].as_object_mut().expect("a spec").remove("kubernetes");
    // JSON is YAML.
    all[0].to_string()
}

fn text<'v>(object: &'v Value, file: &str) -> Option<&'v str> {
    (object["kind"] == "ConfigMap").then(|| object["data"][file].as_str()).flatten()
}

/// Names of the variables that a container of the set has.
fn variables(all: &[Value]) -> Vec<String> {
    let pods = all.iter().filter_map(pod_of);
    let variables =
        pods.flat_map(|(_, pod)| containers(pod)).flat_map(|one| one["env"].as_array().into_iter().flatten());
    variables.filter_map(|one| one["name"].as_str()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn control_starts_with_every_rendered_configuration_and_knows_the_operator() {
    for (set, rendered) in all_rendered() {
        let all = objects(&rendered);
        let Some(config) = all.iter().find_map(|object| text(object, "control.yaml")) else {
            panic!("{set} has no control");
        };
        let mounts = Mounts::new();
        let file = mounts.moved("control.yaml", &without_cluster(config));
        let mut command = sideguard(&mounts, &["control", "-c", &file]);
        command.env("SIDEGUARD_LISTEN", "127.0.0.1:0");
        if variables(&all).iter().any(|name| name == "SIDEGUARD_STORE__REDIS") {
            let (redis, nats) = SERVERS.urls();
            command.env("SIDEGUARD_STORE__REDIS", redis).env("SIDEGUARD_STORE__NATS", nats);
            command.env("SIDEGUARD_STORE__NAMESPACE", format!("test-{set}"));
        }
        let (_control, told) = Daemon::start(command, "sideguard: control ");
        let (url, key) = told.split_once(" key ").expect("where the key is");
        assert_eq!(key, mounts.path("etc/operator/operator.key"), "{set}");
        // As the chart's own test asks, by a name that a port-forward has.
        let port = url.rsplit(':').next().expect("a port");
        let scheme = if set == "mesh" { "http" } else { "https" };
        let url = format!("{scheme}://localhost:{port}");
        let mut history = command::command(mounts.dir.path(), &["history", "--control", &url]);
        history.env("SIDEGUARD_KEY_FILE", key).env("SIDEGUARD_CA_FILE", mounts.path("etc/tls/ca.crt"));
        let ran = command::ran(history).await;
        assert_eq!(ran.code, Some(0), "{set}: {}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_injector_starts_with_every_rendered_configuration() {
    for (set, rendered) in all_rendered() {
        let all = objects(&rendered);
        let Some(config) = all.iter().find_map(|object| text(object, "injector.yaml")) else {
            assert_eq!(set, "control-only");
            continue;
        };
        let mounts = Mounts::new();
        // Without a cluster, what it would learn there comes from files.
        mounts.put("known.yaml", "apiVersion: v1\nkind: List\nitems: []\n");
        let file = mounts.moved("injector.yaml", config);
        let mut command = sideguard(&mounts, &["injector", "-c", &file]);
        command
            .env("SIDEGUARD_LISTEN__WEBHOOK", "127.0.0.1:0")
            .env("SIDEGUARD_LISTEN__ADMIN", "127.0.0.1:0")
            .env("SIDEGUARD_KNOWN", mounts.path("known.yaml"))
            .env("SIDEGUARD_KUBERNETES_VERSION", "1.33")
            .env("SIDEGUARD_CERTIFICATE__CERTIFICATE", mounts.path("etc/tls/tls.crt"))
            .env("SIDEGUARD_CERTIFICATE__KEY", mounts.path("etc/tls/tls.key"));
        Daemon::start(command, "sideguard: ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compose_starts_control_on_redis_and_nats_and_a_gateway_that_enrols() {
    let mounts = Mounts::new();
    let control = mounts.moved("control.yaml", &read(&deploy("compose/control.yaml")));
    let (redis, nats) = SERVERS.urls();
    let mut command = sideguard(&mounts, &["control", "-c", &control]);
    command
        .env("SIDEGUARD_LISTEN", "127.0.0.1:0")
        .env("SIDEGUARD_STORE__REDIS", redis)
        .env("SIDEGUARD_STORE__NATS", nats)
        .env("SIDEGUARD_STORE__NAMESPACE", "test-compose");
    let (_control, told) = Daemon::start(command, "sideguard: control ");
    let (url, key) = told.split_once(" key ").expect("where the key is");
    // As the guide says.
    let port = url.rsplit(':').next().expect("a port");
    let url = format!("http://127.0.0.1:{port}");
    let run = |arguments: &[&str]| {
        let mut command = command::command(mounts.dir.path(), arguments);
        command.env("SIDEGUARD_CONTROL_URL", &url).env("SIDEGUARD_KEY_FILE", key);
        command::ran(command)
    };
    let policies = deploy("examples/fleet/policies").display().to_string();
    let applied = run(&["apply", "-f", &policies]).await;
    assert_eq!(applied.code, Some(0), "{}", applied.err);
    mounts.put("etc/operator/token", &run(&["token", "--agent", "gateway"]).await.out);
    let file = mounts.moved("gateway.yaml", &read(&deploy("compose/gateway.yaml")));
    let (_gateway, admin) = gateway(&mounts, &file, Some(&url));
    let ready = || {
        let curl = Command::new("curl").args(["-fsS", "-m", "2", &format!("http://{admin}/readyz")]).output();
        curl.is_ok_and(|answer| answer.status.success())
    };
    harness::until("the gateway has enrolled and is ready", ready).await;
}

#[test]
fn what_systemd_starts_has_a_configuration_that_works() {
    let mounts = Mounts::new();
    let control = mounts.moved("control.yaml", &read(&deploy("systemd/control.yaml")));
    let mut command = sideguard(&mounts, &["control", "-c", &control]);
    command.env("SIDEGUARD_LISTEN", "127.0.0.1:0");
    let (_control, told) = Daemon::start(command, "sideguard: control ");
    assert!(Path::new(told.split_once(" key ").expect("a key").1).exists());
    let policy = read(&deploy("examples/fleet/policies/allow.yaml"));
    mounts.put("policies/allow.yaml", &policy);
    gateway(&mounts, &mounts.moved("proxy.yaml", &read(&deploy("systemd/proxy.yaml"))), None);
}

/// A gateway that runs, and where its admin port is.
fn gateway(mounts: &Mounts, file: &str, control: Option<&str>) -> (Daemon, String) {
    let mut command = sideguard(mounts, &["proxy", "-c", file]);
    command
        .env("OPENAI_API_KEY", "x")
        .env("SIDEGUARD_LISTEN__OUTBOUND", "127.0.0.1:0")
        .env("SIDEGUARD_LISTEN__ADMIN", "127.0.0.1:0")
        .env("SIDEGUARD_STATE", mounts.path("gateway"));
    if let Some(url) = control {
        command.env("SIDEGUARD_CONTROL__URLS", format!("[\"{url}\"]"));
    }
    let (daemon, told) = Daemon::start(command, "sideguard: outbound ");
    let admin = told.split_once(" admin ").expect("an admin port").1.to_owned();
    (daemon, admin)
}

#[tokio::test]
async fn the_example_for_a_cluster_holds_what_policies_may() {
    let example = objects(&read(&deploy("examples/kubernetes/agents.yaml")));
    let ours = example.into_iter().filter(|object| object["apiVersion"] == "sideguard.dev/v1");
    let mut documents = String::new();
    for mut object in ours {
        // A namespace is a cluster's: control takes the tenant from it.
        let namespace = object["metadata"].as_object_mut().expect("metadata").remove("namespace");
        assert_eq!(namespace, Some(Value::from("agents")));
        documents += &format!("---\n{object}\n");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("agents.yaml");
    fs::write(&file, documents).expect("a file");
    let ran = command::sideguard(dir.path(), &["policy", "check", &file.display().to_string()]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
}
