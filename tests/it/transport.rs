//! M1: one call by every way (gateway path, absolute form, CONNECT) over every version of HTTP is the same call.

use harness::client::{self, Reply, Version};
use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::tls::Authority;
use harness::{Seen, Sidecar};
use serde_json::Value;
use tokio::process::Command;

const CHAT: &str = r#"{"model":"gpt-5","messages":[{"role":"user","content":"hi"}],  "temperature":1.0,"n":1,"new_field":[1e2]}"#;
const ANSWER: &str = r#"{"id":"c1","object":"chat.completion","model":"gpt-5","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;
const JSON: (&str, &str) = ("content-type", "application/json");

/// A provider under its own name, over TLS, with one version of HTTP; and a sidecar in front of it.
async fn provider(protocol: &str) -> (Fake, Sidecar) {
    let authority = Authority::new();
    let tls = authority.server(&["api.openai.com", "crm.test"], &[protocol]);
    let fake = Fake::start(Some(tls), |_| fake::reply("application/json", fake::whole(ANSWER))).await;
    let at = fake.address();
    let spec = format!(
        "  hosts: {{\"api.openai.com\": \"{at}\", \"crm.test\": \"{at}\"}}\n  tls: {{trust: [\"{}\"]}}\n",
        authority.path().display()
    );
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    (fake, sidecar)
}

/// What a call's way must not change in its record.
fn judged(entry: &Value) -> Vec<Value> {
    let fields = [
        "point",
        "topic",
        "verb",
        "risk_tags",
        "decision",
        "rule",
        "reason",
        "args_hash",
        "policy_digest",
        "mode",
        "agent",
        "target",
    ];
    fields.iter().map(|field| entry[field].clone()).collect()
}

