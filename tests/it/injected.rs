//! Pods as the injector makes them, run: their init containers, sidecars and agents as processes in a network namespace.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use harness::Pod;
use harness::command::{command, ran};
use harness::fake::{self, Fake, Seen};
use harness::kubelet::{Kubelet, NotStarted};
use harness::pod::WORLD;
use harness::tls::Authority;
use serde_json::{Value, json};

const PYTHON: &str = "/usr/bin/python3";
const POLICY: &str = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: pod}\nspec:\n  default_decision: allow\n  rules:\n    \
    - {id: no-deletes, match: {risk_tags: [destructive]}, decision: deny, reason: nothing is deleted here}\n";
/// An agent's call, with nothing in it that knows of a sidecar.
const CALL: &str = "import sys, urllib.request as r, urllib.error as e\n\
    q = r.Request(sys.argv[2], method=sys.argv[1])\n\
    try: print(r.urlopen(q, timeout=10).read().decode())\n\
    except e.HTTPError as x: print(x.code, x.headers.get('x-sideguard-rule')); sys.exit(3)\n";
const URL: &str = "https://api.example.com/things/1";

/// A pod that was injected, and the world that it calls.
struct World {
    kubelet: Kubelet,
    upstream: Fake,
}

impl World {
    /// Injects a pod with lines of the injector's spec, and of its Agent's `injection`.
    async fn of(pod: &Value, spec: &str, injection: &str) -> Self {
        let network = Pod::new();
        let authority = Authority::new();
        let server = authority.server(&["api.example.com"], &["http/1.1"]);
        let answer = |_: &Seen| fake::reply("text/plain", fake::whole("done"));
        let upstream = Fake::on(network.listen(&format!("{}:443", WORLD[0])), Some(server), answer);
        let pod = inject(pod, spec, injection).await;
        let map = [("policy.yaml", POLICY), ("roots.pem", authority.pem())];
        let map = map.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let maps = BTreeMap::from([("agent-policies".to_owned(), map)]);
        Self { kubelet: Kubelet::new(network, pod, maps), upstream }
    }

    async fn started(pod: &Value, spec: &str, injection: &str) -> Self {
        let mut world = Self::of(pod, spec, injection).await;
        tokio::task::block_in_place(|| world.kubelet.start()).expect("the pod starts");
        world
    }

    /// An agent's call: what it printed, and its exit status.
    fn call(&self, method: &str) -> (String, Option<i32>) {
        let output =
            tokio::task::block_in_place(|| self.kubelet.exec("agent", &[PYTHON, "-c", CALL, method, URL]));
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&text).trim().to_owned(), output.status.code())
    }
}

/// The pod that `sideguard inject` makes of another one.
async fn inject(pod: &Value, spec: &str, injection: &str) -> Value {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let hosts = format!("{{\"api.example.com\": \"{}:443\"}}", WORLD[0]);
    let config = format!(
        "apiVersion: sideguard.dev/v1\nkind: Injector\nspec:\n  policies: agent-policies\n  proxy:\n    env:\n      \
         SIDEGUARD_HOSTS: '{hosts}'\n      SIDEGUARD_TLS__TRUST: '[/etc/sideguard/policies/roots.pem]'\n{spec}"
    );
    let known = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: team, labels: {{sideguard.dev/inject: enabled, \
         sideguard.dev/default-profile: researcher}}}}\n---\napiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: \
         {{name: researcher, namespace: team}}\nspec: {{injection: {injection}}}\n"
    );
    let arguments = [
        "inject",
        "-n",
        "team",
        "-f",
        &file("pod.json", &pod.to_string()),
        "-c",
        &file("injector.yaml", &config),
        "--known",
        &file("known.yaml", &known),
    ];
    let ran = ran(command(dir.path(), &arguments)).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    serde_json::from_str(&ran.out).expect("a pod")
}

/// An agent's pod: it sleeps, and calls when it is told to.
fn agent(further: &Value) -> Value {
    let mut spec = json!({
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
        "containers": [{"name": "agent", "image": "agent", "command": ["sleep", "infinity"]}],
    });
    for (key, value) in further.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "researcher-0"}, "spec": spec})
}

