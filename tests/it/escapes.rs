//! Nothing gets past: what an agent may try, in a pod's layout and under `sideguard run`. `escapes.py` has the recipes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::pod::{AGENT, SIDECAR, WORLD};
use harness::tls::Authority;
use harness::{Fake, Pod, Sidecar, fake, setting};
use serde_json::Value;
use tokio::process::Command;

const RECIPES: &str = include_str!("escapes.py");
/// What shows that the recipes work where nothing holds them.
const WITHOUT: &str = "tcp_to_an_address,tcp_to_an_ipv6_address,tcp_to_a_mapped_address,udp_to_an_address,\
    udp_to_an_ipv6_address,quic,dns_tunnel,dns_over_tcp,dns_over_https_to_an_address,metadata_service,no_sni,\
    tcp_to_a_port_that_servers_speak_on,http_to_an_address_under_an_allowed_name";

/// Somebody outside on every port that the recipes try, who says OUTSIDE.
struct World {
    _web: Vec<Fake>,
    heard: std::sync::Arc<AtomicU64>,
}

impl World {
    fn new(pod: &Pod) -> Self {
        let heard = std::sync::Arc::new(AtomicU64::new(0));
        let (v4, v6) = (WORLD[0], WORLD[2]);
        for address in
            [format!("{v4}:5555"), format!("{v4}:22"), format!("[{v6}]:5555"), format!("{}:53", WORLD[1])]
        {
            greet(pod.listen(&address), &heard);
        }
        for address in
            [format!("{v4}:9999"), format!("[{v6}]:9999"), format!("{v4}:443"), format!("{}:53", WORLD[1])]
        {
            echo(pod.udp(&address), &heard);
        }
        let authority = Authority::new();
        let tls = authority.server(&["allowed.example", "evil.example"], &["h2", "http/1.1"]);
        let web = [
            (format!("{v4}:443"), Some(tls.clone())),
            (format!("{v4}:80"), None),
            (format!("{}:853", WORLD[1]), Some(tls)),
            ("169.254.169.254:80".to_owned(), None),
        ];
        let web = web.map(|(at, tls)| {
            Fake::on(pod.listen(&at), tls, |_| fake::reply("text/plain", fake::whole("OUTSIDE")))
        });
        Self { _web: web.into(), heard }
    }
}

fn greet(listener: TcpListener, heard: &std::sync::Arc<AtomicU64>) {
    listener.set_nonblocking(false).expect("a mode");
    let heard = std::sync::Arc::clone(heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            heard.fetch_add(1, Ordering::AcqRel);
            if let Ok(mut stream) = stream {
                // Whoever has gone hears nothing.
                let _ = stream.write_all(b"OUTSIDE");
            }
        }
    });
}

fn echo(socket: std::net::UdpSocket, heard: &std::sync::Arc<AtomicU64>) {
    socket.set_nonblocking(false).expect("a mode");
    let heard = std::sync::Arc::clone(heard);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            heard.fetch_add(1, Ordering::AcqRel);
            let _ = socket.send_to(b"OUTSIDE", from);
        }
    });
}

/// What each recipe came to.
async fn outcomes(mut command: Command) -> Vec<(String, String)> {
    let output = command.stdin(Stdio::null()).output().await.expect("a start");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found: Vec<(String, String)> = lines
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            (text("way"), text("outcome"))
        })
        .collect();
    assert!(!found.is_empty(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    found
}

fn shut(outcomes: &[(String, String)], at_least: usize) {
    assert!(outcomes.len() >= at_least, "only {} were tried", outcomes.len());
    let out: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.starts_with("out")).collect();
    assert!(out.is_empty(), "got out: {out:?}\nall: {outcomes:#?}");
}

/// Facts that all layouts share.
fn facts(pod: &Pod) -> Vec<String> {
    std::fs::write(pod.dir().join("escapes.py"), RECIPES).expect("a file");
    let [v4, dns, v6] = WORLD;
    vec![
        format!("v4={v4}"),
        format!("v6={v6}"),
        format!("dns={dns}"),
        format!("uid={SIDECAR}"),
        format!("other={v4}"),
    ]
}

fn python(pod: &Pod, layout: &str, facts: &[String]) -> Vec<String> {
    let script = pod.dir().join("escapes.py").display().to_string();
    let head = ["/usr/bin/python3", &script, layout].map(str::to_owned);
    head.into_iter().chain(facts.iter().cloned()).collect()
}

