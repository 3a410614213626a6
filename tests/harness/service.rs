//! The control service as the built binary runs it, and sidecars that belong to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{self, Reply};
use crate::command::{self, Ran};
use crate::servers::{SERVERS, Servers};
use crate::sidecar::{Sidecar, binary};

/// Longest time that a service may take to open its port.
const START: Duration = Duration::from_secs(20);

/// What a service keeps things in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Its own directory.
    Embedded,
    /// Redis and NATS.
    Shared,
}

/// A control service that runs.
pub struct Service {
    child: Child,
    dir: Arc<TempDir>,
    url: String,
    config: Option<String>,
    wrapper: Vec<String>,
    log: Arc<Mutex<String>>,
}

impl Service {
    /// Starts one on the embedded store.
    #[must_use]
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts one on a store that nobody else uses.
    #[must_use]
    pub fn on(backend: Backend) -> Self {
        match backend {
            Backend::Embedded => Self::start(),
            Backend::Shared => Self::with(&shared(&SERVERS)),
        }
    }

    /// Starts a further replica on the same store, with a state directory and port of its own. Its own key is an
    /// operator's as well.
    ///
    /// # Panics
    /// When the store is one machine's.
    #[must_use]
    pub fn replica(&self) -> Self {
        let spec = self.config.clone().unwrap_or_default();
        assert!(spec.contains("store:"), "the embedded store is for one service");
        Self::with(&spec)
    }

    /// Starts one with this text below `spec:` beside its port. With SIDEGUARD_TEST_STORE=shared it is on Redis and NATS
    /// where the text names no store: so that every test can run on both.
    #[must_use]
    pub fn with(spec: &str) -> Self {
        Self::under(&[""; 0], spec)
    }

    /// Starts one by a command that ends in executing its arguments, such as `env NAME=VALUE`.
    #[must_use]
    pub fn under(wrapper: &[impl AsRef<str>], spec: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        let wrapper = wrapper.iter().map(|word| word.as_ref().to_owned()).collect();
        let elsewhere = on_shared() && !spec.contains("store:");
        let spec = if elsewhere { format!("{spec}{}", shared(&SERVERS)) } else { spec.to_owned() };
        Self::in_dir(dir, "127.0.0.1:0", spec, wrapper)
    }

    fn in_dir(dir: Arc<TempDir>, listen: &str, spec: String, wrapper: Vec<String>) -> Self {
        let config =
            format!("apiVersion: sideguard.dev/v1\nkind: Control\nspec:\n  listen: \"{listen}\"\n{spec}");
        std::fs::write(dir.path().join("control.yaml"), config).expect("a file");
        let mut words = wrapper.iter().cloned().chain([binary().display().to_string()]);
        let mut child = Command::new(words.next().expect("a word"))
            .args(words)
            .args(["control", "-c"])
            .arg(dir.path().join("control.yaml"))
            .arg("--state")
            .arg(dir.path().join("state"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let url = told(&mut child, Arc::clone(&log));
        Self { child, dir, url, config: Some(spec), wrapper, log }
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn terminate(&mut self) {
        let sent = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill runs").success(), "the process is there");
        self.child.wait().expect("the process");
    }

    /// Starts again, over the same state, at the same port, after an end of whatever kind.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.kill();
        let listen = self.url.trim_start_matches("http://").to_owned();
        let wrapper = std::mem::take(&mut self.wrapper);
        Self::in_dir(Arc::clone(&self.dir), &listen, self.config.take().unwrap_or_default(), wrapper)
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// Its state directory, where client verbs find it.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A directory for a test's own files, and the working directory of [`run`](Self::run).
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The first operator's key.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn key(&self) -> String {
        std::fs::read_to_string(self.state().join("operator.key")).expect("a key").trim().to_owned()
    }

    /// A request to its interface by a key, with a body in JSON where there is one.
    pub async fn ask(&self, key: &str, method: &str, path: &str, body: &str) -> Reply {
        let bearer = format!("Bearer {key}");
        let mut headers = vec![("authorization", bearer.as_str())];
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        client::direct(&self.url, method, path, &headers, body).await
    }

    /// A fresh key, by the flags of `sideguard key create`.
    ///
    /// # Panics
    /// When there is none.
    pub async fn new_key(&self, flags: &[&str]) -> String {
        self.out(&[&["key", "create"], flags].concat()).await.trim().to_owned()
    }

    /// Runs `sideguard` with arguments, as somebody on the service's machine.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = command::command(&self.state(), arguments);
        command.current_dir(self.dir.path());
        command::ran(command).await
    }

    /// What a command prints that succeeds.
    ///
    /// # Panics
    /// When it fails.
    pub async fn out(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    /// The JSON that a command prints that succeeds; `-o json` is added.
    ///
    /// # Panics
    /// When it fails or prints something else.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let out = self.out(&[arguments, &["-o", "json"]].concat()).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// Applies a text.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn apply(&self, text: &str) {
        std::fs::write(self.dir.path().join("applied.yaml"), text).expect("a file");
        self.out(&["apply", "-f", "applied.yaml"]).await;
    }

    /// Starts a sidecar that belongs to the fleet, for the agent `agent` (`TENANT/NAME`, or a name of the tenant
    /// `default`), with this text below `spec:`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn sidecar(&self, agent: &str, spec: &str) -> Sidecar {
        self.sidecar_at(&self.url, "", agent, spec).await
    }

