//! Keys: ours reach their own upstream and nothing else, the agent's reach nobody.

use std::sync::Arc;

use harness::client::Version;
use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, model, setting, tls};
use http::Response;

const OURS: &str = "canary-upstream-key";
const THEIRS: &str = "canary-agent-key";
const CREDENTIAL: &str = ", credential: {header: authorization, value: \"Bearer canary-upstream-key\"}";
/// The agent's key in every header that a provider may read.
const HEADERS: [(&str, &str); 7] = [
    ("content-type", "application/json"),
    ("authorization", "Bearer canary-agent-key"),
    ("x-api-key", THEIRS),
    ("api-key", THEIRS),
    ("x-goog-api-key", THEIRS),
    ("proxy-authorization", "Bearer canary-agent-key"),
    ("x-sideguard-anything", THEIRS),
];

/// No key stands anywhere that the sidecar writes or says.
async fn keys_are_nowhere(sidecar: &Sidecar, keys: &[&str], replies: &[client::Reply]) {
    let mut places = vec![("log", sidecar.log())];
    for path in ["/config", "/metrics", "/status", "/readyz", "/version"] {
        places.push((path, client::admin(sidecar, path).await.text()));
    }
    let record: String = sidecar.record().iter().map(ToString::to_string).collect();
    assert!(record.contains("\"intent\""));
    places.push(("record", record));
    for reply in replies {
        places.push(("reply", format!("{:?} {}", reply.headers, reply.text())));
    }
    for (place, text) in places {
        for key in keys {
            assert!(!text.contains(key), "`{key}` stands in {place}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_gets_our_key_and_never_the_agents_and_nobody_else_sees_either() {
    let fake = Fake::start(None, |seen| match seen.target.as_str() {
        "/v1/chat/completions" => model::json(model::completion("ok", 5, 5)),
        "/ill" => Response::builder().status(500).body(fake::whole("no")).expect("a reply"),
        _ => model::json("{}"),
    })
    .await;
    let spec = setting::at(&fake.url(), CREDENTIAL);
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let mut replies = Vec::new();
    for (path, body) in [
        (model::CHAT, model::ask("hi", "")),
        ("/web/any?key=canary-agent-key", "{}".to_owned()),
        ("/web/ill", "{}".to_owned()),
        ("/openai/v1/unknown", "{}".to_owned()),
        ("/openai/v1/chat/completions", "canary-agent-key".to_owned()),
        ("/nowhere/x", "{}".to_owned()),
    ] {
        replies.push(client::gateway(&sidecar, "POST", path, &HEADERS, body).await);
    }
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 200, 500, 403, 403, 403]);
    let seen = fake.seen();
    assert_eq!(seen.len(), 3);
    for seen in &seen {
        assert_eq!(seen.headers["authorization"], "Bearer canary-upstream-key");
        for name in ["x-api-key", "api-key", "x-goog-api-key", "proxy-authorization", "x-sideguard-anything"]
        {
            assert!(!seen.headers.contains_key(name), "{name} reached {}", seen.target);
        }
    }
    keys_are_nowhere(&sidecar, &[OURS, THEIRS], &replies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_stays_with_its_host_whatever_the_agent_calls_it() {
    let own = Fake::start(None, |seen| {
        let location = seen.headers.get("x-elsewhere").cloned();
        let mut reply = Response::builder().status(307);
        if let Some(location) = location {
            reply = reply.header("location", location);
        }
        reply.body(fake::whole("")).expect("a reply")
    })
    .await;
    let other = Fake::json("{}").await;
    let sidecar = Sidecar::start(&setting::at(&own.url(), CREDENTIAL), &[("allow.yaml", ALLOW)]);
    let elsewhere = other.address().to_string();
    let target = format!("{}/v1/x", other.url());

    // A Host header, forwarding headers and an absolute target that name another host.
    let tricks = [("host", elsewhere.as_str()), ("x-forwarded-host", &elsewhere), ("x-elsewhere", &target)];
    let raw = format!(
        "GET /web/v1/x HTTP/1.1\r\nHost: {elsewhere}\r\nX-Forwarded-Host: {elsewhere}\r\nX-Elsewhere: {target}\r\nConnection: close\r\n\r\n"
    );
    let reply = client::raw(sidecar.outbound(), raw.as_bytes()).await.expect("a reply");
    assert!(reply.starts_with("HTTP/1.1 307"), "a redirect is passed on, not followed: {reply}");
    assert_eq!(own.seen()[0].host, own.address().to_string());
    assert!(client::absolute(&sidecar, "GET", &target, &tricks[1..], "").await.status == 200);
    let confused = format!("GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", own.address());
    client::raw(sidecar.outbound(), confused.as_bytes()).await.expect("a reply");
    let doubled =
        format!("GET //{elsewhere}/v1/x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", own.address());
    client::raw(sidecar.outbound(), doubled.as_bytes()).await.expect("a reply");
    let user = format!("http://{}@{elsewhere}/v1/x", own.address());
    let user = format!("GET {user} HTTP/1.1\r\nHost: {elsewhere}\r\nConnection: close\r\n\r\n");
    client::raw(sidecar.outbound(), user.as_bytes()).await.expect("a reply");
    let at = format!("GET /web@{elsewhere}/v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client::raw(sidecar.outbound(), at.as_bytes()).await.expect("a reply");

    assert!(!other.seen().is_empty(), "the test can see what reaches the other host");
    for seen in other.seen() {
        let text = format!("{:?}", seen.headers);
        assert!(!text.contains(OURS), "{text}");
    }
    for seen in own.seen() {
        assert_eq!(seen.headers["authorization"], "Bearer canary-upstream-key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_built_in_upstreams_key_comes_from_the_environment_and_goes_to_its_host_alone() {
    let authority = tls::Authority::new();
    let server = |names: &[&str]| Some(authority.server(names, &["h2", "http/1.1"]));
    let answer = |_: &harness::Seen| model::json(model::completion("ok", 5, 5));
    let provider = Fake::start(server(&["api.openai.com"]), answer).await;
    let lookalike = Fake::start(server(&["api.openai.com.evil.example"]), answer).await;
    let spec = format!(
        "  agent: {{name: tester}}\n  tls: {{trust: [\"{}\"]}}\n  hosts: {{api.openai.com: \"{}\", api.openai.com.evil.example: \"{}\"}}\n",
        authority.path().display(),
        provider.address(),
        lookalike.address(),
    );
    let key = format!("OPENAI_API_KEY={OURS}");
    let sidecar = Arc::new(Sidecar::under(&["env", &key], &spec, &[("allow.yaml", ALLOW)]));
    let ask = |number: u8| model::ask(&format!("call {number}"), "");
    let mut replies = vec![client::gateway(&sidecar, "POST", model::CHAT, &HEADERS, ask(0)).await];
    for version in [Version::One, Version::Two] {
        let url = "https://api.openai.com/v1/chat/completions";
        replies.push(client::tunnelled(&sidecar, version, "POST", url, &HEADERS[..5], ask(1)).await);
    }
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 200, 200], "{}", replies[0].text());
    for seen in provider.seen() {
        assert_eq!(seen.headers["authorization"], "Bearer canary-upstream-key");
        assert!(!format!("{:?}", seen.headers).contains(THEIRS));
    }
    let url = "https://api.openai.com.evil.example/v1/chat/completions";
    let plain = [HEADERS[0], ("accept", "*/*")];
    client::tunnelled(&sidecar, Version::One, "POST", url, &plain, ask(2)).await;
    assert_eq!(lookalike.seen().len(), 1);
    assert!(!format!("{:?}", lookalike.seen()).contains(OURS));
    keys_are_nowhere(&sidecar, &[OURS, THEIRS], &replies).await;
}
