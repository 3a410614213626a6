//! WebSocket: judged and recorded as one call, then bytes both ways.

use std::sync::Arc;

use harness::client::{self, Version};
use harness::sidecar::ALLOW;
use harness::tls::Authority;
use harness::{RawFake, Sidecar, raw, until};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const DENY: &str = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  default_decision: allow\n  \
                    rules:\n    - {id: no-socket, match: {paths: [\"/ws*\"]}, decision: deny, reason: never}\n";
const GREETING: &[u8] = b"\x81\x05hello";

/// Agrees to a WebSocket, greets, and echoes until the other side ends.
async fn socket(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (head, _) = raw::message(&mut stream).await;
    if !raw::header(&head, "upgrade").eq_ignore_ascii_case("websocket") {
        let reply = b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno";
        stream.write_all(reply).await.expect("a listener");
        return;
    }
    assert!(raw::header(&head, "connection").to_ascii_lowercase().contains("upgrade"), "{head}");
    assert_eq!(raw::header(&head, "sec-websocket-key"), "dGhlIHNhbXBsZSBub25jZQ==");
    let agreed = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x05hello";
    stream.write_all(agreed).await.expect("a listener");
    let mut buffer = vec![0; 8 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn upstream(tls: Option<Arc<ServerConfig>>) -> RawFake {
    RawFake::start(move |tcp| {
        let tls = tls.clone();
        async move {
            match tls {
                None => socket(tcp).await,
                Some(config) => {
                    if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await {
                        socket(stream).await;
                    }
                }
            }
        }
    })
    .await
}

fn ask(target: &str, host: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Upgrades and exchanges frames. Returns the number of bytes sent and received after the upgrade.
async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &str,
    host: &str,
) -> [usize; 2] {
    stream.write_all(ask(target, host).as_bytes()).await.expect("a request");
    stream.flush().await.expect("a request");
    let head = raw::head(stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(raw::header(&head, "upgrade").eq_ignore_ascii_case("websocket"), "{head}");
    assert!(raw::header(&head, "connection").to_ascii_lowercase().contains("upgrade"), "{head}");
    assert_eq!(raw::header(&head, "sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let mut greeting = vec![0; GREETING.len()];
    stream.read_exact(&mut greeting).await.expect("the other side may speak first");
    assert_eq!(greeting, GREETING);
    let mut sent = 0;
    for length in [1, 7, 126, 4_096, 70_000] {
        let frame: Vec<u8> = (0..length).map(|n| u8::try_from(n % 256).expect("a byte")).collect();
        stream.write_all(&frame).await.expect("a frame");
        stream.flush().await.expect("a frame");
        let mut echo = vec![0; length];
        stream.read_exact(&mut echo).await.expect("an echo");
        assert!(echo == frame, "{length} bytes come back as they went");
        sent += length;
    }
    [sent, sent + GREETING.len()]
}

async fn recorded(sidecar: &Sidecar, bytes: [usize; 2]) {
    let outcomes = sidecar.recorded(|entry| entry["phase"] == "outcome").await;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0]["status"], 101);
    assert_eq!(outcomes[0]["bytes"], serde_json::json!(bytes), "{}", outcomes[0]);
    let intents = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert_eq!((intents.len(), &intents[0]["call"]), (1, &outcomes[0]["call"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_passes_by_absolute_form() {
    let upstream = upstream(None).await;
    let sidecar = Sidecar::start("", &[("allow.yaml", ALLOW)]);
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let at = upstream.address().to_string();
    let bytes = converse(&mut tcp, &format!("http://{at}/ws"), &at).await;
    drop(tcp);
    until("the upstream's connection ends", || upstream.connections().open() == 0).await;
    recorded(&sidecar, bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_passes_by_the_gateway_path_and_ends_when_the_agent_ends() {
    let upstream = upstream(None).await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n", upstream.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let bytes = converse(&mut tcp, "/up/ws", "h").await;
    tcp.shutdown().await.expect("a socket");
    raw::closed(&mut tcp).await;
    recorded(&sidecar, bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_passes_through_connect() {
    let upstream = upstream(None).await;
    let sidecar = Sidecar::start("", &[("allow.yaml", ALLOW)]);
    let at = upstream.address().to_string();
    let mut tcp = client::connect(&sidecar, &at, "").await.expect("a tunnel");
    let bytes = converse(&mut tcp, "/ws", &at).await;
    drop(tcp);
    recorded(&sidecar, bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_passes_through_connect_and_tls() {
    let authority = Authority::new();
    let upstream = upstream(Some(authority.server(&["ws.test"], &["http/1.1"]))).await;
    let spec = format!(
        "  hosts: {{\"ws.test\": \"{}\"}}\n  tls: {{trust: [\"{}\"]}}\n",
        upstream.address(),
        authority.path().display()
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let tcp = client::connect(&sidecar, "ws.test:443", "").await.expect("a tunnel");
    let mut stream =
        client::over_tls(tcp, &sidecar.trust(), "ws.test", Version::One).await.expect("a handshake");
    let bytes = converse(&mut stream, "/ws", "ws.test").await;
    drop(stream);
    recorded(&sidecar, bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_can_flow_both_ways_at_once() {
    const ALL: usize = 8 << 20;
    let upstream = upstream(None).await;
    let sidecar = Sidecar::start("", &[("allow.yaml", ALLOW)]);
    let at = upstream.address().to_string();
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let target = format!("http://{at}/ws");
    tcp.write_all(ask(&target, &at).as_bytes()).await.expect("a request");
    let head = raw::head(&mut tcp).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (mut read, mut write) = tcp.split();
    let writing = async {
        for _ in 0..ALL / (64 << 10) {
            write.write_all(&[b'x'; 64 << 10]).await.expect("room");
        }
    };
    let reading = async {
        let mut all = vec![0; GREETING.len() + ALL];
        read.read_exact(&mut all).await.expect("an echo");
        assert!(all[GREETING.len()..].iter().all(|byte| *byte == b'x'));
    };
    let both = async { tokio::join!(writing, reading) };
    tokio::time::timeout(std::time::Duration::from_secs(30), both)
        .await
        .expect("neither way waits for the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_web_socket_gets_403_and_is_never_dialled() {
    let upstream = upstream(None).await;
    let sidecar = Sidecar::start("", &[("deny.yaml", DENY)]);
    let at = upstream.address().to_string();
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    tcp.write_all(ask(&format!("http://{at}/ws"), &at).as_bytes()).await.expect("a request");
    let (head, body) = raw::message(&mut tcp).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("no-socket"));
    let mut tcp = client::connect(&sidecar, &at, "").await.expect("a tunnel");
    tcp.write_all(ask("/ws", &at).as_bytes()).await.expect("a request");
    let (head, _) = raw::message(&mut tcp).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let refused = sidecar.recorded_times(2, |entry| entry["code"] == "policy_denied").await;
    assert_eq!(refused.len(), 2);
    assert_eq!(upstream.connections().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_web_socket_leaves_http_behind() {
    // An upstream that would agree to anything, and then speak with whoever is there.
    let upstream = RawFake::start(|mut tcp| async move {
        let (head, body) = raw::message(&mut tcp).await;
        let asked = !raw::header(&head, "upgrade").is_empty();
        let reply = if asked {
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nleft".to_owned()
        } else {
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
                body.len(),
                String::from_utf8_lossy(&body)
            )
        };
        tcp.write_all(reply.as_bytes()).await.expect("a listener");
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "nothing that was not judged may follow: {}", rest.escape_ascii());
    })
    .await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n", upstream.url());
    let sidecar = Sidecar::start(&spec, &[("deny.yaml", DENY)]);
    let hidden = "{\"hidden\":1}";
    for (what, head) in [
        (
            "h2c",
            "POST /up/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ),
        ("another protocol", "POST /up/x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: TLS/1.0\r\n"),
        (
            "a web socket with a body",
            "POST /up/x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        ),
        ("a web socket that is not nominated", "POST /up/x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n"),
        (
            "one of two",
            "POST /up/x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c, websocket\r\n",
        ),
    ] {
        let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        let request = format!(
            "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{hidden}",
            hidden.len()
        );
        tcp.write_all(request.as_bytes()).await.expect("a request");
        let (head, body) = raw::message(&mut tcp).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{what}: {head}");
        assert_eq!(
            String::from_utf8_lossy(&body),
            hidden,
            "{what}: the body is judged and sent as any other"
        );
    }
    let intents = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert!(intents.iter().all(|entry| entry["args_hash"].is_string()), "{intents:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_switches_protocols_unasked_is_not_followed() {
    let upstream = RawFake::start(|mut tcp| async move {
        raw::message(&mut tcp).await;
        let reply =
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw";
        tcp.write_all(reply).await.expect("a listener");
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest).await;
    })
    .await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n", upstream.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    tcp.write_all(b"GET /up/x HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("a request");
    let head = raw::head(&mut tcp).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    until("the upstream's connection ends", || upstream.connections().open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_is_more_than_a_read() {
    let upstream = upstream(None).await;
    let reads = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  rules: [{id: reads, match: {verbs: \
        [read]}, decision: allow}]\n";
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\", dialect: plain}}\n", upstream.url());
    let sidecar = Sidecar::start(&spec, &[("p.yaml", reads)]);
    let request = "GET /up/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: \
        13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (reply, _) = raw::exchange(sidecar.outbound(), request.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 403 "), "{reply}");
    assert_eq!(upstream.connections().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let upstream = RawFake::start(|mut tcp| async move {
        while !raw::head(&mut tcp).await.is_empty() {
            let reply = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nnot";
            tcp.write_all(reply).await.expect("a listener");
        }
    })
    .await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n", upstream.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    for _ in 0..3 {
        tcp.write_all(ask("/up/ws", "h").as_bytes()).await.expect("a request");
        let (head, body) = raw::message(&mut tcp).await;
        assert!(head.starts_with("HTTP/1.1 400 ") && body == b"not", "{head}");
    }
}
