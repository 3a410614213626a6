//! M17: policy is swapped whole while calls run; the end lets streams end; the admin port tells and hides.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use harness::client::{self, Kept};
use harness::fake::{self, Fake};
use harness::sidecar::ALLOW;
use harness::{Sidecar, until};
use http_body_util::BodyExt;
use serde_json::Value;
use sideguard_runtime::tasks;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// A policy whose only rule has this id.
fn policy(id: &str) -> String {
    format!(
        "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {{name: p}}\nspec:\n  default_decision: deny\n  rules:\n    \
         - {{id: {id}, match: {{methods: [GET]}}, decision: allow}}\n"
    )
}

/// Puts a policy file in place in one step.
fn replace(sidecar: &Sidecar, text: &str) {
    sidecar.write_policy("next", text);
    let dir = sidecar.state().parent().expect("a parent").join("policies");
    fs::rename(dir.join("next"), dir.join("p.yaml")).expect("a file");
}

/// A metric's value, 0 where it is not there yet.
async fn metric(sidecar: &Sidecar, name: &str) -> f64 {
    let text = client::admin(sidecar, "/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

async fn metric_reaches(sidecar: &Sidecar, name: &str, least: f64) {
    for _ in 0..1_000 {
        if metric(sidecar, name).await >= least {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("`{name}` does not reach {least}");
}

const ACCEPTED: &str = "sideguard_policy_reloads_total{code=\"accepted\"}";
const REFUSED: &str = "sideguard_policy_reloads_total{code=\"refused\"}";

/// Calls that run until told to stop; each must be allowed. Counts them.
struct Load {
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<BTreeSet<String>>>,
}

impl Load {
    async fn on(sidecar: &Sidecar) -> Self {
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut load = Self { done, stop, tasks: Vec::new() };
        for _ in 0..4 {
            let mut kept = Kept::open(sidecar).await;
            let (done, stop) = (Arc::clone(&load.done), Arc::clone(&load.stop));
            load.tasks.push(tasks::spawn("load", async move {
                let mut rules = BTreeSet::new();
                while !stop.load(Ordering::Acquire) {
                    let reply = kept
                        .send("GET", &format!("/up/{}", done.fetch_add(1, Ordering::AcqRel)), &[], "")
                        .await;
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    rules.insert(reply.header("x-sideguard-rule"));
                }
                rules
            }));
        }
        load
    }

    /// Waits until so many further calls were made.
    async fn go_on(&self, calls: usize) {
        let goal = self.done.load(Ordering::Acquire) + calls;
        until("the load goes on", || self.done.load(Ordering::Acquire) >= goal).await;
    }

    /// Stops, and tells by which rules the calls were allowed.
    async fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Release);
        let mut rules = BTreeSet::new();
        for task in self.tasks {
            rules.extend(task.await.expect("no call fails"));
        }
        rules
    }
}

async fn ready() -> (Fake, Sidecar) {
    let fake = Fake::json("{}").await;
    let spec = format!(
        "  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n  breakers: {{agent: {{repeats: 0}}}}\n",
        fake.url()
    );
    let sidecar = Sidecar::start(&spec, &[("p.yaml", &policy("rule-0"))]);
    (fake, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_under_load_is_seen_whole_or_not_at_all() {
    let (_fake, sidecar) = ready().await;
    let load = Load::on(&sidecar).await;
    load.go_on(20).await;
    for number in 1..=8 {
        replace(&sidecar, &policy(&format!("rule-{number}")));
        // Half by the signal, half because the file has changed.
        if number % 2 == 0 {
            sidecar.signal("HUP");
        }
        metric_reaches(&sidecar, ACCEPTED, f64::from(number)).await;
        load.go_on(8).await;
    }
    let rules = load.stop().await;
    assert_eq!(rules.len(), 9, "each policy was in force for a while: {rules:?}");
    let intents = sidecar.recorded(|entry| entry["phase"] == "intent").await;
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let pairs: BTreeSet<_> =
        intents.iter().map(|entry| (text(&entry["policy_digest"]), text(&entry["rule"]))).collect();
    let digests: BTreeSet<_> = pairs.iter().map(|(digest, _)| digest).collect();
    assert_eq!((pairs.len(), digests.len()), (9, 9), "one digest, one rule: {pairs:#?}");
    let changes = sidecar.recorded(|entry| entry["code"] == "policy_changed").await;
    assert_eq!(changes.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_policy_changes_nothing_and_is_counted() {
    let (_fake, sidecar) = ready().await;
    let load = Load::on(&sidecar).await;
    let mut refused = 0.0;
    for bad in [
        "rules: [",
        "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec: {ruels: []}\n",
        "\u{0}",
        "kind: Nothing\n",
    ] {
        replace(&sidecar, bad);
        sidecar.signal("HUP");
        refused += 1.0;
        metric_reaches(&sidecar, REFUSED, refused).await;
        // The signal and the look at the file may both have come.
        refused = metric(&sidecar, REFUSED).await;
        load.go_on(10).await;
    }
    assert!(metric(&sidecar, ACCEPTED).await < 1.0);
    replace(&sidecar, &policy("mended"));
    metric_reaches(&sidecar, ACCEPTED, 1.0).await;
    load.go_on(10).await;
    let rules = load.stop().await;
    assert_eq!(rules.len(), 2, "the old one, then the mended one: {rules:?}");
}

/// A sidecar before an upstream whose answers the test writes.
async fn streaming() -> (Fake, Sidecar, mpsc::Receiver<mpsc::Sender<bytes::Bytes>>) {
    let (send, receive) = mpsc::channel(8);
    let fake = Fake::start(None, move |_| {
        let (parts, body) = fake::parts();
        send.try_send(parts).expect("room");
        fake::reply("text/event-stream", body)
    })
    .await;
    let spec = format!("  upstreams:\n    - {{name: up, baseUrl: \"{}\"}}\n", fake.url());
    let sidecar = Sidecar::start(&spec, &[("allow.yaml", ALLOW)]);
    (fake, sidecar, receive)
}

async fn next(response: &mut http::Response<hyper::body::Incoming>) -> Option<bytes::Bytes> {
    let frame =
        tokio::time::timeout(Duration::from_secs(10), response.frame()).await.expect("a part in time");
    frame.map(|frame| frame.expect("a part").into_data().expect("data"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_stream_ends_well_after_sigterm_and_nothing_new_begins() {
    let (_fake, mut sidecar, mut upstream) = streaming().await;
    let idle = Kept::open(&sidecar).await;
    let mut response = client::gateway_open(&sidecar, "GET", "/up/stream", &[], "").await;
    let parts = upstream.recv().await.expect("a request");
    parts.send("data: 1\n\n".into()).await.expect("a listener");
    assert_eq!(next(&mut response).await.expect("a part"), "data: 1\n\n");
    sidecar.signal("TERM");
    let mut refused = false;
    for _ in 0..1_000 {
        refused = TcpStream::connect(sidecar.outbound()).await.is_err();
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(refused, "new connections are refused");
    assert!(sidecar.ended().is_none(), "it waits for the stream");
    for number in 2..20 {
        let event = format!("data: {number}\n\n");
        parts.send(event.clone().into()).await.expect("a listener");
        assert_eq!(next(&mut response).await.expect("a part"), event);
    }
    drop(parts);
    assert!(next(&mut response).await.is_none(), "the stream ends as it should");
    let (sidecar, code) = end(sidecar).await;
    assert_eq!(code, Some(0));
    assert!(!sidecar.state().join("ports.json").exists());
    let last = sidecar.record().pop().expect("an entry");
    let stopped = sidecar.record().iter().any(|entry| entry["code"] == "stop");
    assert!(stopped, "the record is closed: {last}");
    drop(idle);
}

/// Waits until the sidecar has ended, at most 10 s; its exit code.
async fn end(mut sidecar: Sidecar) -> (Sidecar, Option<i32>) {
    let ended = tokio::task::spawn_blocking(move || {
        let status = (0..1_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            sidecar.ended()
        });
        (sidecar, status.and_then(|status| status.code()))
    });
    ended.await.expect("the process is watched")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_means_now() {
    let (_fake, mut sidecar, mut upstream) = streaming().await;
    let mut response = client::gateway_open(&sidecar, "GET", "/up/stream", &[], "").await;
    let parts = upstream.recv().await.expect("a request");
    parts.send("data: 1\n\n".into()).await.expect("a listener");
    assert_eq!(next(&mut response).await.expect("a part"), "data: 1\n\n");
    sidecar.signal("TERM");
    harness::until("it drains", || std::net::TcpStream::connect(sidecar.outbound()).is_err()).await;
    assert!(sidecar.ended().is_none(), "it waits for the stream");
    sidecar.signal("TERM");
    let (sidecar, code) = end(sidecar).await;
    assert_eq!(code, Some(0));
    assert!(sidecar.record().iter().any(|entry| entry["code"] == "stop"), "the record is closed");
    drop(parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_sidecar_ends_at_once_with_0() {
    for signal in ["TERM", "INT"] {
        let (_fake, mut sidecar) = ready().await;
        let mut idle = Kept::open(&sidecar).await;
        assert_eq!(idle.send("GET", "/up/x", &[], "").await.status, 200);
        sidecar.signal(signal);
        let status = tokio::task::spawn_blocking(move || {
            (0..300).find_map(|_| {
                std::thread::sleep(Duration::from_millis(10));
                sidecar.ended()
            })
        });
        let status = status.await.expect("the process is watched");
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_needs_the_token_and_tells_that_it_is_not_ready() {
    let (_fake, mut sidecar, mut upstream) = streaming().await;
    let mut response = client::gateway_open(&sidecar, "GET", "/up/stream", &[], "").await;
    let parts = upstream.recv().await.expect("a request");
    let token = fs::read_to_string(sidecar.state().join("admin.token")).expect("the token");
    let longer = format!("Bearer {}x", token.trim());
    for wrong in [
        &[][..],
        &[("authorization", "Bearer wrong")],
        &[("authorization", token.trim())],
        &[("authorization", longer.as_str())],
    ] {
        for path in ["/drain", "/reload"] {
            assert_eq!(client::administer(&sidecar, "POST", path, wrong).await.status, 401);
        }
    }
    assert_eq!(client::administer(&sidecar, "GET", "/drain", &[]).await.status, 405);
    assert_eq!(client::admin(&sidecar, "/readyz").await.status, 200);
    let bearer = format!("Bearer {}", token.trim());
    assert_eq!(
        client::administer(&sidecar, "POST", "/drain", &[("authorization", &bearer)]).await.status,
        202
    );
    let ready = client::admin(&sidecar, "/readyz").await;
    assert_eq!((ready.status, ready.text().trim()), (503, "draining"));
    assert_eq!(client::admin(&sidecar, "/healthz").await.status, 200, "alive while it drains");
    parts.send("data: end\n\n".into()).await.expect("a listener");
    assert_eq!(next(&mut response).await.expect("a part"), "data: end\n\n");
    drop(parts);
    assert!(next(&mut response).await.is_none());
    let status = tokio::task::spawn_blocking(move || {
        (0..1_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            sidecar.ended()
        })
    });
    assert_eq!(status.await.expect("the process is watched").and_then(|status| status.code()), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_tells_of_health_and_hides_secrets() {
    let spec = "  upstreams:\n    - name: crm\n      baseUrl: \"http://127.0.0.1:9\"\n      \
                credential: {header: x-api-key, value: \"canary-credential\"}\n";
    let sidecar = Sidecar::start(spec, &[("allow.yaml", ALLOW)]);
    assert_eq!(client::admin(&sidecar, "/healthz").await.status, 200);
    assert_eq!(client::admin(&sidecar, "/readyz").await.status, 200);
    assert!(client::admin(&sidecar, "/version").await.json()["version"].is_string());
    let config = client::admin(&sidecar, "/config").await;
    assert_eq!(config.json()["upstreams"][0]["name"], "crm");
    assert_eq!(client::admin(&sidecar, "/nothing").await.status, 404);
    assert_eq!(client::administer(&sidecar, "DELETE", "/healthz", &[]).await.status, 405);
    let token = fs::read_to_string(sidecar.state().join("admin.token")).expect("the token");
    for path in ["/healthz", "/readyz", "/config", "/metrics", "/status", "/version"] {
        let text = client::admin(&sidecar, path).await.text();
        assert!(!text.contains("canary") && !text.contains(token.trim()), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_in_a_form_that_prometheus_reads_and_count_what_happens() {
    let (_fake, sidecar) = ready().await;
    for _ in 0..3 {
        client::gateway(&sidecar, "GET", "/up/x", &[], "").await;
    }
    client::gateway(&sidecar, "POST", "/up/x", &[("x-sideguard-decision", "allow")], "x").await;
    client::gateway(&sidecar, "GET", "/nobody/x", &[], "").await;
    let reply = client::admin(&sidecar, "/metrics").await;
    assert!(reply.header("content-type").starts_with("application/openmetrics-text"));
    let text = reply.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("sideguard_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        if let Some((_, labels)) = name.split_once('{') {
            let labels = labels.strip_suffix('}').expect("an end of labels");
            assert!(labels.split("\",").all(|label| label.contains("=\"")), "{line}");
        }
    }
    let value = |start: &str| {
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    assert_eq!(value("sideguard_decisions_total{point=\"tool.call\",decision=\"allow\"}"), 3.0, "{text}");
    assert_eq!(value("sideguard_refusals_total{code=\"policy_denied\"}"), 1.0, "{text}");
    assert_eq!(value("sideguard_refusals_total{code=\"unjudgeable\"}"), 1.0, "{text}");
    assert_eq!(value("sideguard_stripped_headers_total"), 1.0, "{text}");
    assert_eq!(value("sideguard_call_duration_seconds_count"), 3.0, "{text}");
}
