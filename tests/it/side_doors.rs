//! M9: under a governed provider nothing passes that is not known, however it is spelled.

use harness::client;
use harness::fake::Fake;
use harness::sidecar::ALLOW;
use harness::tls::Authority;
use harness::{Sidecar, raw};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const CHAT: &str = r#"{"model":"gpt-5","messages":[{"role":"user","content":"hi"}]}"#;
const JSON: &str = "application/json";

/// Method, path, content type: each would be a chat call to some server, or is nothing that is known.
const DOORS: [(&str, &str, &str); 38] = [
    ("POST", "//v1/chat/completions", JSON),
    ("POST", "/v1//chat/completions", JSON),
    ("POST", "/v1/chat//completions", JSON),
    ("POST", "/./v1/chat/completions", JSON),
    ("POST", "/v1/./chat/completions", JSON),
    ("POST", "/x/../v1/chat/completions", JSON),
    ("POST", "/v1/x/../chat/completions", JSON),
    ("POST", "/%2e/v1/chat/completions", JSON),
    ("POST", "/v1/%2e%2e/v1/chat/completions", JSON),
    ("POST", "/v1%2fchat%2fcompletions", JSON),
    ("POST", "/v1/%63hat/completions", JSON),
    ("POST", "/v1/chat/completion%73", JSON),
    ("POST", "/V1/chat/completions", JSON),
    ("POST", "/v1/Chat/Completions", JSON),
    ("POST", "/v1/chat/completions/", JSON),
    ("POST", "/v1/chat/completions//", JSON),
    ("POST", "/v1/chat/completions;x", JSON),
    ("POST", "/v1/chat;x=y/completions", JSON),
    ("POST", "/v1/chat/completions%20", JSON),
    ("POST", "/v1/chat/completions%00", JSON),
    ("POST", "/v1/chat\\completions", JSON),
    ("POST", "/v2/chat/completions", JSON),
    ("POST", "/chat/completions", JSON),
    ("POST", "/v1/completions", JSON),
    ("POST", "/v1/audio/speech", JSON),
    ("POST", "/v1/fine_tuning/jobs", JSON),
    ("POST", "/v1/files", "multipart/form-data; boundary=x"),
    ("GET", "/v1/organization/admin_api_keys", ""),
    ("GET", "/", ""),
    ("GET", "/v1", ""),
    ("GET", "/v1/chat/completions", ""),
    ("PUT", "/v1/chat/completions", JSON),
    ("BREW", "/v1/chat/completions", JSON),
    ("POST", "/v1/chat/completions", "text/plain"),
    ("POST", "/v1/chat/completions", "multipart/form-data; boundary=x"),
    ("POST", "/v1/chat/completions", "application/x-www-form-urlencoded"),
    ("POST", "/v1/chat/completions", "application/json; charset=utf-16"),
    ("POST", "/v1/chat/completions", ""),
];

/// A request whose target stands as it is.
async fn send(
    stream: &mut (impl AsyncWriteExt + tokio::io::AsyncRead + Unpin),
    door: (&str, &str, &str),
    host: &str,
) -> (String, String) {
    let (method, target, content_type) = door;
    let kind =
        if content_type.is_empty() { String::new() } else { format!("Content-Type: {content_type}\r\n") };
    let body = if method == "GET" { "" } else { CHAT };
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("a request");
    let (head, body) = raw::message(stream).await;
    (head, String::from_utf8_lossy(&body).into_owned())
}

