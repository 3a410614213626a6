//! MCP over HTTP, both eras, as raw JSON-RPC.

use harness::fake::{self, Fake, Seen};
use harness::sidecar::ALLOW;
use harness::{Sidecar, client, model, setting};
use http::Response;
use serde_json::{Value, json};

const SEED: &str = include_str!("../../policies/bundles/safety.yaml");
const POLICIES: [(&str, &str); 2] = [("allow.yaml", ALLOW), ("safety.yaml", SEED)];

/// An MCP server with three tools; it answers as JSON, or as a stream to whom asks for streams alone.
async fn server() -> Fake {
    Fake::start(None, |seen: &Seen| {
        let Ok(asked) = serde_json::from_slice::<Value>(&seen.body) else {
            return Response::builder().status(204).body(fake::whole("")).expect("a reply");
        };
        let result = match asked["method"].as_str() {
            Some("tools/list") => json!({"tools": [
                {"name": "read_rows", "inputSchema": {"type": "object"}},
                {"name": "drop_table", "inputSchema": {"type": "object"}},
                {"name": "wipe", "inputSchema": {"type": "object"}, "annotations": {"destructiveHint": true}},
            ], "ttlMs": 5}),
            Some("initialize") => {
                json!({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "db"}})
            }
            _ => json!({"content": [{"type": "text", "text": "done"}]}),
        };
        let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}).to_string();
        let streams = seen.headers.get("accept").is_some_and(|accept| accept == "text/event-stream");
        let mut reply = if streams {
            model::stream(format!(": hello\n\nevent: message\ndata: {answer}\n\n"))
        } else {
            model::json(answer)
        };
        if asked["method"] == "initialize" {
            reply.headers_mut().insert("mcp-session-id", "s-1".parse().expect("a value"));
        }
        reply
    })
    .await
}

