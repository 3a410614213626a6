//! Budgets of a fleet: what is settled and outstanding never exceeds a limit, whatever becomes of sidecars, of control and
//! of the lines between them.

use std::sync::Arc;
use std::time::Duration;

use harness::sidecar::ALLOW;
use harness::{Fake, Relay, Service, Sidecar, client, model, setting};
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;
use tokio::task::JoinSet;

/// Leases that are soon over.
const SHORT: &str = "  lease: 2s\n";

async fn chatting() -> Fake {
    Fake::start(None, |seen| {
        if seen.target.contains("chat") {
            model::json(model::completion("ok", 20, 30))
        } else {
            model::json("{}")
        }
    })
    .await
}

/// A sidecar once it has policy. Further keys of the agent may follow its name.
async fn joined(service: &Service, url: &str, agent: &str, fake: &Fake) -> Sidecar {
    let sidecar = service.sidecar_at(url, "", agent, &setting::upstreams(fake)).await;
    let since = Stopwatch::start();
    while client::admin(&sidecar, "/readyz").await.status != 200 {
        assert!(since.elapsed() < Duration::from_secs(10), "control does not govern it");
    }
    sidecar
}

async fn web(sidecar: &Sidecar) -> (u16, String) {
    let reply =
        client::gateway(sidecar, "GET", &format!("/web/{}", sideguard_runtime::id::token(8)), &[], "").await;
    let code = reply.header("x-sideguard-decision");
    (reply.status, format!("{code} {}", reply.text()))
}

