//! The built binary under a configuration of the test's own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

/// Longest time that a sidecar may take to open its ports.
const START: Duration = Duration::from_secs(20);

/// The binary that the tests are about: `SIDEGUARD_BIN`, or the one that cargo built beside them.
///
/// # Panics
/// When there is none.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the harness stands outside the product")]
pub fn binary() -> PathBuf {
    if let Ok(path) = std::env::var("SIDEGUARD_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the test's own path");
    let path = test.ancestors().nth(2).expect("target/debug").join("sideguard");
    assert!(path.exists(), "`{}` is missing: run `cargo build` first, or set SIDEGUARD_BIN", path.display());
    path
}

/// A sidecar that runs.
pub struct Sidecar {
    child: Child,
    dir: TempDir,
    outbound: SocketAddr,
    admin: SocketAddr,
    log: Arc<Mutex<String>>,
    wrapper: Vec<String>,
}

/// A policy that lets everything pass.
pub const ALLOW: &str =
    "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: allow}\nspec: {default_decision: allow}\n";

impl Sidecar {
    /// Starts `sideguard proxy` with `spec`, the text below `spec:`, and the given policy files.
    #[must_use]
    pub fn start(spec: &str, policies: &[(&str, &str)]) -> Self {
        Self::shared(&format!("  agent: {{name: tester}}\n{spec}"), policies)
    }

    /// Starts it as [`start`](Self::start) does, but as the port of no agent in particular.
    #[must_use]
    pub fn shared(spec: &str, policies: &[(&str, &str)]) -> Self {
        Self::under(&[""; 0], spec, policies)
    }

    /// Starts it as [`shared`](Self::shared) does, by a command that ends in executing its arguments, such as
    /// `env NAME=VALUE` or `prlimit`; `{state}` in it is the state directory.
    #[must_use]
    pub fn under(wrapper: &[impl AsRef<str>], spec: &str, policies: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in policies {
            write(&dir.path().join("policies").join(name), text);
        }
        let config = format!(
            "apiVersion: sideguard.dev/v1\nkind: Proxy\nmetadata: {{name: test}}\nspec:\n  \
             listen: {{outbound: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}}\n  policies: [policies]\n  \
             private: [\"127.0.0.0/8\", \"::1\"]\n{spec}"
        );
        write(&dir.path().join("proxy.yaml"), &config);
        Self::in_dir(dir, wrapper.iter().map(|part| part.as_ref().to_owned()).collect())
    }

    /// Starts one without policy files, whose policy comes from control.
    #[must_use]
    pub fn fleet(spec: &str) -> Self {
        Self::listening("", spec)
    }

    /// As [`fleet`](Self::fleet), with further keys of `listen`, such as `, inbound: […]`.
    #[must_use]
    pub fn listening(listen: &str, spec: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = format!(
            "apiVersion: sideguard.dev/v1\nkind: Proxy\nmetadata: {{name: test}}\nspec:\n  \
             listen: {{outbound: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"{listen}}}\n  \
             private: [\"127.0.0.0/8\", \"::1\"]\n{spec}"
        );
        write(&dir.path().join("proxy.yaml"), &config);
        Self::in_dir(dir, Vec::new())
    }

    /// Starts again over the state of a former one.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.kill();
        let _ = fs::remove_file(self.state().join("ports.json"));
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a directory"));
        Self::in_dir(dir, std::mem::take(&mut self.wrapper))
    }

    /// Starts another one over a copy of this one's state, as somebody does who has stolen it.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn copy(&self) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let copied = Command::new("cp").arg("-a").arg(self.dir.path().join(".")).arg(dir.path()).status();
        assert!(copied.expect("cp runs").success(), "a copy");
        let _ = fs::remove_file(dir.path().join("state/ports.json"));
        Self::in_dir(dir, self.wrapper.clone())
    }

    /// Bytes of memory that it has now.
    ///
    /// # Panics
    /// When the system does not tell.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Bytes that the record's segments take on disk.
    ///
    /// # Panics
    /// When the directory cannot be read.
    #[must_use]
    pub fn spooled(&self) -> u64 {
        let files = fs::read_dir(self.spool()).expect("the record");
        // A segment may go while it is looked at.
        files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum()
    }

    fn in_dir(dir: TempDir, wrapper: Vec<String>) -> Self {
        let state = dir.path().join("state").display().to_string();
        let mut words = wrapper
            .iter()
            .map(|word| word.replace("{state}", &state))
            .chain([binary().display().to_string()]);
        let mut child = Command::new(words.next().expect("a word"))
            .args(words)
            .args(["proxy", "-c"])
            .arg(dir.path().join("proxy.yaml"))
            .arg("--state")
            .arg(dir.path().join("state"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (outbound, admin) = ports(&mut child, Arc::clone(&log));
        Self { child, dir, outbound, admin, log, wrapper }
    }

    /// The outbound port.
    #[must_use]
    pub const fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// The port in front of its agent.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn inbound(&self) -> SocketAddr {
        let text = fs::read_to_string(self.state().join("ports.json")).expect("the ports");
        let ports: Value = serde_json::from_str(&text).expect("JSON");
        ports["inbound"].as_str().expect("an inbound port").parse().expect("an address")
    }

    /// The admin port.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The directory of the record.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.state().join("spool")
    }

    /// Roots that an agent of this sidecar trusts.
    #[must_use]
    pub fn trust(&self) -> String {
        fs::read_to_string(self.state().join("ca/bundle.pem")).expect("the bundle")
    }

    /// Writes a policy file while it runs.
    pub fn write_policy(&self, name: &str, text: &str) {
        write(&self.dir.path().join("policies").join(name), text);
    }

    /// Every entry of the record so far, in order.
    #[must_use]
    pub fn record(&self) -> Vec<Value> {
        let mut segments: Vec<_> = fs::read_dir(self.spool())
            .expect("the record")
            .map(|file| file.expect("a file").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
            .collect();
        segments.sort();
        let lines = segments.iter().flat_map(|path| {
            let text = fs::read_to_string(path).expect("a segment");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }

    /// Entries of the record that fit, looked for until there is one.
    ///
    /// # Panics
    /// When there is none within 10 s.
    pub async fn recorded(&self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.recorded_times(1, fits).await
    }

    /// Entries of the record that fit, looked for until there are so many or more.
    ///
    /// # Panics
    /// When there are fewer after 10 s.
    pub async fn recorded_times(&self, times: usize, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        for _ in 0..500 {
            let found: Vec<Value> = self.record().into_iter().filter(|entry| fits(entry)).collect();
            if found.len() >= times {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("fewer than {times} such entries; the record holds {:#?}", self.record());
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, such as `TERM`.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(sent.expect("kill runs").success(), "the process is there");
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// When the process cannot be asked.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process")
    }

    /// Sends SIGTERM and waits for the end.
    #[must_use]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().expect("the process")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.kill();
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("a file");
}

/// Reads the line that says where the ports are, and lets the rest of the log pass to the test's own output.
fn ports(child: &mut Child, log: Arc<Mutex<String>>) -> (SocketAddr, SocketAddr) {
    let stderr = child.stderr.take().expect("standard error");
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            *log.lock() += &format!("{line}\n");
            if let Some(rest) = line.strip_prefix("sideguard: outbound ")
                && let Some((outbound, admin)) = rest.split_once(" admin ")
            {
                // The test may have given up.
                let _ =
                    send.send((outbound.parse().expect("an address"), admin.parse().expect("an address")));
            }
        }
    });
    receive.recv_timeout(START).expect("the sidecar opens its ports")
}
