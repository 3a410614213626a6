//! HTTP's own promises: connections kept and reused, pipelining, HTTP/1.0, answers without a body, interim answers,
//! trailers, and clients that leave.

use std::sync::Arc;

use harness::client::{self, Kept, Version};
use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::tls::Authority;
use harness::{RawFake, Sidecar, raw, until};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const JSON: (&str, &str) = ("content-type", "application/json");
const CHAT: &str = r#"{"model":"gpt-5","messages":[{"role":"user","content":"hi"}]}"#;
const STREAM: &str = r#"{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

fn before(url: &str, dialect: &str) -> Sidecar {
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{url}\", dialect: {dialect}}}\n");
    Sidecar::start(&spec, &[("allow.yaml", ALLOW)])
}

/// An upstream that answers each request with its own target.
async fn echo() -> (Fake, Sidecar) {
    let fake = Fake::start(None, |seen| fake::reply("text/plain", fake::whole(seen.target.clone()))).await;
    let sidecar = before(&fake.url(), "plain");
    (fake, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_on_both_sides() {
    let (fake, sidecar) = echo().await;
    let mut kept = Kept::open(&sidecar).await;
    for number in 0..50 {
        let reply = kept.send("GET", &format!("/up/{number}"), &[], "").await;
        assert_eq!(reply.text(), format!("/{number}"));
    }
    let mut other = Kept::open(&sidecar).await;
    other.send("POST", "/up/other", &[JSON], "{}").await;
    assert_eq!(fake.seen().len(), 51);
    assert_eq!(fake.connections().accepted(), 1, "one upstream connection serves one call after the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_of_http2_serves_an_http2_upstream() {
    let authority = Authority::new();
    let tls = authority.server(&["a.test"], &["h2"]);
    let fake = Fake::start(Some(tls), |_| fake::reply("text/plain", fake::whole("ok"))).await;
    let spec = format!(
        "  hosts: {{\"a.test\": \"{}\"}}\n  tls: {{trust: [\"{}\"]}}\n",
        fake.address(),
        authority.path().display()
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    for _ in 0..10 {
        let reply = client::tunnelled(&sidecar, Version::Two, "GET", "https://a.test/x", &[], "").await;
        assert_eq!(reply.status, 200);
    }
    assert_eq!(fake.connections().accepted(), 1, "agents' connections come and go, the upstream's stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_at_rest_is_closed_after_the_idle_time() {
    let fake = Fake::json("{}").await;
    let spec = format!(
        "  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n  limits: {{idleTimeout: 1s}}\n",
        fake.url()
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    for _ in 0..2 {
        tcp.write_all(b"GET /up/x HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("a request");
        let (head, _) = raw::message(&mut tcp).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    raw::closed(&mut tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_comes_byte_by_byte_does_not_hold_its_connection_for_ever() {
    let fake = Fake::json("{}").await;
    let spec = format!("{}  limits: {{idleTimeout: 1s}}\n", harness::setting::upstreams(&fake));
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let (mut from, mut to) = tcp.into_split();
    let slow = async {
        to.write_all(b"GET /web/x HTTP/1.1\r\nHost: h\r\nX: ").await.expect("a listener");
        // Never silent for as long as the idle time.
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            ticks.tick().await;
            if to.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = slow => {}
        () = raw::closed(&mut from) => {}
    }
    assert_eq!(fake.connections().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_the_connection() {
    let (fake, sidecar) = echo().await;
    let mut kept = Kept::open(&sidecar).await;
    for _ in 0..5 {
        assert_eq!(kept.send("POST", "/nobody/x", &[JSON], "{}").await.status, 403);
        assert_eq!(kept.send("POST", "/up/x", &[JSON], "{}").await.status, 200);
    }
    assert_eq!(fake.seen().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let (fake, sidecar) = echo().await;
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let mut all = String::new();
    let chunks = "Transfer-Encoding: chunked\r\n\r\n1;x=y\r\no\r\n1\r\nk\r\n0\r\n\r\n";
    for number in 0..20 {
        all += &match number % 3 {
            0 => format!("GET /up/{number} HTTP/1.1\r\nHost: h\r\n\r\n"),
            1 => format!("POST /up/{number} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok"),
            _ => format!("POST /up/{number} HTTP/1.1\r\nHost: h\r\n{chunks}"),
        };
    }
    tcp.write_all(all.as_bytes()).await.expect("requests");
    for number in 0..20 {
        let (head, body) = raw::message(&mut tcp).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{number}: {head}");
        assert_eq!(String::from_utf8_lossy(&body), format!("/{number}"));
    }
    let bodies: Vec<_> = fake.seen().iter().map(|seen| seen.body.len()).collect();
    assert_eq!(bodies, (0..20).map(|number| if number % 3 == 0 { 0 } else { 2 }).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_clients_are_served_with_and_without_a_length() {
    let fake = Fake::start(None, |seen| {
        if seen.target == "/sized" {
            return fake::reply("text/plain", fake::whole("whole"));
        }
        let (send, body) = fake::parts();
        for part in ["in ", "parts"] {
            send.try_send(part.into()).expect("room");
        }
        fake::reply("text/plain", body)
    })
    .await;
    let sidecar = before(&fake.url(), "plain");
    for (target, expected) in [("/sized", "whole"), ("/parts", "in parts")] {
        let request = format!("GET /up{target} HTTP/1.0\r\n\r\n");
        let (reply, closed) = raw::exchange(sidecar.outbound(), request.as_bytes()).await;
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(" 200 ") && closed, "{target}: {head}");
        assert_eq!(body, expected, "{target}");
        assert_eq!(raw::header(head, "transfer-encoding"), "", "chunks are not for HTTP/1.0: {head}");
    }
    let request = "POST /up/sized HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    tcp.write_all(request.as_bytes()).await.expect("a request");
    let (_, body) = raw::message(&mut tcp).await;
    assert_eq!(body, b"whole");
    assert_eq!(fake.seen().pop().expect("a request").body, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_end_where_they_should() {
    let upstream = RawFake::start(|mut tcp| async move {
        loop {
            let head = raw::head(&mut tcp).await;
            let reply = match head.split(' ').nth(1) {
                Some("/head") => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                Some("/head-chunked") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                Some("/none") => "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
                Some("/same") => "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nContent-Length: 77\r\n\r\n",
                Some("/empty") => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                Some("/interim") => "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                Some(_) => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                None => return,
            };
            tcp.write_all(reply.as_bytes()).await.expect("a listener");
        }
    })
    .await;
    let sidecar = before(&upstream.url(), "plain");
    let mut kept = Kept::open(&sidecar).await;
    let cases = [
        ("HEAD", "/head", 200, "content-length", "1234"),
        ("HEAD", "/head-chunked", 200, "x-none", ""),
        ("GET", "/none", 204, "x-a", "b"),
        ("GET", "/same", 304, "etag", "\"1\""),
        ("GET", "/empty", 200, "content-length", "0"),
    ];
    for (method, target, status, header, value) in cases {
        let reply = kept.send(method, &format!("/up{target}"), &[], "").await;
        assert_eq!(
            (reply.status, reply.header(header).as_str(), reply.body.len()),
            (status, value, 0),
            "{method} {target}"
        );
        let next = kept.send("GET", "/up/next", &[], "").await;
        assert_eq!(next.text(), "ok", "the connection is in step after {method} {target}");
        let url = format!("{}{target}", upstream.url());
        let tcp = client::connect(&sidecar, &upstream.address().to_string(), "").await.expect("a tunnel");
        let many = client::Many::over(tcp).await;
        let reply = many.send(client::request(method, &url, &[], "")).await;
        assert_eq!((reply.status, reply.body.len()), (status, 0), "{method} {target} over HTTP/2");
    }
    assert_eq!(kept.send("GET", "/up/interim", &[], "").await.text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue_is_answered_before_the_body_comes() {
    let (fake, sidecar) = echo().await;
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    for _ in 0..2 {
        tcp.write_all(
            b"POST /up/big HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        )
        .await
        .expect("a head");
        let interim = raw::head(&mut tcp).await;
        assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
        tcp.write_all(b"hello").await.expect("a body");
        let (head, body) = raw::message(&mut tcp).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"/big", "{head}");
        let seen = fake.seen().pop().expect("a request");
        assert_eq!(seen.body, "hello");
        assert!(!seen.headers.contains_key("expect"), "what was expected was granted here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_expects_100_continue_in_vain_gets_the_refusal_instead() {
    let (fake, sidecar) = echo().await;
    for (target, length, status) in [("/nobody/x", 5, "403"), ("/up/x", 1 << 30, "413")] {
        let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        );
        tcp.write_all(head.as_bytes()).await.expect("a head");
        let (head, _) = raw::message(&mut tcp).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        // The body was never asked for, so the connection cannot go on.
        raw::closed(&mut tcp).await;
    }
    assert_eq!(fake.connections().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_from_http2_to_http2() {
    let authority = Authority::new();
    let tls = authority.server(&["grpc.test"], &["h2"]);
    let fake = Fake::start(Some(tls), |seen| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "7".parse().expect("a value"));
        trailers.insert("grpc-message", "no".parse().expect("a value"));
        let body = seen.body.clone();
        let body = fake::whole(body).with_trailers(async move { Some(Ok(trailers)) }).boxed();
        let mut reply = fake::reply("application/grpc", body);
        reply.headers_mut().insert("trailer", "grpc-status".parse().expect("a value"));
        reply
    })
    .await;
    let spec = format!(
        "  hosts: {{\"grpc.test\": \"{}\"}}\n  tls: {{trust: [\"{}\"]}}\n",
        fake.address(),
        authority.path().display()
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("trailer", "x-sum")];
    for body in [&b""[..], b"\0\0\0\0\x02hi"] {
        let reply =
            client::tunnelled(&sidecar, Version::Two, "POST", "https://grpc.test/a.B/C", &headers, body)
                .await;
        assert_eq!((reply.status, reply.body.as_ref()), (200, body));
        assert_eq!(
            (reply.trailers["grpc-status"].as_bytes(), reply.trailers["grpc-message"].as_bytes()),
            (&b"7"[..], &b"no"[..])
        );
        let seen = fake.seen().pop().expect("a request");
        assert_eq!(seen.headers["te"], "trailers");
        assert!(!seen.headers.contains_key("trailer"), "a request's are not passed on");
        assert_eq!(reply.header("trailer"), "grpc-status");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_that_are_not_passed_on_are_not_announced() {
    let upstream = RawFake::start(|mut tcp| async move {
        let (head, body) = raw::message(&mut tcp).await;
        let told = format!("{}|{}", raw::header(&head, "trailer"), String::from_utf8_lossy(&body));
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{told}\r\n0\r\nX-Sum: \
             1\r\n\r\n",
            told.len()
        );
        tcp.write_all(answer.as_bytes()).await.expect("a listener");
    })
    .await;
    let sidecar = Sidecar::start("", &[("allow.yaml", ALLOW)]);
    let at = upstream.address();
    let request = format!(
        "POST http://{at}/x HTTP/1.1\r\nHost: {at}\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\nConnection: \
         close\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n"
    );
    let (reply, _) = raw::exchange(sidecar.outbound(), request.as_bytes()).await;
    let reply = reply.to_ascii_lowercase();
    assert!(reply.starts_with("http/1.1 200 ") && reply.contains("|hi"), "{reply}");
    assert!(!reply.contains("trailer:") && !reply.contains("x-sum"), "{reply}");
}

/// An upstream that says `before` to a request and then nothing until it is left; the semaphore tells of requests.
async fn waiting(before: &'static str) -> (RawFake, Arc<Semaphore>) {
    let asked = Arc::new(Semaphore::new(0));
    let telling = Arc::clone(&asked);
    let upstream = RawFake::start(move |mut tcp| {
        let asked = Arc::clone(&telling);
        async move {
            raw::message(&mut tcp).await;
            tcp.write_all(before.as_bytes()).await.expect("a listener");
            asked.add_permits(1);
            let mut rest = Vec::new();
            let _ = tcp.read_to_end(&mut rest).await;
        }
    })
    .await;
    (upstream, asked)
}

async fn leaves(before_it: &'static str, dialect: &str, target: &str, body: &str) {
    let (upstream, asked) = waiting(before_it).await;
    let sidecar = before(&upstream.url(), dialect);
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let request = format!(
        "POST /up{target} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    tcp.write_all(request.as_bytes()).await.expect("a request");
    asked.acquire().await.expect("a semaphore").forget();
    if before_it.contains("text/event-stream") {
        raw::head(&mut tcp).await;
        assert!(raw::chunk(&mut tcp).await.is_some());
    }
    assert_eq!(upstream.connections().open(), 1);
    drop(tcp);
    let gone = until("the upstream's connection ends", || upstream.connections().open() == 0);
    tokio::time::timeout(std::time::Duration::from_secs(2), gone).await.expect("soon");
    let outcomes = sidecar.recorded(|entry| entry["phase"] == "outcome").await;
    assert_eq!((outcomes.len(), &outcomes[0]["code"]), (1, &"client_gone".into()), "{outcomes:#?}");
    assert_eq!(upstream.connections().accepted(), 1, "nothing is tried again for nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_the_upstream_thinks_is_noticed() {
    leaves("", "plain", "/x", "{}").await;
    leaves("", "openai", "/v1/chat/completions", CHAT).await;
    leaves("", "openai", "/v1/chat/completions", STREAM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_mid_answer_is_noticed() {
    let half = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{\"half\":";
    leaves(half, "plain", "/x", "{}").await;
    leaves(half, "openai", "/v1/chat/completions", CHAT).await;
    let event = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3a\r\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n\r\n";
    let event: &'static str = Box::leak(sized(event).into_boxed_str());
    leaves(event, "openai", "/v1/chat/completions", STREAM).await;
}

/// Puts the right length before the one chunk of a reply.
fn sized(reply: &str) -> String {
    let (head, rest) = reply.split_once("\r\n\r\n").expect("a head");
    let (_, chunk) = rest.split_once("\r\n").expect("a length");
    let chunk = chunk.strip_suffix("\r\n").expect("an end");
    format!("{head}\r\n\r\n{:x}\r\n{chunk}\r\n", chunk.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_http2_that_is_reset_is_noticed() {
    let (upstream, asked) = waiting("").await;
    let sidecar = before(&upstream.url(), "plain");
    let tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let many = client::Many::over(tcp).await;
    let url = format!("http://{}/up/x", sidecar.outbound());
    let mut call = Box::pin(many.send(client::request("GET", &url, &[], "")));
    tokio::select! {
        _ = &mut call => panic!("nobody answered"),
        permit = asked.acquire() => permit.expect("a semaphore").forget(),
    }
    drop(call);
    until("the upstream's connection ends", || upstream.connections().open() == 0).await;
    let outcomes = sidecar.recorded(|entry| entry["phase"] == "outcome").await;
    assert_eq!(outcomes[0]["code"], "client_gone");
    let reply = client::gateway(&sidecar, "GET", "/nobody", &[], "").await;
    assert_eq!(reply.status, 403, "and others are served on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let upstream = RawFake::start(|mut tcp| async move {
        let head = raw::head(&mut tcp).await;
        let framing =
            if head.contains("/sized") { "Content-Length: 99" } else { "Transfer-Encoding: chunked" };
        let reply = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n4\r\nhalf\r\n");
        tcp.write_all(reply.as_bytes()).await.expect("a listener");
    })
    .await;
    let sidecar = before(&upstream.url(), "plain");
    for target in ["/sized", "/chunked"] {
        let request = format!("GET /up{target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let (reply, closed) = raw::exchange(sidecar.outbound(), request.as_bytes()).await;
        assert!(closed && reply.contains("half") && !reply.contains("\r\n0\r\n\r\n"), "{target}: {reply}");
    }
    let outcomes = sidecar.recorded_times(2, |entry| entry["code"] == "upstream_broke_off").await;
    assert_eq!(outcomes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_ends_before_its_answer_is_told_and_asked_once() {
    for (first, ending) in
        [("", "close"), ("", "reset"), ("HTTP/1.1 200 OK\r\nContent-", "close"), ("", "second")]
    {
        // The last one answers a first request on the same connection, and then no more.
        let upstream = RawFake::start(move |mut tcp| async move {
            if ending == "second" {
                raw::message(&mut tcp).await;
                tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("a listener");
            }
            raw::message(&mut tcp).await;
            tcp.write_all(first.as_bytes()).await.expect("a listener");
            if ending == "reset" {
                tcp.set_zero_linger().expect("an option");
            }
        })
        .await;
        let sidecar = before(&upstream.url(), "openai");
        if ending == "second" {
            assert_eq!(
                client::post(&sidecar, "/up/v1/chat/completions", CHAT).await.status,
                502,
                "it is no answer"
            );
        }
        let reply = client::post(&sidecar, "/up/v1/chat/completions", CHAT).await;
        assert_eq!(reply.status, 502, "{first} {ending}: {}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "upstream_unreachable");
        assert!(!reply.header("x-sideguard-call").is_empty());
        assert_eq!(upstream.connections().accepted(), 1, "what may have been done is not done twice");
        let told = |entry: &serde_json::Value| {
            entry["phase"] == "outcome" && entry["code"] == "upstream_unreachable"
        };
        let outcome = sidecar.recorded(told).await;
        assert_eq!(outcome[0]["target"]["path"], "/v1/chat/completions");
        assert!(!sidecar.log().contains("panicked"), "{}", sidecar.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_its_server_closed_is_not_an_error() {
    // Each connection serves one request, says nothing of closing, and closes.
    let upstream = RawFake::start(|mut tcp| async move {
        raw::message(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("a listener");
    })
    .await;
    let sidecar = before(&upstream.url(), "plain");
    for number in 1..=20 {
        let reply = client::post(&sidecar, "/up/x", format!("{{\"n\":{number}}}")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        until("the server has closed", || upstream.connections().open() == 0).await;
        assert_eq!(upstream.connections().accepted(), number, "each call is sent once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_pass_as_they_are() {
    let fake = Fake::start(None, |seen| {
        let status = seen.target.trim_start_matches('/').parse::<u16>().expect("a status");
        Response::builder().status(status).header("x-own", "1").body(fake::whole("body")).expect("a reply")
    })
    .await;
    let sidecar = before(&fake.url(), "plain");
    let mut kept = Kept::open(&sidecar).await;
    for status in [200, 201, 202, 206, 301, 302, 307, 308, 400, 401, 404, 409, 418, 429, 451, 500, 503, 599] {
        let reply = kept.send("GET", &format!("/up/{status}"), &[], "").await;
        assert_eq!(
            (reply.status, reply.text().as_str(), reply.header("x-own").as_str()),
            (status, "body", "1")
        );
        if status >= 500 {
            // Keeps the breaker from counting failures in a row.
            kept.send("GET", "/up/200", &[], "").await;
        }
    }
}