async fn chat(sidecar: &Sidecar, most: u64) -> u16 {
    let ask = model::ask(&sideguard_runtime::id::token(8), &format!(r#","max_tokens":{most}"#));
    client::post(sidecar, model::CHAT, ask).await.status
}

/// All accounts, as control tells of them.
async fn accounts(service: &Service) -> Vec<Value> {
    let known = service.json(&["budget"]).await;
    known["items"].as_array().expect("a list").clone()
}

fn amount(account: &Value, name: &str) -> u64 {
    let text = account[name].as_str().unwrap_or_else(|| panic!("no {name} in {account:#}"));
    text.parse().unwrap_or_else(|_| panic!("{text} in {account:#}"))
}

/// Sums of one unit, once the account is there: spent, held, limit.
async fn sums(service: &Service, budget: &str, unit: &str) -> (u64, u64, u64) {
    let since = Stopwatch::start();
    loop {
        let accounts = accounts(service).await;
        let own = accounts.iter().find(|account| account["budget"] == budget && account["unit"] == unit);
        if let Some(own) = own {
            return (amount(own, "spent"), amount(own, "held"), amount(own, "limit"));
        }
        assert!(since.elapsed() < Duration::from_secs(10), "no {unit} of {budget} in {accounts:#?}");
    }
}

/// Waits until leases hold nothing, and returns what is spent.
async fn settled(service: &Service, budget: &str, unit: &str) -> u64 {
    let since = Stopwatch::start();
    loop {
        let (spent, held, limit) = sums(service, budget, unit).await;
        assert!(spent + held <= limit, "{spent} spent and {held} held of {limit}");
        if held == 0 {
            return spent;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{held} of {unit} still held");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn calls(amount: u64) -> String {
    setting::budget(&format!("unit: calls, amount: {amount}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_spend_one_budget_once() {
    let (service, fake) = (Service::with(SHORT), chatting().await);
    service.apply(&format!("{ALLOW}---\n{}", calls(10))).await;
    let sidecars = [
        joined(&service, service.url(), "a", &fake).await,
        joined(&service, service.url(), "b", &fake).await,
    ];
    let mut passed = 0;
    for round in 0..20 {
        for sidecar in &sidecars {
            let (status, text) = web(sidecar).await;
            assert!([200, 402, 429].contains(&status), "{round}: {status} {text}");
            passed += u64::from(status == 200);
        }
    }
    assert_eq!(passed, 10);
    assert_eq!(fake.seen().len(), 10);
    assert_eq!(settled(&service, "all", "calls").await, 10);
}

/// Calls until there are `count` answers, some at a time; tells how many passed. Every other answer must be a refusal for
/// want of budget.
async fn storm(sidecar: &Arc<Sidecar>, count: usize) -> u64 {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let sidecar = Arc::clone(sidecar);
        calls.spawn(async move { chat(&sidecar, 100).await });
    }
    let answers = calls.join_all().await;
    assert!(answers.iter().all(|status| [200, 402, 429].contains(status)), "{answers:?}");
    answers.iter().filter(|status| **status == 200).count() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn of_1000_calls_through_4_sidecars_and_partitions_no_more_is_settled_than_the_limit() {
    const TOKENS: u64 = 12_000;
    const CALLS: u64 = 300;
    let (service, fake) = (Arc::new(Service::with(SHORT)), chatting().await);
    let budget =
        setting::budget(&format!("unit: calls, amount: {CALLS}}}, {{unit: tokens, amount: {TOKENS}"));
    service.apply(&format!("{ALLOW}---\n{budget}")).await;
    let (mut relays, mut sidecars) = (Vec::new(), Vec::new());
    for number in 0..4 {
        let relay = Relay::to(service.url()).await;
        sidecars.push(Arc::new(joined(&service, &relay.url(), &format!("agent-{number}"), &fake).await));
        relays.push(relay);
    }
    let mut looking = JoinSet::new();
    let known = Arc::clone(&service);
    looking.spawn(async move {
        loop {
            for unit in ["calls", "tokens"] {
                let (spent, held, limit) = sums(&known, "all", unit).await;
                assert!(spent + held <= limit, "{spent} {unit} spent and {held} held of {limit}");
            }
        }
    });
    // Ten rounds of 100 calls at once; in each, two lines are down, and the last one stays down.
    let mut admitted = 0;
    for round in 0..10 {
        relays[round % 4].cut();
        relays[(round + 1) % 4].cut();
        let mut storms = JoinSet::new();
        for sidecar in &sidecars {
            let sidecar = Arc::clone(sidecar);
            storms.spawn(async move { storm(&sidecar, 25).await });
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        relays[(round + 1) % 4].mend();
        admitted += storms.join_all().await.iter().sum::<u64>();
        if round < 9 {
            relays[round % 4].mend();
        }
        if round == 0 {
            // One is killed and comes again: what it held is charged in full.
            let killed = Arc::into_inner(sidecars.swap_remove(2)).expect("no call is under way");
            sidecars.push(Arc::new(killed.again()));
        }
    }
    assert!(looking.try_join_next().is_none(), "the limit held all the time");
    looking.abort_all();
    let (calls, tokens) = (settled(&service, "all", "calls").await, settled(&service, "all", "tokens").await);
    let reached = fake.seen().len() as u64;
    println!(
        "admitted {admitted} calls, {} tokens; settled {calls} calls of {CALLS}, {tokens} tokens of {TOKENS}; \
         stranded {} calls, {} tokens",
        admitted * 50,
        calls - reached,
        tokens - reached * 50
    );
    assert_eq!(admitted, reached);
    assert!(reached <= calls && calls <= CALLS, "{reached} {calls}");
    assert!(reached * 50 <= tokens && tokens <= TOKENS, "{reached} {tokens}");
    assert!(admitted > 50, "{admitted} is hardly anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_sidecar_held_is_charged_in_full() {
    let (service, fake) = (Service::with(SHORT), chatting().await);
    service.apply(&format!("{ALLOW}---\n{}", calls(40))).await;
    let mut first = joined(&service, service.url(), "a", &fake).await;
    for _ in 0..5 {
        assert_eq!(web(&first).await.0, 200);
    }
    let (spent, held, _) = sums(&service, "all", "calls").await;
    assert!(held > 0 && spent + held >= 5, "{spent} {held}");
    first.kill();
    let charged = settled(&service, "all", "calls").await;
    assert!((5..=40).contains(&charged) && charged <= spent + held, "{charged} of {spent} and {held}");
    let second = joined(&service, service.url(), "b", &fake).await;
    let (mut passed, since) = (0, Stopwatch::start());
    // A lease may take longer than a call waits for it: then the next call finds it.
    while charged + passed < 40 {
        passed += u64::from(web(&second).await.0 == 200);
        assert!(since.elapsed() < Duration::from_secs(20), "{charged} charged and {passed} passed of 40");
    }
    assert_ne!(web(&second).await.0, 200, "nothing is left");
    assert_eq!(settled(&service, "all", "calls").await, 40);
    assert_eq!(fake.seen().len() as u64, 5 + passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sidecar_that_ends_did_not_use_is_given_back() {
    let (service, fake) = (Service::start(), chatting().await);
    service.apply(&format!("{ALLOW}---\n{}", calls(40))).await;
    let mut first = joined(&service, service.url(), "a", &fake).await;
    for _ in 0..5 {
        assert_eq!(web(&first).await.0, 200);
    }
    assert!(first.terminate().success());
    let (spent, held, _) = sums(&service, "all", "calls").await;
    assert_eq!((spent, held), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_control_spends_nothing_twice() {
    let (mut service, fake) = (Service::with(SHORT), chatting().await);
    service.apply(&format!("{ALLOW}---\n{}", calls(60))).await;
    let mut sidecars = Vec::new();
    for agent in ["a", "b"] {
        sidecars.push(joined(&service, service.url(), agent, &fake).await);
    }
    let mut passed = 0;
    for round in 0..60 {
        if round == 8 {
            service.kill();
        }
        if round == 16 {
            service = service.again();
        }
        for sidecar in &sidecars {
            passed += u64::from(web(sidecar).await.0 == 200);
        }
    }
    let spent = settled(&service, "all", "calls").await;
    assert!(passed <= spent && spent <= 60, "{passed} passed, {spent} spent");
    assert_eq!(passed, fake.seen().len() as u64);
    assert!(passed > 30, "{passed} is hardly anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_cut_off_spends_its_leases_until_they_are_over() {
    let (service, fake) = (Service::with(SHORT), chatting().await);
    service.apply(&format!("{ALLOW}---\n{}", calls(400))).await;
    let relay = Relay::to(service.url()).await;
    let sidecar = joined(&service, &relay.url(), "a", &fake).await;
    for _ in 0..20 {
        assert_eq!(web(&sidecar).await.0, 200);
    }
    relay.cut();
    let since = Stopwatch::start();
    assert_eq!(web(&sidecar).await.0, 200, "a lease may be drained");
    harness::until("its leases are over", || since.elapsed() > Duration::from_millis(2_100)).await;
    let before = fake.seen().len();
    let (status, text) = web(&sidecar).await;
    assert_eq!(status, 429, "{text}");
    assert!(text.contains("control"), "{text}");
    assert_eq!(fake.seen().len(), before);
    relay.mend();
    let since = Stopwatch::start();
    while web(&sidecar).await.0 != 200 {
        assert!(since.elapsed() < Duration::from_secs(10), "it does not come back");
    }
}

fn nested(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: sideguard.dev/v1\nkind: Budget\nmetadata: {{name: {name}, tenant: default}}\nspec: {{{spec}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_draws_inside_its_team_and_the_team_inside_its_tenant() {
    let (service, fake) = (Service::with(SHORT), chatting().await);
    let budgets = [
        nested("agents", "limits: [{unit: calls, amount: 5, per: agent}]"),
        nested("team", "scope: {labels: {team: red}}, limits: [{unit: calls, amount: 8}]"),
        nested("tenant", "limits: [{unit: calls, amount: 10}]"),
    ];
    service.apply(&format!("{ALLOW}{}", budgets.concat())).await;
    let mut all = Vec::new();
    for (agent, passes) in [("a, labels: {team: red}", 5), ("b, labels: {team: red}", 3), ("c", 2), ("d", 0)]
    {
        let sidecar = joined(&service, service.url(), agent, &fake).await;
        let mut passed = 0;
        let reason = loop {
            let (status, text) = web(&sidecar).await;
            if status != 200 {
                break text;
            }
            passed += 1;
        };
        assert_eq!(passed, passes, "{agent}: {reason}");
        // What it held and could not use is given back before the next one comes.
        for budget in ["agents", "team", "tenant"] {
            settled(&service, budget, "calls").await;
        }
        all.push(sidecar);
    }
    let spent = |accounts: &[Value], budget: &str, key: &str| {
        let one = accounts.iter().find(|one| one["budget"] == budget && one["key"] == key);
        one.map(|one| (amount(one, "spent"), amount(one, "held")))
    };
    let accounts = accounts(&service).await;
    assert_eq!(spent(&accounts, "team", ""), Some((8, 0)));
    assert_eq!(spent(&accounts, "tenant", ""), Some((10, 0)));
    assert_eq!(spent(&accounts, "agents", "default/a"), Some((5, 0)));
    assert_eq!(
        spent(&accounts, "agents", "default/b"),
        Some((3, 0)),
        "what its team refused it, it does not hold"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_once_are_counted_over_all_sidecars() {
    let open = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let parts = Arc::clone(&open);
    let fake = Fake::start(None, move |_| {
        let (send, body) = harness::fake::parts();
        parts.lock().push(send);
        http::Response::new(body)
    })
    .await;
    let service = Service::with(SHORT);
    service.apply(&format!("{ALLOW}---\n{}", setting::budget("unit: concurrency, amount: 2"))).await;
    let (a, b) = (
        joined(&service, service.url(), "a", &fake).await,
        joined(&service, service.url(), "b", &fake).await,
    );
    let first = client::gateway_open(&a, "GET", "/web/1", &[], "").await;
    let second = client::gateway_open(&b, "GET", "/web/2", &[], "").await;
    assert_eq!((first.status(), second.status()), (http::StatusCode::OK, http::StatusCode::OK));
    assert_eq!(web(&a).await.0, 429);
    // Longer than a lease lasts: what is under way goes on holding its place.
    let since = Stopwatch::start();
    while since.elapsed() < Duration::from_secs(5) {
        assert_eq!(web(&b).await.0, 429);
    }
    open.lock().clear();
    drop((first, second));
    let since = Stopwatch::start();
    loop {
        let reply =
            client::gateway_open(&b, "GET", &format!("/web/{}", sideguard_runtime::id::token(8)), &[], "")
                .await;
        if reply.status() == 200 {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "no place is free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_how_budgets_stand_and_are_alerted() {
    let (service, fake) = (Service::with(SHORT), chatting().await);
    let spec =
        "alerts: [0.5, 0.9], limits: [{unit: calls, amount: 10, window: day}, {unit: usd, amount: 2.5}]";
    service.apply(&format!("{ALLOW}{}", nested("daily", spec))).await;
    let sidecar = joined(&service, service.url(), "a", &fake).await;
    for _ in 0..6 {
        assert_eq!(web(&sidecar).await.0, 200);
    }
    settled(&service, "daily", "calls").await;
    let since = Stopwatch::start();
    let account = loop {
        let all = accounts(&service).await;
        let one = all.into_iter().find(|one| one["unit"] == "calls").unwrap_or_default();
        if one["alert"] == 0.5 {
            break one;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "no alert: {one:#}");
    };
    assert_eq!(
        (&account["spent"], &account["left"], &account["alerts"]),
        (&json!("6"), &json!("4"), &json!(1))
    );
    assert!(account["resetAt"].as_str().is_some_and(|at| at.contains("T00:00:00")), "{account:#}");
    assert!(service.log().contains("a budget has reached a share with an alert"));
    let table = service.out(&["budget", "--tenant", "default"]).await;
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = table.lines().map(cells).collect();
    let row = lines.iter().find(|row| row.get(3).is_some_and(|unit| unit == "calls")).expect("a row");
    assert_eq!(lines[0][..8], ["TENANT", "BUDGET", "ACCOUNT", "UNIT", "LIMIT", "SPENT", "HELD", "LEFT"]);
    assert_eq!(row[..8], ["default", "daily", "-", "calls", "10/day", "6", "0", "4"]);
    assert_eq!(row[9], "50%");
    assert!(
        lines.iter().any(|row| row.get(3..6) == Some(&["usd", "2.5", "0"].map(str::to_owned)[..])),
        "{table}"
    );
    assert!(service.run(&["budget", "--tenant", "other"]).await.out.is_empty());
}

/// A sidecar with two calls in a policy file.
async fn with_own_budget(service: &Service, fake: &Fake) -> (Sidecar, tempfile::NamedTempFile) {
    service.apply(ALLOW).await;
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
    std::fs::write(file.path(), calls(2)).expect("a budget");
    let spec = format!("  policies: [\"{}\"]\n{}", file.path().display(), setting::upstreams(fake));
    let sidecar = service.sidecar_at(service.url(), "", "a", &spec).await;
    service.all_stand(1, "current").await;
    (sidecar, file)
}

async fn two_are_spent_at_control(service: &Service, sidecar: &Sidecar) {
    let mut passed = 0;
    for _ in 0..4 {
        passed += usize::from(web(sidecar).await.0 == 200);
    }
    assert_eq!((passed, settled(service, "all", "calls").await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_moves_from_a_file_to_control_is_leased() {
    let (service, fake) = (Service::with(SHORT), chatting().await);
    let (sidecar, file) = with_own_budget(&service, &fake).await;
    // The set is the same before and after, as nobody looks at a file with the same time and length in between.
    let time = file.as_file().metadata().and_then(|known| known.modified()).expect("a time");
    std::fs::write(file.path(), "#".repeat(calls(2).len())).expect("no budget");
    file.as_file().set_modified(time).expect("the time");
    service.apply(&format!("{ALLOW}---\n{}", calls(2))).await;
    service.all_stand(1, "current").await;
    two_are_spent_at_control(&service, &sidecar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_refused_for_a_file_is_in_force_soon_after_the_file_changes() {
    let (service, fake) = (Service::with(SHORT), chatting().await);
    let (sidecar, file) = with_own_budget(&service, &fake).await;
    service.apply(&format!("{ALLOW}---\n{}", calls(2))).await;
    service.all_stand(1, "refused").await;
    std::fs::write(file.path(), "# moved to control\n").expect("no budget");
    service.all_stand(1, "current").await;
    two_are_spent_at_control(&service, &sidecar).await;
}
