//! The way to a control service: where it is, whom it shows itself to be, what it may answer.

use std::path::Path;

use harness::command::{command, ran, sideguard};
use harness::control::{Control, KEY, sidecar};
use harness::fake::{Fake, reply, whole};
use harness::tls::Authority;
use serde_json::json;
use sideguard_client::{Client, ClientError};
use sideguard_runtime::secret::Secret;
use sideguard_types::control::Enrol;
use sideguard_types::control::feed::Has;

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_does_not_lead_to_control_is_told_with_what_to_do() {
    let state = tempfile::tempdir().expect("a directory");
    let run = async |arguments: &[&str]| sideguard(state.path(), arguments).await;
    let unknown = run(&["get", "policies"]).await;
    assert_eq!(unknown.code, Some(64));
    assert!(unknown.err.contains("hint: start one with `sideguard control`"), "{}", unknown.err);
    let away = run(&["get", "policies", "--control", "http://127.0.0.1:1"]).await;
    assert_eq!(away.code, Some(125));
    assert!(
        away.err.starts_with("sideguard: cannot reach control at `http://127.0.0.1:1`: "),
        "{}",
        away.err
    );
    assert_eq!((away.err.lines().count(), away.out.as_str()), (2, ""));
    let nonsense = run(&["get", "policies", "--control", "nonsense"]).await;
    assert_eq!(nonsense.code, Some(64), "{}", nonsense.err);
    let other = Fake::start(None, |_| reply("text/html", whole("<html>"))).await;
    let other = run(&["get", "policies", "--control", &other.url()]).await;
    assert!(
        other.code == Some(125) && other.err.contains("does not answer as a control service"),
        "{}",
        other.err
    );
    let control = Control::start(None).await;
    let keyless = run(&["get", "policies", "--control", &control.url()]).await;
    assert_eq!(keyless.code, Some(1));
    assert!(keyless.err.contains("hint: give a key with `--key-file FILE`"), "{}", keyless.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn address_and_key_come_from_flags_or_the_environment() {
    let control = Control::start(None).await;
    let state = tempfile::tempdir().expect("a directory");
    let file = state.path().join("key");
    std::fs::write(&file, KEY).expect("a file");
    let file = file.display().to_string();
    let flags = ["get", "kills", "-o", "json", "--control", &control.url(), "--key-file", &file];
    assert_eq!(sideguard(state.path(), &flags).await.code, Some(0));
    for (name, value) in [("SIDEGUARD_KEY", KEY), ("SIDEGUARD_KEY_FILE", &file)] {
        let mut command = command(state.path(), &["get", "kills", "-o", "json"]);
        command.env("SIDEGUARD_CONTROL_URL", control.url()).env(name, value);
        let ran = ran(command).await;
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_control_must_show_a_certificate_of_the_roots() {
    let (own, other) = (Authority::new(), Authority::new());
    let control = Control::start(Some(own.server(&["localhost"], &["http/1.1"]))).await;
    let url = format!("https://localhost:{}", control.fake().address().port());
    let state = tempfile::tempdir().expect("a directory");
    let run = async |roots: &Path| {
        let roots = roots.display().to_string();
        let mut command = command(state.path(), &["get", "kills", "--control", &url, "--ca-file", &roots]);
        command.env("SIDEGUARD_KEY", KEY);
        ran(command).await
    };
    let good = run(own.path()).await;
    assert_eq!(good.code, Some(0), "{}", good.err);
    let bad = run(other.path()).await;
    assert!(bad.code == Some(125) && bad.err.contains("certificate"), "{}", bad.err);
    assert_eq!(control.fake().seen().len(), 1, "the key has not been told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_enrols_is_fed_and_reports_over_kept_connections() {
    let control = Control::start(None).await;
    let client = Client::new(&control.url(), None, None).expect("a client");
    let refused = client.feed(&Has::default()).await;
    assert!(matches!(&refused, Err(ClientError::Refused(problem)) if problem.status == 401), "{refused:?}");
    let enrol = Enrol { token: "sgt_1".to_owned(), sidecar: "sc-1".to_owned(), key: None };
    let enrolled = client.enrol(&enrol).await.expect("a key");
    let client = client.with_key(&Secret::new(enrolled.key)).expect("a client");
    let feed = client.feed(&Has::default()).await.expect("a feed");
    assert_eq!((feed.generation, feed.kills.map(|kills| kills.number)), (None, Some(0)));
    for _ in 0..20 {
        client.report(&sidecar(&json!({ "id": "sc-1" })).report).await.expect("a report");
    }
    // A connection goes back to the pool in its own time, so now and then one more is opened.
    assert!(control.fake().connections().accepted() < control.fake().seen().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_not_taken() {
    let endless = Fake::start(None, |_| {
        let (send, body) = harness::fake::parts();
        sideguard_runtime::tasks::spawn("endless", async move {
            while send.send(bytes::Bytes::from(vec![b' '; 1 << 20])).await.is_ok() {}
        });
        reply("application/json", body)
    });
    let endless = endless.await;
    let client = Client::new(&endless.url(), None, None).expect("a client");
    let answer = client.kills().await;
    let long = matches!(&answer, Err(ClientError::Protocol { reason, .. }) if reason.contains("64 MiB"));
    assert!(long, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_variables_are_not_taken_for_the_proxys_configuration() {
    let state = tempfile::tempdir().expect("a directory");
    let file = state.path().join("proxy.yaml");
    let text = "apiVersion: sideguard.dev/v1\nkind: Proxy\nmetadata: {name: p}\nspec: {refusals: {budgetStatus: 999}}\n";
    std::fs::write(&file, text).expect("a file");
    let mut command = command(state.path(), &["proxy", "-c", &file.display().to_string()]);
    for name in ["SIDEGUARD_CONTROL_URL", "SIDEGUARD_KEY", "SIDEGUARD_KEY_FILE", "SIDEGUARD_CA_FILE"] {
        command.env(name, "canary");
    }
    let ran = ran(command).await;
    // The value is looked at once all keys have been read.
    assert!(ran.code == Some(64) && ran.err.contains("`refusals.budgetStatus` must be"), "{}", ran.err);
    assert!(!ran.err.contains("canary"), "{}", ran.err);
}
