//! The pod layout: init step, sidecar and agents in one network namespace, each with a uid of its own.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::fake::{self, Fake, Seen};
use harness::pod::{AGENT, SIDECAR, WORLD};
use harness::sidecar::ALLOW;
use harness::tls::Authority;
use harness::{Pod, Sidecar, setting};
use serde_json::Value;

const CHAT: &str =
    r#"{"model":"gpt-5","messages":[{"role":"user","content":"hi"}],  "temperature":1.0,"new_field":[1e2]}"#;
const ANSWER: &str = r#"{"id":"c1","object":"chat.completion","model":"gpt-5","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;

/// A pod with rules and a sidecar in force.
fn governed(spec: &str, policies: &[(&str, &str)]) -> (Pod, Sidecar) {
    let pod = Pod::new();
    let init = pod.init(&["init", "--proxy-uid", &SIDECAR.to_string()]);
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let sidecar = Sidecar::under(&pod.as_sidecar(), spec, policies);
    std::fs::write(pod.dir().join("bundle.pem"), sidecar.trust()).expect("a file");
    (pod, sidecar)
}

/// curl in a container; its output, and its exit status.
async fn curl(pod: &Pod, uid: u32, words: &[&str]) -> (String, i32) {
    let bundle = pod.dir().join("bundle.pem").display().to_string();
    let curl = ["curl", "-sS", "-m", "10", "--cacert", &bundle];
    let output = pod.container(uid, &[&curl, words].concat()).output().await.expect("a start");
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.code().unwrap_or(-1))
}

