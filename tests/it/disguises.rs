//! A call that looks like another one: what a rule is about is found however it is spelled, or the call is refused.

use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::{RawFake, Sidecar, client, raw, setting};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const JSON: &str = "application/json";
const TOKEN: &str = "ghp_0123456789abcdefghijABCDEFGHIJ012345";

/// Sends a request as it stands to an upstream under `/web`, and returns the answer.
async fn say(sidecar: &Sidecar, request: &str, headers: &str, body: &[u8]) -> (String, String) {
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n");
    tcp.write_all(&[head.as_bytes(), body].concat()).await.expect("a request");
    let (head, body) = raw::message(&mut tcp).await;
    (head, String::from_utf8_lossy(&body).into_owned())
}

async fn refused(sidecar: &Sidecar, code: &str, request: &str, headers: &str, body: &[u8]) {
    let (head, text) = say(sidecar, request, headers, body).await;
    assert!(head.starts_with("HTTP/1.1 403 ") && text.contains(code), "{request} {headers}: {head}{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_path_is_denied_however_it_is_spelled() {
    let fake = Fake::json("{}").await;
    let rules = "  rules:\n    - {id: no-admin, match: {paths: [\"/admin\", \"/admin/*\"]}, decision: deny, reason: never}\n    \
        - {id: no-cel, when: 'path.startsWith(\"/cel\")', decision: deny, reason: never}\n    \
        - {id: no-harm, match: {risk_tags: [destructive]}, decision: deny, reason: never}\n";
    let catalog = "apiVersion: sideguard.dev/v1\nkind: ToolCatalog\nmetadata: {name: c}\nspec:\n  tools: [{tool: \"POST /note\", risk_tags: [destructive]}]\n";
    let policies = [("allow.yaml", ALLOW), ("p.yaml", &*setting::policy("p", rules)), ("c.yaml", catalog)];
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &policies);
    for path in [
        "/admin",
        "/admin/",
        "//admin",
        "/%61dmin",
        "/admin;v=1",
        "/admin%2fkeys",
        "/%2561dmin",
        "/;x/admin/keys",
        "/admin//",
    ] {
        refused(&sidecar, "policy_denied", &format!("GET /web{path}"), "", b"").await;
    }
    for path in ["/users/5/delete", "/users/5/%64elete", "/users/5/delete/", "/users/5/delete;now"] {
        refused(&sidecar, "policy_denied", &format!("POST /web{path}"), "", b"").await;
    }
    for path in
        ["/x/../admin", "/x/%2e%2e/admin", "/x%2f..%2fadmin", "/x/..;/admin", "/x\\..\\admin", "/admin%00"]
    {
        refused(&sidecar, "unjudgeable", &format!("GET /web{path}"), "", b"").await;
    }
    assert_eq!(fake.connections().accepted(), 0, "{:?}", fake.seen());
    // So does a rule that says it in CEL, and a catalog's word is taken for the stricter reading.
    for path in ["/cel", "//cel", "/%63el/x"] {
        refused(&sidecar, "policy_denied", &format!("GET /web{path}"), "", b"").await;
    }
    for path in ["/note", "/%6eote", "//note", "/./note"] {
        refused(&sidecar, "policy_denied", &format!("POST /web{path}"), "", b"").await;
    }
    assert_eq!(fake.connections().accepted(), 0, "{:?}", fake.seen());
    for path in ["/administrator", "/dists/./stable", "/@types%2fnode", "/web/https://a.example/", "/a%20b"] {
        let (head, text) = say(&sidecar, &format!("GET /web{path}"), "", b"").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_is_what_it_says() {
    let fake = Fake::json("{}").await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);
    for request in ["TRACE /web/x", "TRACK /web/x", "delete /web/x", "Get /web/x"] {
        refused(&sidecar, "unjudgeable", request, "", b"").await;
    }
    for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"] {
        refused(&sidecar, "unjudgeable", "POST /web/x", &format!("{name}: DELETE\r\n"), b"").await;
        refused(&sidecar, "unjudgeable", "GET /web/x", &format!("{name}: POST\r\n"), b"").await;
    }
    assert_eq!(fake.connections().accepted(), 0);
    let mut kept = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    for (method, status) in [("GET", "200"), ("CONNECT", "403")] {
        let request = format!("{method} /web/x HTTP/1.1\r\nHost: x\r\n\r\n");
        kept.write_all(request.as_bytes()).await.expect("a request");
        let (head, _) = raw::message(&mut kept).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method}: {head}");
    }
    assert_eq!(fake.seen().len(), 1);
    let (head, _) = say(&sidecar, "POST /web/x", "X-HTTP-Method-Override: GET\r\n", b"q=1").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_rpc_is_judged_by_whatever_method_and_type_it_comes() {
    let fake = Fake::json("{}").await;
    let rule = "  rules: [{id: no, match: {tools: [drop_table]}, decision: deny, reason: never}]\n";
    let policies = [("allow.yaml", ALLOW), ("p.yaml", &*setting::policy("p", rule))];
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &policies);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "drop_table"}})
        .to_string();
    let wide: Vec<u8> = call.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [b"\xef\xbb\xbf", call.as_bytes()].concat();
    for content_type in [JSON, "text/plain", "application/octet-stream", "text/plain; charset=us-ascii"] {
        let kind = format!("Content-Type: {content_type}\r\n");
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let (_, text) = say(&sidecar, &format!("{method} /web/x"), &kind, call.as_bytes()).await;
            assert!(text.contains("Blocked by `p/no`"), "{method} {kind}: {text}");
        }
        refused(&sidecar, "unjudgeable", "POST /web/x", &kind, &wide).await;
        refused(&sidecar, "unjudgeable", "POST /web/x", &kind, &marked).await;
    }
    for charset in ["utf-16", "utf-7", "\"UTF-16LE\"", "ibm500", "iso-2022-jp"] {
        let kind = format!("Content-Type: {JSON}; charset={charset}\r\n");
        refused(&sidecar, "unjudgeable", "POST /web/x", &kind, b"+AHs-").await;
        refused(&sidecar, "unjudgeable", "POST /db/mcp", &kind, call.as_bytes()).await;
    }
    let many = format!("[{}]", vec![r#"{"jsonrpc":"2.0","method":"ping","id":1}"#; 101].join(","));
    let (_, text) =
        say(&sidecar, "POST /db/mcp", &format!("Content-Type: {JSON}\r\n"), many.as_bytes()).await;
    assert!(text.contains("more than 100 messages"), "{text}");
    assert_eq!(fake.connections().accepted(), 0, "{:?}", fake.seen());
    // A film begins with zero bytes too.
    let film = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";
    // So does a gRPC message, whose length may be that of a brace.
    let grpc = [&b"\0\0\0\0{"[..], &[b'a'; 0x7b]].concat();
    let (head, text) = say(&sidecar, "PUT /web/film", "", film).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}{text}");
    for body in [&film[..], &grpc, b"\0\0\0\0[\x0a\x03abc", b"\0{\0\0\0\0"] {
        let (head, text) =
            say(&sidecar, "PUT /web/film", "Content-Type: application/octet-stream\r\n", body).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_found_however_it_is_escaped_and_in_the_query_too() {
    let fake = Fake::json("{}").await;
    let rule = "  rules: [{id: no-secrets, match: {content: {detectors: [github-token, aws-key], patterns: [\"top-secret\"]}}, decision: deny, reason: never}]\n";
    let policies = [("allow.yaml", ALLOW), ("p.yaml", &*setting::policy("p", rule))];
    let spec =
        format!("  hosts: {{\"elsewhere.test\": \"{}\"}}\n{}", fake.address(), setting::upstreams(&fake));
    let sidecar = Sidecar::start(&spec, &policies);
    let escaped: String = TOKEN.bytes().map(|b| format!("\\u{b:04x}")).collect();
    let percent: String = TOKEN.bytes().map(|b| format!("%{b:02x}")).collect();
    let twice = escaped.replace('\\', "\\\\");
    for body in [
        TOKEN.to_owned(),
        format!("{{\"a\":\"{escaped}\"}}"),
        format!("{{\"a\":\"{{\\\"b\\\":\\\"{twice}\\\"}}\"}}"),
        format!("a={percent}"),
        r#"{"a":"top\u002dsecret"}"#.to_owned(),
        r#"{"top\u002dsecret":1}"#.to_owned(),
    ] {
        refused(&sidecar, "policy_denied", "POST /web/x", "", body.as_bytes()).await;
    }
    for query in [TOKEN, &percent, "top%2Dsecret"] {
        let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        let head = format!("GET http://elsewhere.test/x?d={query} HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n");
        tcp.write_all(head.as_bytes()).await.expect("a request");
        let (head, body) = raw::message(&mut tcp).await;
        let text = String::from_utf8_lossy(&body);
        assert!(head.starts_with("HTTP/1.1 403 ") && text.contains("policy_denied"), "{query}: {head}{text}");
    }
    assert_eq!(fake.connections().accepted(), 0, "{:?}", fake.seen());
    // The id of the key that a URL is signed with is no secret; what stands behind it may be one.
    let signed = "X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261127%2Fus-east-1%2Fs3";
    for (query, status) in [(signed.to_owned(), "200"), (format!("{signed}&d={percent}"), "403")] {
        let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        let head = format!("GET http://elsewhere.test/x?{query} HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n");
        tcp.write_all(head.as_bytes()).await.expect("a request");
        let (head, _) = raw::message(&mut tcp).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{query}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redact_takes_out_does_not_leave_escaped() {
    let fake = Fake::json("{}").await;
    let rule = "  default_decision: allow\n  rules: [{id: black, match: {points: [tool.call]}, decision: allow_with_constraints, constraints: {redact: [github-token]}}]\n";
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("p.yaml", &setting::policy("p", rule))]);
    let (head, text) = say(&sidecar, "POST /web/x", "", format!("a {TOKEN} b").as_bytes()).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}{text}");
    assert_eq!(fake.seen()[0].body, "a [redacted github-token] b");
    let escaped = format!("{{\"a\":\"\\u0067{}\",\"b\":\"{TOKEN}\"}}", &TOKEN[1..]);
    refused(&sidecar, "unjudgeable", "POST /web/x", "", escaped.as_bytes()).await;
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_compressed_once_and_to_its_end() {
    let fake = Fake::json("{}").await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW)]);
    let packed = crate::bodies::gzip(b"{}");
    let two = "Content-Encoding: gzip\r\nContent-Encoding: identity\r\n";
    refused(&sidecar, "unjudgeable", "POST /web/x", two, &packed).await;
    refused(&sidecar, "unjudgeable", "POST /web/x", "Content-Encoding: gzip\u{e9}\r\n", &packed).await;
    // zlib's `{}`, alone and with more behind it (RFC 1950).
    let deflated = [0x78, 0x9c, 0xab, 0xae, 0x05, 0x00, 0x01, 0x75, 0x00, 0xf9];
    let (head, text) = say(&sidecar, "POST /web/x", "Content-Encoding: deflate\r\n", &deflated).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}{text}");
    let more = [&deflated[..], b"more"].concat();
    refused(&sidecar, "unjudgeable", "POST /web/x", "Content-Encoding: deflate\r\n", &more).await;
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_file_ends_what_is_open() {
    let (sender, body) = fake::parts();
    let body = parking_lot::Mutex::new(Some(body));
    let fake = Fake::start(None, move |_| {
        let body = body.lock().take().expect("one stream");
        fake::reply("text/event-stream", body)
    })
    .await;
    let echo = RawFake::start(|mut tcp| async move {
        let (mut from, mut to) = tcp.split();
        // Until the sidecar ends it.
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let rule = "  rules: [{id: raw, match: {points: [net.connect]}, decision: allow}]\n";
    let spec = format!(
        "  hosts: {{\"echo.test\": \"{}\"}}\n  tls: {{passthrough: [echo.test]}}\n{}",
        echo.url().trim_start_matches("http://"),
        setting::upstreams(&fake)
    );
    let policies = [("allow.yaml", ALLOW), ("raw.yaml", &*setting::policy("raw", rule))];
    let sidecar = Sidecar::start(&spec, &policies);
    let mut stream = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    stream.write_all(b"GET /web/events HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("a request");
    sender.send("data: 1\n\n".into()).await.expect("a part");
    raw::head(&mut stream).await;
    assert_eq!(raw::chunk(&mut stream).await.as_deref(), Some(&b"data: 1\n\n"[..]));
    let mut tunnel = client::connect(&sidecar, "echo.test:7", "").await.expect("a tunnel");
    tunnel.write_all(b"\0hello").await.expect("a tunnel");
    let mut back = [0; 6];
    tunnel.read_exact(&mut back).await.expect("an echo");
    std::fs::write(sidecar.state().join("kill"), "").expect("a file");
    raw::closed(&mut stream).await;
    raw::closed(&mut tunnel).await;
    let ended =
        sidecar.recorded_times(2, |entry| entry["phase"] == "outcome" && entry["code"] == "killed").await;
    assert_eq!(ended.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_tunnel_until_nobody_looks_does_not_pass() {
    let (heard, mut hears) = mpsc::channel(1);
    let far = RawFake::start(move |mut tcp| {
        let heard = heard.clone();
        async move {
            let mut all = Vec::new();
            // However it ends, what came is what counts.
            let _ = tcp.read_to_end(&mut all).await;
            heard.send(all).await.expect("a listener");
        }
    })
    .await;
    let rule = "  rules: [{id: raw, match: {points: [net.connect]}, decision: allow}]\n";
    let spec = format!(
        "  hosts: {{\"far.test\": \"{}\"}}\n  tls: {{passthrough: [far.test]}}\n  limits: {{idleTimeout: 1s}}\n",
        far.url().trim_start_matches("http://"),
    );
    let sidecar = Sidecar::start(&spec, &[("raw.yaml", &setting::policy("raw", rule))]);
    let mut tunnel = client::connect(&sidecar, "far.test:80", "").await.expect("a tunnel");
    tunnel.write_all(b"GET / HT").await.expect("a tunnel");
    // The agent's move, not a wait for something: it stays silent for longer than the idle time.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    // The tunnel may be closed by now.
    let _ = tunnel.write_all(b"TP/1.1\r\nHost: far.test\r\n\r\n").await;
    let all = hears.recv().await.expect("the far side's word");
    assert!(all.is_empty(), "{}", all.escape_ascii());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_file_ends_a_tunnel_that_one_side_has_ended() {
    let (ended, mut ends) = mpsc::channel(1);
    let far = RawFake::start(move |mut tcp| {
        let ended = ended.clone();
        async move {
            tcp.shutdown().await.expect("a connection");
            // However it ends.
            let _ = tcp.read_to_end(&mut Vec::new()).await;
            ended.send(()).await.expect("a listener");
        }
    })
    .await;
    let rule = "  rules: [{id: raw, match: {points: [net.connect]}, decision: allow}]\n";
    let spec = format!(
        "  hosts: {{\"far.test\": \"{}\"}}\n  tls: {{passthrough: [far.test]}}\n",
        far.url().trim_start_matches("http://"),
    );
    let sidecar = Sidecar::start(&spec, &[("raw.yaml", &setting::policy("raw", rule))]);
    let mut tunnel = client::connect(&sidecar, "far.test:7", "").await.expect("a tunnel");
    raw::closed(&mut tunnel).await;
    tunnel.write_all(b"\0upload").await.expect("a tunnel");
    std::fs::write(sidecar.state().join("kill"), "").expect("a file");
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), ends.recv()).await;
    assert!(matches!(end, Ok(Some(()))), "the far side sees the end");
    sidecar.recorded(|entry| entry["phase"] == "outcome" && entry["code"] == "killed").await;
}
