//! Runs of workflows on the page.

use harness::Service;
use serde_json::{Value, json};

use super::{HOSTILE, signed_in};

/// A run of six steps in four layers, with a name that would like to be script.
fn run(name: &str) -> Value {
    let time = "2026-11-27T10:00:00.000000Z";
    let job =
        |id: &str, needs: &[&str]| json!({ "id": id, "needs": needs, "job": { "topic": "job.shop.x" } });
    let work = |state: &str| json!({ "state": state, "attempt": 1, "job": "0199a1b2c3d4e5f601234567" });
    let step =
        |id: &str, state: &str| json!({ "id": id, "state": state, "started": time, "works": [work(state)] });
    json!({
        "id": "01a2b3c4d5e6f708192a3b4c", "tenant": "acme", "workflow": name, "digest": "9c", "by": "ada", "created": time,
        "state": "compensating", "succeeded": 3, "bytes": 10, "error": format!("step `ship` failed: {name}"), "input": { "order": name },
        "spec": { "steps": [
            job("fetch", &[]), job("check_stock", &["fetch"]),
            { "id": "reserve", "needs": ["fetch"], "forEach": { "items": "input.items", "maxParallel": 2, "step": { "job": { "topic": "job.shop.x" } } } },
            { "id": "approve", "needs": ["check_stock", "reserve"], "approval": { "text": "Charge?" } },
            job("charge", &["approve"]), job("ship", &["charge"]), { "id": "tell", "needs": ["charge"], "notify": { "webhook": "chat" } },
        ] },
        "steps": [
            step("fetch", "succeeded"), step("check_stock", "running"),
            { "id": "reserve", "state": "running", "started": time, "items": [1, 2], "works": [work("succeeded"), work("failed")] },
            { "id": "approve", "state": "waiting", "started": time, "works": [{ "state": "waiting", "attempt": 1, "approval": "01a2b3c4d5e6f708192a3b4d" }] },
            { "id": "charge", "state": "succeeded", "started": time, "ended": time, "result": { "receipt": 7 }, "works": [work("succeeded")] },
            { "id": "ship", "state": "failed", "started": time, "ended": time, "error": name, "works": [work("failed")] },
            { "id": "tell", "state": "skipped", "error": "its `if` is false" },
        ],
        "undo": [{ "step": "charge", "work": work("succeeded") }, { "step": "fetch", "work": work("running") }],
        "timeline": [{ "time": time, "what": "started" }, { "time": time, "step": "fetch", "what": "submitted", "detail": name }],
    })
}

fn answers(name: &str) -> Value {
    let run = run(name);
    let line = json!({
        "id": run["id"], "tenant": "acme", "workflow": name, "by": "ada", "created": run["created"], "state": run["state"], "steps": 7,
        "over": 4, "error": run["error"],
    });
    json!({ "/v1/runs": { "items": [line] }, "/v1/runs/01a2b3c4d5e6f708192a3b4c": run, "/v1/records": { "items": [] } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_a_graph_that_keys_go_through() {
    let service = Service::start();
    let mut browser = signed_in(&service, false, Some(answers("order"))).await;
    browser.key("g").await;
    browser.key("w").await;
    browser.until("document.querySelector('tbody .label.compensating')").await;
    browser.key("j").await;
    browser.key("Enter").await;
    browser.until("document.querySelectorAll('.graph .node').length === 7").await;
    assert_eq!(browser.value("document.querySelectorAll('.graph .edge').length").await, 7);
    // What needs a step stands below it, and no two stand in one place.
    let places = "[...document.querySelectorAll('.graph .node')].map((node) => node.getAttribute('transform').match(/[\\d.]+/g).map(Number))";
    let distinct = format!("new Set(({places}).map(String)).size");
    assert_eq!(browser.value(&distinct).await, 7);
    let depth = |id: &str| {
        format!(
            "Number([...document.querySelectorAll('.graph .node')].find((node) => node.querySelector('.id').textContent === '{id}').getAttribute('transform').match(/[\\d.]+/g)[1])"
        )
    };
    for (above, below) in
        [("fetch", "reserve"), ("reserve", "approve"), ("approve", "charge"), ("charge", "ship")]
    {
        assert_eq!(
            browser.value(&format!("{} < {}", depth(above), depth(below))).await,
            true,
            "{above} {below}"
        );
    }
    // The step that failed is shown first; Enter on another one shows that.
    browser.until("document.querySelector('.step h3').textContent === 'ship · job'").await;
    browser.value("[...document.querySelectorAll('.graph .node')].find((node) => node.querySelector('.id').textContent === 'reserve').focus()").await;
    browser.key("Enter").await;
    browser.until("document.querySelector('.step h3').textContent === 'reserve · forEach'").await;
    browser.until("document.activeElement.getAttribute('aria-label').startsWith('reserve:')").await;
    assert_eq!(browser.value("document.querySelectorAll('.step tbody tr').length").await, 2);
    browser.shows("submitted").await;
    browser.value("[...document.querySelectorAll('.pane button')].find((one) => one.textContent.startsWith('Cancel')).click()").await;
    browser.until("document.querySelector('dialog')").await;
    browser.value("document.querySelector('dialog input[type=checkbox]').click()").await;
    browser.value("window.answers['/v1/runs/01a2b3c4d5e6f708192a3b4c/cancel'] = {}").await;
    browser.value("document.querySelector('dialog button[value=yes]').click()").await;
    browser.until("window.asked.length === 1").await;
    let asked = browser.value("window.asked[0]").await;
    assert_eq!(asked, json!(["/v1/runs/01a2b3c4d5e6f708192a3b4c/cancel", { "compensate": true }]));
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_runs_are_shown_and_never_run() {
    let service = Service::start();
    let mut browser = signed_in(&service, true, Some(answers(HOSTILE))).await;
    browser.key("9").await;
    browser.until("document.querySelector('tbody')?.innerText.includes('<img src=x')").await;
    browser.key("j").await;
    browser.key("Enter").await;
    browser.until("document.querySelector('.pane')?.innerText.includes('<img src=x')").await;
    assert_eq!(browser.value("document.querySelectorAll('img, #view script').length").await, 0);
    assert_eq!(browser.value("window.owned === undefined").await, true);
    assert_eq!(browser.problems(), Vec::<String>::new());
}
