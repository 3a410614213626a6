//! A pod, emulated: a network namespace with an address and a way out, another one for the world, and processes with a
//! pod's uids. Needs root, and says so where it is missing: a promise that was not tried was not kept.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tempfile::TempDir;

use crate::sidecar;

/// Uid of the sidecar.
pub const SIDECAR: u32 = 14102;
/// Uid of the agent.
pub const AGENT: u32 = 1000;
/// Addresses of the world outside (RFC 5737, RFC 3849), all of which its namespace has.
pub const WORLD: [&str; 3] = ["198.51.100.10", "198.51.100.53", "2001:db8:2::10"];

/// A pod and its world. Both end with it.
pub struct Pod {
    name: String,
    dir: TempDir,
}

impl Pod {
    /// A new one, without rules.
    ///
    /// # Panics
    /// When this is not root, or `ip` is missing.
    #[must_use]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "network namespaces for these tests need root");
        let name = format!("sg{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::copy(sidecar::binary(), dir.path().join("sideguard")).expect("a copy of the binary");
        let pod = Self { name, dir };
        pod.build();
        pod
    }

    fn build(&self) {
        let (pod, world) = (self.name.clone(), self.world());
        for namespace in [&pod, &world] {
            run("ip", &["netns", "add", namespace]);
            run("ip", &["-n", namespace, "link", "set", "lo", "up"]);
        }
        let ends = ["eth0", "netns", &pod, "type", "veth", "peer", "name", "eth0", "netns", &world];
        run("ip", &[&["link", "add"], &ends[..]].concat());
        for (namespace, v4, v6) in
            [(&pod, "192.0.2.2/24", "2001:db8:1::2/64"), (&world, "192.0.2.1/24", "2001:db8:1::1/64")]
        {
            run("ip", &["-n", namespace, "addr", "add", v4, "dev", "eth0"]);
            run("ip", &["-n", namespace, "addr", "add", v6, "dev", "eth0", "nodad"]);
            run("ip", &["-n", namespace, "link", "set", "eth0", "up"]);
        }
        for address in WORLD {
            let bits = if address.contains(':') { 128 } else { 32 };
            run("ip", &["-n", &world, "addr", "add", &format!("{address}/{bits}"), "dev", "lo"]);
        }
        run("ip", &["-n", &world, "addr", "add", "169.254.169.254/32", "dev", "lo"]);
        run("ip", &["-n", &pod, "route", "add", "default", "via", "192.0.2.1"]);
        run("ip", &["-n", &pod, "-6", "route", "add", "default", "via", "2001:db8:1::1"]);
        // What `ip netns exec` shows as /etc/resolv.conf.
        let resolver = PathBuf::from("/etc/netns").join(&pod);
        fs::create_dir_all(&resolver).expect("a directory");
        fs::write(resolver.join("resolv.conf"), "nameserver 198.51.100.53\noptions timeout:1 attempts:1\n")
            .expect("a file");
        let count = "table inet watch {\n counter mld {\n }\n chain in {\n type filter hook prerouting priority -300; \
            policy accept;\n iifname eth0 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept\n \
            iifname eth0 icmpv6 type mld2-listener-report counter name mld accept\n iifname eth0 counter\n }\n}\n";
        let rules = self.dir.path().join("watch.nft");
        fs::write(&rules, count).expect("a file");
        run("nsenter", &[&self.net(&world), "nft", "-f", &rules.display().to_string()]);
    }

    fn world(&self) -> String {
        format!("{}-out", self.name)
    }

    fn net(&self, namespace: &str) -> String {
        format!("--net=/run/netns/{namespace}")
    }

    /// How `nsenter` is told of the pod's network.
    #[must_use]
    pub fn net_of_pod(&self) -> String {
        self.net(&self.name)
    }