async fn without_sideguard(pod: &Pod, facts: &[String]) {
    let facts: Vec<String> = facts.iter().cloned().chain([format!("only={WITHOUT}")]).collect();
    let words = python(pod, "run", &facts);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let found = outcomes(pod.container(AGENT, &words)).await;
    assert_eq!(found.len(), WITHOUT.split(',').count());
    for (way, outcome) in &found {
        assert!(
            outcome.starts_with("out"),
            "{way} does not work at all, so that nothing is shown: {outcome}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_out_of_a_pod() {
    let pod = Pod::new();
    let world = World::new(&pod);
    let mut facts = facts(&pod);
    without_sideguard(&pod, &facts).await;
    let init = pod.init(&["init", "--proxy-uid", &SIDECAR.to_string()]);
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let policy = setting::policy(
        "p",
        "  rules: [{id: allowed, match: {hosts: [allowed.example]}, decision: allow}]\n  default_decision: deny\n",
    );
    let sidecar = Sidecar::under(
        &pod.as_sidecar(),
        &format!("  agent: {{name: tester}}\n  hosts: {{\"allowed.example\": \"{}:443\"}}\n", WORLD[0]),
        &[("p.yaml", &policy)],
    );
    // Another container of the pod, which must not become a way out.
    let serve = "import socketserver, sys\nclass H(socketserver.BaseRequestHandler):\n def handle(self): \
        self.request.sendall(b'OUTSIDE')\ns = socketserver.TCPServer(('', 7777), H)\nprint('up', flush=True)\ns.serve_forever()";
    let mut other = pod.container(2000, &["/usr/bin/python3", "-c", serve]);
    let mut other = other.stdout(Stdio::piped()).spawn().expect("a start");
    let mut ready = [0; 3];
    let mut stdout = other.stdout.take().expect("standard output");
    tokio::io::AsyncReadExt::read_exact(&mut stdout, &mut ready).await.expect("a word");
    facts.extend([
        "loopback=7777".to_owned(),
        "admin=4751".to_owned(),
        format!("sidecar={}", sidecar.pid()),
        format!("key={}", sidecar.state().join("ca/ca.key").display()),
    ]);
    let (packets, heard, reports) = (pod.packets(), world.heard.load(Ordering::Acquire), pod.reports());
    let words = python(&pod, "pod", &facts);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let found = outcomes(pod.container(AGENT, &words)).await;
    shut(&found, 40);
    let record =
        || sidecar.record().into_iter().filter(|entry| entry["phase"] == "intent").collect::<Vec<_>>();
    assert_eq!(pod.packets(), packets, "not a packet came out: {:#?}\n{found:#?}", record());
    assert_eq!(world.heard.load(Ordering::Acquire), heard);
    assert_eq!(pod.reports(), reports, "a multicast group's address is a message");
    // What came to the sidecar is on record.
    let denied = sidecar.recorded(|entry| entry["phase"] == "decision" && entry["decision"] == "deny").await;
    for (method, host) in [
        ("TCP", format!("{}:5555", WORLD[0])),
        ("TCP", format!("[{}]:5555", WORLD[2])),
        ("TCP", format!("{}:22", WORLD[0])),
        ("DNS TXT", "c2vjcmv0.tunnel.example".to_owned()),
        ("GET", "169.254.169.254".to_owned()),
        ("CONNECT", WORLD[0].to_owned()),
        ("TLS", WORLD[0].to_owned()),
        ("GET", "other.example".to_owned()),
    ] {
        let of = |entry: &&Value| entry["target"]["host"] == *host && entry["target"]["method"] == method;
        assert!(denied.iter().any(|entry| of(&entry)), "{method} {host} is not on record: {denied:#?}");
    }
    drop(other);
}

/// Runs the recipes under `sideguard run` in a pod that has no rules of its own.
async fn no_way_leads_out_of_a_run(pod: &Pod, start: impl FnOnce(&[&str]) -> Command) {
    let world = World::new(pod);
    let mut facts = facts(pod);
    without_sideguard(pod, &facts).await;
    // Sockets of the host's programs.
    let path = pod.dir().join("host.sock");
    let (own, name) = (path.clone(), format!("sideguard-{}", pod.dir().display()));
    let listeners = pod.inside(move || {
        let name = UnixAddr::from_abstract_name(name).expect("a name");
        [UnixListener::bind(own), UnixListener::bind_addr(&name)].map(|socket| socket.expect("a socket"))
    });
    for listener in listeners {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let _ = stream.write_all(b"OUTSIDE");
                let _ = stream.read(&mut [0; 16]);
            }
        });
    }
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("a mode");
    let state = pod.dir().join("state");
    facts.extend([
        "admin=4751".to_owned(),
        format!("sidecar={}", std::process::id()),
        format!("key={}", state.join("ca/ca.key").display()),
        format!("socket={}", path.display()),
        format!("abstract=sideguard-{}", pod.dir().display()),
    ]);
    let policy = setting::policy(
        "p",
        "  rules: [{id: allowed, match: {hosts: [allowed.example]}, decision: allow}]\n  default_decision: deny\n",
    );
    let file = pod.dir().join("p.yaml");
    std::fs::write(&file, policy).expect("a file");
    let (packets, heard) = (pod.packets(), world.heard.load(Ordering::Acquire));
    let (sideguard, state, file) = (pod.sideguard(), state.display().to_string(), file.display().to_string());
    let run = [&sideguard, "run", "--isolate", "netns", "--state", &state, "-f", &file, "--"];
    let words = python(pod, "run", &facts);
    let words: Vec<&str> = run.into_iter().chain(words.iter().map(String::as_str)).collect();
    let found = outcomes(start(&words)).await;
    shut(&found, 40);
    assert_eq!(pod.packets(), packets, "not a packet came out: {found:#?}");
    assert_eq!(world.heard.load(Ordering::Acquire), heard);
    let record = harness::command::sideguard(
        &pod.dir().join("state"),
        &["audit", "query", "--state", &state, "-o", "json"],
    )
    .await;
    for told in ["5555", "c2vjcmv0.tunnel.example", "packets_dropped", "169.254.169.254"] {
        assert!(record.out.contains(told), "{told} is not on record: {}{}", record.out, record.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_out_of_a_run_of_a_users() {
    let pod = Pod::new();
    let state = pod.dir().join("state");
    std::fs::create_dir(&state).expect("a directory");
    std::os::unix::fs::chown(&state, Some(AGENT), Some(AGENT)).expect("an owner");
    no_way_leads_out_of_a_run(&pod, |words| pod.user(AGENT, words)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_out_of_a_run_of_roots_for_a_user() {
    let pod = Pod::new();
    no_way_leads_out_of_a_run(&pod, |words| {
        let at = words.iter().position(|word| *word == "--").expect("a command");
        let user = AGENT.to_string();
        let words = [&words[..at], &["--user", &user], &words[at..]].concat();
        pod.root(&words)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_out_of_a_run_of_roots_own() {
    let pod = Pod::new();
    no_way_leads_out_of_a_run(&pod, |words| pod.root(words)).await;
}
