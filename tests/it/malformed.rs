//! M14: what two parsers could read in two ways is refused with 400 (or 413, 431) and the connection closed.

use harness::fake::Fake;
use harness::sidecar::ALLOW;
use harness::{Sidecar, raw};

const HEAD: &str = "POST /up/x HTTP/1.1\r\nHost: h\r\n";

/// Requests by what is wrong with them. `{H}` is a good head without its empty line.
const CORPUS: [(&str, &str); 47] = [
    (
        "content-length and transfer-encoding",
        "{H}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "transfer-encoding and content-length",
        "{H}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    ("two lengths that differ", "{H}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("two lengths that agree", "{H}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("a list of lengths that differ", "{H}Content-Length: 5, 6\r\n\r\nhello!"),
    ("a negative length", "{H}Content-Length: -1\r\n\r\n"),
    ("a length with a sign", "{H}Content-Length: +5\r\n\r\nhello"),
    ("a length in hex", "{H}Content-Length: 0x5\r\n\r\nhello"),
    ("a length with a space inside", "{H}Content-Length: 1 2\r\n\r\nhello"),
    ("a length that overflows", "{H}Content-Length: 99999999999999999999999\r\n\r\nhello"),
    ("an empty length", "{H}Content-Length: \r\n\r\nhello"),
    ("a length that is a word", "{H}Content-Length: five\r\n\r\nhello"),
    ("chunked twice", "{H}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked, chunked", "{H}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked that is not last", "{H}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("a coding that is not known", "{H}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("identity", "{H}Transfer-Encoding: identity\r\n\r\n"),
    ("a coding with a vertical tab", "{H}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("a coding in quotes", "{H}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    (
        "transfer-encoding in HTTP/1.0",
        "POST /up/x HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a space before the colon", "{H}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a folded header", "{H}X-A: b\r\n c\r\n\r\n"),
    ("a folded transfer-encoding", "{H}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("a first header that begins with a space", "POST /up/x HTTP/1.1\r\n Host: h\r\n\r\n"),
    ("a header without a colon", "{H}X-A\r\n\r\n"),
    ("a header without a name", "{H}: b\r\n\r\n"),
    ("a NUL in a value", "{H}X-A: b\0c\r\n\r\n"),
    ("a NUL in a name", "{H}X\0A: b\r\n\r\n"),
    ("a control character in a name", "{H}X\x01A: b\r\n\r\n"),
    ("a CR in a value", "{H}X-A: b\rX-B: c\r\n\r\n"),
    ("lines that end in LF alone", "POST /up/x HTTP/1.1\nHost: h\n\n"),
    ("one line that ends in LF alone", "POST /up/x HTTP/1.1\r\nHost: h\nX: y\r\n\r\n"),
    ("no host", "POST /up/x HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
    ("two hosts", "{H}Host: other\r\n\r\n"),
    ("an absolute target whose host is another", "GET http://a.test/x HTTP/1.1\r\nHost: b.test\r\n\r\n"),
    ("a chunk whose length is not hex", "{H}Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
    ("a chunk with a negative length", "{H}Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk with 0x", "{H}Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk longer than it says", "{H}Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n"),
    (
        "a chunk whose length overflows",
        "{H}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n",
    ),
    ("a chunk without CRLF after its data", "{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n"),
    ("a chunk whose length ends in LF alone", "{H}Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
    ("a version that does not exist", "GET /up/x HTTP/1.7\r\nHost: h\r\n\r\n"),
    ("a version that is a word", "GET /up/x HTTPS/1.1\r\nHost: h\r\n\r\n"),
    ("no version", "GET /up/x\r\nHost: h\r\n\r\n"),
    ("HTTP/2 in the words of HTTP/1", "GET /up/x HTTP/2.0\r\nHost: h\r\n\r\n"),
    ("a method with a bracket", "GE(T /up/x HTTP/1.1\r\nHost: h\r\n\r\n"),
];

async fn plain() -> (Fake, Sidecar) {
    let fake = Fake::json("{}").await;
    let spec = format!(
        "  upstreams:\n    - {{name: up, baseUrl: \"{}\", dialect: plain}}\n  limits: {{maxHeaders: 16KiB}}\n",
        fake.url()
    );
    (fake, Sidecar::start(&spec, &[("allow.yaml", ALLOW)]))
}

/// Whether a reply is a problem document that says what it should.
fn is_problem(reply: &str, status: u16) -> bool {
    let Some((head, body)) = reply.split_once("\r\n\r\n") else { return false };
    let Ok(problem) = serde_json::from_str::<serde_json::Value>(body) else { return false };
    let call = raw::header(head, "x-sideguard-call");
    let (code, told) = (problem["code"].as_str(), problem["decision_id"].as_str());
    raw::header(head, "content-type") == "application/problem+json"
        && (code, told, problem["status"].as_u64()) == (Some("malformed"), Some(call), Some(status.into()))
}

/// A request that would be served if the one before it had left bytes behind.
const SMUGGLED: &str = "GET /up/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_gets_400_and_the_end_of_its_connection() {
    let (fake, sidecar) = plain().await;
    let mut wrong = Vec::new();
    for (what, request) in CORPUS {
        let request = request.replace("{H}", HEAD) + SMUGGLED;
        let (reply, closed) = raw::exchange(sidecar.outbound(), request.as_bytes()).await;
        let status = reply.get(9..12).unwrap_or_default();
        if !matches!(status, "400" | "413" | "431") || reply.matches("HTTP/1.1 ").count() != 1 || !closed {
            wrong.push(format!("{what}: closed {closed}, {reply:?}"));
        }
        let problem = status == "413" || is_problem(&reply, if status == "431" { 431 } else { 400 });
        if !problem {
            wrong.push(format!("{what}: no problem document, {reply:?}"));
        }
        let call = raw::header(&reply, "x-sideguard-call").to_owned();
        let entries = sidecar.recorded(|entry| entry["call"] == *call).await;
        assert_eq!(entries[0]["decision"], "deny", "{what}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(fake.connections().accepted(), 0, "{:?}", fake.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_after_a_good_one_ends_the_connection_too() {
    let (fake, sidecar) = plain().await;
    let good = "POST /up/good HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok";
    let bad = format!("{HEAD}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}");
    let (reply, closed) = raw::exchange(sidecar.outbound(), format!("{good}{bad}").as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains("HTTP/1.1 400 ") && closed, "{reply}");
    assert_eq!(reply.matches("HTTP/1.1 ").count(), 2, "{reply}");
    let seen = fake.seen();
    assert_eq!((seen.len(), seen[0].target.as_str()), (1, "/good"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_in_the_target_never_reaches_the_upstream_as_one() {
    let (fake, sidecar) = plain().await;
    let request = "GET /up/x HTTP/1.1\x20y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let (reply, closed) = raw::exchange(sidecar.outbound(), request.as_bytes()).await;
    assert!(closed && reply.matches("HTTP/1.1 ").count() == 1, "{reply}");
    for seen in fake.seen() {
        assert_eq!(seen.target, "/x%20HTTP/1.1%20y", "escaped, as it was judged and recorded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_beyond_the_limit_is_refused() {
    let (fake, sidecar) = plain().await;
    let heads = [
        ("one long value", format!("{HEAD}X-Long: {}\r\n\r\n", "a".repeat(17 << 10))),
        (
            "many values",
            format!(
                "{HEAD}{}\r\n",
                "X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"
                    .repeat(230)
            ),
        ),
        ("more headers than anybody sends", format!("{HEAD}{}\r\n", "A: b\r\n".repeat(2_000))),
        ("a long target", format!("GET /up/{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(17 << 10))),
        ("a head that never ends", format!("{HEAD}X-Long: {}", "a".repeat(2 << 20))),
    ];
    for (what, request) in heads {
        let (reply, closed) = raw::exchange(sidecar.outbound(), request.as_bytes()).await;
        let status = reply.get(9..12).unwrap_or_default();
        assert!(matches!(status, "400" | "413" | "431") && closed, "{what}: closed {closed}, {reply:?}");
    }
    assert_eq!(fake.connections().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_body_stays_out_never_leaves() {
    let (fake, sidecar) = plain().await;
    for rest in ["Content-Length: 50\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"] {
        let mut tcp = tokio::net::TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        tokio::io::AsyncWriteExt::write_all(&mut tcp, format!("{HEAD}{rest}").as_bytes())
            .await
            .expect("half a request");
        tokio::io::AsyncWriteExt::shutdown(&mut tcp).await.expect("an end");
        let mut reply = String::new();
        // The sidecar may end the connection without a word.
        let _ = tokio::io::AsyncReadExt::read_to_string(&mut tcp, &mut reply).await;
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400 "), "{reply}");
    }
    let entries = sidecar.recorded(|entry| entry["code"] == "malformed").await;
    assert!(!entries.is_empty());
    assert_eq!(fake.connections().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_connect_is_refused() {
    let sidecar = Sidecar::start("", &[("allow.yaml", ALLOW)]);
    for target in [
        "a.test",
        "http://a.test/",
        "a.test:0",
        "a.test:99999",
        ":443",
        "a b:443",
        "a.test:443/x",
        "user@a.test:443",
        "[::1:443",
    ] {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let (reply, closed) = raw::exchange(sidecar.outbound(), request.as_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 400 Bad Request\r\n") && closed, "{target}: {closed}, {reply:?}");
        assert!(is_problem(&reply, 400), "{target}: {reply:?}");
        let call = raw::header(&reply, "x-sideguard-call").to_owned();
        let entries = sidecar.recorded(|entry| entry["call"] == *call).await;
        assert_eq!(
            (&entries[0]["code"], &entries[0]["target"]["method"]),
            (&"malformed".into(), &"CONNECT".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_closed_without_harm() {
    let (fake, sidecar) = plain().await;
    for bytes in [
        &b"\x05\x01\x00"[..],
        b"\x16\x03\x01\x00\x05hello",
        b"\0\0\0\0",
        b"\r\n\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        &[0xff; 4096],
    ] {
        let (reply, closed) = raw::exchange(sidecar.outbound(), bytes).await;
        assert!(
            closed && (if bytes[0] == 0x16 { reply.is_empty() } else { is_problem(&reply, 400) }),
            "{bytes:?}: closed {closed}, {reply:?}"
        );
    }
    let (reply, _) =
        raw::exchange(sidecar.outbound(), b"GET /up/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "it still serves: {reply}");
    let log = sidecar.log();
    assert!(log.contains("TLS where plain HTTP is spoken"), "who took the port for a TLS one is told: {log}");
    assert_eq!(fake.seen().len(), 1);
}