fn call(id: u64, tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {"table": "t"}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_show_only_what_may_be_called() {
    let fake = server().await;
    let rule = "  rules: [{id: no, match: {risk_tags: [destructive]}, decision: deny}]\n";
    let strict = setting::policy("strict", rule);
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("strict.yaml", &strict)]);
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    for accept in ["application/json, text/event-stream", "text/event-stream"] {
        let headers = [("content-type", "application/json"), ("accept", accept)];
        let reply = client::gateway(&sidecar, "POST", "/db/mcp", &headers, list.clone()).await;
        let text = reply.text();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&text);
        let answer: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {text}"));
        let names: Vec<&str> = answer["result"]["tools"]
            .as_array()
            .expect("tools")
            .iter()
            .filter_map(|tool| tool["name"].as_str())
            .collect();
        assert_eq!(names, ["read_rows"], "{accept}");
        assert_eq!((&answer["id"], &answer["result"]["ttlMs"]), (&json!(1), &json!(5)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_call_is_a_result_that_the_model_reads_or_an_error_as_configured() {
    let fake = server().await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &POLICIES);
    let reply = client::post(&sidecar, "/db/mcp", call(3, "drop_table").to_string()).await;
    let result = &reply.json()["result"];
    assert_eq!((reply.status, &reply.json()["id"], &result["isError"]), (200, &json!(3), &json!(true)));
    assert_eq!(result["_meta"]["sideguard.dev/decision"], "deny");
    assert_eq!(result["_meta"]["sideguard.dev/rule"], "safety/block-destructive");
    assert_eq!(result["_meta"]["sideguard.dev/decision_id"], reply.header("x-sideguard-call"));

    let spec = format!("{}  refusals: {{mcp: error}}\n", setting::upstreams(&fake));
    let raising = Sidecar::start(&spec, &POLICIES);
    let reply = client::post(&raising, "/db/mcp", call(4, "drop_table").to_string()).await;
    let error = &reply.json()["error"];
    assert_eq!(
        (reply.status, &error["code"], &error["data"]["code"]),
        (200, &json!(-31_403), &json!("policy_denied"))
    );
    assert_eq!(fake.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_with_one_denied_call_nothing_is_sent_and_every_id_is_answered() {
    let fake = server().await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &POLICIES);
    let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}});
    let batch = json!([call(1, "read_rows"), call(2, "drop_table"), note, {"jsonrpc": "2.0", "id": "x", "method": "ping"}]);
    let reply = client::post(&sidecar, "/db/mcp", batch.to_string()).await;
    assert_eq!((reply.status, fake.seen().len()), (200, 0));
    let answers = reply.json();
    let ids: Vec<&Value> = answers.as_array().expect("an array").iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!(2), &json!("x")]);
    assert!(
        answers[1].to_string().contains("block-destructive") && answers[0].to_string().contains("not sent")
    );
    let tools = json!([call(1, "read_rows"), call(2, "drop_table")]);
    let answers = client::post(&sidecar, "/db/mcp", tools.to_string()).await.json();
    let read = |index: usize| answers[index]["result"]["content"][0]["text"].to_string();
    assert!(read(0).contains("may be sent again") && !read(0).contains("Do not retry"), "{answers}");
    assert!(read(1).contains("Do not retry"), "{answers}");
    let whole = json!([call(1, "read_rows"), call(2, "read_rows")]);
    assert_eq!(client::post(&sidecar, "/db/mcp", whole.to_string()).await.status, 200);
    assert_eq!(fake.seen()[0].body, whole.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_contradict_the_body_are_refused() {
    let fake = server().await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &POLICIES);
    let send = |method: &'static str, name: &'static str| {
        let headers = [
            ("content-type", "application/json"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
            ("mcp-name", name),
        ];
        let sidecar = &sidecar;
        async move {
            client::gateway(sidecar, "POST", "/db/mcp", &headers, call(9, "read_rows").to_string()).await
        }
    };
    for (method, name) in [("tools/list", "read_rows"), ("tools/call", "other"), ("TOOLS/CALL", "read_rows")]
    {
        let reply = send(method, name).await;
        let json = reply.json();
        assert_eq!(
            (reply.status, &json["error"]["code"], &json["id"]),
            (400, &json!(-32_020), &json!(9)),
            "{method} {name}"
        );
        let data = &json["error"]["data"];
        assert_eq!((&data["code"], &data["rule"]), (&json!("unjudgeable"), &json!("dialect")));
        assert_eq!(data["decision_id"], reply.header("x-sideguard-call"));
        assert!(!reply.header("x-sideguard-call").is_empty());
        assert_eq!(reply.header("x-sideguard-rule"), "dialect");
    }
    assert_eq!(fake.seen().len(), 0);
    assert_eq!(send("tools/call", "read_rows").await.status, 200);
    assert_eq!(send("tools/call", "=?base64?cmVhZF9yb3dz?=").await.status, 200);
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_be_read_in_two_ways_is_not_sent() {
    let fake = server().await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &POLICIES);
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"read_rows","arguments":{}{}}}}}"#,
        "{\"a\":".repeat(500),
        "1".to_owned() + &"}".repeat(500)
    );
    let bodies = [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_rows","name":"drop_table"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"drop_table"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\u0061me":"read_rows","name":"drop_table"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_rows","arguments":{"a":1,"a":2}}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_rows"}} {}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#.to_owned(),
        "not json".to_owned(),
        String::new(),
        deep,
    ];
    // The same to a host that nothing is known of, where it is told by its looks.
    for path in ["/db/mcp", "/web/mcp"] {
        for body in &bodies {
            if path == "/web/mcp" && !body.contains("jsonrpc") {
                continue;
            }
            let reply = client::post(&sidecar, path, body.clone()).await;
            let text = reply.text();
            let refused = text.contains("unjudgeable") || text.contains("policy_denied");
            assert!(
                refused && reply.status != 500,
                "{path} {}: {} {text}",
                &body[..body.len().min(90)],
                reply.status
            );
        }
    }
    assert_eq!(fake.seen().len(), 0);
    let decided = || setting::phase(&sidecar.record(), "decision").len() == bodies.len() * 2 - 2;
    harness::until("each is on record", decided).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_answered_as_json_rpc_so_that_the_session_lives() {
    let fake = server().await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &POLICIES);
    let cases = [
        (r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{}}"#, json!(3), -32_602),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x","name":"y"}}"#,
            json!("a"),
            -32_600,
        ),
        (r#"{"jsonrpc":"2.0","id":3,"#, Value::Null, -32_700),
    ];
    for (body, id, code) in cases {
        let reply = client::post(&sidecar, "/db/mcp", body).await;
        let json = reply.json();
        assert_eq!((reply.status, &json["id"], &json["error"]["code"]), (200, &id, &json!(code)), "{body}");
        assert_eq!(json["error"]["data"]["code"], "unjudgeable");
        assert_eq!(json["error"]["data"]["decision_id"], reply.header("x-sideguard-call"));
        assert_eq!(reply.header("x-sideguard-rule"), "dialect");
    }
    assert_eq!(fake.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_notification_gets_202_and_no_body() {
    let fake = server().await;
    let rule = "  rules: [{id: no, match: {topics: [\"mcp.db.notifications.*\"]}, decision: deny}]\n";
    let strict = setting::policy("strict", rule);
    let sidecar =
        Sidecar::start(&setting::upstreams(&fake), &[("allow.yaml", ALLOW), ("strict.yaml", &strict)]);
    for body in [
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#,
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{}}"#,
    ] {
        let reply = client::post(&sidecar, "/db/mcp", body).await;
        assert_eq!((reply.status, reply.text().as_str()), (202, ""), "{body}");
        assert_eq!(reply.header("x-sideguard-decision"), "deny");
        let call = reply.header("x-sideguard-call");
        let entries = sidecar.recorded(|entry| entry["call"] == *call).await;
        assert_eq!(entries[0]["status"], 202);
    }
    assert_eq!(fake.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_be_ended_by_who_opened_it_and_any_other_delete_is_one() {
    let fake = server().await;
    let sidecar = Sidecar::start(&setting::upstreams(&fake), &POLICIES);
    let end = |session: &'static str, path: &'static str| {
        let sidecar = &sidecar;
        async move { client::gateway(sidecar, "DELETE", path, &[("mcp-session-id", session)], "").await }
    };
    let early = end("s-1", "/db/mcp").await;
    assert_eq!((early.status, fake.seen().len()), (403, 0), "no server opened it yet");
    let begin = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}).to_string();
    let begun = client::post(&sidecar, "/db/mcp", begin).await;
    assert_eq!((begun.status, begun.header("mcp-session-id")), (200, "s-1".to_owned()));
    assert_eq!(end("s-2", "/db/mcp").await.status, 403);
    assert_eq!(end("s-1", "/db/other").await.status, 403);
    assert_eq!(end("s-1", "/db/mcp").await.status, 204);
    assert_eq!(fake.seen().iter().filter(|seen| seen.method == "DELETE").count(), 1);
}
