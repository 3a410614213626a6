//! Sidecars that belong to a fleet: what control has in force, they judge by; what it stops, they stop; when it is away,
//! they go on as long as they may.

use std::time::Duration;

use harness::sidecar::ALLOW;
use harness::{Backend, Fake, Service, Sidecar};
use harness::{client, fake, raw};
use parking_lot::Mutex;
use sideguard_runtime::clock::Stopwatch;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

harness::on_every_store! {
    a_sidecar_judges_by_what_is_applied
    a_generation_that_a_sidecar_cannot_use_is_refused_and_seen
    a_kill_switch_stops_what_it_names_within_a_second
    without_control_reads_go_on_and_writes_wait
    a_generation_put_back_or_signed_by_another_is_refused
}

const NO_POSTS: &str = "\
apiVersion: sideguard.dev/v1
kind: Policy
metadata: {name: allow}
spec:
  default_decision: allow
  rules: [{id: no-posts, match: {methods: [POST]}, decision: deny, reason: not now}]
";

async fn tool() -> Fake {
    Fake::json("{}").await
}

async fn call(sidecar: &Sidecar, method: &str, to: &Fake) -> u16 {
    // A path of its own, so that calls do not count as one that is repeated without end.
    let url = format!("{}/{}", to.url(), sideguard_runtime::id::token(8));
    client::absolute(sidecar, method, &url, &[], "").await.status
}

