//! TLS on both sides: who is believed, what stays closed, and names that do not agree.

use harness::client::{self, Version};
use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::tls::Authority;
use harness::{RawFake, Sidecar, raw};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DENY: &str =
    "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: deny}\nspec: {default_decision: deny}\n";

/// An upstream over TLS for `names`, whose authority the sidecar trusts or not.
async fn upstream(names: &[&str], trusted: bool, tls: &str, policy: &str) -> (Authority, Fake, Sidecar) {
    let authority = Authority::new();
    let config = authority.server(names, &["h2", "http/1.1"]);
    let fake = Fake::start(Some(config), |_| fake::reply("text/plain", fake::whole("own"))).await;
    let other = Authority::new();
    let trust = if trusted { &authority } else { &other };
    let at = fake.address();
    let spec = format!(
        "  hosts: {{\"a.test\": \"{at}\", \"b.test\": \"{at}\"}}\n  tls: {{trust: [\"{}\"]{tls}}}\n",
        trust.path().display()
    );
    let sidecar = Sidecar::start(&spec, &[("policy.yaml", policy)]);
    (authority, fake, sidecar)
}

fn has_code(code: &'static str) -> impl Fn(&Value) -> bool {
    move |entry| entry["code"] == code
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_whose_certificate_is_not_trusted_gets_nothing() {
    let (_authority, fake, sidecar) = upstream(&["a.test"], false, "", ALLOW).await;
    for version in [Version::One, Version::Two] {
        let reply = client::tunnelled(&sidecar, version, "GET", "https://a.test/", &[], "").await;
        assert_eq!(reply.status, 502);
        assert!(reply.text().contains("upstream_unreachable"), "{}", reply.text());
        let reason =
            "`a.test`: its certificate is not signed by an authority that the sidecar trusts (`tls.trust`)";
        assert_eq!(reply.json()["reason"], reason);
    }
    assert!(fake.seen().is_empty());
    let outcomes = sidecar.recorded_times(4, has_code("upstream_unreachable")).await;
    assert!(
        outcomes.iter().any(|entry| entry["phase"] == "outcome" && entry["status"] == 502),
        "{outcomes:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_another_name_in_its_certificate_gets_nothing() {
    let (_authority, fake, sidecar) = upstream(&["b.test"], true, "", ALLOW).await;
    let reply = client::tunnelled(&sidecar, Version::One, "GET", "https://a.test/", &[], "").await;
    assert_eq!(reply.status, 502);
    assert!(reply.text().contains("upstream_unreachable"), "{}", reply.text());
    assert_eq!(reply.json()["reason"], "`a.test`: its certificate is not for this name");
    assert!(fake.seen().is_empty());
    let reply = client::tunnelled(&sidecar, Version::One, "GET", "https://b.test/", &[], "").await;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (200, "own"),
        "the same server under its own name is fine"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_cannot_be_spoken_to_is_told_of_in_plain_words() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let mute = RawFake::start(|mut tcp| async move {
        // Reads first: closing on unread bytes would reset the connection.
        let _ = tcp.read(&mut [0; 4096]).await;
    })
    .await;
    let cut = RawFake::start(|mut tcp| async move {
        raw::head(&mut tcp).await;
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").await;
    })
    .await;
    let plain = RawFake::start(|mut tcp| async move {
        let _ = tcp.write_all(b"220 mail.test ESMTP\r\n").await;
        let _ = tcp.read(&mut [0; 4096]).await;
    })
    .await;
    let spec = format!(
        "  hosts: {{\"mute.test\": \"{}\", \"plain.test\": \"{}\"}}\n",
        mute.address(),
        plain.address()
    );
    let sidecar = Sidecar::start(&spec, &[("policy.yaml", ALLOW)]);
    for (url, words) in [
        (format!("http://{gone}/"), "the connection was refused"),
        (format!("http://{}/", cut.address()), "its answer is not valid HTTP"),
        ("https://mute.test/".to_owned(), "it closed the connection during the TLS handshake"),
        ("https://plain.test/".to_owned(), "it does not speak TLS"),
    ] {
        let reply = if url.starts_with("https") {
            client::tunnelled(&sidecar, Version::One, "GET", &url, &[], "").await
        } else {
            client::absolute(&sidecar, "GET", &url, &[], "").await
        };
        let reason = reply.json()["reason"].to_string();
        assert!(reply.status == 502 && reason.ends_with(&format!(": {words}\"")), "{url}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passthrough_host_keeps_its_own_certificate_and_is_recorded_with_bytes() {
    let (authority, fake, sidecar) = upstream(&["a.test"], false, ", passthrough: [\"a.test\"]", ALLOW).await;
    let tcp = client::connect(&sidecar, "a.test:443", "").await.expect("a tunnel");
    // Only the upstream's own authority is trusted here: the sidecar's leaf would fail.
    let mut stream =
        client::over_tls(tcp, authority.pem(), "a.test", Version::One).await.expect("its own certificate");
    let request = b"GET /secret HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("a request");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("a reply");
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("own"), "{reply}");
    drop(stream);
    assert_eq!(fake.seen().len(), 1);
    let entries =
        sidecar.recorded(|entry| entry["point"] == "net.connect" && entry["phase"] == "outcome").await;
    let bytes = |at: usize| entries[0]["bytes"][at].as_u64().expect("bytes");
    assert!(bytes(0) > request.len() as u64 && bytes(1) > reply.len() as u64, "{}", entries[0]);
    assert_eq!(entries[0]["target"]["host"], "a.test");
    let intents = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert_eq!((intents.len(), &intents[0]["point"]), (1, &Value::from("net.connect")));
    assert!(!format!("{:?}", sidecar.record()).contains("secret"), "what stays closed is not known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passthrough_host_that_policy_denies_is_not_dialled() {
    let (_authority, fake, sidecar) = upstream(&["a.test"], true, ", passthrough: [\"*.test\"]", DENY).await;
    let refusal = client::connect(&sidecar, "a.test:443", "").await.expect_err("a refusal");
    assert!(refusal.starts_with("HTTP/1.1 403 "), "{refusal}");
    assert_eq!(raw::header(&refusal, "x-should-retry"), "false");
    let entries = sidecar.recorded(|entry| entry["point"] == "net.connect").await;
    assert_eq!((&entries[0]["decision"], &entries[0]["status"]), (&Value::from("deny"), &Value::from(403)));
    assert_eq!(fake.connections().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_do_not_agree_are_refused_recorded_and_never_dialled() {
    let (_authority, fake, sidecar) = upstream(&["a.test", "b.test"], true, "", ALLOW).await;
    let trust = sidecar.trust();
    // CONNECT host, SNI, version, Host or :authority.
    let cases = [
        ("a.test", "b.test", Version::One, "b.test"),
        ("a.test", "b.test", Version::One, "a.test"),
        ("a.test", "a.test", Version::One, "b.test"),
        ("a.test", "a.test", Version::One, "a.test:8443"),
        ("a.test", "b.test", Version::Two, "b.test"),
        ("a.test", "b.test", Version::Two, "a.test"),
        ("a.test", "a.test", Version::Two, "b.test"),
        ("a.test", "a.test", Version::Two, "127.0.0.1"),
        ("127.0.0.1", "a.test", Version::One, "a.test"),
        ("127.0.0.1", "a.test", Version::Two, "a.test"),
    ];
    for (number, (host, sni, version, claimed)) in cases.into_iter().enumerate() {
        let case = format!("CONNECT {host}, SNI {sni}, {version:?}, Host {claimed}");
        let tcp = client::connect(&sidecar, &format!("{host}:443"), "").await.expect("a tunnel");
        let stream = client::over_tls(tcp, &trust, sni, version).await.expect("a handshake");
        let reply = client::over(stream, version, "GET", claimed, "/door").await;
        assert_eq!(reply.status, 403, "{case}: {}", reply.text());
        assert!(reply.text().contains("unjudgeable"), "{case}: {}", reply.text());
        let entries = sidecar.recorded_times(number + 1, has_code("unjudgeable")).await;
        assert_eq!(entries.len(), number + 1, "{case}: each has its entry");
    }
    assert_eq!(fake.connections().accepted(), 0);
    assert!(!sidecar.record().iter().any(|entry| entry["phase"] == "intent"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_holds_neither_tls_nor_http_is_closed_and_recorded() {
    let upstream = RawFake::start(|_tcp| async {}).await;
    let sidecar = Sidecar::start("", &[("allow.yaml", ALLOW)]);
    let mut tcp = client::connect(&sidecar, &upstream.address().to_string(), "").await.expect("a tunnel");
    tcp.write_all(b"\x00\x01SSH-ish\r\n").await.expect("bytes");
    raw::closed(&mut tcp).await;
    let entries = sidecar.recorded(has_code("unjudgeable")).await;
    assert_eq!(entries[0]["point"], "net.connect");
    assert_eq!(upstream.connections().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_gateway_asks_who_is_calling_and_tells_nobody_the_key() {
    // The SHA-256 of `opensesame`.
    let agent = "apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: crawler}\nspec:\n  keys:\n    - {sha256: \
                 \"d9fb92e3bbe65be1f1aad4a82eef4567f7a1ebe2cd110c8049b9698be7a70c88\"}\n";
    let fake = Fake::json("{}").await;
    let sidecar = Sidecar::shared("", &[("agent.yaml", agent), ("allow.yaml", ALLOW)]);
    let at = fake.address().to_string();
    for headers in
        ["", "Proxy-Authorization: Basic YWdlbnQ6d3Jvbmc=\r\n", "Proxy-Authorization: Bearer x\r\n"]
    {
        let refusal = client::connect(&sidecar, &at, headers).await.expect_err("a refusal");
        assert!(refusal.starts_with("HTTP/1.1 407 "), "{headers}{refusal}");
        assert!(raw::header(&refusal, "proxy-authenticate").starts_with("Basic"), "{refusal}");
        assert_eq!(refusal.matches("proxy-authenticate").count(), 1, "{refusal}");
        assert!(refusal.starts_with("HTTP/1.1 407 Proxy Authentication Required\r\n"), "{refusal}");
    }
    let url = format!("http://{at}/x");
    let reply = client::absolute(&sidecar, "GET", &url, &[], "").await;
    assert_eq!(reply.status, 401, "{}", reply.text());
    assert_eq!(fake.connections().accepted(), 0);
    // agent:opensesame
    let basic = "Basic YWdlbnQ6b3BlbnNlc2FtZQ==";
    let reply = client::absolute(&sidecar, "GET", &url, &[("proxy-authorization", basic)], "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = client::absolute(&sidecar, "GET", &url, &[("x-sideguard-key", "opensesame")], "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut tcp =
        client::connect(&sidecar, &at, &format!("Proxy-Authorization: {basic}\r\n")).await.expect("a tunnel");
    tcp.write_all(format!("GET /in HTTP/1.1\r\nHost: {at}\r\n\r\n").as_bytes()).await.expect("a request");
    let (head, _) = raw::message(&mut tcp).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for seen in fake.seen() {
        assert!(
            !seen.headers.contains_key("proxy-authorization")
                && !seen.headers.contains_key("x-sideguard-key")
        );
    }
    let intents = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert!(intents.iter().all(|entry| entry["agent"] == "crawler"), "{intents:#?}");
    let record = format!("{:?}", sidecar.record());
    assert!(!record.contains("opensesame") && !record.contains("b3BlbnNlc2FtZQ"));
}
