//! Delegation: who works for another may do what both may do, and no sidecar believes a chain that the sidecars of its fleet
//! have not made.

mod budgets;
mod jobs;
mod people;
mod refused;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use harness::client::{self, Reply};
use harness::fake::{self, Seen};
use harness::{Fake, Service, Sidecar, raw, setting};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;
use tokio::io::AsyncWriteExt;

/// `a` reads and may ask `b`; `b` and `r` may do everything.
const RIGHTS: &str = "\
apiVersion: sideguard.dev/v1
kind: Policy
metadata: {name: allow}
spec: {default_decision: allow}
---
apiVersion: sideguard.dev/v1
kind: Agent
metadata: {name: a}
spec: {capabilities: [\"read:*\", \"write:job.b.*\"]}
---
apiVersion: sideguard.dev/v1
kind: Agent
metadata: {name: b}
spec: {capabilities: [\"admin:*\"]}
---
apiVersion: sideguard.dev/v1
kind: Agent
metadata: {name: r}
spec: {capabilities: [\"admin:*\"]}
";

/// Tests repeat their calls.
const REPEATS: &str = "  breakers: {agent: {repeats: 0}}\n";

/// What an agent of the test's does with a request, by its own sidecar: the reply to its caller.
type Work = dyn Fn(&Sidecar, &Seen) -> http::Response<fake::Body> + Send + Sync;

/// The trace of a request that an agent works on, and what ends its answer.
type Working = (String, tokio::sync::mpsc::Sender<bytes::Bytes>);

/// An agent behind an inbound port.
struct Deputy {
    sidecar: Arc<Sidecar>,
    process: Fake,
}

impl Deputy {
    /// Starts the agent `b` or another one. Further configuration of its sidecar may follow.
    async fn start(service: &Service, name: &str, spec: &str, work: Box<Work>) -> Self {
        let own: Arc<OnceLock<Arc<Sidecar>>> = Arc::default();
        let sidecar = Arc::clone(&own);
        let process = Fake::start(None, move |seen| {
            let sidecar = sidecar.get().expect("its sidecar runs");
            work(sidecar, seen)
        });
        let process = process.await;
        let spec = format!("{REPEATS}{spec}");
        let sidecar = Arc::new(service.deputy(name, &process.address().to_string(), &spec).await);
        assert!(own.set(Arc::clone(&sidecar)).is_ok());
        Self { sidecar, process }
    }

    /// As an upstream of another sidecar's.
    fn upstream(&self, name: &str) -> String {
        upstream(name, &self.sidecar.inbound().to_string())
    }
}

fn upstream(agent: &str, at: &str) -> String {
    format!("  upstreams: [{{name: {agent}, baseUrl: \"http://{at}\", agent: {agent}}}]\n{REPEATS}")
}

/// Waits for what cannot be waited for where a fake answers.
fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

/// A call of an agent's, within the trace of the request that it works on or within none.
async fn call(sidecar: &Sidecar, method: &str, url: &str, trace: Option<&str>) -> Reply {
    let headers: Vec<(&str, &str)> = trace.map(|trace| ("traceparent", trace)).into_iter().collect();
    client::absolute(sidecar, method, url, &headers, "").await
}

/// Asks an agent by the gateway path of its caller's sidecar, once that sidecar has what it needs to hand work on.
async fn ask(sidecar: &Sidecar, target: &str, words: &'static str) -> Reply {
    let since = Stopwatch::start();
    loop {
        let reply = client::gateway(sidecar, "POST", target, &[], words).await;
        if reply.status != 503 {
            return reply;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{}", reply.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The answer of an agent that goes on with it, as [`ask`] asks.
async fn opened(sidecar: &Sidecar, target: &str) -> http::Response<hyper::body::Incoming> {
    let since = Stopwatch::start();
    loop {
        let answer = client::gateway_open(sidecar, "POST", target, &[], "").await;
        if answer.status() == 200 {
            return answer;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{}", answer.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A call that an agent may make once it works for nobody any more.
async fn in_its_own_right(sidecar: &Sidecar, method: &str, url: &str) {
    let since = Stopwatch::start();
    while call(sidecar, method, url, None).await.status != 200 {
        assert!(since.elapsed() < Duration::from_secs(5), "it is still held to what it works for");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn trace(seen: &Seen) -> String {
    let trace = seen.headers.get("traceparent").expect("a traceparent");
    trace.to_str().expect("text").to_owned()
}

fn plain(text: impl Into<bytes::Bytes>) -> http::Response<fake::Body> {
    fake::reply("text/plain", fake::whole(text))
}

/// Does to `url` what the request's body says, and answers with what came of it.
fn obedient(url: String) -> Box<Work> {
    Box::new(move |sidecar, seen| {
        let method = String::from_utf8_lossy(&seen.body).into_owned();
        let reply = wait(call(sidecar, &method, &url, Some(&trace(seen))));
        plain(format!("{} {}", reply.status, reply.text()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_asks_an_administrator_to_delete_is_denied_with_the_chain_in_the_reason() {
    let (service, crm) = (Service::start(), Fake::json("{}").await);
    service.apply(RIGHTS).await;
    let url = format!("{}/customers", crm.url());
    let grace = "  delegation: {grace: 1ms}\n";
    let b = Deputy::start(&service, "b", grace, obedient(url.clone())).await;
    let a = service.sidecar("a", &b.upstream("b")).await;
    service.all_stand(2, "current").await;
    let denied = ask(&a, "/b/work", "DELETE").await.text();
    let why = "a → b: `a` has no capability for `admin:";
    assert!(denied.starts_with("403") && denied.contains(why), "{denied}");
    assert!(denied.contains("scope_denied"), "{denied}");
    assert_eq!(crm.seen().len(), 0, "nothing has left");
    assert!(ask(&a, "/b/work", "GET").await.text().starts_with("200"), "both may read");
    // In its own right b may.
    in_its_own_right(&b.sidecar, "DELETE", &url).await;
    let methods: Vec<String> = crm.seen().into_iter().map(|seen| seen.method).collect();
    assert_eq!(methods, ["GET", "DELETE"]);
    // The record tells by what it is known, and by which link.
    let decision = b.sidecar.recorded(|entry| entry["phase"] == "decision").await;
    assert_eq!((&decision[0]["chain"], &decision[0]["correlation"]), (&json!(["a"]), &json!("trace")));
    let inbound = b.sidecar.recorded(|entry| entry["code"] == "inbound").await;
    let handed = a.recorded(|entry| entry["phase"] == "intent" && entry["point"] == "a2a.call").await;
    assert_eq!(inbound[0]["link"], handed[0]["link"]);
    assert_eq!(inbound[0]["link"].as_str().map(str::len), Some(24));
    b.sidecar.recorded(|entry| entry["code"] == "inbound_ended" && entry["status"] == 200).await;
    // The agent has seen nothing of it, and its caller neither.
    for seen in b.process.seen() {
        assert!(seen.headers.keys().all(|name| !name.as_str().starts_with("x-sideguard-")), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trace_all_open_delegations_hold_and_the_record_says_so() {
    let (service, crm) = (Service::start(), Fake::json("{}").await);
    service.apply(&RIGHTS.replace("\"write:job.b.*\"", "\"write:job.b.*\", \"write:job.c.*\"")).await;
    let c = Fake::json("{}").await;
    let held: Arc<Mutex<Vec<Working>>> = Arc::default();
    let open = Arc::clone(&held);
    let work: Box<Work> = Box::new(move |_, seen| {
        let (sender, body) = fake::parts();
        open.lock().push((trace(seen), sender));
        fake::reply("text/event-stream", body)
    });
    let further = upstream("c", &c.address().to_string()).replace(REPEATS, "");
    let b = Deputy::start(&service, "b", &further, work).await;
    let (a, r) = (service.sidecar("a", &b.upstream("b")).await, service.sidecar("r", &b.upstream("b")).await);
    service.all_stand(3, "current").await;
    let mut answers = Vec::new();
    for (number, caller) in [&a, &r].into_iter().enumerate() {
        answers.push(opened(caller, "/b/work").await);
        harness::until("the agent works", || held.lock().len() == number + 1).await;
    }
    let traces: Vec<String> = held.lock().iter().map(|(trace, _)| trace.clone()).collect();
    let url = format!("{}/x", crm.url());
    let for_r = call(&b.sidecar, "DELETE", &url, Some(&traces[1])).await;
    assert_eq!(for_r.status, 200, "{}", for_r.text());
    assert_eq!(call(&b.sidecar, "DELETE", &url, Some(&traces[0])).await.status, 403);
    let foreign = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for unknown in [None, Some(foreign)] {
        let refused = call(&b.sidecar, "DELETE", &url, unknown).await;
        assert!(refused.status == 403 && refused.text().contains("a → b"), "{}", refused.text());
    }
    assert_eq!(call(&b.sidecar, "GET", &url, None).await.status, 200, "all of them may read");
    // Work can be handed on only by who knows whose work it is.
    let refused = client::gateway(&b.sidecar, "POST", "/c/x", &[], "").await;
    assert!(
        refused.status == 403 && refused.text().contains("works under 2 delegations"),
        "{}",
        refused.text()
    );
    let headers = [("traceparent", traces[1].as_str())];
    assert_eq!(client::gateway(&b.sidecar, "POST", "/c/x", &headers, "").await.status, 200);
    assert_eq!(c.seen().len(), 1);
    let of = |entry: &Value, by: &str, chain: Value| entry["correlation"] == by && entry["chain"] == chain;
    b.sidecar.recorded(|entry| entry["phase"] == "intent" && of(entry, "trace", json!(["r"]))).await;
    b.sidecar
        .recorded_times(2, |entry| entry["phase"] == "decision" && of(entry, "meet", json!(["a", "r"])))
        .await;
    // Both are open, and are seen to be.
    let since = Stopwatch::start();
    loop {
        let open = service.json(&["delegation", "list"]).await;
        let agents: Vec<&Value> =
            open["items"].as_array().expect("a list").iter().map(|one| &one["agents"]).collect();
        if agents.len() == 2 {
            assert!(agents.contains(&&json!(["a", "b"])) && agents.contains(&&json!(["r", "b"])), "{open:#}");
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(15), "{open:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(service.out(&["get", "delegations"]).await.contains("r → b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_revoked_is_cut_within_a_second_and_so_is_all_below_it() {
    let (service, crm) = (Service::start(), Fake::json("{}").await);
    service.apply(RIGHTS).await;
    let traces: Arc<Mutex<Vec<String>>> = Arc::default();
    let (sender, body) = fake::parts();
    let (kept, body) = (Arc::clone(&traces), Mutex::new(Some(body)));
    let work: Box<Work> = Box::new(move |_, seen| {
        kept.lock().push(trace(seen));
        fake::reply("text/event-stream", body.lock().take().unwrap_or_else(|| fake::whole("")))
    });
    let b = Deputy::start(&service, "b", "", work).await;
    let r = service.sidecar("r", &b.upstream("b")).await;
    service.all_stand(2, "current").await;
    sender.send("data: 1\n\n".into()).await.expect("a part");
    let asked = opened(&r, "/b/work").await;
    let (url, trace) = (format!("{}/x", crm.url()), traces.lock()[0].clone());
    assert_eq!(call(&b.sidecar, "DELETE", &url, Some(&trace)).await.status, 200);
    let inbound = b.sidecar.recorded(|entry| entry["code"] == "inbound").await;
    let link = inbound[0]["link"].as_str().expect("a link").to_owned();
    let out = service.out(&["delegation", "revoke", &link, "--reason", "enough"]).await;
    assert_eq!(out, format!("delegation/default/{link} revoked\n"));
    let since = Stopwatch::start();
    let reply = client::collect(asked).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!(reply.body.len(), 0, "a cut answer is none that is whole");
    let refused = call(&b.sidecar, "DELETE", &url, Some(&trace)).await;
    assert!(refused.status == 403 && refused.text().contains("is revoked"), "{}", refused.text());
    b.sidecar.recorded(|entry| entry["code"] == "inbound_ended" && entry["reason"] == "killed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_an_agent_stops_what_others_do_for_it() {
    let (service, crm) = (Service::start(), Fake::json("{}").await);
    service.apply(RIGHTS).await;
    let (sender, body) = fake::parts();
    let (traces, body) = (Arc::new(Mutex::new(Vec::new())), Mutex::new(Some(body)));
    let kept = Arc::clone(&traces);
    let work: Box<Work> = Box::new(move |_, seen| {
        kept.lock().push(trace(seen));
        fake::reply("text/event-stream", body.lock().take().unwrap_or_else(|| fake::whole("")))
    });
    let b = Deputy::start(&service, "b", "", work).await;
    let r = service.sidecar("r", &b.upstream("b")).await;
    service.all_stand(2, "current").await;
    let asked = opened(&r, "/b/work").await;
    let (url, trace) = (format!("{}/x", crm.url()), traces.lock()[0].clone());
    assert_eq!(call(&b.sidecar, "DELETE", &url, Some(&trace)).await.status, 200);
    service.out(&["kill", "agent/r"]).await;
    client::collect(asked).await;
    let refused = call(&b.sidecar, "DELETE", &url, Some(&trace)).await;
    assert!(refused.status == 403 && refused.text().contains("kill switch"), "{}", refused.text());
    b.sidecar.recorded(|entry| entry["code"] == "inbound_ended" && entry["reason"] == "killed").await;
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_an_inbound_port_as_they_are_and_streams_flow() {
    let service = Service::start();
    service.apply(RIGHTS).await;
    let (sender, body) = fake::parts();
    let body = Mutex::new(Some(body));
    let process = Fake::start(None, move |_| {
        fake::reply("text/event-stream", body.lock().take().unwrap_or_else(|| fake::whole("")))
    });
    let process = process.await;
    let open = format!("{}\", require: \"none", process.address());
    let b = service.deputy("b", &open, "").await;
    service.all_stand(1, "current").await;
    let mut stream = tokio::net::TcpStream::connect(b.inbound()).await.expect("the inbound port");
    let head = "POST /a/..//b?q=%2F&r HTTP/1.1\r\nHost: b.example\r\nX-Odd: a, b\r\nX-Sideguard-Role: admin\r\n\
                Content-Encoding: br\r\nContent-Length: 3\r\n\r\n\0\u{1}\u{2}";
    stream.write_all(head.as_bytes()).await.expect("a request");
    sender.send("data: 1\n\n".into()).await.expect("a part");
    assert!(raw::head(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(
        raw::chunk(&mut stream).await.as_deref(),
        Some(&b"data: 1\n\n"[..]),
        "before the next one is there"
    );
    sender.send("data: 2\n\n".into()).await.expect("a part");
    assert_eq!(raw::chunk(&mut stream).await.as_deref(), Some(&b"data: 2\n\n"[..]));
    drop(sender);
    assert_eq!(raw::chunk(&mut stream).await, None, "a proper end");
    let seen = process.seen().pop().expect("a request");
    assert_eq!(
        (seen.target.as_str(), seen.host.as_str(), &seen.body[..]),
        ("/a/..//b?q=%2F&r", "b.example", &b"\0\x01\x02"[..])
    );
    assert_eq!(
        (seen.headers["x-odd"].as_bytes(), seen.headers["content-encoding"].as_bytes()),
        (&b"a, b"[..], &b"br"[..])
    );
    assert!(!seen.headers.contains_key("x-sideguard-role"));
    // Where none is required, a chain that is brought must be good all the same.
    let headers = [("x-sideguard-delegation", "AAAA")];
    let url = format!("http://{}", b.inbound());
    assert_eq!(client::direct(&url, "GET", "/", &headers, "").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_see_real_chains() {
    let (service, crm) = (Service::start(), Fake::json("{}").await);
    let rule = "    - {id: alone, match: {delegation: {forbid_delegated: true}, methods: [GET]}, decision: deny, reason: not for others}\n    \
                - {id: known, match: {delegation: {issuers: [a]}, methods: [PUT]}, decision: deny, reason: not for strangers}\n";
    let rules = setting::policy("rules", &format!("  default_decision: allow\n  rules:\n{rule}"));
    service.apply(&format!("{RIGHTS}---\n{rules}")).await;
    let url = format!("{}/x", crm.url());
    let b = Deputy::start(&service, "b", "  delegation: {grace: 1ms}\n", obedient(url.clone())).await;
    let r = service.sidecar("r", &b.upstream("b")).await;
    service.all_stand(2, "current").await;
    let denied = ask(&r, "/b/work", "GET").await.text();
    assert!(denied.starts_with("403") && denied.contains("not for others"), "{denied}");
    let denied = ask(&r, "/b/work", "PUT").await.text();
    assert!(denied.starts_with("403") && denied.contains("not for strangers"), "{denied}");
    assert!(ask(&r, "/b/work", "DELETE").await.text().starts_with("200"));
    in_its_own_right(&b.sidecar, "GET", &url).await;
}
