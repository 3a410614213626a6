//! Bodies: compressed, too large, slow, big, and answered before they end.

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use harness::client::{self, Version};
use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::{RawFake, Sidecar, raw, until};
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const NO_DROP: &str = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  default_decision: allow\n  \
                       rules:\n    - {id: no-destruction, match: {risk_tags: [destructive]}, decision: deny, reason: never}\n";
const DROP: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"drop_table","arguments":{"t":"a"}}}"#;
const LIST: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_tables","arguments":{}}}"#;
const JSON: (&str, &str) = ("content-type", "application/json");

/// Compresses as `gzip` does.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// A sidecar before an upstream that says how many bytes it got.
async fn counting(spec: &str, policy: &str) -> (Fake, Sidecar) {
    let fake =
        Fake::start(None, |seen| fake::reply("application/json", fake::whole(seen.body.len().to_string())))
            .await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n{spec}", fake.url());
    let sidecar = Sidecar::start(&spec, &[("p.yaml", policy)]);
    (fake, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_inside_a_compressed_body_is_judged() {
    let (fake, sidecar) = counting("", NO_DROP).await;
    let twice = [gzip(b" "), gzip(DROP.as_bytes())].concat();
    let cases: [(&str, Vec<u8>); 6] = [
        ("gzip", gzip(DROP.as_bytes())),
        ("GZIP", gzip(DROP.as_bytes())),
        ("x-gzip", gzip(DROP.as_bytes())),
        ("gzip", twice),
        ("deflate", zlib(DROP.as_bytes())),
        ("deflate", deflate(DROP.as_bytes())),
    ];
    for (encoding, body) in cases {
        let reply =
            client::gateway(&sidecar, "POST", "/up/mcp", &[JSON, ("content-encoding", encoding)], body).await;
        let text = reply.text();
        assert!(
            text.contains("no-destruction") || text.contains("unjudgeable"),
            "{encoding}: {} {text}",
            reply.status
        );
    }
    assert!(fake.seen().is_empty());
    for (encoding, body) in [("gzip", gzip(LIST.as_bytes())), ("deflate", zlib(LIST.as_bytes()))] {
        let reply = client::gateway(
            &sidecar,
            "POST",
            "/up/mcp",
            &[JSON, ("content-encoding", encoding)],
            body.clone(),
        )
        .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = fake.seen().pop().expect("a request");
        assert_eq!(
            (seen.body.as_ref(), seen.headers["content-encoding"].as_bytes()),
            (body.as_slice(), encoding.as_bytes())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_cannot_be_decompressed_here_is_refused() {
    let (fake, sidecar) = counting("", ALLOW).await;
    let cut = gzip(LIST.as_bytes());
    let cases: [(&str, Vec<u8>); 7] = [
        ("br", b"\x0b\x02\x80hello\x03".to_vec()),
        ("zstd", vec![0x28, 0xb5, 0x2f, 0xfd, 0]),
        ("gzip, gzip", gzip(&gzip(b"x"))),
        ("gzip", cut[..cut.len() - 6].to_vec()),
        ("gzip", LIST.as_bytes().to_vec()),
        ("deflate", b"not deflate".to_vec()),
        ("nothing", b"x".to_vec()),
    ];
    for (encoding, body) in cases {
        let reply =
            client::gateway(&sidecar, "POST", "/up/x", &[JSON, ("content-encoding", encoding)], body).await;
        assert_eq!(reply.status, 403, "{encoding}");
        assert!(reply.text().contains("unjudgeable"), "{encoding}: {}", reply.text());
    }
    // Two encodings in two lines are as hidden as two in one.
    let headers = [JSON, ("content-encoding", "identity"), ("content-encoding", "gzip")];
    let reply = client::gateway(&sidecar, "POST", "/up/x", &headers, gzip(LIST.as_bytes())).await;
    assert_eq!(reply.status, 403, "{}", reply.text());
    assert!(fake.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gzip_bomb_is_refused_as_too_large() {
    let (fake, sidecar) = counting("  limits: {maxBody: 1MiB}\n", ALLOW).await;
    for (encoding, bomb) in [("gzip", gzip(&vec![b'a'; 64 << 20])), ("deflate", zlib(&vec![b'a'; 64 << 20]))]
    {
        assert!(bomb.len() < 1 << 20);
        let reply =
            client::gateway(&sidecar, "POST", "/up/x", &[JSON, ("content-encoding", encoding)], bomb).await;
        assert_eq!(reply.status, 413);
        assert!(reply.text().contains("body_too_large"), "{}", reply.text());
    }
    let fits = gzip(&vec![b'a'; 1 << 20]);
    let reply = client::gateway(&sidecar, "POST", "/up/x", &[("content-encoding", "gzip")], fits).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(fake.seen().len(), 1);
    let peak = memory(&sidecar, "VmHWM");
    assert!(peak < 150 << 10, "a bomb takes no more memory than it may: {peak} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_to_a_body_that_is_too_large_can_be_read() {
    let authority = harness::tls::Authority::new();
    let fake = Fake::start(Some(authority.server(&["a.test"], &["h2"])), |_| {
        fake::reply("text/plain", fake::whole("ok"))
    })
    .await;
    let spec = format!(
        "  hosts: {{\"a.test\": \"{}\"}}\n  tls: {{trust: [\"{}\"]}}\n  limits: {{maxBody: 64KiB}}\n",
        fake.address(),
        authority.path().display()
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    for size in [(64 << 10) + 1, 1 << 20, 8 << 20] {
        for version in [Version::One, Version::Two] {
            let reply =
                client::tunnelled(&sidecar, version, "POST", "https://a.test/x", &[], vec![b'a'; size]).await;
            assert_eq!(reply.status, 413, "{size} bytes over {version:?}");
            assert!(
                reply.text().contains("body_too_large"),
                "{size} bytes over {version:?}: {}",
                reply.text()
            );
        }
        // Without a length in the head the limit is met on the way.
        let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        let head = "POST http://a.test/x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = format!("{size:x}\r\n{}\r\n0\r\n\r\n", "a".repeat(size));
        tcp.write_all(head.as_bytes()).await.expect("a head");
        tcp.write_all(body.as_bytes()).await.expect("a body");
        let (head, body) = raw::message(&mut tcp).await;
        assert!(head.starts_with("HTTP/1.1 413 "), "{size} bytes in chunks: {head}");
        assert!(String::from_utf8_lossy(&body).contains("body_too_large"));
    }
    assert_eq!(fake.connections().accepted(), 0);
    let reply =
        client::tunnelled(&sidecar, Version::Two, "POST", "https://a.test/x", &[], vec![b'a'; 64 << 10])
            .await;
    assert_eq!(reply.status, 200, "the limit itself fits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_in_arrives_whole() {
    let (fake, sidecar) = counting("", ALLOW).await;
    for framing in ["Content-Length: 600", "Transfer-Encoding: chunked"] {
        let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        tcp.set_nodelay(true).expect("a socket");
        let head =
            format!("POST /up/slow HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n{framing}\r\n\r\n");
        let body =
            if framing.starts_with('C') { "x".repeat(600) } else { "1\r\nx\r\n".repeat(600) + "0\r\n\r\n" };
        for byte in (head + &body).into_bytes() {
            tcp.write_all(&[byte]).await.expect("a byte");
            tokio::task::yield_now().await;
        }
        let (head, body) = raw::message(&mut tcp).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(body, b"600");
        assert_eq!(fake.seen().pop().expect("a request").body, "x".repeat(600));
    }
}

/// A figure of the sidecar's memory, in KiB.
fn memory(sidecar: &Sidecar, figure: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).expect("the process");
    let line = status.lines().find(|line| line.starts_with(figure)).expect("the figure");
    line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_answer_streams_through_without_being_kept() {
    const PART: usize = 64 << 10;
    const PARTS: usize = 320;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let fake = Fake::start(None, move |_| {
        let (parts, body) = fake::parts();
        sender.try_send(parts).expect("one request");
        fake::reply("application/octet-stream", body)
    })
    .await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n", fake.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let before = memory(&sidecar, "VmRSS");
    let mut receiver = receiver;
    let opened = client::gateway_open(&sidecar, "GET", "/up/big", &[], "");
    let (mut response, parts) = tokio::join!(opened, receiver.recv());
    let parts = parts.expect("a request");
    assert_eq!(response.status(), 200);
    // Each part is sent only when the one before it has come through.
    let mut got = 0;
    for number in 0..PARTS {
        let fill = u8::try_from(number % 251).expect("a byte");
        parts.send(vec![fill; PART].into()).await.expect("a listener");
        while got < (number + 1) * PART {
            let frame = response.frame().await.expect("a part").expect("a part");
            let data = frame.into_data().expect("data");
            assert!(data.iter().all(|byte| *byte == fill), "part {number}");
            got += data.len();
        }
    }
    drop(parts);
    assert!(response.frame().await.is_none(), "and then its end");
    assert_eq!(got, 20 << 20);
    let grown = memory(&sidecar, "VmHWM").saturating_sub(before);
    assert!(grown < 10 << 10, "20 MiB passed, memory grew by {grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_slows_the_upstream_down() {
    // The upstream writes as fast as it can; nobody reads: what lies between is bounded.
    let upstream = RawFake::start(|mut tcp| async move {
        raw::head(&mut tcp).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1073741824\r\n\r\n";
        let mut written = tcp.write_all(head).await;
        while written.is_ok() {
            written = tcp.write_all(&[0; 64 << 10]).await;
        }
    })
    .await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n", upstream.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let before = memory(&sidecar, "VmRSS");
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    tcp.write_all(b"GET /up/flood HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("a request");
    let head = raw::head(&mut tcp).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    // Kernel buffers fill within this many reads of ours; then everything stands still.
    let mut buffer = vec![0; 1 << 10];
    for _ in 0..4_096 {
        tokio::io::AsyncReadExt::read_exact(&mut tcp, &mut buffer).await.expect("bytes");
    }
    let grown = memory(&sidecar, "VmHWM").saturating_sub(before);
    assert!(grown < 10 << 10, "memory grew by {grown} KiB");
    drop(tcp);
    until("the upstream's connection ends", || upstream.connections().open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_may_answer_before_it_has_read_the_body() {
    let upstream = RawFake::start(|mut tcp| async move {
        raw::head(&mut tcp).await;
        let reply = b"HTTP/1.1 429 Slow Down\r\nRetry-After: 7\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlater";
        tcp.write_all(reply).await.expect("a listener");
        // What it was still being sent is read, so that the reply is not lost with the connection.
        tcp.shutdown().await.expect("a socket");
        let mut rest = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut rest).await;
    })
    .await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n", upstream.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    for size in [10, 100_000, 4 << 20] {
        let reply = client::gateway(&sidecar, "PUT", "/up/x", &[], vec![b'a'; size]).await;
        assert_eq!((reply.status, reply.text().as_str()), (429, "later"), "{size} bytes");
        assert_eq!(reply.header("retry-after"), "7");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_without_reading_is_passed_on() {
    // Neither reads the body nor closes: the answer alone is to end the call.
    let upstream = RawFake::start(|mut tcp| async move {
        raw::head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\nbig").await.expect("a listener");
        std::future::pending::<()>().await;
    })
    .await;
    let spec = format!(
        "  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n  limits: {{maxBody: 64MiB, idleTimeout: 5s}}\n",
        upstream.url()
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let reply = client::gateway(&sidecar, "PUT", "/up/x", &[], vec![b'a'; 32 << 20]).await;
    assert_eq!((reply.status, reply.text().as_str()), (413, "big"));
}
