//! Chains that no sidecar takes: replayed, changed, for somebody else, over, too deep, of another tenant or fleet.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use harness::{Fake, Service, Sidecar, client, fake};
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;

use super::{Deputy, REPEATS, RIGHTS, Work, ask, plain, upstream, wait};

const HEADER: &str = "x-sideguard-delegation";

/// What a sidecar hands on to the agent `b`, caught before it gets there.
struct Catcher {
    sidecar: Sidecar,
    caught: Fake,
}

impl Catcher {
    async fn start(service: &Service, agent: &str, spec: &str) -> Self {
        let caught = Fake::json("{}").await;
        let spec = format!("{}{spec}", upstream("b", &caught.address().to_string()));
        Self { sidecar: service.sidecar(agent, &spec).await, caught }
    }

    /// A chain that nobody has used.
    async fn chain(&self) -> String {
        assert_eq!(ask(&self.sidecar, "/b/work", "").await.status, 200);
        let seen = self.caught.seen().pop().expect("a request");
        seen.headers.get(HEADER).expect("a chain").to_str().expect("text").to_owned()
    }
}

/// Brings a chain to a port: the status and the words of the reply.
async fn bring(to: &Sidecar, chain: &str) -> (u16, String) {
    let headers: Vec<(&str, &str)> = if chain.is_empty() { Vec::new() } else { vec![(HEADER, chain)] };
    let reply = client::direct(&format!("http://{}", to.inbound()), "POST", "/work", &headers, "x").await;
    (reply.status, reply.text())
}

fn changed(chain: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut value: Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(chain).expect("base64")).expect("JSON");
    change(&mut value);
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

fn idle() -> Box<Work> {
    Box::new(|_, _| plain("done"))
}

