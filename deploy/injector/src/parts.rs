//! The containers and volumes that a pod gets, written as the API server would complete them: so that what comes back from it
//! can be compared with what was sent.

use serde_json::{Map, Value, json};
use sideguard_types::resource::{CaMode, Capture};

use crate::pod;
use crate::quantity;
use crate::wish::Wish;

/// Our program in the image, by its full path: a pod may have a say in `PATH`.
const PROGRAM: &str = "/usr/local/bin/sideguard";

/// The init step that sets the rules.
const INIT: &str = "sideguard-init";
/// The init step that checks rules which somebody else has set.
const CHECK: &str = "sideguard-check";
/// The sidecar.
pub(crate) const PROXY: &str = "sideguard-proxy";
const OURS: [&str; 3] = [INIT, CHECK, PROXY];
/// What names of ours begin with; nothing else in a pod may.
pub(crate) const RESERVED: &str = "sideguard-";
/// The bundle that the sidecar writes and agents read.
pub(crate) const TRUST: &str = "sideguard-trust";
const TOKEN: &str = "sideguard-token";
const STATE: &str = "sideguard-state";
const POLICIES: &str = "sideguard-policies";
const VOLUMES: [&str; 4] = [TRUST, TOKEN, STATE, POLICIES];

/// Where agents find the bundle.
pub(crate) const TRUST_DIR: &str = "/etc/sideguard/trust";
const TOKEN_DIR: &str = "/var/run/secrets/sideguard";
const STATE_DIR: &str = "/var/lib/sideguard";
const POLICIES_DIR: &str = "/etc/sideguard/policies";
/// Room for the bundle, in both its forms: a system's roots are a quarter of a mebibyte.
const TRUST_SIZE: &str = "8Mi";
/// How long a token is good, in seconds; the node renews it.
const TOKEN_LIFE: u32 = 3_600;
/// Who the check runs as: nobody, and not the sidecar.
const NOBODY: u32 = 65_534;

/// What a pod gets.
#[derive(Debug)]
pub(crate) struct Parts {
    /// What comes first among the init containers.
    pub(crate) inits: Vec<Value>,
    /// What comes first among the containers.
    pub(crate) containers: Vec<Value>,
    pub(crate) volumes: Vec<Value>,
}

/// Whether a container of this name is ours.
pub(crate) fn is_ours(name: &str) -> bool {
    OURS.contains(&name)
}

/// Whether a volume of this name is ours.
pub(crate) fn is_our_volume(name: &str) -> bool {
    VOLUMES.contains(&name)
}

impl Parts {
    /// What this pod gets.
    pub(crate) fn of(pod: &Value, wish: &Wish<'_>) -> Self {
        let mut inits = Vec::new();
        match wish.capture {
            Capture::Init => inits.push(step(INIT, wish, &init_arguments(pod, wish), &root())),
            Capture::Cni => {
                inits.push(step(CHECK, wish, &["capture".to_owned(), "check".to_owned()], &user(NOBODY)));
            }
            Capture::Explicit => {}
        }
        let mut containers = Vec::new();
        let proxy = proxy(wish);
        if wish.native {
            inits.push(proxy);
        } else {
            containers.push(proxy);
        }
        Self { inits, containers, volumes: volumes(wish) }
    }

    /// Their names: containers, then volumes.
    pub(crate) fn names(&self) -> [Vec<&str>; 2] {
        [
            self.inits.iter().chain(&self.containers).map(|part| pod::text(part, "name")).collect(),
            self.volumes.iter().map(|part| pod::text(part, "name")).collect(),
        ]
    }
}

/// How agents mount the bundle.
pub(crate) fn trust_mount() -> Value {
    json!({"name": TRUST, "mountPath": TRUST_DIR, "readOnly": true})
}

/// The environment by which programs come to trust the sidecar, and by which they come to it where nothing is redirected.
pub(crate) fn agent_environment(wish: &Wish<'_>) -> Vec<(&'static str, String)> {
    const TRUSTING: [&str; 9] = [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "AWS_CA_BUNDLE",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "GIT_SSL_CAINFO",
        "PIP_CERT",
        "DENO_CERT",
    ];
    const LOCAL: &str = "localhost,127.0.0.1,::1";
    let mut variables = Vec::new();
    if wish.ca_mode != CaMode::None {
        variables.extend(TRUSTING.map(|name| (name, format!("{TRUST_DIR}/bundle.pem"))));
    }
    if wish.capture == Capture::Explicit {
        let sidecar = format!("http://127.0.0.1:{}", wish.settings.spec.proxy.outbound);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            variables.push((name, sidecar.clone()));
        }
        variables.extend([("NO_PROXY", LOCAL.to_owned()), ("no_proxy", LOCAL.to_owned())]);
        variables.push(("NODE_USE_ENV_PROXY", "1".to_owned()));
        variables.push(("OPENAI_BASE_URL", format!("{sidecar}/openai/v1")));
        variables.push(("ANTHROPIC_BASE_URL", format!("{sidecar}/anthropic")));
    }
    variables
}

