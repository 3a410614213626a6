//! The control service's interface: its description, its keys and sessions, and what it refuses.

use harness::{Service, client};
use serde_json::{Value, json};

fn code(reply: &client::Reply) -> String {
    assert_eq!(reply.header("content-type"), "application/problem+json", "{}", reply.text());
    reply.json()["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_interface_is_described() {
    let service = Service::start();
    let reply = client::direct(service.url(), "GET", "/openapi.json", &[], "").await;
    let document = reply.json();
    insta::assert_snapshot!("openapi", serde_json::to_string_pretty(&document).expect("JSON"));
    // Every reference leads somewhere.
    let text = document.to_string();
    for place in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document.pointer(place).is_some(), "{place}");
    }
}

#[tokio::test]
async fn a_key_does_what_its_role_may_until_it_is_revoked() {
    let service = Service::start();
    let viewer = service.new_key(&["vera", "--role", "viewer"]).await;
    assert_eq!(service.ask(&viewer, "GET", "/v1/sidecars", "").await.status, 200);
    let refused = service.ask(&viewer, "POST", "/v1/kills", r#"{"scope": "fleet"}"#).await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "forbidden"));
    assert_eq!(service.ask(&viewer, "GET", "/v1/keys", "").await.status, 403);
    let list = service.json(&["key", "list"]).await;
    let keys = list["items"].as_array().expect("keys");
    let entry = keys.iter().find(|key| key["name"] == "vera").expect("the key");
    assert!(entry["used"].is_string() && entry["role"] == "viewer", "{entry}");
    assert!(!list.to_string().contains(&viewer[8..]), "what a key is, is not kept");
    let id = entry["id"].as_str().expect("an id");
    service.out(&["key", "revoke", id]).await;
    let refused = service.ask(&viewer, "GET", "/v1/sidecars", "").await;
    assert_eq!((refused.status, code(&refused).as_str()), (401, "unauthenticated"));
    assert_eq!(service.run(&["key", "revoke", id]).await.code, Some(1));
}

#[tokio::test]
async fn every_refusal_has_one_form() {
    let service = Service::start();
    for (method, path, body, status) in [
        ("GET", "/v1/keys?limit=many", "", 400),
        ("DELETE", "/v1/keys", "", 400),
        ("GET", "/v1/generations/first", "", 400),
        ("POST", "/v1/kills", "{", 400),
        ("POST", "/v1/kills", r#"{"scope": "fleet", "typo": 1}"#, 400),
        ("PUT", "/v1/kills", "{}", 404),
        ("GET", "/v2", "", 404),
    ] {
        let refused = service.ask(&service.key(), method, path, body).await;
        assert_eq!((refused.status, code(&refused).is_empty()), (status, false), "{method} {path}");
    }
}

#[tokio::test]
async fn a_key_ends_with_its_time() {
    let service = Service::start();
    let short = service.new_key(&["tom", "--for", "1s"]).await;
    assert_eq!(service.ask(&short, "GET", "/v1/kills", "").await.status, 200);
    let since = sideguard_runtime::clock::Stopwatch::start();
    while service.ask(&short, "GET", "/v1/kills", "").await.status == 200 {
        assert!(since.elapsed().as_secs() < 10, "it goes on");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let service = Service::start();
    for name in ["a", "b", "c", "d"] {
        service.new_key(&[name]).await;
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    for _ in 0..5 {
        let page = service.ask(&service.key(), "GET", &format!("/v1/keys?limit=2{after}"), "").await.json();
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    names.sort();
    assert_eq!(names, ["a", "b", "c", "d", "operator"]);
}

#[tokio::test]
async fn who_asks_too_often_is_told_to_wait_and_others_are_not() {
    let service = Service::with("  limits: {keyRate: 1, addressRate: 2, heldByKey: 1}\n");
    let (busy, calm) = (service.new_key(&["busy"]).await, service.new_key(&["calm"]).await);
    let mut refused = None;
    for _ in 0..50 {
        let reply = service.ask(&busy, "GET", "/v1/kills", "").await;
        if reply.status != 200 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("a refusal");
    assert_eq!((refused.status, code(&refused).as_str()), (429, "rate_limited"));
    assert!(refused.header("retry-after").parse::<u64>().expect("seconds") >= 1);
    assert_eq!(service.ask(&calm, "GET", "/v1/kills", "").await.status, 200);
    // Without a good key the address counts; who has one is not in its way.
    let mut statuses = Vec::new();
    for _ in 0..50 {
        statuses.push(client::direct(service.url(), "GET", "/v1/kills", &[], "").await.status);
    }
    assert!(statuses.contains(&401) && statuses.contains(&429), "{statuses:?}");
    assert_eq!(service.ask(&calm, "GET", "/v1/kills", "").await.status, 200);
    assert_eq!(client::direct(service.url(), "GET", "/healthz", &[], "").await.status, 200);
}

#[tokio::test]
async fn a_key_holds_only_so_many_questions() {
    let service = Service::with("  limits: {heldByKey: 1}\n");
    let token = service.out(&["token"]).await;
    let ask = json!({ "token": token.trim(), "sidecar": "one" }).to_string();
    let headers = [("content-type", "application/json")];
    let enrolled = client::direct(service.url(), "POST", "/v1/enrol", &headers, &ask).await.json();
    let key = enrolled["key"].as_str().expect("a key");
    let held = async {
        loop {
            let feed = service.ask(key, "GET", "/v1/feed?generation=0&kills=0", "").await;
            // The other one may be under way at that very moment.
            if feed.status != 429 {
                return feed;
            }
        }
    };
    let second = async {
        loop {
            // Answered at once while the first one is held.
            let feed = service.ask(key, "GET", "/v1/feed?generation=9&kills=9", "").await;
            if feed.status == 429 {
                return feed;
            }
        }
    };
    tokio::select! {
        reply = held => panic!("it is not held: {}", reply.text()),
        refused = second => assert_eq!(code(&refused), "rate_limited"),
        () = tokio::time::sleep(std::time::Duration::from_secs(10)) => panic!("no refusal"),
    }
}

#[tokio::test]
async fn what_is_too_long_or_for_another_host_is_refused() {
    let service = Service::start();
    let long = json!({ "scope": "fleet", "reason": "x".repeat(100_000) }).to_string();
    let refused = service.ask(&service.key(), "POST", "/v1/kills", &long).await;
    assert_eq!((refused.status, code(&refused).as_str()), (413, "body_too_large"));
    for host in ["evil.example", "evil.example:4760", "169.254.169.254"] {
        let refused = client::direct(service.url(), "GET", "/", &[("host", host)], "").await;
        assert_eq!((refused.status, code(&refused).as_str()), (421, "misdirected"), "{host}");
    }
    let reply =
        client::direct(service.url(), "GET", "/version", &[("origin", "https://evil.example")], "").await;
    assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{reply:?}");
    assert_eq!(reply.json(), json!({ "version": env!("CARGO_PKG_VERSION") }));
    assert_eq!(reply.header("content-security-policy"), "default-src 'none'; frame-ancestors 'none'");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn a_session_stands_for_a_key_and_changes_need_our_own_page() {
    let service = Service::start();
    let own = ("x-sideguard-page", "1");
    let json = ("content-type", "application/json");
    let body = json!({ "key": service.key() }).to_string();
    let sign_in = |headers: Vec<(&'static str, &'static str)>| {
        let (url, body) = (service.url().to_owned(), body.clone());
        async move { client::direct(&url, "POST", "/session", &headers, &body).await }
    };
    assert_eq!(sign_in(vec![json]).await.status, 421, "another site could send this");
    assert_eq!(sign_in(vec![own, json, ("origin", "http://evil.example")]).await.status, 421);
    let signed = sign_in(vec![own, json]).await;
    assert_eq!((signed.status, &signed.json()["role"]), (200, &Value::from("operator")));
    let set = signed.header("set-cookie");
    let (cookie, flags) = set.split_once(';').expect("flags");
    assert_eq!(flags, " Path=/; HttpOnly; SameSite=Strict");
    let cookie = ("cookie", cookie);
    let ask = |method: &'static str, path: &'static str, headers: Vec<(&'static str, &'static str)>| {
        let all: Vec<(&str, &str)> = headers.into_iter().chain([json, cookie]).collect();
        let url = service.url();
        async move { client::direct(url, method, path, &all, r#"{"scope": "fleet"}"#).await.status }
    };
    assert_eq!(ask("GET", "/v1/sidecars", vec![]).await, 200);
    assert_eq!(ask("GET", "/v1/sidecars", vec![("sec-fetch-site", "cross-site")]).await, 421);
    assert_eq!(ask("POST", "/v1/kills", vec![]).await, 421);
    assert_eq!(ask("POST", "/v1/kills", vec![own, ("origin", "http://127.0.0.1:1")]).await, 421);
    assert_eq!(ask("POST", "/v1/kills", vec![own]).await, 200);
    assert_eq!(ask("DELETE", "/session", vec![own]).await, 204);
    assert_eq!(ask("GET", "/v1/sidecars", vec![]).await, 401);
}
