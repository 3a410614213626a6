//! The page, in a browser: signing in, what it shows, the keys, the kill switch, and names that would like to be script.

mod workflows;

use harness::browser::Browser;
use harness::sidecar::ALLOW;
use harness::{Fake, Service, client};
use serde_json::{Value, json};

/// Answers of parts of the service in the browser, so that a test chooses what is shown. `push` sends a record to the live
/// view.
const FIXTURES: &str = r#"
  window.answers = ANSWERS;
  const real = window.fetch;
  window.asked = [];
  window.fetch = async (url, options) => {
    const path = String(url).split("?")[0];
    if (options?.method === "POST" && path in window.answers) window.asked.push([path, JSON.parse(options.body)]);
    if (!(path in window.answers)) return real(url, options);
    return new Response(JSON.stringify(window.answers[path]), { headers: { "content-type": "application/json" } });
  };
  window.EventSource = class {
    constructor() { window.push = (entry) => this.onmessage?.({ data: JSON.stringify(entry) }); setTimeout(() => this.onopen?.(), 0); }
    close() { this.onmessage = null; }
  };
"#;

const HOSTILE: &str = "<img src=x onerror=\"window.owned=1\"><script>window.owned=1</script>";

async fn signed_in(service: &Service, dark: bool, answers: Option<Value>) -> Browser {
    let mut browser = Browser::start(dark).await;
    if let Some(answers) = answers {
        browser.before(&FIXTURES.replace("ANSWERS", &answers.to_string())).await;
    }
    browser.open(&format!("{}/", service.url())).await;
    sign_in(&mut browser, &service.key()).await;
    browser.until("!document.querySelector('#bar').hidden").await;
    browser
}

async fn sign_in(browser: &mut Browser, key: &str) {
    browser.until("document.activeElement === document.querySelector('.sign input[type=password]')").await;
    browser.write(key).await;
    browser.key("Enter").await;
}

