//! A kubelet, as far as a pod of ours needs one: runs what a Pod says as processes in the namespace of an emulated pod. Init
//! containers come one after the other, native sidecars stay, probes come from the node, hooks and ends are in order.
//!
//! A container is a process with a root of its own: the machine's programs, the container's volumes, and nothing else. An image
//! is not looked at: `sideguard` is the built binary, whatever else is named is the machine's.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::Pod;

/// Addresses of the pod, at which the node's probes come in.
pub const POD: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];
/// Longest time for a container that is to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pod that is run. Its processes end with it.
pub struct Kubelet {
    network: Pod,
    pod: Value,
    maps: BTreeMap<String, BTreeMap<String, String>>,
    running: BTreeMap<String, Child>,
}

/// Why a pod did not start.
#[derive(Debug)]
pub struct NotStarted(pub String);

impl Kubelet {
    /// A pod in a network, with the ConfigMaps that are there.
    #[must_use]
    pub fn new(network: Pod, pod: Value, maps: BTreeMap<String, BTreeMap<String, String>>) -> Self {
        let kubelet = Self { network, pod, maps, running: BTreeMap::new() };
        kubelet.volumes();
        kubelet
    }

    /// The network that it is in.
    #[must_use]
    pub const fn network(&self) -> &Pod {
        &self.network
    }

    /// Runs init containers to their end and starts the rest, as a kubelet does.
    ///
    /// # Errors
    /// Which container keeps the pod from starting.
    pub fn start(&mut self) -> Result<(), NotStarted> {
        for container in self.containers("initContainers") {
            let name = text(&container, "name").to_owned();
            if text(&container, "restartPolicy") == "Always" {
                self.launch(&name);
                self.started(&container)?;
                continue;
            }
            let output = self.command(&container, &words(&container)).output().expect("a start");
            if !output.status.success() {
                return Err(NotStarted(format!("{name}: {}", String::from_utf8_lossy(&output.stderr))));
            }
        }
        for container in self.containers("containers") {
            self.launch(text(&container, "name"));
            if let Some(hook) = container.pointer("/lifecycle/postStart/exec/command") {
                let hook = strings(hook);
                let output = self.command(&container, &hook).output().expect("a start");
                if !output.status.success() {
                    return Err(NotStarted(String::from_utf8_lossy(&output.stderr).into_owned()));
                }
            }
        }
        Ok(())
    }

    /// Starts a container, anew if it has ended, and waits until its startup probe is content.
    ///
    /// # Errors
    /// When it never is.
    pub fn restart(&mut self, name: &str) -> Result<(), NotStarted> {
        self.launch(name);
        let container = self.container(name);
        self.started(&container)
    }