/// What Java is told, behind what it is told already.
pub(crate) fn java_options(wish: &Wish<'_>) -> Option<String> {
    (wish.ca_mode == CaMode::EnvJava).then(|| {
        format!(
            "-Djavax.net.ssl.trustStore={TRUST_DIR}/truststore.jks -Djavax.net.ssl.trustStorePassword=changeit"
        )
    })
}

fn init_arguments(pod: &Value, wish: &Wish<'_>) -> Vec<String> {
    let spec = &wish.settings.spec;
    let proxy = &spec.proxy;
    let mut arguments = vec!["init".to_owned()];
    let mut flag = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
    flag("proxy-uid", proxy.uid.to_string());
    flag("outbound", proxy.outbound.to_string());
    flag("dns", proxy.dns.to_string());
    spec.mesh.uids.iter().for_each(|uid| flag("exclude-uid", uid.to_string()));
    wish.skip_cidrs.iter().for_each(|block| flag("exclude-cidr", block.clone()));
    wish.skip_ports.iter().for_each(|port| flag("exclude-port", port.to_string()));
    loopback(pod, wish).into_iter().for_each(|port| flag("loopback", port));
    arguments
}

/// Ports within the pod that stay reachable: those that its containers declare, and those of the profile.
fn loopback(pod: &Value, wish: &Wish<'_>) -> Vec<String> {
    let mesh = &wish.settings.spec.mesh.containers;
    let declared = pod::containers(pod)
        .filter(|container| !is_ours(container.name) && !mesh.iter().any(|name| name == container.name))
        .flat_map(|container| pod::list(container.body, "ports"))
        .filter(|port| matches!(pod::text(port, "protocol"), "" | "TCP"))
        .filter_map(|port| port.get("containerPort")?.as_u64());
    let mut ports: Vec<u64> = declared.collect();
    ports.sort_unstable();
    ports.dedup();
    let declared: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let further = wish.injection.loopback.iter().filter(|port| !declared.contains(port)).cloned();
    declared.iter().cloned().chain(further).collect()
}

/// An init container that runs to its end.
fn step(name: &str, wish: &Wish<'_>, arguments: &[String], context: &Value) -> Value {
    let mut step = container(name, wish, arguments, context);
    let small = json!({"cpu": "10m", "memory": "32Mi"});
    step.insert("resources".to_owned(), json!({"requests": small, "limits": small}));
    Value::Object(step)
}

