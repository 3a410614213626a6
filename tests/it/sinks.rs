//! Sinks: every entry of the record reaches every place at least once and in order, whatever becomes of control; and places
//! that take nothing are waited for.

mod places;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::client;
use harness::{Fake, Service, Sidecar};
use serde_json::Value;

use places::{Hook, Logs, Server};

const POLICY: &str = "\
apiVersion: sideguard.dev/v1
kind: Policy
metadata: {name: p}
spec:
  default_decision: allow
  rules: [{id: no-delete, match: {methods: [DELETE]}, decision: deny, reason: kept}]
";

fn sink(name: &str, spec: &str) -> String {
    format!("apiVersion: sideguard.dev/v1\nkind: Sink\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

async fn call(sidecar: &Sidecar, method: &str, to: &Fake) -> u16 {
    let url = format!("{}/{}", to.url(), sideguard_runtime::id::token(8));
    client::absolute(sidecar, method, &url, &[], "").await.status
}

/// A service with a policy in force, a sidecar that has it, and a place for its calls.
async fn fleet() -> (Service, Sidecar, Fake) {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(POLICY).await;
    let sidecar = service.sidecar("reader", "").await;
    service.all_stand(1, "current").await;
    (service, sidecar, tool)
}

fn hook(service: &Service, name: &str, url: &str, more: &str) -> String {
    let secret = service.dir().join("secret");
    std::fs::write(&secret, format!("{}\n", places::SECRET)).expect("a file");
    let spec = format!("  webhook: {{url: \"{url}\", secret: {{file: \"{}\"}}}}\n{more}", secret.display());
    sink(name, &spec)
}

/// How a sink stands.
async fn standing(service: &Service, name: &str) -> Value {
    service.json(&["get", "sink", name]).await["status"].clone()
}

/// Waits until a place has every record that the sidecar has written so far.
async fn has_all(what: &str, sidecar: &Sidecar, seen: impl Fn() -> Vec<u64>) {
    let written: BTreeSet<u64> = sidecar.record().iter().filter_map(|entry| entry["seq"].as_u64()).collect();
    for _ in 0..1_500 {
        let got: BTreeSet<u64> = seen().into_iter().collect();
        if written.is_subset(&got) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let got: BTreeSet<u64> = seen().into_iter().collect();
    panic!("{what} lacks {:?}", written.difference(&got).collect::<Vec<_>>());
}

/// Positions come in order, but for what comes again.
fn in_order(what: &str, positions: &[u64]) {
    let mut seen = BTreeSet::new();
    let mut last = 0;
    for position in positions {
        if seen.insert(*position) {
            assert!(*position > last, "{what}: {position} first comes after {last}");
            last = *position;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_gets_every_entry_in_order_across_a_kill_of_control() {
    let (mut service, sidecar, tool) = fleet().await;
    let (webhook, collector, server) = (Hook::start().await, Logs::start().await, Server::tcp().await);
    let file = service.dir().join("out/record.ndjson");
    let start = "  fromStart: true\n";
    let all = [
        sink("file", &format!("  ndjson: {{file: \"{}\"}}\n{start}", file.display())),
        hook(&service, "hook", &webhook.url(), start),
        sink(
            "collector",
            &format!("  otlp: {{endpoint: \"{}\", headers: {{x-team: a}}}}\n{start}", collector.url()),
        ),
        sink("server", &format!("  syslog: {{address: \"tcp://{}\"}}\n{start}", server.address())),
    ];
    service.apply(&all.join("---\n")).await;
    let lines = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let entries = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let position = |line: &str| {
            let entry: Value = serde_json::from_str(line).expect("JSON");
            entry["position"].as_u64().expect("a number")
        };
        entries.map(position).collect::<Vec<u64>>()
    };
    for round in 0..3 {
        for _ in 0..15 {
            assert_eq!(call(&sidecar, "GET", &tool).await, 200);
        }
        if round < 2 {
            // In the middle of whatever it does.
            service = service.again();
        }
    }
    has_all("the file", &sidecar, lines).await;
    has_all("the webhook", &sidecar, || webhook.positions()).await;
    has_all("the collector", &sidecar, || collector.positions()).await;
    has_all("the syslog server", &sidecar, || server.positions()).await;
    in_order("the file", &lines());
    in_order("the webhook", &webhook.positions());
    in_order("the collector", &collector.positions());
    in_order("the syslog server", &server.positions());
    assert!(webhook.all_signed(), "every batch carries a signature that fits");
    assert_eq!(collector.header("x-team"), "a");
    service.all_stand(1, "current").await;
    let generation = std::fs::read_to_string(sidecar.state().join("generation.json")).expect("a file");
    assert!(!generation.contains("kind: Sink"), "sidecars have nothing to do with sinks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_takes_nothing_is_waited_for_and_seen() {
    let (service, sidecar, tool) = fleet().await;
    let webhook = Hook::start().await;
    webhook.answers(503);
    service.apply(&hook(&service, "hook", &webhook.url(), "  fromStart: true\n")).await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    harness::until("it is tried", || webhook.tries() > 0).await;
    for _ in 0..200 {
        let told = standing(&service, "hook").await;
        if told["error"].as_str().is_some_and(|error| error.contains("503"))
            && told["waiting"].as_u64() > Some(0)
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = standing(&service, "hook").await;
    assert_eq!((told["delivered"].as_u64(), told["to"].as_str()), (Some(0), Some("webhook")), "{told:#}");
    assert!(told["error"].as_str().is_some_and(|error| error.contains("503")), "{told:#}");
    webhook.answers(200);
    has_all("the webhook", &sidecar, || webhook.positions()).await;
    for _ in 0..200 {
        let told = standing(&service, "hook").await;
        if told["waiting"] == 0 && told.get("error").is_none() && told["delivered"].as_u64() > Some(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:#}", standing(&service, "hook").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_and_ocsf_give_denials_alone_in_the_schemas_form() {
    let (service, sidecar, tool) = fleet().await;
    let webhook = Hook::start().await;
    let more = "  format: ocsf\n  fromStart: true\n  filter: {decisions: [deny], agents: [\"rea*\"]}\n";
    service.apply(&hook(&service, "siem", &webhook.url(), more)).await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    assert_eq!(call(&sidecar, "DELETE", &tool).await, 403);
    harness::until("the denial is there", || !webhook.entries().is_empty()).await;
    let entries = webhook.entries();
    let event = &entries[0];
    assert_eq!(entries.len(), 1, "{entries:#?}");
    assert_eq!((&event["class_uid"], &event["type_uid"]), (&6003.into(), &600_304.into()));
    assert_eq!(
        (&event["disposition"], &event["actor"]["user"]["name"]),
        (&"Blocked".into(), &"reader".into())
    );
    assert_eq!(event["policy"]["name"], "p/no-delete");
    assert_eq!(event["metadata"]["tenant_uid"], "default");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_udp_server_gets_messages_and_a_sink_of_a_tenant_only_its_own() {
    let (service, sidecar, tool) = fleet().await;
    let other = service.sidecar("acme/writer", "").await;
    let (server, webhook) = (Server::udp().await, Hook::start().await);
    let udp =
        sink("udp", &format!("  syslog: {{address: \"udp://{}\"}}\n  fromStart: true\n", server.address()));
    let acme = hook(&service, "acme", &webhook.url(), "  fromStart: true\n")
        .replace("{name: acme}", "{name: acme, tenant: acme}");
    service.apply(&format!("{udp}---\n{acme}")).await;
    service.all_stand(2, "current").await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    assert_eq!(call(&other, "GET", &tool).await, 200);
    harness::until("both agents are told of", || {
        let messages = server.messages();
        ["agent=\"reader\"", "agent=\"writer\""]
            .iter()
            .all(|agent| messages.iter().any(|one| one.contains(agent)))
    })
    .await;
    let messages = server.messages();
    assert!(messages.iter().all(|one| one.starts_with('<') && one.contains(">1 20")), "{messages:#?}");
    harness::until("the tenant's are there", || {
        webhook.entries().iter().any(|entry| entry["record"]["agent"] == "writer")
    })
    .await;
    let entries = webhook.entries();
    assert!(entries.iter().all(|entry| entry["tenant"] == "acme"), "{entries:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_leads_nowhere_is_refused_with_its_place() {
    let service = Service::start();
    let wrong = [
        ("  fromStart: true\n", "leads to exactly one place"),
        ("  syslog: {address: \"host:514\"}\n", "is not the address of a syslog server"),
        ("  webhook: {url: \"ftp://x\", secret: {env: X}}\n", "is not an address that can be posted to"),
        ("  webhook: {url: \"https://x.example\", secret: {}}\n", "the secret stands in one place"),
        ("  ndjson: {file: a, rotate: 1}\n", "rotate"),
    ];
    for (spec, told) in wrong {
        std::fs::write(service.dir().join("sink.yaml"), sink("s", spec)).expect("a file");
        let ran = service.run(&["apply", "-f", "sink.yaml"]).await;
        assert_ne!(ran.code, Some(0), "{spec}");
        let text = format!("{}{}", ran.out, ran.err);
        assert!(text.contains(told), "{spec}: {text}");
    }
}