fn script(call: &[&str]) -> Value {
    json!([&[PYTHON, "-c", CALL], call].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_injected_agent_is_governed_and_without_its_sidecar_nothing_gets_out() {
    let fetch = json!([{"name": "fetch", "image": "agent", "command": script(&["GET", URL])}]);
    let mut world = World::started(&agent(&json!({"initContainers": fetch})), "", "{}").await;
    // The agent's own init container has called out already, since the sidecar was there before it.
    assert_eq!(world.upstream.seen().len(), 1);
    assert!(world.kubelet.probe("sideguard-proxy", "readinessProbe"));
    assert!(world.kubelet.probe("sideguard-proxy", "livenessProbe"));
    assert_eq!(world.call("GET"), ("done".to_owned(), Some(0)));
    assert_eq!(world.call("DELETE"), ("403 pod/no-deletes".to_owned(), Some(3)));
    assert_eq!(world.upstream.seen().len(), 2);
    // The sidecar's admin port is the node's to ask, not the agent's.
    for address in ["127.0.0.1", "192.0.2.2"] {
        let url = format!("http://{address}:4751/config");
        let asked = world.kubelet.exec("agent", &["curl", "-sS", "-m", "3", &url]);
        assert!(!asked.status.success(), "{}", String::from_utf8_lossy(&asked.stdout));
    }
    // What it may read of the sidecar's is the bundle alone.
    let look = world.kubelet.exec("agent", &["ls", "/etc/sideguard/trust", "/var/lib"]);
    let seen = String::from_utf8_lossy(&look.stdout).into_owned();
    assert!(seen.contains("bundle.pem") && seen.contains("truststore.jks"), "{seen}");
    let write = world.kubelet.exec("agent", &["touch", "/etc/sideguard/trust/bundle.pem"]);
    assert!(!write.status.success());
    world.kubelet.kill("sideguard-proxy");
    let (told, code) = world.call("GET");
    assert_eq!(code, Some(1), "{told}");
    let direct = ["curl", "-sSk", "-m", "3", "--resolve", "api.example.com:443:198.51.100.10", URL];
    assert!(!world.kubelet.exec("agent", &direct).status.success());
    assert_eq!(world.upstream.seen().len(), 2);
    tokio::task::block_in_place(|| world.kubelet.restart("sideguard-proxy")).expect("it starts again");
    assert_eq!(world.call("GET"), ("done".to_owned(), Some(0)));
    assert_eq!(world.call("DELETE").1, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_and_its_sidecar_with_it() {
    let main = json!([{"name": "agent", "image": "agent", "command": script(&["GET", URL])}]);
    let mut world =
        World::started(&agent(&json!({"restartPolicy": "Never", "containers": main})), "", "{}").await;
    assert_eq!(world.kubelet.wait("agent").code(), Some(0));
    assert_eq!(world.kubelet.terminate("sideguard-proxy").code(), Some(0));
    assert_eq!(world.upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_older_cluster_the_sidecar_is_there_before_the_agent() {
    // The agent calls at once, and would fail if it had to wait for somebody.
    let main = json!([{"name": "agent", "image": "agent", "command": script(&["GET", URL])}]);
    let mut world =
        World::started(&agent(&json!({"containers": main})), "  kubernetesVersion: \"1.28\"\n", "{}").await;
    assert_eq!(world.kubelet.wait("agent").code(), Some(0));
    assert!(world.kubelet.probe("sideguard-proxy", "livenessProbe"));
    assert_eq!(world.kubelet.terminate("sideguard-proxy").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_capture_plugin_the_pod_starts_only_where_the_rules_are() {
    let mut world = World::of(&agent(&json!({})), "", "{capture: cni}").await;
    let without = tokio::task::block_in_place(|| world.kubelet.start());
    // Without rules a connection to nobody is not refused at once: what is there instead depends on the way out.
    let without = without.expect_err("no rules, no pod");
    assert!(without.0.contains("sideguard-check"), "{without:?}");
    // What the node's plugin does.
    let rules = world.kubelet.network().init(&["capture", "up", "--proxy-uid", "14102"]);
    assert!(rules.status.success(), "{}", String::from_utf8_lossy(&rules.stderr));
    tokio::task::block_in_place(|| world.kubelet.start()).expect("the pod starts");
    assert_eq!(world.call("GET"), ("done".to_owned(), Some(0)));
    assert_eq!(world.call("DELETE").1, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_heeds_its_environment_is_governed_without_rules() {
    let world = World::started(&agent(&json!({})), "", "{capture: explicit}").await;
    assert_eq!(world.call("GET"), ("done".to_owned(), Some(0)));
    assert_eq!(world.call("DELETE"), ("403 pod/no-deletes".to_owned(), Some(3)));
    assert_eq!(world.upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_init_step_may_not_set_rules_does_not_start() {
    let mut pod = inject(&agent(&json!({})), "", "{}").await;
    pod["spec"]["initContainers"][0]["securityContext"]["capabilities"]["add"] = json!([]);
    let maps = BTreeMap::from([("agent-policies".to_owned(), BTreeMap::new())]);
    let mut kubelet = Kubelet::new(Pod::new(), pod, maps);
    let NotStarted(why) = kubelet.start().expect_err("no rules, no pod");
    assert!(why.contains("sideguard-init") && why.contains("CAP_NET_ADMIN"), "{why}");
}