fn judged(entry: &Value) -> Vec<Value> {
    let fields = ["point", "topic", "verb", "risk_tags", "decision", "rule", "args_hash", "agent", "target"];
    fields.iter().map(|field| entry[field].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirected_call_is_the_same_as_one_by_connect_or_by_the_gateway_path() {
    let authority = Authority::new();
    let tls = format!("  tls: {{trust: [\"{}\"]}}\n", authority.path().display());
    std::fs::set_permissions(authority.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("a mode");
    let spec = format!(
        "  agent: {{name: tester}}\n  hosts: {{\"api.openai.com\": \"{0}:443\", \"crm.example\": \"{0}:80\"}}\n{tls}",
        WORLD[0]
    );
    let (pod, sidecar) = governed(&spec, &[("allow.yaml", ALLOW)]);
    let secure = authority.server(&["api.openai.com"], &["h2", "http/1.1"]);
    let answer = |_: &Seen| fake::reply("application/json", fake::whole(ANSWER));
    let model = Fake::on(pod.listen(&format!("{}:443", WORLD[0])), Some(secure), answer);
    let plain = Fake::on(pod.listen(&format!("{}:80", WORLD[0])), None, answer);
    let json = ["-H", "content-type: application/json", "--data-binary", CHAT];
    let url = "https://api.openai.com/v1/chat/completions?beta=true&x=%2F";
    for words in [
        &["--http2", url][..],
        &["--http1.1", url],
        &["-x", "http://127.0.0.1:4750", url],
        &["http://127.0.0.1:4750/openai/v1/chat/completions?beta=true&x=%2F"],
    ] {
        assert_eq!(curl(&pod, AGENT, &[&json, words].concat()).await, (ANSWER.to_owned(), 0), "{words:?}");
    }
    let seen = model.seen();
    assert_eq!(seen.len(), 4);
    for one in &seen {
        assert_eq!((&one.body, &one.target, &one.host), (&seen[0].body, &seen[0].target, &seen[0].host));
        assert_eq!(one.body, CHAT);
        assert_eq!(one.headers, seen[0].headers);
    }
    for words in
        [&["http://crm.example/a?b=c"][..], &["-x", "http://127.0.0.1:4750", "http://crm.example/a?b=c"]]
    {
        assert_eq!(curl(&pod, AGENT, words).await, (ANSWER.to_owned(), 0), "{words:?}");
    }
    assert_eq!(plain.seen()[0].target, plain.seen()[1].target);
    let intents = sidecar.recorded_times(6, |entry| entry["phase"] == "intent").await;
    for (one, same) in [(0, 1), (0, 2), (0, 3), (4, 5)] {
        assert_eq!(judged(&intents[one]), judged(&intents[same]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_sidecar_dead_nothing_gets_out_and_with_a_new_one_traffic_resumes() {
    let spec = format!("  agent: {{name: tester}}\n  hosts: {{\"crm.example\": \"{}:80\"}}\n", WORLD[0]);
    let (pod, mut sidecar) = governed(&spec, &[("allow.yaml", ALLOW)]);
    let fake = Fake::on(pod.listen(&format!("{}:80", WORLD[0])), None, |_| {
        fake::reply("text/plain", fake::whole("there"))
    });
    assert_eq!(curl(&pod, AGENT, &["http://crm.example/"]).await, ("there".to_owned(), 0));
    sidecar.kill();
    let packets = pod.packets();
    let by_address = format!("http://{}/", WORLD[0]);
    for words in [
        &[by_address.as_str()][..],
        &["http://crm.example/"],
        &["--resolve", "crm.example:80:198.51.100.10", "http://crm.example/"],
    ] {
        let (text, code) = curl(&pod, AGENT, words).await;
        assert!(matches!(code, 6 | 7), "{words:?}: {code} {text}");
    }
    // The same rules once more change nothing: there is no moment without them.
    assert!(pod.init(&["init"]).status.success());
    assert_eq!(pod.packets(), packets);
    assert_eq!(fake.seen().len(), 1);
    let _sidecar = sidecar.again();
    assert_eq!(curl(&pod, AGENT, &["http://crm.example/"]).await, ("there".to_owned(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_tcp_passes_only_where_a_rule_names_it_and_is_counted() {
    let policy = setting::policy(
        "p",
        "  default_decision: allow\n  rules: [{id: db, match: {points: [net.connect], hosts: [db.example]}, decision: allow}]\n",
    );
    let spec = format!(
        "  agent: {{name: tester}}\n  hosts: {{\"db.example\": \"{0}:5432\", \"other.example\": \"{0}:5432\", \
         \"mail.example\": \"{0}:5432\"}}\n",
        WORLD[0]
    );
    let (pod, sidecar) = governed(&spec, &[("p.yaml", &policy)]);
    let listener = pod.listen(&format!("{}:5432", WORLD[0]));
    listener.set_nonblocking(false).expect("a mode");
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::AcqRel);
            // The server speaks first.
            let _ = (&stream).write_all(b"banner");
        }
    });
    let script = "import socket, sys\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])), 15)\n\
        if len(sys.argv) > 3: s.sendall(sys.argv[3].encode())\nprint(s.recv(6).decode())";
    let speak = |host: &'static str, port: &'static str, first: &'static [&'static str]| {
        let words = [&["/usr/bin/python3", "-c", script, host, port], first].concat();
        let mut command = pod.container(AGENT, &words);
        async move { String::from_utf8_lossy(&command.output().await.expect("a start").stdout).trim().to_owned() }
    };
    assert_eq!(speak("db.example", "5432", &[]).await, "banner", "a server that speaks first does not hang");
    assert_eq!(speak("db.example", "22", &[]).await, "banner");
    assert_eq!(speak("db.example", "5432", &["\u{1}x"]).await, "banner");
    assert_eq!(reached.load(Ordering::Acquire), 3);
    // The default that allows was not written with raw bytes in mind.
    for (host, port, first) in [
        ("other.example", "22", &[][..]),
        ("other.example", "5432", &["\u{1}x"]),
        ("mail.example", "25", &[]),
    ] {
        assert_eq!(speak(host, port, first).await, "", "{host}:{port}");
    }
    assert_eq!(reached.load(Ordering::Acquire), 3, "nobody else was reached");
    let outcomes = sidecar.recorded_times(3, |entry| entry["phase"] == "outcome").await;
    assert!(outcomes.iter().any(|entry| entry["bytes"] == serde_json::json!([2, 6])), "{outcomes:#?}");
    assert!(
        outcomes
            .iter()
            .all(|entry| entry["topic"].as_str().is_some_and(|topic| topic.starts_with("net.db.example.")))
    );
    let denied = sidecar.recorded_times(3, |entry| entry["decision"] == "deny").await;
    assert!(denied.iter().all(|entry| entry["risk_tags"][0] == "raw_tcp"), "{denied:#?}");
}

/// Answers DNS outside: what `answer` says to a name, of which it may say something else each time.
fn name_server(pod: &Pod, answer: impl Fn(&str, usize) -> [u8; 4] + Send + 'static) {
    let socket = pod.udp(&format!("{}:53", WORLD[1]));
    socket.set_nonblocking(false).expect("a mode");
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        let mut times = std::collections::HashMap::new();
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..count];
            let (mut name, mut at) = (Vec::new(), 12);
            while query[at] != 0 {
                let length = usize::from(query[at]);
                name.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
                at += length + 1;
            }
            let question = &query[12..at + 5];
            let is_a = query[at + 2] == 1;
            let mut reply =
                [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], question].concat();
            if is_a {
                let name = name.join(".");
                let time: &mut usize = times.entry(name.clone()).or_default();
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                reply.extend(answer(&name, *time));
                *time += 1;
            }
            let _ = socket.send_to(&reply, from);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_turns_to_an_inner_address_leads_nowhere() {
    let (pod, sidecar) = governed("  agent: {name: tester}\n", &[("allow.yaml", ALLOW)]);
    let outside = Fake::on(pod.listen(&format!("{}:80", WORLD[0])), None, |_| {
        fake::reply("text/plain", fake::whole("there"))
    });
    let metadata = Fake::on(pod.listen("169.254.169.254:80"), None, |_| {
        fake::reply("text/plain", fake::whole("secret"))
    });
    // Loopback of the pod, where the sidecar itself lives.
    let inner = pod.inside(|| std::net::TcpListener::bind("127.0.0.1:80").expect("a port"));
    let inner = Fake::on(inner, None, |_| fake::reply("text/plain", fake::whole("secret")));
    name_server(&pod, |name, time| match (name, time) {
        ("flips.example", 0) | ("stays.example", _) => [198, 51, 100, 10],
        ("meta.example", _) => [169, 254, 169, 254],
        _ => [127, 0, 0, 1],
    });
    assert_eq!(curl(&pod, AGENT, &["http://stays.example/"]).await, ("there".to_owned(), 0));
    assert_eq!(curl(&pod, AGENT, &["http://flips.example/"]).await, ("there".to_owned(), 0));
    // A new sidecar asks anew, and is told something else.
    let sidecar = sidecar.again();
    for host in ["flips.example", "inner.example", "meta.example"] {
        let (text, _) = curl(&pod, AGENT, &[&format!("http://{host}/")]).await;
        assert!(text.contains("policy_denied") && text.contains("private"), "{host}: {text}");
    }
    assert_eq!(curl(&pod, AGENT, &["http://stays.example/"]).await.0, "there");
    assert_eq!(
        (outside.seen().len(), metadata.connections().accepted(), inner.connections().accepted()),
        (3, 0, 0)
    );
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_uid_of_the_socket_tells_whose_call_it_is_and_nothing_else_does() {
    let agents = "  agents:\n    - {agent: {name: rootagent}, uid: 0}\n    - {agent: {name: reader}, uid: 1000}\n    - {agent: {name: writer, tenant: acme}, uid: 1001}\n    \
        - {agent: {name: own-port}, listen: \"127.0.0.1:4760\"}\n";
    let spec = format!("{agents}  hosts: {{\"crm.example\": \"{}:80\"}}\n", WORLD[0]);
    // SHA-256 of `reader-key`: the key is right, and makes nobody else of whoever brings it.
    let agent = "apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: reader}\nspec:\n  keys: [{sha256: \
        ec4408df15da46b328f6f3246fa723d0aa6cb0f0a0dd9c4626080ab1b02aa3b2}]\n";
    let policy = setting::policy(
        "p",
        "  rules: [{id: own, match: {agents: [reader, writer], hosts: [crm.example]}, decision: allow}]\n",
    );
    let (pod, sidecar) = governed(&spec, &[("p.yaml", &policy), ("agent.yaml", agent)]);
    let _fake = Fake::on(pod.listen(&format!("{}:80", WORLD[0])), None, |_| {
        fake::reply("text/plain", fake::whole("there"))
    });
    let spoof = ["-H", "x-sideguard-key: reader-key", "-H", "x-sideguard-agent: reader"];
    assert_eq!(curl(&pod, 1000, &["http://crm.example/1"]).await.0, "there");
    assert_eq!(curl(&pod, 1001, &[&spoof[..], &["http://crm.example/2"]].concat()).await.0, "there");
    assert_eq!(curl(&pod, 1001, &["-x", "http://127.0.0.1:4750", "http://crm.example/3"]).await.0, "there");
    let (text, _) = curl(&pod, 1002, &[&spoof[..], &["http://crm.example/4"]].concat()).await;
    assert!(text.contains("unauthenticated"), "{text}");
    // A socket that its owner has closed is nobody's, not root's.
    let orphan = "import socket\nfor _ in range(20):\n s = socket.create_connection(('crm.example', 80))\n \
        s.sendall(b'GET /orphan HTTP/1.1\\r\\nHost: crm.example\\r\\n\\r\\n'); s.close()";
    let output = pod.container(1001, &["/usr/bin/python3", "-c", orphan]).output().await.expect("a start");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = sidecar.recorded_times(4, |entry| entry["phase"] != "control").await;
    assert!(all.iter().all(|entry| entry["agent"] != "rootagent"), "{all:#?}");
    let of = |entry: &Value| entry["phase"] == "intent" && entry["target"]["path"] != "/orphan";
    let intents = sidecar.recorded_times(3, of).await;
    let whose: Vec<_> = intents.iter().map(|entry| (&entry["agent"], &entry["tenant"])).collect();
    assert_eq!(
        serde_json::json!(whose),
        serde_json::json!([["reader", "default"], ["writer", "acme"], ["writer", "acme"]])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_names_nobody_or_hides_its_name_is_handled_by_rule() {
    let hello = "import socket, ssl, sys\nc = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = 0\n\
        s = c.wrap_socket(socket.create_connection((sys.argv[1], 443), 10), server_hostname=sys.argv[2] or None)\n\
        s.sendall(b'GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n' % sys.argv[1].encode())\n\
        print(s.recv(4096).split(b'\\r\\n')[0].decode())";
    for (rule, expected) in [("refuse", ""), ("address", "HTTP/1.1 200 OK")] {
        let authority = Authority::new();
        std::fs::set_permissions(authority.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .expect("a mode");
        let spec = format!(
            "  agent: {{name: tester}}\n  hosts: {{\"crm.example\": \"{}:443\"}}\n  tls: {{noSni: {rule}, trust: [\"{}\"]}}\n",
            WORLD[0],
            authority.path().display()
        );
        let (pod, sidecar) = governed(&spec, &[("allow.yaml", ALLOW)]);
        let tls = authority.server(&["crm.example"], &["http/1.1"]);
        let _fake = Fake::on(pod.listen(&format!("{}:443", WORLD[0])), Some(tls), |_| {
            fake::reply("text/plain", fake::whole("there"))
        });
        let mut command = pod.container(AGENT, &["/usr/bin/python3", "-c", hello, "crm.example", ""]);
        let output = command.output().await.expect("a start");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{rule}");
        let mut command =
            pod.container(AGENT, &["/usr/bin/python3", "-c", hello, "crm.example", "crm.example"]);
        let output = command.output().await.expect("a start");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "HTTP/1.1 200 OK", "{rule}");
        if rule == "refuse" {
            let told = String::from_utf8_lossy(&output.stderr);
            sidecar
                .recorded(|entry| {
                    entry["reason"].as_str().is_some_and(|reason| reason.contains("names no server"))
                })
                .await;
            assert!(told.is_empty(), "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_datagram_from_outside_opens_no_way_back() {
    let (pod, _sidecar) = governed("  agent: {name: tester}\n", &[("allow.yaml", ALLOW)]);
    let outside = pod.udp(&format!("{}:9999", WORLD[0]));
    let script = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('', 7070))\n\
        print('ready', flush=True)\n_, whom = s.recvfrom(99)\n\
        try: s.sendto(b'secret', whom); print('sent')\nexcept OSError as error: print(type(error).__name__)";
    let mut command = pod.container(AGENT, &["/usr/bin/python3", "-c", script]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("a start");
    let mut lines = tokio::io::BufReader::new(child.stdout.take().expect("standard output"));
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line).await.expect("a word");
    outside.send_to(b"hello", "192.0.2.2:7070").expect("a datagram");
    line.clear();
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line).await.expect("a word");
    assert_eq!(line.trim(), "PermissionError");
    assert!(outside.recv(&mut [0; 9]).is_err(), "nothing came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_before_the_first_word_changes_nothing() {
    let policy = setting::policy(
        "p",
        "  default_decision: allow\n  rules: [{id: raw, match: {points: [net.connect], hosts: [allowed.example]}, decision: allow}]\n",
    );
    let spec = format!(
        "  agent: {{name: tester}}\n  hosts: {{\"allowed.example\": \"{0}:443\", \"bank.example\": \"{0}:443\"}}\n  \
         tls: {{passthrough: [bank.example]}}\n",
        WORLD[0]
    );
    let (pod, _sidecar) = governed(&spec, &[("p.yaml", &policy)]);
    let authority = Authority::new();
    let tls = authority.server(&["allowed.example", "bank.example", "evil.example"], &["http/1.1"]);
    let fake = Fake::on(pod.listen(&format!("{}:443", WORLD[0])), Some(tls), |_| {
        fake::reply("text/plain", fake::whole("there"))
    });
    let script = "import socket, ssl, sys, time\nvia, host, name, wait = sys.argv[1:]\n\
        s = socket.create_connection(('127.0.0.1', 4750) if via == 'connect' else (host, 443), 10)\n\
        if via == 'connect': s.sendall(b'CONNECT %s:443 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' % host.encode()); s.recv(999)\n\
        time.sleep(float(wait))\nc = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = 0\n\
        s = c.wrap_socket(s, server_hostname=name)\n\
        s.sendall(b'GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n' % name.encode())\n\
        print(s.recv(99).split(b'\\r\\n')[0].decode())";
    for (via, host, name, wait, passes) in [
        ("connect", "bank.example", "bank.example", "0", true),
        ("connect", "bank.example", "bank.example", "0.6", true),
        ("connect", "bank.example", "evil.example", "0", false),
        ("connect", "bank.example", "evil.example", "0.6", false),
        ("redirect", "bank.example", "bank.example", "0", true),
        ("redirect", "bank.example", "evil.example", "0.6", false),
        // Where TLS is opened and raw bytes may pass too, TLS does not pass as raw bytes.
        ("redirect", "allowed.example", "evil.example", "0.6", false),
        ("redirect", "allowed.example", "allowed.example", "0.6", false),
    ] {
        let before = fake.seen().len();
        let mut command = pod.container(AGENT, &["/usr/bin/python3", "-c", script, via, host, name, wait]);
        let output = command.output().await.expect("a start");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.trim() == "HTTP/1.1 200 OK", passes, "{via} {host} {name} {wait}: {said}");
        assert_eq!(fake.seen().len() - before, usize::from(passes));
    }
}

/// A real hello for a name, with one more extension put in: an encrypted hello, as browsers pretend to have. Prints the
/// kind of the first record that comes back.
const ENCRYPTED: &str = "import socket, ssl, struct\nbio, out = ssl.MemoryBIO(), ssl.MemoryBIO()\n\
    c = ssl.create_default_context().wrap_bio(bio, out, server_hostname='crm.example')\n\
    try: c.do_handshake()\nexcept ssl.SSLWantReadError: pass\nh = bytearray(out.read())\n\
    more = struct.pack('>HHBHHBHHI', 0xfe0d, 14, 0, 1, 1, 7, 0, 4, 9)\nat = 43 + 1 + h[43]\n\
    at += 2 + struct.unpack_from('>H', h, at)[0]\nat += 1 + h[at]\n\
    for place, form in ((3, '>H'), (at, '>H')):\n \
    struct.pack_into(form, h, place, struct.unpack_from(form, h, place)[0] + len(more))\n\
    h[6:9] = (int.from_bytes(h[6:9], 'big') + len(more)).to_bytes(3, 'big')\n\
    s = socket.create_connection(('crm.example', 443), 10)\ns.sendall(bytes(h) + more)\nprint(s.recv(1)[0])";

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_hello_is_handled_by_rule() {
    // An alert, or the server's hello. Where TLS is opened nothing can hide, so that browsers, which pretend, work.
    for (rule, closed, expected) in
        [("refuse", "crm.example", "21"), ("outer", "crm.example", "22"), ("refuse", "other.example", "22")]
    {
        let spec = format!(
            "  agent: {{name: tester}}\n  hosts: {{\"crm.example\": \"{}:443\"}}\n  tls: {{ech: {rule}, passthrough: \
             [{closed}]}}\n",
            WORLD[0]
        );
        let authority = Authority::new();
        let (pod, sidecar) = governed(&spec, &[("allow.yaml", ALLOW)]);
        let _fake = Fake::on(
            pod.listen(&format!("{}:443", WORLD[0])),
            Some(authority.server(&["crm.example"], &["http/1.1"])),
            |_| fake::reply("text/plain", fake::whole("there")),
        );
        let mut command = pod.container(AGENT, &["/usr/bin/python3", "-c", ENCRYPTED]);
        let output = command.output().await.expect("a start");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{rule}: {told}");
        if expected == "21" {
            let hidden =
                |entry: &Value| entry["reason"].as_str().is_some_and(|reason| reason.contains("tls.ech"));
            sidecar.recorded(hidden).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_tls_is_tunnelled_to_the_host_that_its_hello_names() {
    let authority = Authority::new();
    let spec = format!(
        "  agent: {{name: tester}}\n  hosts: {{\"bank.example\": \"{0}:443\"}}\n  tls: {{passthrough: [bank.example]}}\n",
        WORLD[0]
    );
    let (pod, sidecar) = governed(&spec, &[("allow.yaml", ALLOW)]);
    let tls = authority.server(&["bank.example", "evil.example"], &["http/1.1"]);
    let fake = Fake::on(pod.listen(&format!("{}:443", WORLD[0])), Some(tls), |_| {
        fake::reply("text/plain", fake::whole("there"))
    });
    std::fs::copy(authority.path(), pod.dir().join("bundle.pem")).expect("a file");
    std::fs::set_permissions(
        pod.dir().join("bundle.pem"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .expect("a mode");
    assert_eq!(curl(&pod, AGENT, &["https://bank.example/"]).await.0, "there");
    let by_connect = ["-x", "http://127.0.0.1:4750"];
    assert_eq!(curl(&pod, AGENT, &[&by_connect[..], &["https://bank.example/"]].concat()).await.0, "there");
    // The tunnel leads to one host, the hello inside asks for another.
    let fronted =
        [&by_connect[..], &["--connect-to", "evil.example:443:bank.example:443", "https://evil.example/"]];
    let (text, code) = curl(&pod, AGENT, &fronted.concat()).await;
    assert_ne!(code, 0, "{text}");
    assert_eq!(fake.seen().len(), 2);
    let outcomes = sidecar.recorded_times(3, |entry| entry["phase"] == "outcome").await;
    let refused: Vec<_> = outcomes.iter().filter(|entry| entry["code"] == "unjudgeable").collect();
    assert_eq!((refused.len(), &refused[0]["bytes"]), (1, &serde_json::json!([0, 0])), "{outcomes:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_init_step_says_what_is_missing() {
    let pod = Pod::new();
    let words = [pod.sideguard(), "init".to_owned()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = pod.container(AGENT, &words).output().await.expect("a start");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(told.contains("CAP_NET_ADMIN") && told.lines().count() == 1, "{told}");
    // Somebody sits on the sidecar's port already: the agent's bytes would go to it.
    let _squatter = pod.inside(|| std::net::TcpListener::bind("127.0.0.1:4750").expect("a port"));
    let init = pod.init(&["init"]);
    assert_eq!(init.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&init.stderr).contains("4750"));
    assert!(pod.init(&["capture", "down"]).status.success());
    let print = pod.init(&["init", "--print", "--proxy-uid", "77", "--loopback", "8080"]);
    let text = String::from_utf8_lossy(&print.stdout).into_owned();
    assert!(
        text.contains("meta skuid { 77 } return") && text.contains("tcp dport { 8080 } accept"),
        "{text}"
    );
    let root = pod.init(&["init", "--proxy-uid", "0"]);
    assert_eq!(root.status.code(), Some(2));
}