async fn by_every_way(protocol: &str, version: http::Version) {
    let (fake, sidecar) = provider(protocol).await;
    let url = "https://api.openai.com/v1/chat/completions?beta=true&x=%2F";
    let replies: Vec<Reply> = vec![
        client::gateway(&sidecar, "POST", "/openai/v1/chat/completions?beta=true&x=%2F", &[JSON], CHAT).await,
        client::absolute(&sidecar, "POST", url, &[JSON], CHAT).await,
        client::tunnelled(&sidecar, Version::One, "POST", url, &[JSON], CHAT).await,
        client::tunnelled(&sidecar, Version::Two, "POST", url, &[JSON], CHAT).await,
    ];
    for reply in &replies {
        assert_eq!((reply.status, reply.text().as_str()), (200, ANSWER));
        assert_eq!(reply.header("x-sideguard-decision"), "allow");
    }
    let seen: Vec<Seen> = fake.seen();
    assert_eq!(seen.len(), replies.len(), "each call arrives once");
    for one in &seen {
        assert_eq!(one.body, CHAT);
        assert_eq!(
            (one.method.as_str(), one.target.as_str()),
            ("POST", "/v1/chat/completions?beta=true&x=%2F")
        );
        assert_eq!((one.host.as_str(), one.version), ("api.openai.com", version));
        let mut headers = one.headers.clone();
        headers.remove("host");
        let mut first = seen[0].headers.clone();
        first.remove("host");
        assert_eq!(headers, first, "headers are the same whatever the way");
    }
    let intents = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert_eq!(intents.len(), replies.len());
    for intent in &intents {
        assert_eq!(judged(intent), judged(&intents[0]));
        assert_eq!(intent["target"]["host"], "api.openai.com");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_call_is_the_same_by_every_way_to_an_http1_upstream() {
    by_every_way("http/1.1", http::Version::HTTP_11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_call_is_the_same_by_every_way_to_an_http2_upstream() {
    by_every_way("h2", http::Version::HTTP_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_the_same_by_absolute_form_and_through_a_tunnel_without_tls() {
    let fake = Fake::json(r#"{"ok":true}"#).await;
    let sidecar = Sidecar::start("", &[("allow.yaml", ALLOW)]);
    let url = format!("{}/a/b?c=d", fake.url());
    let direct = client::absolute(&sidecar, "PUT", &url, &[JSON], "{ }").await;
    let mut tunnel = client::connect(&sidecar, &fake.address().to_string(), "").await.expect("a tunnel");
    let request = format!(
        "PUT /a/b?c=d HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{{ }}",
        fake.address()
    );
    tokio::io::AsyncWriteExt::write_all(&mut tunnel, request.as_bytes()).await.expect("a request");
    let (head, body) = harness::raw::message(&mut tunnel).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(direct.body, body);
    let seen = fake.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(
        (&seen[0].target, &seen[0].body, &seen[0].host),
        (&seen[1].target, &seen[1].body, &seen[1].host)
    );
    let intents = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    assert_eq!(judged(&intents[0]), judged(&intents[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_of_one_http2_connection_are_judged_one_by_one() {
    let policy = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  default_decision: allow\n  \
                  rules:\n    - {id: no-delete, match: {methods: [DELETE]}, decision: deny, reason: never}\n";
    let authority = Authority::new();
    let tls = authority.server(&["crm.test"], &["h2"]);
    let fake =
        Fake::start(Some(tls), |seen| fake::reply("text/plain", fake::whole(seen.target.clone()))).await;
    let spec = format!(
        "  hosts: {{\"crm.test\": \"{}\"}}\n  tls: {{trust: [\"{}\"]}}\n",
        fake.address(),
        authority.path().display()
    );
    let sidecar = Sidecar::start(&spec, &[("p.yaml", policy)]);
    let tcp = client::connect(&sidecar, "crm.test:443", "").await.expect("a tunnel");
    let stream =
        client::over_tls(tcp, &sidecar.trust(), "crm.test", Version::Two).await.expect("a handshake");
    let many = client::Many::over(stream).await;
    let calls: Vec<_> = (0..40)
        .map(|n| {
            let method = if n % 4 == 0 { "DELETE" } else { "GET" };
            many.send(client::request(method, &format!("https://crm.test/n/{n}"), &[], ""))
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        let reply = call.await;
        assert_eq!(reply.status, if n % 4 == 0 { 403 } else { 200 }, "{n}");
        if n % 4 != 0 {
            assert_eq!(reply.text(), format!("/n/{n}"));
        }
    }
    assert!(fake.seen().iter().all(|seen| seen.method == "GET"));
    assert_eq!(fake.seen().len(), 30);
}

/// Runs curl and gives back status, version and body.
async fn curl(arguments: &[&str]) -> (String, String, String) {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--noproxy", "", "-w", "\n%{http_code} %{http_version}"])
        .args(arguments)
        .output()
        .await
        .expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "curl {arguments:?}: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (body, last) = text.rsplit_once('\n').expect("what was asked for");
    let (status, version) = last.split_once(' ').expect("what was asked for");
    (status.to_owned(), version.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_works_through_the_proxy_for_https_in_both_versions() {
    for protocol in ["http/1.1", "h2"] {
        let (fake, sidecar) = provider(protocol).await;
        let proxy = format!("http://{}", sidecar.outbound());
        let roots = sidecar.state().join("ca/bundle.pem").display().to_string();
        for (flag, expected) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let body = format!("{{\"way\":\"{flag}\"}}");
            let arguments =
                ["-x", &proxy, "--cacert", &roots, flag, "-d", &body, "https://crm.test/things?x=1"];
            let (status, version, answer) = curl(&arguments).await;
            assert_eq!((status.as_str(), version.as_str(), answer.as_str()), ("200", expected, ANSWER));
            let seen = fake.seen();
            assert_eq!(seen.last().expect("a request").body, body);
        }
        assert_eq!(fake.seen().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_works_through_the_proxy_for_http_and_by_the_gateway_path() {
    let fake = Fake::json(ANSWER).await;
    let spec = format!("  upstreams:\n    - {{name: openai, baseUrl: \"{}\"}}\n", fake.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    let proxy = format!("http://{}", sidecar.outbound());
    let other = Fake::json(ANSWER).await;
    let url = format!("{}/things", other.url());
    for flag in ["--http1.1", "--http2", "--http1.0"] {
        let (status, _, answer) = curl(&["-x", &proxy, flag, &url]).await;
        assert_eq!((status.as_str(), answer.as_str()), ("200", ANSWER), "{flag}");
    }
    let base = format!("{proxy}/openai/v1/chat/completions");
    for flag in ["--http1.1", "--http2", "--http2-prior-knowledge"] {
        let arguments = [flag, "-H", "content-type: application/json", "-d", CHAT, &base];
        let (status, _, answer) = curl(&arguments).await;
        assert_eq!((status.as_str(), answer.as_str()), ("200", ANSWER), "{flag}");
        assert_eq!(fake.seen().last().expect("a request").body, CHAT);
    }
    assert_eq!((fake.seen().len(), other.seen().len()), (3, 3));
}