/// Waits until a port takes chains at all: it needs control's key and a policy first.
async fn takes(deputy: &Sidecar, from: &Catcher) {
    let since = Stopwatch::start();
    while bring(deputy, &from.chain().await).await.0 != 200 {
        assert!(since.elapsed() < Duration::from_secs(10), "no chain is taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_that_are_replayed_changed_or_somebody_elses_are_refused() {
    let service = Service::start();
    service.apply(RIGHTS).await;
    let (b, c) =
        (Deputy::start(&service, "b", "", idle()).await, Deputy::start(&service, "c", "", idle()).await);
    let a = Catcher::start(&service, "a", "").await;
    service.all_stand(3, "current").await;
    takes(&b.sidecar, &a).await;
    let before = b.process.seen().len();
    let refused = async |chain: String, why: &str| {
        let (status, text) = bring(&b.sidecar, &chain).await;
        assert!(status == 403 && text.contains(why), "{why}: {status} {text}");
    };
    let good = a.chain().await;
    assert_eq!(bring(&b.sidecar, &good).await.0, 200);
    refused(good, "used already").await;
    refused(String::new(), "without a chain").await;
    refused("AAAA".to_owned(), "cannot be read").await;
    let fresh = a.chain().await;
    let signature = "signature is not its issuer's";
    refused(changed(&fresh, |chain| chain["links"][0]["from"] = json!("r")), signature).await;
    refused(changed(&fresh, |chain| chain["links"][0]["rights"] = json!({})), signature).await;
    refused(
        changed(&fresh, |chain| chain["links"][0]["rights"]["capabilities"][0] = json!("admin:*")),
        signature,
    )
    .await;
    refused(changed(&fresh, |chain| chain["links"][0]["expires"] = json!("2099-01-01T00:00:00Z")), signature)
        .await;
    refused(
        changed(&fresh, |chain| chain["links"][0]["issuer"]["key"] = json!("0".repeat(64))),
        "issuer is not known",
    )
    .await;
    refused(changed(&fresh, |chain| chain["more"] = json!(1)), "cannot be read").await;
    refused(changed(&fresh, |chain| chain["links"] = json!([])), "no link").await;
    // The same chain, as it was, is still good: what was refused did not use it up. But not at another agent's.
    let (status, text) = bring(&c.sidecar, &fresh).await;
    assert!(status == 403 && text.contains("the chain is for `b`"), "{text}");
    assert_eq!(bring(&b.sidecar, &fresh).await.0, 200);
    assert_eq!(b.process.seen().len(), before + 2, "the agent has seen none of the others");
    b.sidecar.recorded(|entry| entry["code"] == "scope_denied" && entry["rule"] == "delegation").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_that_are_over_or_from_before_a_restart_are_refused() {
    let service = Service::start();
    service.apply(RIGHTS).await;
    let process = Fake::json("{}").await;
    let b = service.deputy("b", &process.address().to_string(), "").await;
    let a = Catcher::start(&service, "a", "  delegation: {life: 700ms}\n").await;
    service.all_stand(2, "current").await;
    takes(&b, &a).await;
    let chain = a.chain().await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let (status, text) = bring(&b, &chain).await;
    assert!(status == 403 && text.contains("has expired"), "{text}");
    let a = Catcher::start(&service, "a", "").await;
    service.all_stand(3, "current").await;
    let chain = a.chain().await;
    assert_eq!(bring(&b, &chain).await.0, 200);
    let b = b.again();
    let (status, text) = bring(&b, &chain).await;
    assert!(status == 403 && text.contains("before this sidecar began"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_of_another_tenant_or_another_fleet_are_refused() {
    let (service, other) = (Service::start(), Service::start());
    service.apply(RIGHTS).await;
    service.apply(&RIGHTS.replace("name: ", "tenant: acme, name: ")).await;
    other.apply(RIGHTS).await;
    let b = Deputy::start(&service, "b", "", idle()).await;
    let ours = Catcher::start(&service, "a", "").await;
    let acme = Catcher::start(&service, "acme/a", "").await;
    let theirs = Catcher::start(&other, "a", "").await;
    service.all_stand(3, "current").await;
    other.all_stand(1, "current").await;
    takes(&b.sidecar, &ours).await;
    let (status, text) = bring(&b.sidecar, &acme.chain().await).await;
    assert!(status == 403 && text.contains("another tenant's"), "{text}");
    let (status, text) = bring(&b.sidecar, &theirs.chain().await).await;
    assert!(status == 403 && text.contains("issuer is not known"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_of_a_sidecar_that_was_put_out_are_refused() {
    let service = Service::start();
    service.apply(RIGHTS).await;
    let b = Deputy::start(&service, "b", "", idle()).await;
    let a = Catcher::start(&service, "a", "").await;
    service.all_stand(2, "current").await;
    takes(&b.sidecar, &a).await;
    let chain = a.chain().await;
    let id = std::fs::read_to_string(a.sidecar.state().join("sidecar.id")).expect("an id");
    let keys = service.json(&["key", "list"]).await;
    let key = keys["items"].as_array().expect("a list").iter().find(|key| key["name"] == id.trim());
    service.out(&["key", "revoke", key.expect("its key")["id"].as_str().expect("an id")]).await;
    let since = Stopwatch::start();
    b.sidecar.recorded(|entry| entry["code"] == "kills").await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let (status, text) = bring(&b.sidecar, &chain).await;
    assert!(status == 403 && text.contains("is revoked"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_handed_on_with_the_whole_chain_and_not_too_deep() {
    let service = Service::start();
    service.apply(RIGHTS).await;
    let crm = Fake::json("{}").await;
    let url = format!("{}/x", crm.url());
    let c = Deputy::start(&service, "c", "", super::obedient(url)).await;
    // `b` hands on to `c` whatever it is asked, with the trace of the request.
    let work: Box<Work> = Box::new(|sidecar, seen| {
        let trace = super::trace(seen);
        let target = format!("/c{}", seen.target);
        let headers = [("traceparent", trace.as_str())];
        let reply = wait(client::gateway(sidecar, "POST", &target, &headers, seen.body.clone()));
        fake::reply("text/plain", fake::whole(reply.body))
    });
    let b = Deputy::start(&service, "b", &c.upstream("c").replace(REPEATS, ""), work).await;
    let a = service.sidecar("a", &b.upstream("b")).await;
    service.all_stand(3, "current").await;
    let since = Stopwatch::start();
    let denied = loop {
        let reply = ask(&a, "/b/work", "DELETE").await.text();
        if !reply.contains("passport") {
            break reply;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{reply}");
    };
    // `a` may not ask `c` itself, and so not through `b` either.
    assert!(denied.contains("a → b: `a` has no capability for `write:job.c."), "{denied}");
    service.apply(&RIGHTS.replace("\"write:job.b.*\"", "\"write:job.b.*\", \"write:job.c.*\"")).await;
    service.all_stand(3, "current").await;
    let denied = ask(&a, "/b/work", "DELETE").await.text();
    assert!(denied.contains("a → b → c: `a` has no capability for `admin:"), "{denied}");
    assert!(ask(&a, "/b/work", "GET").await.text().starts_with("200"));
    c.sidecar.recorded(|entry| entry["phase"] == "intent" && entry["chain"] == json!(["a", "b"])).await;
    // A sidecar that lets work go one step only.
    let shallow = service.sidecar("a", &format!("{}  delegation: {{depth: 1}}\n", b.upstream("b"))).await;
    service.all_stand(4, "current").await;
    let denied = ask(&shallow, "/b/work", "GET").await.text();
    assert!(denied.contains("the chain a → b is as deep as it may be"), "{denied}");
}