    /// Kills a container as the kernel does when memory is short.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.running.remove(name).expect("it runs");
        child.kill().expect("it is killed");
        child.wait().expect("its end");
    }

    /// Waits for a container's own end.
    #[must_use]
    pub fn wait(&mut self, name: &str) -> ExitStatus {
        let child = self.running.remove(name).expect("it runs");
        ended(child, name)
    }

    /// Ends a container as at the end of a pod.
    #[must_use]
    pub fn terminate(&mut self, name: &str) -> ExitStatus {
        let child = self.running.remove(name).expect("it runs");
        let sent = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
        ended(child, name)
    }

    /// Runs a command in a container, as `kubectl exec`.
    #[must_use]
    pub fn exec(&self, name: &str, command: &[&str]) -> Output {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        self.command(&self.container(name), &command).output().expect("a start")
    }

    /// Whether a container's probe is content now; the node asks at every address of the pod.
    #[must_use]
    pub fn probe(&self, name: &str, probe: &str) -> bool {
        let container = self.container(name);
        let get = container.pointer(&format!("/{probe}/httpGet")).expect("a probe");
        let port = get["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let path = text(get, "path").to_owned();
        self.network.outside(move || {
            POD.into_iter().all(|address| {
                let address: IpAddr = address.parse().expect("an address");
                asked(SocketAddr::new(address, port), &path).is_ok_and(|line| line.contains(" 200 "))
            })
        })
    }

    fn started(&mut self, container: &Value) -> Result<(), NotStarted> {
        let name = text(container, "name");
        let probe = &container["startupProbe"];
        let (period, failures) = (probe["periodSeconds"].as_u64(), probe["failureThreshold"].as_u64());
        let period = Duration::from_secs(period.expect("a period"));
        for _ in 0..failures.expect("a threshold") {
            if self.probe(name, "startupProbe") {
                return Ok(());
            }
            let child = self.running.get_mut(name).expect("it runs");
            if let Some(status) = child.try_wait().expect("the process") {
                return Err(NotStarted(format!("{name}: {status}")));
            }
            std::thread::sleep(period.min(Duration::from_millis(100)));
        }
        Err(NotStarted(format!("{name}: its startup probe is never content")))
    }

    fn launch(&mut self, name: &str) {
        let container = self.container(name);
        let child = self.command(&container, &words(&container)).spawn().expect("a start");
        self.running.insert(name.to_owned(), child);
    }

    fn containers(&self, list: &str) -> Vec<Value> {
        self.pod["spec"][list].as_array().cloned().unwrap_or_default()
    }

    fn container(&self, name: &str) -> Value {
        let all = ["initContainers", "containers"].into_iter().flat_map(|list| self.containers(list));
        all.into_iter()
            .find(|container| container["name"] == name)
            .unwrap_or_else(|| panic!("no container `{name}`"))
    }

    fn place(&self, kind: &str, name: &str) -> PathBuf {
        self.network.dir().join(kind).join(name)
    }

    fn volumes(&self) {
        for volume in self.containers("volumes") {
            let dir = self.place("volumes", text(&volume, "name"));
            fs::create_dir_all(&dir).expect("a directory");
            if volume.get("emptyDir").is_some() {
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("a mode");
                continue;
            }
            let map = volume
                .pointer("/configMap/name")
                .and_then(Value::as_str)
                .expect("an emptyDir or a ConfigMap");
            for (file, text) in self.maps.get(map).unwrap_or_else(|| panic!("no ConfigMap `{map}`")) {
                fs::write(dir.join(file), text).expect("a file");
            }
        }
    }

    /// A command in a container: its network, its root, its user, its rights, its environment.
    fn command(&self, container: &Value, words: &[String]) -> Command {
        let root = self.root(container);
        let mut script = String::from("set -e\n");
        let mut mount = |from: &Path, at: &str, read_only: bool| {
            let (from, to) = (from.display(), format!("{}{at}", root.display()));
            script += &format!("mount --bind '{from}' '{to}'\n");
            if read_only {
                script += &format!("mount -o remount,bind,ro '{to}'\n");
            }
        };
        mount(&root, "", false);
        mount(Path::new("/usr"), "/usr", true);
        mount(Path::new("/proc"), "/proc", false);
        mount(Path::new("/dev"), "/dev", false);
        mount(&self.place("", "sideguard"), "/opt/bin/sideguard", true);
        for volume in container["volumeMounts"].as_array().into_iter().flatten() {
            let read_only = volume["readOnly"] == true;
            mount(&self.place("volumes", text(volume, "name")), text(volume, "mountPath"), read_only);
        }
        let context = &container["securityContext"];
        if context["readOnlyRootFilesystem"] == true {
            script += &format!("mount -o remount,bind,ro '{}'\n", root.display());
        }
        script += &format!("exec chroot '{}' \"$@\"\n", root.display());
        let mut command = Command::new("nsenter");
        command.arg(self.network.net_of_pod()).args(["unshare", "--mount", "sh", "-c", &script, "sh"]);
        command.args(["/usr/bin/env", "-i", "PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]);
        command.args(self.environment(container)).args(self.rights(context)).args(words.iter().map(place));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if text(container, "name") == "sideguard-proxy" {
            // A log that nobody reads would stop it.
            command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        }
        command
    }

    /// A root directory with places for what is mounted.
    fn root(&self, container: &Value) -> PathBuf {
        let root = self.place("roots", text(container, "name"));
        if root.exists() {
            return root;
        }
        let mounts =
            container["volumeMounts"].as_array().into_iter().flatten().map(|mount| text(mount, "mountPath"));
        for dir in ["/usr", "/proc", "/dev", "/tmp", "/etc/ssl/certs", "/opt/bin"].into_iter().chain(mounts) {
            fs::create_dir_all(format!("{}{dir}", root.display())).expect("a directory");
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), root.join(link)).expect("a link");
        }
        fs::write(root.join("opt/bin/sideguard"), "").expect("a file");
        fs::write(root.join("etc/resolv.conf"), "nameserver 198.51.100.53\noptions timeout:1 attempts:1\n")
            .expect("a file");
        // Where the machine has roots, the image has them.
        let roots = "etc/ssl/certs/ca-certificates.crt";
        let _ = fs::copy(Path::new("/").join(roots), root.join(roots));
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("a mode");
        root
    }

    fn environment(&self, container: &Value) -> Vec<String> {
        let mut known: Vec<(String, String)> = Vec::new();
        for variable in container["env"].as_array().into_iter().flatten() {
            let mut value = match variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str) {
                Some(path) => self.field(path),
                None => text(variable, "value").to_owned(),
            };
            for (name, own) in &known {
                value = value.replace(&format!("$({name})"), own);
            }
            known.push((text(variable, "name").to_owned(), value));
        }
        known.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn field(&self, path: &str) -> String {
        let own = self.pod.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str);
        own.unwrap_or(match path {
            "metadata.namespace" => "team",
            "spec.serviceAccountName" => "default",
            _ => "unknown",
        })
        .to_owned()
    }

    /// What the container's process is and may.
    fn rights(&self, own: &Value) -> Vec<String> {
        let pod = &self.pod["spec"]["securityContext"];
        let id = |key: &str| own[key].as_u64().or(pod[key].as_u64()).unwrap_or(0).to_string();
        let added = own.pointer("/capabilities/add").map(strings).unwrap_or_default();
        assert_eq!(
            own.pointer("/capabilities/drop").map(strings),
            Some(vec!["ALL".to_owned()]),
            "what is dropped"
        );
        let added: String = added.iter().map(|one| format!(",+{}", one.to_ascii_lowercase())).collect();
        let mut words = vec!["/usr/bin/setpriv".to_owned()];
        words.extend(["--reuid".to_owned(), id("runAsUser"), "--regid".to_owned(), id("runAsGroup")]);
        words.extend(["--clear-groups", "--no-new-privs"].map(str::to_owned));
        for set in ["bounding-set", "inh-caps", "ambient-caps"] {
            words.push(format!("--{set}=-all{added}"));
        }
        assert_eq!(own["allowPrivilegeEscalation"], false);
        words
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for an end.
fn ended(mut child: Child, name: &str) -> ExitStatus {
    let turns = PATIENCE.as_millis() / 20;
    for _ in 0..turns {
        if let Some(status) = child.try_wait().expect("the process") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    panic!("`{name}` does not end");
}

/// The first line of what is answered.
fn asked(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn words(container: &Value) -> Vec<String> {
    [&container["command"], &container["args"]].into_iter().flat_map(strings).collect()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

fn text<'v>(map: &'v Value, key: &str) -> &'v str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Where a program of the image is here: the machine's own `/usr` takes nothing in.
fn place(word: &String) -> &str {
    if word == "/usr/local/bin/sideguard" { "/opt/bin/sideguard" } else { word }
}
