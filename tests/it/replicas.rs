//! Several control services on one store: it does not matter which one is asked, any of them may die, and what stands
//! between them and a sidecar can delay policy but not forge, hide or turn it back.

use std::time::Duration;

use harness::client;
use harness::relay::Line;
use harness::sidecar::ALLOW;
use harness::{Backend, Fake, Relay, Service, Sidecar};
use serde_json::Value;
use sideguard_client::{Client, ClientError};
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::secret::Secret;
use sideguard_types::control::TokenRequest;

const NO_POSTS: &str = "\
apiVersion: sideguard.dev/v1
kind: Policy
metadata: {name: allow}
spec:
  default_decision: allow
  rules: [{id: no-posts, match: {methods: [POST]}, decision: deny, reason: not now}]
";

async fn call(sidecar: &Sidecar, method: &str, to: &Fake) -> u16 {
    let url = format!("{}/{}", to.url(), sideguard_runtime::id::token(8));
    client::absolute(sidecar, method, &url, &[], "").await.status
}

async fn answers(sidecar: &Sidecar, method: &str, to: &Fake, wanted: u16, within: Duration) -> Duration {
    let since = Stopwatch::start();
    loop {
        let status = call(sidecar, method, to).await;
        if status == wanted {
            return since.elapsed();
        }
        assert!(since.elapsed() < within, "{status}, not {wanted} within {within:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn it_does_not_matter_which_replica_is_asked() {
    let one = Service::on(Backend::Shared);
    let (other, tool) = (one.replica(), Fake::json("{}").await);
    let sidecar = other.sidecar("reader", "").await;
    one.apply(ALLOW).await;
    answers(&sidecar, "POST", &tool, 200, SOON).await;
    one.apply(NO_POSTS).await;
    let took = answers(&sidecar, "POST", &tool, 403, SOON).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    one.all_stand(1, "current").await;
    other.all_stand(1, "current").await;
    one.out(&["kill", "agent/reader"]).await;
    let took = answers(&sidecar, "GET", &tool, 403, SOON).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_later_replica_has_an_operator_of_its_own_name() {
    let one = Service::on(Backend::Shared);
    let other = one.replica();
    assert_ne!(one.key(), other.key());
    one.apply(ALLOW).await;
    other.apply(NO_POSTS).await;
    let history = one.json(&["history"]).await;
    let by: Vec<&str> =
        history.as_array().expect("a list").iter().filter_map(|one| one["by"].as_str()).collect();
    assert_eq!(by[1], "operator");
    assert!(by[0].starts_with("operator@"), "{by:?}");
    assert!(other.log().contains("made a further key"), "{}", other.log());
    assert!(!one.log().contains("made a further key"), "{}", one.log());
    // Whoever starts again has the key that it had.
    let key = other.key();
    assert_eq!(other.again().key(), key);
}

#[tokio::test]
async fn sidecars_go_over_to_another_replica_when_theirs_dies() {
    let mut one = Service::on(Backend::Shared);
    let (mut other, tool) = (one.replica(), Fake::json("{}").await);
    one.apply(ALLOW).await;
    let both = format!("{},{}", one.url(), other.url());
    let listed = one.sidecar_at(&both, ", maxStaleWrites: 3s", "reader", "").await;
    let relay = Relay::start(&[one.url(), other.url()]).await;
    let balanced = one.sidecar_at(&relay.url(), ", maxStaleWrites: 3s", "writer", "").await;
    for sidecar in [&listed, &balanced] {
        answers(sidecar, "POST", &tool, 200, SOON).await;
    }
    one.kill();
    other.apply(NO_POSTS).await;
    for sidecar in [&listed, &balanced] {
        let took = answers(sidecar, "POST", &tool, 403, SOON).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    let one = one.again();
    other.kill();
    one.apply(ALLOW).await;
    for sidecar in [&listed, &balanced] {
        answers(sidecar, "POST", &tool, 200, Duration::from_secs(3)).await;
    }
    one.all_stand(2, "current").await;
}

#[tokio::test]
async fn where_a_stream_does_not_pass_a_sidecar_asks() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    let relay = Relay::start(&[service.url()]).await;
    relay.set(Line::Buffering);
    service.apply(ALLOW).await;
    let sidecar = service.sidecar_at(&relay.url(), ", maxStaleWrites: 8s", "reader", "").await;
    answers(&sidecar, "POST", &tool, 200, SOON).await;
    assert!(sidecar.log().contains("asking instead"), "{}", sidecar.log());
    service.apply(NO_POSTS).await;
    let took = answers(&sidecar, "POST", &tool, 403, SOON).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    service.all_stand(1, "current").await;
}

#[tokio::test]
async fn a_line_that_is_dead_without_a_word_is_noticed() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    let relay = Relay::start(&[service.url()]).await;
    service.apply(ALLOW).await;
    let sidecar = service.sidecar_at(&relay.url(), ", maxStale: 1h, maxStaleWrites: 7s", "reader", "").await;
    answers(&sidecar, "POST", &tool, 200, SOON).await;
    relay.set(Line::Silent);
    // Connections hold, and nobody says anything: what is not heard is not believed.
    answers(&sidecar, "POST", &tool, 503, Duration::from_secs(15)).await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    service.apply(NO_POSTS).await;
    relay.set(Line::Whole);
    answers(&sidecar, "POST", &tool, 403, Duration::from_secs(40)).await;
}

#[tokio::test]
async fn a_store_that_was_put_back_does_not_turn_policy_back() {
    let (mut service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    service.terminate();
    let (store, saved) = (service.state().join("control"), service.dir().join("saved"));
    copy(&store, &saved);
    let mut service = service.again();
    let sidecar = service.sidecar("reader", "").await;
    service.apply(NO_POSTS).await;
    answers(&sidecar, "POST", &tool, 403, SOON).await;
    service.terminate();
    std::fs::remove_dir_all(&store).expect("a removal");
    copy(&saved, &store);
    let service = service.again();
    // The key of the sidecar was made later than the copy: it enrols no more, and goes on by what it has.
    answers(&sidecar, "POST", &tool, 403, SOON).await;
    drop(service);

    // One whose key is in the copy sees that control has an older generation, and says so.
    let mut service = Service::start();
    let sidecar = service.sidecar("reader", "").await;
    service.apply(ALLOW).await;
    answers(&sidecar, "POST", &tool, 200, SOON).await;
    service.terminate();
    let (store, saved) = (service.state().join("control"), service.dir().join("saved"));
    copy(&store, &saved);
    let mut service = service.again();
    service.apply(NO_POSTS).await;
    answers(&sidecar, "POST", &tool, 403, SOON).await;
    service.terminate();
    std::fs::remove_dir_all(&store).expect("a removal");
    copy(&saved, &store);
    let service = service.again();
    service.all_stand(1, "refused").await;
    assert_eq!(call(&sidecar, "POST", &tool).await, 403);
    // Another generation of the number that it has is not the one that it has.
    service.apply(&ALLOW.replace("name: allow", "name: other")).await;
    service.all_stand(1, "refused").await;
    assert_eq!(call(&sidecar, "POST", &tool).await, 403);
    // A kill switch acts all the same, and the next generation is newer than all.
    service.out(&["kill", "agent/reader"]).await;
    answers(&sidecar, "GET", &tool, 403, SOON).await;
    service.out(&["unkill", "agent/reader"]).await;
    service.apply(&ALLOW.replace("name: allow", "name: third")).await;
    answers(&sidecar, "POST", &tool, 200, SOON).await;
    service.all_stand(1, "current").await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

#[tokio::test]
async fn whoever_ends_properly_is_not_lost() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let mut sidecar = service.sidecar("reader", "").await;
    answers(&sidecar, "GET", &tool, 200, SOON).await;
    service.all_stand(1, "current").await;
    let _ = sidecar.terminate();
    service.all_stand(0, "gone").await;
    // Its state holds its key still: it comes back as the same.
    let sidecar = sidecar.again();
    answers(&sidecar, "POST", &tool, 200, SOON).await;
    service.all_stand(1, "current").await;
}

#[tokio::test]
async fn a_run_that_ends_leaves_no_key_behind() {
    let service = Service::start();
    service.apply(ALLOW).await;
    let state = service.dir().join("own");
    let mut command =
        harness::command::command(&state, &["run", "--isolate", "env", "--control", service.url()]);
    command.env("SIDEGUARD_KEY", service.key());
    command.args(["--", "sh", "-c", "cat \"$SIDEGUARD_STATE\"/runs/*/control.json; sleep 1"]);
    let ran = harness::command::ran(command).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    service.all_stand(0, "gone").await;
    let key = kept_key(&state);
    let client = Client::new(service.url(), Some(Secret::new(key)), None).expect("a client");
    let answer = client.leave(&sideguard_types::control::feed::Leave::default()).await;
    assert!(matches!(&answer, Err(ClientError::Refused(problem)) if problem.status == 401), "{answer:?}");
}

/// The key that the one run under a state directory has kept.
fn kept_key(state: &std::path::Path) -> String {
    let mut runs = std::fs::read_dir(state.join("runs")).expect("runs");
    let run = runs.next().expect("a run").expect("an entry").path();
    let text = std::fs::read_to_string(run.join("control.json")).expect("an identity");
    let identity: Value = serde_json::from_str(&text).expect("JSON");
    identity["key"].as_str().expect("a key").to_owned()
}

#[tokio::test]
async fn kill_switches_hold_without_control_and_after_a_restart() {
    let (mut service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let reader = service.sidecar("reader", "").await;
    let writer = service.sidecar("writer", "").await;
    for sidecar in [&reader, &writer] {
        answers(sidecar, "GET", &tool, 200, SOON).await;
    }
    service.out(&["kill", "agent/reader"]).await;
    answers(&reader, "GET", &tool, 403, SOON).await;
    service.kill();
    // The local kill file needs no control.
    std::fs::write(writer.state().join("kill"), "").expect("a file");
    let took = answers(&writer, "GET", &tool, 403, SOON).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    std::fs::remove_file(writer.state().join("kill")).expect("a removal");
    answers(&writer, "GET", &tool, 200, SOON).await;
    // A sidecar that starts again without control has not forgotten who was stopped.
    let reader = reader.again();
    assert_eq!(call(&reader, "GET", &tool).await, 403);
}

#[tokio::test]
async fn a_sidecars_id_reaches_no_other_tenants_entry() {
    let service = Service::start();
    let operator = Client::new(service.url(), Some(Secret::new(service.key())), None).expect("a client");
    for tenant in ["acme", "umbrella"] {
        let asked = TokenRequest { tenant: Some(tenant.to_owned()), agent: None, seconds: None };
        let token = operator.token(&asked).await.expect("a token").token;
        let enrol = sideguard_types::control::Enrol { token, sidecar: "same".to_owned(), key: None };
        let enrolled = operator.enrol(&enrol).await.expect("a key");
        let sidecar = operator.with_key(&Secret::new(enrolled.key)).expect("a client");
        let report =
            harness::control::sidecar(&serde_json::json!({ "id": "same", "agents": [tenant] })).report;
        sidecar.report(&report).await.expect("a report");
    }
    let all = operator.sidecars(None).await.expect("sidecars");
    let both: Vec<_> = all.iter().map(|one| (one.tenant.as_str(), one.report.agents.concat())).collect();
    assert_eq!(both, [("acme", "acme".to_owned()), ("umbrella", "umbrella".to_owned())]);
    assert_eq!(operator.sidecars(Some("acme")).await.expect("sidecars").len(), 1);
}

#[tokio::test]
async fn top_tells_what_agents_do() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(NO_POSTS).await;
    let sidecar = service.sidecar("acme/reader", "").await;
    answers(&sidecar, "GET", &tool, 200, SOON).await;
    let since = Stopwatch::start();
    loop {
        call(&sidecar, "GET", &tool).await;
        call(&sidecar, "POST", &tool).await;
        let top = service.json(&["top"]).await;
        let line = &top["items"][0];
        if line["callsPerSecond"].as_f64().is_some_and(|rate| rate > 0.0) && line["denied"] != 0 {
            assert_eq!((&line["agent"], &line["tenant"]), (&"reader".into(), &"acme".into()));
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{top:#}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let text = service.out(&["top"]).await;
    assert!(text.starts_with("TENANT") && text.contains("reader"), "{text}");
}

#[tokio::test]
async fn doctor_looks_at_the_servers_and_says_how_to_mend_them() {
    let service = Service::on(Backend::Shared);
    let config = service.dir().join("control.yaml");
    let config = config.to_str().expect("a path");
    let ran = service.run(&["doctor", "-c", config, "--control", service.url(), "-o", "json"]).await;
    let findings: Value = serde_json::from_str(&ran.out).expect("JSON");
    let of = |check: &str| {
        let all = findings.as_array().expect("a list").iter();
        all.filter(|one| one["check"] == check).cloned().collect::<Vec<_>>()
    };
    for check in ["redis", "redis single", "redis durable", "redis memory", "nats", "jetstream", "control"] {
        assert_eq!(of(check).len(), 1, "{check}: {findings:#}");
        assert_eq!(of(check)[0]["state"], "ok", "{findings:#}");
    }
    let away = ["doctor", "--redis", "redis://127.0.0.1:1", "--nats", "nats://127.0.0.1:1"];
    let ran = service.run(&[&away[..], &["--control", "http://127.0.0.1:1", "-o", "json"]].concat()).await;
    assert_eq!(ran.code, Some(1), "{}", ran.out);
    let findings: Value = serde_json::from_str(&ran.out).expect("JSON");
    for check in ["redis", "nats", "control"] {
        let found = findings.as_array().expect("a list").iter().find(|one| one["check"] == check);
        let found = found.expect("a finding");
        assert!(found["state"] == "failed" && found["mend"].is_string(), "{found:#}");
    }
}

#[tokio::test]
async fn up_shares_redis_and_nats_with_other_replicas() {
    let (redis, nats) = harness::servers::SERVERS.urls();
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    let servers = ["--redis", &redis, "--nats", &nats, "--namespace", "up"];
    let ports = ["--control", "127.0.0.1:0", "--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut command = harness::command::command(&state, &[&["up"], &servers[..], &ports[..]].concat());
    let mut child = command.spawn().expect("a start");
    let since = Stopwatch::start();
    while !std::fs::read_to_string(state.join("ports.json")).is_ok_and(|ports| ports.contains("outbound")) {
        assert!(since.elapsed() < Duration::from_secs(20), "it does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let store = format!("  store: {{redis: \"{redis}\", nats: \"{nats}\", namespace: up}}\n");
    let other = Service::with(&store);
    other.all_stand(1, "current").await;
    let policies = other.json(&["get", "policies"]).await;
    assert!(!policies["items"].as_array().expect("a list").is_empty(), "the starter policy");
    let sidecars = other.json(&["get", "sidecars"]).await;
    assert_eq!(sidecars["items"][0]["agents"][0], "local");
    let id = child.id().expect("it runs").to_string();
    let sent = std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
    assert!(sent.success() && child.wait().await.expect("an end").success());
    other.all_stand(0, "gone").await;
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls() {
    let (redis, _) = harness::servers::SERVERS.urls();
    let plain = redis.trim_start_matches("redis://").trim_end_matches("/0").to_owned();
    let authority = harness::tls::Authority::new();
    let tls = tokio_rustls::TlsAcceptor::from(authority.server(&["localhost"], &[]));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let _relay = sideguard_runtime::tasks::Owned::new(&sideguard_runtime::tasks::spawn("tls", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (tls, plain) = (tls.clone(), plain.clone());
            sideguard_runtime::tasks::spawn("redis", async move {
                // Whoever does not trust the certificate goes away.
                let Ok(mut from) = tls.accept(tcp).await else { return };
                let mut to = tokio::net::TcpStream::connect(plain).await.expect("redis");
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    }));
    let url = format!("rediss://localhost:{port}/0");
    let dir = tempfile::tempdir().expect("a directory");
    for (roots, state) in [(Some(authority.path()), "ok"), (None, "failed")] {
        let mut command = harness::command::command(dir.path(), &["doctor", "--redis", &url, "-o", "json"]);
        if let Some(roots) = roots {
            command.env("SSL_CERT_FILE", roots);
        }
        let ran = harness::command::ran(command).await;
        let findings: Value = serde_json::from_str(&ran.out).expect("JSON");
        let found = findings.as_array().expect("a list").iter().find(|one| one["check"] == "redis");
        assert_eq!(found.expect("a finding")["state"], state, "{findings:#}");
    }
}