fn record(position: u64, agent: &str, decision: &str) -> Value {
    json!({ "sidecar": "one", "tenant": "default", "position": position, "record": {
        "v": 1, "time": "2026-11-27T10:00:00.000000Z", "phase": "decision", "tenant": "default", "agent": agent,
        "call": format!("{position:024x}"), "point": "tool.call", "topic": "job.crm.delete", "decision": decision,
        "rule": "no-deletes", "reason": "never", "target": { "host": "crm.acme.com", "method": "DELETE", "path": "/rows",
        "tool": "delete_rows" }, "status": 403, "latency_us": 1500, "usage": { "input": 1200, "output": 34 }, "cost_usd": "0.0021",
    } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_with_a_key_and_out_again() {
    let service = Service::start();
    let mut browser = Browser::start(false).await;
    browser.open(&format!("{}/", service.url())).await;
    sign_in(&mut browser, "sgk_wrong").await;
    browser.shows("This key is not known.").await;
    let viewer = service.new_key(&["vera", "--role", "viewer"]).await;
    browser.value("document.querySelector('.sign input[type=password]').value = ''").await;
    sign_in(&mut browser, &viewer).await;
    browser.shows("vera").await;
    assert_eq!(browser.value("document.cookie").await, "", "scripts do not see the session");
    // The session outlives the page; what a viewer may not do is not offered.
    browser.open(&format!("{}/#kills", service.url())).await;
    browser.shows("No kill switch is on.").await;
    assert!(!browser.text().await.contains("Stop everything"));
    browser.value("document.querySelector('#out').click()").await;
    browser.until("document.querySelector('.sign')").await;
    browser.open(&format!("{}/#agents", service.url())).await;
    browser.until("document.querySelector('.sign')").await;
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_seen_and_stopped_by_typing_its_scope() {
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(ALLOW).await;
    let sidecar = service.sidecar("reader", "").await;
    service.all_stand(1, "current").await;
    let mut browser = signed_in(&service, false, None).await;
    browser.key("2").await;
    browser.shows("reader").await;
    browser.until("document.querySelector('tbody .label.current')").await;
    browser.key("j").await;
    browser.key("Enter").await;
    browser.shows("Policy digest").await;
    browser.value("[...document.querySelectorAll('.pane button')].find((one) => one.textContent.startsWith('Stop')).click()").await;
    browser.until("document.querySelector('.stop input').value === 'agent/default/reader'").await;
    browser.value("document.querySelector('.stop button').click()").await;
    browser.until("document.querySelector('dialog button[value=yes]').disabled").await;
    browser.write("agent/default/writer").await;
    browser.until("document.querySelector('dialog button[value=yes]').disabled").await;
    browser.value("document.querySelector('dialog input').select()").await;
    browser.write("agent/default/reader").await;
    browser.until("!document.querySelector('dialog button[value=yes]').disabled").await;
    browser.key("Enter").await;
    browser.until("document.querySelector('tbody')?.innerText.includes('agent/default/reader')").await;
    let since = sideguard_runtime::clock::Stopwatch::start();
    loop {
        let url = format!("{}/{}", tool.url(), sideguard_runtime::id::token(8));
        if client::absolute(&sidecar, "GET", &url, &[], "").await.status == 403 {
            break;
        }
        assert!(since.elapsed().as_secs() < 5, "it goes on");
    }
    assert_eq!(service.json(&["get", "kills"]).await["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_shows_objects_and_what_changed_between_generations() {
    let service = Service::start();
    service.apply(ALLOW).await;
    service.apply(&ALLOW.replace("decision: allow", "decision: deny")).await;
    let mut browser = signed_in(&service, true, None).await;
    browser.key("g").await;
    browser.key("y").await;
    browser.shows("updated policy/default/allow").await;
    browser.value("document.querySelectorAll('table')[1].querySelector('tbody tr').click()").await;
    browser
        .until("document.querySelector('.diff .gone')?.textContent.includes('default_decision: allow')")
        .await;
    browser
        .until("document.querySelector('.diff .come')?.textContent.includes('default_decision: deny')")
        .await;
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_appear_live_and_a_flood_keeps_a_thousand() {
    let service = Service::start();
    let mut browser = signed_in(&service, false, Some(json!({ "/v1/records": { "items": [] } }))).await;
    browser.shows("No calls yet.").await;
    browser.until("window.push").await;
    browser.value(&format!("window.push({})", record(1, "reader", "deny"))).await;
    browser.until("document.querySelector('tbody .label.deny')").await;
    browser.shows("delete_rows").await;
    browser.key("j").await;
    browser.key("Enter").await;
    browser.until("document.querySelector('.pane')?.innerText.includes('never')").await;
    browser.key("Escape").await;
    // Ten thousand in one go: it stays quick and keeps the newest thousand.
    let flood = format!(
        "(async () => {{ const start = performance.now(); const one = {}; for (let n = 2; n <= 10001; n++) {{ const next = \
         structuredClone(one); next.position = n; next.record.call = 'call-' + n; next.record.agent = 'agent-' + n; window.push(next); }} \
         await new Promise((done) => setTimeout(done, 300)); await new Promise(requestAnimationFrame); return performance.now() - start; }})()",
        record(2, "x", "allow")
    );
    let took = browser.value(&flood).await.as_f64().expect("a number");
    assert!(took < 5_000.0, "{took} ms");
    browser.until("document.querySelectorAll('tbody tr').length === 1000").await;
    browser.shows("agent-10001").await;
    assert!(!browser.text().await.contains("agent-9001\n"), "older ones have gone");
    browser.key("/").await;
    browser.write("agent-9999").await;
    browser.until("document.querySelectorAll('tbody tr').length === 1").await;
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_agents_choose_are_shown_and_never_run() {
    let service = Service::start();
    let token = service.out(&["token"]).await;
    let ask = json!({ "token": token.trim(), "sidecar": "one" }).to_string();
    let enrolled = service.ask("none", "POST", "/v1/enrol", &ask).await.json();
    let report = json!({
        "agents": [HOSTILE], "version": HOSTILE, "generation": 0, "digest": HOSTILE, "ready": true, "calls": 0, "denied": 0,
        "breakers": [format!("{HOSTILE}: tripped")],
    });
    let key = enrolled["key"].as_str().expect("a key");
    assert_eq!(service.ask(key, "POST", "/v1/report", &report.to_string()).await.status / 100, 2);
    service.out(&["kill", "tenant/acme", "--reason", HOSTILE]).await;
    let mut entry = record(1, HOSTILE, HOSTILE);
    entry["record"]["target"]["tool"] = HOSTILE.into();
    entry["record"]["rule"] = HOSTILE.into();
    let approval = json!({
        "id": HOSTILE, "tenant": "acme", "agent": HOSTILE, "state": "pending", "rule": HOSTILE, "reason": HOSTILE, "point": "tool.call",
        "topic": HOSTILE, "tool": HOSTILE, "method": "POST", "host": HOSTILE, "path": HOSTILE, "arguments": { HOSTILE: HOSTILE },
        "created": "2026-11-27T10:00:00Z", "expires": HOSTILE, "quorum": 1, "votes": [{ "by": HOSTILE, "verdict": "approve" }],
    });
    let budget = json!({ "tenant": "acme", "budget": HOSTILE, "unit": HOSTILE, "key": HOSTILE, "limit": "1", "spent": HOSTILE });
    let answers = json!({
        "/v1/records": { "items": [entry] }, "/v1/approvals": { "items": [approval.clone()] }, "/v1/budgets": { "items": [budget] },
        "/v1/budgets/history": { "points": [] },
    });
    let mut answers = answers;
    let escaped: String = HOSTILE
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    answers[format!("/v1/approvals/{escaped}")] = approval;
    let mut browser = signed_in(&service, false, Some(answers)).await;
    for view in ["1", "2", "3", "4", "5", "7", "8"] {
        browser.key(view).await;
        browser.until("document.querySelector('tbody')?.innerText.includes('<img src=x')").await;
        browser.key("j").await;
        browser.key("Enter").await;
        if view != "7" && view != "8" {
            browser.until("document.querySelector('.pane')?.innerText.includes('<img src=x')").await;
        }
        let made = browser.value("document.querySelectorAll('img, #view script').length").await;
        assert_eq!(made, 0, "view {view}");
    }
    assert_eq!(browser.value("window.owned === undefined").await, true);
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_approved_with_its_exact_words_in_sight() {
    let service = Service::start();
    let mut approval = json!({
        "id": "one", "tenant": "acme", "agent": "payer", "state": "pending", "rule": "payments", "reason": "money", "point": "tool.call",
        "topic": "job.pay.refund", "tool": "refund", "method": "POST", "host": "pay.acme.com", "path": "/mcp", "arguments": { "amount": 4200 },
        "created": "2026-11-27T10:00:00Z", "expires": "2026-11-27T11:00:00Z", "quorum": 1, "votes": [],
    });
    let whole = approval.clone();
    approval["arguments"] = "{\"amount\": 42…".into();
    let answers = json!({ "/v1/approvals": { "items": [approval] }, "/v1/approvals/one": whole, "/v1/records": { "items": [] } });
    let mut browser = signed_in(&service, true, Some(answers)).await;
    browser.key("4").await;
    browser.shows("refund").await;
    browser.key("j").await;
    browser.key("a").await;
    browser.until("document.querySelector('dialog')?.innerText.includes('4200')").await;
    browser.write("known customer").await;
    browser.key("Enter").await;
    browser.until("window.asked.length === 1").await;
    let asked = browser.value("window.asked[0]").await;
    assert_eq!(asked, json!(["/v1/approvals/one", { "verdict": "approve", "reason": "known customer" }]));
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_call_appears_while_it_happens_and_is_found_again() {
    const POLICY: &str = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: mixed}\nspec:\n  default_decision: allow\n  \
        rules: [{id: no-posts, match: {methods: [POST]}, decision: deny, reason: not now}]\n";
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(POLICY).await;
    let sidecar = service.sidecar("reader", "").await;
    service.all_stand(1, "current").await;
    let mut browser = signed_in(&service, false, None).await;
    browser.until("document.querySelector('.state')?.textContent === 'live'").await;
    let url = format!("{}/orders", tool.url());
    assert_eq!(client::absolute(&sidecar, "POST", &url, &[], "{}").await.status, 403);
    assert_eq!(client::absolute(&sidecar, "GET", &url, &[], "").await.status, 200);
    browser.until("document.querySelector('tbody .label.deny')").await;
    browser.shows("no-posts").await;
    browser
        .until("[...document.querySelectorAll('tbody tr')].some((line) => line.innerText.includes('200'))")
        .await;
    browser.key("5").await;
    browser.until("document.querySelectorAll('tbody tr').length >= 3").await;
    browser.value("document.querySelector('select[name=decision]').value = 'deny'").await;
    browser.value("document.querySelector('.filters').requestSubmit()").await;
    browser.until("document.querySelectorAll('tbody tr').length === 1").await;
    browser.key("j").await;
    browser.key("Enter").await;
    browser.until("document.querySelector('.pane')?.innerText.includes('not now')").await;
    browser.until("document.querySelectorAll('.phases li').length === 1").await;
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_call_goes_out_when_it_is_approved_on_the_page() {
    const POLICY: &str = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: careful}\nspec:\n  default_decision: allow\n  \
        rules: [{id: ask, match: {methods: [POST]}, decision: require_approval, reason: ask, approval: {holdSeconds: 25}}]\n";
    let (service, tool) = (Service::start(), Fake::json("{}").await);
    service.apply(POLICY).await;
    let sidecar = service.sidecar("payer", "").await;
    service.all_stand(1, "current").await;
    let mut browser = signed_in(&service, true, None).await;
    browser.key("4").await;
    let url = format!("{}/orders", tool.url());
    let headers = [("content-type", "application/json")];
    let held = client::absolute(&sidecar, "POST", &url, &headers, r#"{"amount": 4200}"#);
    let approve = async {
        browser.until("document.querySelector('tbody tr')").await;
        browser.key("j").await;
        browser.key("a").await;
        browser.until("document.querySelector('dialog')?.innerText.includes('4200')").await;
        assert_eq!(tool.seen().len(), 0, "nothing leaves before somebody has said yes");
        browser.write("known customer").await;
        browser.key("Enter").await;
    };
    let (reply, ()) = tokio::join!(held, approve);
    assert_eq!((reply.status, tool.seen().len()), (200, 1), "{}", reply.text());
    assert_eq!(browser.problems(), Vec::<String>::new());
}