/// Calls until the answer is `wanted`, and tells how long that took.
async fn answers(sidecar: &Sidecar, method: &str, to: &Fake, wanted: u16) -> Duration {
    let since = Stopwatch::start();
    loop {
        let status = call(sidecar, method, to).await;
        if status == wanted {
            return since.elapsed();
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{status}, never {wanted}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_sidecar_judges_by_what_is_applied(backend: Backend) {
    let (service, tool) = (Service::on(backend), tool().await);
    let sidecar = service.sidecar("reader", "").await;
    // Nothing is applied yet: nothing leaves.
    assert_eq!(call(&sidecar, "GET", &tool).await, 503);
    assert_eq!(client::admin(&sidecar, "/readyz").await.status, 503, "it is not ready before it is governed");
    service.apply(ALLOW).await;
    answers(&sidecar, "POST", &tool, 200).await;
    assert_eq!(client::admin(&sidecar, "/readyz").await.status, 200);
    service.apply(NO_POSTS).await;
    answers(&sidecar, "POST", &tool, 403).await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    service.all_stand(1, "current").await;
    service.out(&["rollback", "--to", "1"]).await;
    answers(&sidecar, "POST", &tool, 200).await;
}

async fn a_generation_that_a_sidecar_cannot_use_is_refused_and_seen(backend: Backend) {
    let (service, tool) = (Service::on(backend), tool().await);
    let sidecar = service.sidecar("reader", "").await;
    service.apply(ALLOW).await;
    answers(&sidecar, "GET", &tool, 200).await;
    // The credential's variable is not in the sidecar's environment: control cannot know.
    service
        .apply(
            "apiVersion: sideguard.dev/v1\nkind: Upstream\nmetadata: {name: crm}\nspec:\n  baseUrl: https://crm.acme.com\n  \
             credential: {header: authorization, value: \"Bearer ${env:SIDEGUARD_TEST_IS_NOT_SET}\"}\n",
        )
        .await;
    service.all_stand(1, "refused").await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200, "the old one stays in force");
    service.out(&["delete", "upstream", "crm"]).await;
    service.all_stand(1, "current").await;
}

async fn a_kill_switch_stops_what_it_names_within_a_second(backend: Backend) {
    let (service, tool) = (Service::on(backend), tool().await);
    service.apply(ALLOW).await;
    let reader = service.sidecar("reader", "").await;
    let writer = service.sidecar("writer", "").await;
    answers(&reader, "GET", &tool, 200).await;
    answers(&writer, "GET", &tool, 200).await;
    service.out(&["kill", "agent/reader", "--reason", "it runs wild"]).await;
    let took = answers(&reader, "GET", &tool, 403).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(call(&writer, "GET", &tool).await, 200);
    service.out(&["kill", "fleet"]).await;
    let took = answers(&writer, "GET", &tool, 403).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    service.out(&["unkill", "fleet"]).await;
    answers(&writer, "GET", &tool, 200).await;
    assert_eq!(call(&reader, "GET", &tool).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_switch_ends_open_streams_of_what_it_names() {
    let service = Service::start();
    service.apply(ALLOW).await;
    let mut open = Vec::new();
    for agent in ["reader", "writer"] {
        let (sender, body) = fake::parts();
        let body = Mutex::new(Some(body));
        let events = Fake::start(None, move |_| {
            fake::reply("text/event-stream", body.lock().take().unwrap_or_else(|| fake::whole("")))
        })
        .await;
        let sidecar = service.sidecar(agent, "").await;
        answers(&sidecar, "GET", &tool().await, 200).await;
        let mut stream = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        let request = format!("GET {}/ HTTP/1.1\r\nHost: {}\r\n\r\n", events.url(), events.address());
        stream.write_all(request.as_bytes()).await.expect("a request");
        sender.send("data: 1\n\n".into()).await.expect("a part");
        raw::head(&mut stream).await;
        assert_eq!(raw::chunk(&mut stream).await.as_deref(), Some(&b"data: 1\n\n"[..]));
        open.push((stream, sender, sidecar, events));
    }
    service.out(&["kill", "agent/reader"]).await;
    raw::closed(&mut open[0].0).await;
    open[0].2.recorded(|entry| entry["phase"] == "outcome" && entry["code"] == "killed").await;
    let (stream, sender, ..) = &mut open[1];
    sender.send("data: 2\n\n".into()).await.expect("a part");
    assert_eq!(raw::chunk(stream).await.as_deref(), Some(&b"data: 2\n\n"[..]), "the other goes on");
}

async fn without_control_reads_go_on_and_writes_wait(backend: Backend) {
    let (mut service, tool) = (Service::on(backend), tool().await);
    service.apply(ALLOW).await;
    let stale = ", maxStale: 1h, maxStaleWrites: 1s";
    let sidecar = service.sidecar_at(service.url(), stale, "reader", "").await;
    answers(&sidecar, "POST", &tool, 200).await;
    service.kill();
    answers(&sidecar, "POST", &tool, 503).await;
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    // The last generation is kept: it holds after a restart without control too.
    let sidecar = sidecar.again();
    assert_eq!(call(&sidecar, "GET", &tool).await, 200);
    assert_eq!(call(&sidecar, "POST", &tool).await, 503);
    let service = service.again();
    answers(&sidecar, "POST", &tool, 200).await;
    service.apply(NO_POSTS).await;
    answers(&sidecar, "POST", &tool, 403).await;
}

async fn a_generation_put_back_or_signed_by_another_is_refused(backend: Backend) {
    let (service, tool) = (Service::on(backend), tool().await);
    service.apply(ALLOW).await;
    service.apply(NO_POSTS).await;
    let mut sidecar = service.sidecar("reader", "").await;
    answers(&sidecar, "POST", &tool, 403).await;
    sidecar.kill();
    // Somebody changes the kept generation: the sidecar does not start with it.
    let file = sidecar.state().join("generation.json");
    let text = std::fs::read_to_string(&file).expect("the generation");
    std::fs::write(&file, text.replace("decision: deny", "decision: allow")).expect("a file");
    let mut start = harness::command::command(&sidecar.state(), &["proxy", "-c"]);
    start.arg(sidecar.state().parent().expect("a parent").join("proxy.yaml"));
    start.arg("--state").arg(sidecar.state());
    let ran = harness::command::ran(start).await;
    assert_eq!(ran.code, Some(125), "{}", ran.err);
    assert!(ran.err.contains("its signature is not control's"), "{}", ran.err);
}