fn refused(door: (&str, &str, &str), head: &str, body: &str) {
    assert!(head.starts_with("HTTP/1.1 403 "), "{door:?}: {head}{body}");
    assert!(body.contains("unjudgeable"), "{door:?}: {body}");
    assert_eq!(raw::header(head, "x-should-retry"), "false", "{door:?}: {head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_door_to_a_configured_provider_is_shut_and_recorded() {
    let fake = Fake::json("{}").await;
    let spec =
        format!("  upstreams:\n    - {{name: openai, baseUrl: \"{}\", dialect: openai}}\n", fake.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let host = sidecar.outbound().to_string();
    let mut kept = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    for (number, door) in DOORS.into_iter().enumerate() {
        let target = format!("/openai{}", door.1);
        let (head, body) = send(&mut kept, (door.0, &target, door.2), &host).await;
        refused(door, &head, &body);
        let call = raw::header(&head, "x-sideguard-call").to_owned();
        let entries = sidecar.recorded_times(number + 1, |entry| entry["code"] == "unjudgeable").await;
        assert_eq!(entries.len(), number + 1, "{door:?}: one entry each");
        assert_eq!(entries[number]["call"], call.as_str(), "{door:?}");
        assert_eq!(entries[number]["decision"], "deny", "{door:?}");
    }
    assert_eq!(fake.connections().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_door_to_a_provider_by_its_own_name_is_shut_as_well() {
    let authority = Authority::new();
    let tls = authority.server(&["api.openai.com"], &["http/1.1"]);
    let fake =
        Fake::start(Some(tls), |_| harness::fake::reply("application/json", harness::fake::whole("{}")))
            .await;
    let spec = format!(
        "  hosts: {{\"api.openai.com\": \"{}\"}}\n  tls: {{trust: [\"{}\"]}}\n",
        fake.address(),
        authority.path().display()
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let tcp = client::connect(&sidecar, "api.openai.com:443", "").await.expect("a tunnel");
    let mut inside = client::over_tls(tcp, &sidecar.trust(), "api.openai.com", client::Version::One)
        .await
        .expect("a handshake");
    let mut proxied = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    for door in DOORS {
        let (head, body) = send(&mut inside, door, "api.openai.com").await;
        refused(door, &head, &body);
        let target = format!("https://api.openai.com{}", door.1);
        let (head, body) = send(&mut proxied, (door.0, &target, door.2), "api.openai.com").await;
        refused(door, &head, &body);
    }
    assert_eq!(fake.connections().accepted(), 0);
    let entries = sidecar.recorded_times(2 * DOORS.len(), |entry| entry["code"] == "unjudgeable").await;
    assert_eq!(entries.len(), 2 * DOORS.len());
    // The other spellings of the name lead to the same judgement.
    for name in ["API.OpenAI.com", "api.openai.com."] {
        let tcp = client::connect(&sidecar, &format!("{name}:443"), "").await.expect("a tunnel");
        let mut inside = client::over_tls(tcp, &sidecar.trust(), "api.openai.com", client::Version::One)
            .await
            .expect("a handshake");
        let (head, body) = send(&mut inside, ("POST", "/v1/completions", JSON), "api.openai.com").await;
        refused(("POST", name, JSON), &head, &body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_path_that_names_no_upstream_is_refused_and_recorded() {
    let sidecar = Sidecar::start("", &[("allow.yaml", ALLOW)]);
    let host = sidecar.outbound().to_string();
    let mut kept = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let targets =
        ["/", "/nothing/v1", "/OpenAI/v1/models", "/openai%2fv1/models", "//openai/v1/models", "*", "/?x"];
    for target in targets {
        let door = ("GET", target, "");
        let (head, body) = send(&mut kept, door, &host).await;
        refused(door, &head, &body);
    }
    let entries = sidecar.recorded_times(targets.len(), |entry| entry["code"] == "unjudgeable").await;
    assert_eq!(entries.len(), targets.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_judged_is_the_target_that_is_sent() {
    let policy = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  default_decision: allow\n  \
                  rules:\n    - {id: no-admin, match: {paths: [\"/admin\"]}, decision: deny, reason: never}\n";
    let fake = Fake::json("{}").await;
    let spec = format!("  upstreams:\n    - {{name: crm, baseUrl: \"{}\", dialect: plain}}\n", fake.url());
    let sidecar = Sidecar::start(&spec, &[("p.yaml", policy)]);
    let host = sidecar.outbound().to_string();
    for target in ["/crm/admin", "/crm/admin#x", "/crm/admin?x#y", "/crm/admin#/public"] {
        // A fragment may be refused as malformed, which closes.
        let mut fresh = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        let (head, _) = send(&mut fresh, ("GET", target, ""), &host).await;
        assert!(head.starts_with("HTTP/1.1 403 ") || head.starts_with("HTTP/1.1 400 "), "{target}: {head}");
    }
    assert_eq!(fake.connections().accepted(), 0, "{:?}", fake.seen());
}