    /// As [`sidecar`](Self::sidecar), with the service at another address, behind a relay that a test can cut, and with
    /// further keys of `control`, such as `, maxStale: 1s`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn sidecar_at(&self, url: &str, keys: &str, agent: &str, spec: &str) -> Sidecar {
        Sidecar::fleet(&self.joining(url, keys, agent, spec).await)
    }

    /// As [`sidecar`](Self::sidecar), with a port in front of its agent, which listens at `to`; further keys may follow the
    /// address.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn deputy(&self, agent: &str, to: &str, spec: &str) -> Sidecar {
        let listen = format!(", inbound: [{{listen: \"127.0.0.1:0\", to: \"{to}\"}}]");
        Sidecar::listening(&listen, &self.joining(&self.url, "", agent, spec).await)
    }

    async fn joining(&self, url: &str, keys: &str, agent: &str, spec: &str) -> String {
        let (tenant, name) = agent.split_once('/').unwrap_or(("default", agent));
        let token = self.out(&["token", "--tenant", tenant]).await;
        let file = self.dir.path().join(format!("{}.token", sideguard_runtime::id::token(8)));
        std::fs::write(&file, token).expect("a file");
        format!(
            "  agent: {{name: {name}, tenant: {tenant}}}\n  control: {{url: \"{url}\", token: {{file: \"{}\"}}{keys}}}\n{spec}",
            file.display()
        )
    }

    /// What the service knows of a sidecar's standing, once it is `wanted` for all of its sidecars.
    ///
    /// # Panics
    /// When it is not within 10 s.
    pub async fn all_stand(&self, sidecars: usize, wanted: &str) {
        for _ in 0..100 {
            let known = self.json(&["get", "sidecars"]).await;
            let all = known["items"].as_array().expect("a list");
            if all.len() == sidecars && all.iter().all(|one| one["standing"] == wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not {wanted}: {:#}", self.json(&["get", "sidecars"]).await);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The text of a `Control` that names servers and a namespace of its own.
#[must_use]
pub fn shared(servers: &Servers) -> String {
    let (redis, nats) = servers.urls();
    let namespace = format!("test-{}", sideguard_runtime::id::token(6));
    format!("  store: {{redis: \"{redis}\", nats: \"{nats}\", namespace: {namespace}}}\n")
}

#[expect(clippy::disallowed_methods, reason = "the harness stands outside the product")]
fn on_shared() -> bool {
    std::env::var("SIDEGUARD_TEST_STORE").is_ok_and(|store| store == "shared")
}

/// Reads the line that says where it is, and lets the rest of the log pass to the test's own output.
fn told(child: &mut Child, log: Arc<Mutex<String>>) -> String {
    let stderr = child.stderr.take().expect("standard error");
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            *log.lock() += &format!("{line}\n");
            if let Some(rest) = line.strip_prefix("sideguard: control ")
                && let Some((url, _)) = rest.split_once(" key ")
            {
                // The test may have given up.
                let _ = send.send(url.to_owned());
            }
        }
    });
    receive.recv_timeout(START).expect("the service opens its port")
}