fn container(name: &str, wish: &Wish<'_>, arguments: &[String], context: &Value) -> Map<String, Value> {
    let spec = &wish.settings.spec;
    let body = json!({
        "name": name,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": [PROGRAM],
        "args": arguments,
        "securityContext": context,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    match body {
        Value::Object(body) => body,
        _ => Map::new(),
    }
}

/// The security context of the init step: root, with the one capability that rules need.
fn root() -> Value {
    json!({
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": false,
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// A security context with nothing at all.
fn user(uid: u32) -> Value {
    json!({
        "runAsUser": uid,
        "runAsGroup": uid,
        "runAsNonRoot": true,
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn proxy(wish: &Wish<'_>) -> Value {
    let spec = &wish.settings.spec;
    let arguments = ["proxy".to_owned(), "--log-format=json".to_owned()];
    let mut body = container(PROXY, wish, &arguments, &user(spec.proxy.uid));
    let mut put = |key: &str, value: Value| drop(body.insert(key.to_owned(), value));
    put("env", Value::Array(proxy_environment(wish)));
    let secrets: Vec<Value> =
        wish.injection.credentials.iter().map(|name| json!({"secretRef": {"name": name}})).collect();
    if !secrets.is_empty() {
        put("envFrom", Value::Array(secrets));
    }
    let admin = spec.proxy.admin;
    put("ports", json!([{"name": "sideguard-admin", "containerPort": admin, "protocol": "TCP"}]));
    let ready = if wish.injection.stale_not_ready { "/readyz" } else { "/readyz/loaded" };
    put("startupProbe", probe("/startz", admin, 1, 60));
    put("readinessProbe", probe(ready, admin, 5, 3));
    put("livenessProbe", probe("/healthz", admin, 10, 6));
    put(
        "resources",
        json!({
            "requests": {"cpu": wish.cpu.request, "memory": wish.memory.request},
            "limits": {"cpu": wish.cpu.limit, "memory": wish.memory.limit},
        }),
    );
    let mut mounts =
        vec![json!({"name": STATE, "mountPath": STATE_DIR}), json!({"name": TRUST, "mountPath": TRUST_DIR})];
    if spec.control.is_some() {
        mounts.push(json!({"name": TOKEN, "mountPath": TOKEN_DIR, "readOnly": true}));
    }
    if spec.policies.is_some() {
        mounts.push(json!({"name": POLICIES, "mountPath": POLICIES_DIR, "readOnly": true}));
    }
    put("volumeMounts", Value::Array(mounts));
    if wish.native {
        put("restartPolicy", json!("Always"));
    } else {
        // Containers start one after the other: those behind wait until this one has started.
        let wait = json!({"exec": {"command": [PROGRAM, "wait", format!("--admin=127.0.0.1:{admin}")]}});
        put("lifecycle", json!({"postStart": wait}));
    }
    Value::Object(body)
}

fn probe(path: &str, port: u16, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": port, "scheme": "HTTP"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "successThreshold": 1,
        "timeoutSeconds": 2,
    })
}

fn proxy_environment(wish: &Wish<'_>) -> Vec<Value> {
    const FIELDS: [(&str, &str); 5] = [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("POD_UID", "metadata.uid"),
        ("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ("NODE_NAME", "spec.nodeName"),
    ];
    // The values of the first ones are put into the later ones by the node.
    const LABELS: &str = r#"{"namespace": "$(POD_NAMESPACE)", "pod": "$(POD_NAME)", "serviceaccount": "$(POD_SERVICE_ACCOUNT)", "node": "$(NODE_NAME)"}"#;
    const RESOURCE: &str = "k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME),k8s.pod.uid=$(POD_UID),k8s.node.name=$(NODE_NAME)";
    let spec = &wish.settings.spec;
    let proxy = &spec.proxy;
    let mut plain: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| plain.push((name.to_owned(), value));
    set("SIDEGUARD_AGENT__NAME", wish.profile.clone());
    set("SIDEGUARD_AGENT__TENANT", wish.tenant.to_owned());
    set("SIDEGUARD_AGENT__LABELS", LABELS.to_owned());
    set("SIDEGUARD_LISTEN__OUTBOUND", format!("127.0.0.1:{}", proxy.outbound));
    // Every address of either family: probes come to the pod's.
    set("SIDEGUARD_LISTEN__ADMIN", format!("[::]:{}", proxy.admin));
    if wish.capture != Capture::Explicit {
        set("SIDEGUARD_LISTEN__DNS", format!("127.0.0.1:{}", proxy.dns));
    }
    // A directory of its own in the volume, which is everybody's.
    set("SIDEGUARD_STATE", format!("{STATE_DIR}/state"));
    set("SIDEGUARD_TLS__PUBLISH", TRUST_DIR.to_owned());
    set("SIDEGUARD_AUDIT__MAX_SPOOL", spool(&proxy.state));
    if let Some(control) = &spec.control {
        set("SIDEGUARD_CONTROL__URL", control.url.clone());
        set("SIDEGUARD_CONTROL__TOKEN__FILE", format!("{TOKEN_DIR}/token"));
        if control.ca.is_some() {
            set("SIDEGUARD_CONTROL__CA", format!("{TOKEN_DIR}/ca.crt"));
        }
    }
    if spec.policies.is_some() {
        set("SIDEGUARD_POLICIES", format!("[{POLICIES_DIR}]"));
    }
    set("SIDEGUARD_LOG", wish.log_level.clone());
    set("OTEL_RESOURCE_ATTRIBUTES", RESOURCE.to_owned());
    for (name, value) in proxy.env.iter().chain(&wish.injection.env) {
        plain.retain(|(known, _)| known != name);
        plain.push((name.clone(), value.clone()));
    }
    let fields = FIELDS.map(|(name, path)| {
        json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
    });
    fields
        .into_iter()
        .chain(plain.into_iter().map(|(name, value)| json!({"name": name, "value": value})))
        .collect()
}

/// Half of the room for state, as the sidecar writes sizes: the rest is for what is written while it makes room.
fn spool(state: &str) -> String {
    const MEBIBYTE: i128 = 1 << 20;
    let bytes = quantity::milli(state).unwrap_or_default() / 1_000;
    format!("{}MiB", (bytes / 2 / MEBIBYTE).max(1))
}

fn volumes(wish: &Wish<'_>) -> Vec<Value> {
    let spec = &wish.settings.spec;
    let mut volumes = vec![
        // Only this sidecar's authority, in memory: no key is shared between pods.
        json!({"name": TRUST, "emptyDir": {"medium": "Memory", "sizeLimit": TRUST_SIZE}}),
        json!({"name": STATE, "emptyDir": {"sizeLimit": spec.proxy.state}}),
    ];
    if let Some(control) = &spec.control {
        let token = json!({"serviceAccountToken": {"audience": control.audience, "expirationSeconds": TOKEN_LIFE, "path": "token"}});
        let roots = control
            .ca
            .as_ref()
            .map(|name| json!({"configMap": {"name": name, "items": [{"key": "ca.crt", "path": "ca.crt"}]}}));
        let sources: Vec<Value> = std::iter::once(token).chain(roots).collect();
        volumes.push(json!({"name": TOKEN, "projected": {"defaultMode": 420, "sources": sources}}));
    }
    if let Some(name) = &spec.policies {
        volumes.push(json!({"name": POLICIES, "configMap": {"name": name, "defaultMode": 420}}));
    }
    volumes
}