    /// A directory that everybody in the pod can read.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The pod's network, as a runtime names it to plugins.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Does something in the pod's network, such as opening a socket.
    pub fn inside<T: Send + 'static>(&self, open: impl FnOnce() -> T + Send + 'static) -> T {
        in_network(&self.name, open)
    }

    /// Does something in the world's network, where the node is.
    pub fn outside<T: Send + 'static>(&self, open: impl FnOnce() -> T + Send + 'static) -> T {
        in_network(&self.world(), open)
    }

    /// A port of the world.
    #[must_use]
    pub fn listen(&self, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().expect("an address");
        let listener = self.outside(move || TcpListener::bind(address).expect("a port outside"));
        listener.set_nonblocking(true).expect("a mode");
        listener
    }

    /// A UDP port of the world.
    #[must_use]
    pub fn udp(&self, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().expect("an address");
        let socket = self.outside(move || UdpSocket::bind(address).expect("a port outside"));
        socket.set_nonblocking(true).expect("a mode");
        socket
    }

    /// How many packets came out of the pod, but for neighbour discovery and multicast reports.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.counted(1)
    }

    /// How many reports of multicast groups came out of it.
    #[must_use]
    pub fn reports(&self) -> u64 {
        self.counted(0)
    }

    fn counted(&self, place: usize) -> u64 {
        let listed = run("nsenter", &[&self.net(&self.world()), "nft", "list", "table", "inet", "watch"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let mut counts = words.windows(2).filter(|pair| pair[0] == "packets").map(|pair| pair[1]);
        counts.nth(place).and_then(|count| count.parse().ok()).expect("a count")
    }

    /// Runs the init step: `sideguard` with these arguments, as a root that has NET_ADMIN alone.
    pub fn init(&self, arguments: &[&str]) -> Output {
        let caps = [
            "--bounding-set=-all,+net_admin",
            "--inh-caps=-all,+net_admin",
            "--ambient-caps=-all,+net_admin",
        ];
        let sideguard = self.sideguard();
        let start = [&["setpriv"], &caps[..], &["--no-new-privs", &sideguard], arguments].concat();
        let net = self.net(&self.name);
        Command::new("nsenter").arg(net).args(start).output().expect("nsenter runs")
    }

    /// The binary, where everybody in the pod can run it.
    #[must_use]
    pub fn sideguard(&self) -> String {
        self.dir.path().join("sideguard").display().to_string()
    }

    /// What starts the sidecar in the pod, as the words before its binary.
    #[must_use]
    pub fn as_sidecar(&self) -> Vec<String> {
        let own = format!(
            "shift; chown -R {SIDECAR} \"$(dirname {{state}})\" && exec env SIDEGUARD_LISTEN__OUTBOUND=127.0.0.1:4750 \
             SIDEGUARD_LISTEN__ADMIN=127.0.0.1:4751 SIDEGUARD_LISTEN__DNS=127.0.0.1:4753 'SIDEGUARD_PRIVATE=[]' \
             ip netns exec {} setpriv --reuid {SIDECAR} --regid {SIDECAR} --clear-groups --inh-caps=-all \
             --bounding-set=-all --no-new-privs {} \"$@\"",
            self.name,
            self.sideguard()
        );
        ["sh", "-c", &own, "sh"].map(str::to_owned).to_vec()
    }

    /// A command of a container in the pod: with this uid, without capabilities, in an empty environment.
    #[must_use]
    pub fn container(&self, uid: u32, words: &[&str]) -> tokio::process::Command {
        let id = uid.to_string();
        let mut command = tokio::process::Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.name,
                "env",
                "-i",
                "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            ])
            .args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all"])
            .args(["--bounding-set=-all", "--no-new-privs"])
            .args(words)
            .current_dir("/")
            .kill_on_drop(true);
        command
    }

    /// A command in the pod's network, as a user with nothing special; `HOME` is the pod's directory.
    #[must_use]
    pub fn user(&self, uid: u32, words: &[&str]) -> tokio::process::Command {
        let id = uid.to_string();
        self.root(&[&["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"], words].concat())
    }

    /// A command in the pod's network, as root.
    #[must_use]
    pub fn root(&self, words: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.name,
                "env",
                "-i",
                "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            ])
            .arg(format!("HOME={}", self.dir.path().display()))
            .args(words)
            .current_dir("/")
            .kill_on_drop(true);
        command
    }
}

impl Default for Pod {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for namespace in [self.name.clone(), self.world()] {
            // Processes that a failed test left behind keep a namespace; they are this test's own.
            if let Ok(pids) = Command::new("ip").args(["netns", "pids", &namespace]).output() {
                for pid in String::from_utf8_lossy(&pids.stdout).split_ascii_whitespace() {
                    let _ = Command::new("kill").args(["-KILL", pid]).status();
                }
            }
            let _ = Command::new("ip").args(["netns", "del", &namespace]).status();
        }
        let _ = fs::remove_dir_all(PathBuf::from("/etc/netns").join(&self.name));
    }
}

fn in_network<T: Send + 'static>(namespace: &str, open: impl FnOnce() -> T + Send + 'static) -> T {
    let path = format!("/run/netns/{namespace}");
    let there = std::thread::spawn(move || {
        let namespace = fs::File::open(path).expect("the namespace");
        move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&namespace), ThreadNameSpaceType::NETWORK)
            .expect("the namespace");
        open()
    });
    there.join().expect("the thread ends")
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("`{program}`: {error} (tests/setup installs it)"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
