//! A stand-in for a cluster's API server: keeps objects as it does, with versions of resources, watches, conflicts and the
//! status apart, checks custom resources by the definitions that the chart ships, and reviews tokens.

mod objects;
mod serve;
mod structural;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::Fake;
use crate::relay::Relay;
use crate::tls::Authority;
use objects::Objects;

pub use objects::{Place, Reviewed};
pub use structural::faults;

/// The token by which it knows whoever may do everything.
const TOKEN: &str = "a-token-of-the-test";

/// A cluster.
pub struct Cluster {
    objects: Arc<Mutex<Objects>>,
    relay: Relay,
    dir: TempDir,
    _fake: Fake,
}

impl Cluster {
    /// Starts one that has the kinds of the chart, with the namespaces `sideguard-system` and `default`.
    pub async fn start() -> Self {
        let cluster = Self::bare().await;
        for definition in definitions() {
            cluster.put(&definition);
        }
        cluster
    }

    /// Starts one that knows nothing of our kinds.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn bare() -> Self {
        let authority = Authority::new();
        let objects = Arc::new(Mutex::new(Objects::default()));
        let serving = Arc::clone(&objects);
        let fake = Fake::start(Some(authority.server(&["127.0.0.1"], &["http/1.1"])), move |seen| {
            serve::answer(&serving, seen, TOKEN)
        })
        .await;
        let relay = Relay::to(&fake.url()).await;
        let dir = tempfile::tempdir().expect("a directory");
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "sideguard-system"}}],
            "clusters": [{"name": "test", "cluster": {
                "server": relay.url().replace("http://", "https://"),
                "certificate-authority-data": STANDARD.encode(authority.pem()),
            }}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
        });
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig.to_string()).expect("a file");
        let cluster = Self { objects, relay, dir, _fake: fake };
        for name in ["sideguard-system", "default"] {
            cluster.namespace(name, json!({}));
        }
        cluster
    }

    /// A file that says how it is reached.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// The text of a `Control` that belongs to it, with further keys of `kubernetes`, such as `, agents: profile`.
    #[must_use]
    pub fn control(&self, keys: &str) -> String {
        format!("  kubernetes: {{kubeconfig: \"{}\"{keys}}}\n", self.kubeconfig().display())
    }

    /// Makes or changes a namespace.
    pub fn namespace(&self, name: &str, labels: Value) {
        self.put(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels },
        }));
    }

    /// Puts an object there as `kubectl apply` does.
    ///
    /// # Panics
    /// When it is refused.
    pub fn put(&self, object: &Value) {
        self.offer(object).unwrap_or_else(|refused| panic!("{refused}: {object}"));
    }

    /// The same of a YAML text.
    ///
    /// # Panics
    /// When it is refused, or is no YAML.
    pub fn apply(&self, text: &str) {
        self.put(&serde_saphyr::from_str(text).expect("YAML"));
    }

    /// The same, which may be refused.
    ///
    /// # Errors
    /// Why it is.
    pub fn offer(&self, object: &Value) -> Result<(), String> {
        self.objects.lock().put(object)
    }

    /// Removes an object.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove(&self, plural: &str, namespace: &str, name: &str) {
        let place = Place::new(plural, namespace, name);
        assert!(self.objects.lock().remove(&place), "{place:?} is there");
    }

    /// An object as it stands.
    #[must_use]
    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects.lock().get(&Place::new(plural, namespace, name)).cloned()
    }

    /// Every object of a kind in a namespace.
    #[must_use]
    pub fn all(&self, plural: &str, namespace: &str) -> Vec<Value> {
        self.objects.lock().all(plural, Some(namespace))
    }

    /// Changes an object by a merge patch, as somebody else would.
    ///
    /// # Panics
    /// When it is not there.
    pub fn patch(&self, plural: &str, namespace: &str, name: &str, patch: &Value) {
        let patched = self.objects.lock().patch(&Place::new(plural, namespace, name), patch, false);
        patched.expect("it is there");
    }

    /// Waits until an object's condition `Accepted` has this status, and gives it.
    ///
    /// # Panics
    /// When it does not within 20 s.
    pub async fn accepted(&self, plural: &str, namespace: &str, name: &str, status: &str) -> Value {
        for _ in 0..4_000 {
            let object = self.object(plural, namespace, name).unwrap_or_default();
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found =
                conditions.into_iter().find(|one| one["type"] == "Accepted" && one["status"] == status);
            // A condition about an earlier form of the object says nothing.
            let current = |one: &Value| one["observedGeneration"] == object["metadata"]["generation"];
            if let Some(condition) = found.filter(current) {
                return condition;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not {status}: {:#}", self.object(plural, namespace, name).unwrap_or_default());
    }

    /// A token of a service account.
    #[must_use]
    pub fn token(&self, reviewed: Reviewed) -> String {
        let chance = sideguard_runtime::id::token(16);
        let token = format!("e30.{chance}.c2ln");
        self.objects.lock().tokens.insert(token.clone(), reviewed);
        token
    }

    /// From now on it does not know a token.
    pub fn forget_token(&self, token: &str) {
        self.objects.lock().tokens.remove(token);
    }

    /// Breaks all connections to it; new ones break at once.
    pub fn cut(&self) {
        self.relay.cut();
    }

    /// Lets connections pass again.
    pub fn mend(&self) {
        self.relay.mend();
    }

    /// Forgets what happened until now: a watch that asks for it gets `410 Gone`. Ends all watches.
    pub fn compact(&self) {
        self.objects.lock().compact();
    }

    /// What was asked of it so far, as `verb plural[/subresource]`.
    #[must_use]
    pub fn asked(&self) -> BTreeSet<String> {
        self.objects.lock().asked.clone()
    }

    /// How many requests have reached it so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.objects.lock().requests
    }
}

/// The definitions of our kinds as the chart ships them.
///
/// # Panics
/// When they cannot be read.
#[must_use]
pub fn definitions() -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/sideguard/crds");
    let files = std::fs::read_dir(folder).expect("the chart's definitions");
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("a text");
        serde_saphyr::from_str(&text).expect("YAML")
    };
    files.map(read).collect()
}
