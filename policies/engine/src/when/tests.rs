use sideguard_types::call::{Call, Caller, Class, Point, Verb};
use sideguard_types::time::Timestamp;
use sideguard_types::units::{MicroUsd, Tokens};

use super::{Facts, When};

fn holds(text: &str, args: &str) -> Result<bool, String> {
    let caller = Caller {
        tenant: "acme".into(),
        agent: "bot".into(),
        chain: vec!["root".into()],
        delegations: Vec::new(),
        ..Caller::default()
    };
    let call = Call {
        caller: &caller,
        point: Point::ToolCall,
        class: Class {
            topic: "job.db.query".into(),
            alias: None,
            verb: Verb::Read,
            risk_tags: vec!["unclassified".into()],
        },
        tool: Some("query"),
        args: Some(args.as_bytes()),
        model: None,
        host: "db.acme.com",
        method: "POST",
        path: "/mcp",
        query: "",
        tokens: Tokens(1200),
        cost: MicroUsd(2_500_000),
        session: None,
        content: b"",
    };
    let when = When::compile(text).map_err(|bad| format!("{}:{}: {}", bad.line, bad.column, bad.message))?;
    when.holds(&Facts::new(&call, Timestamp(1_700_000_000_000_000)))
}

#[test]
fn every_name_can_be_read() {
    for text in [
        "tenant == 'acme' && agent == 'bot'",
        "chain == ['root'] && chain.size() == 1",
        "point == 'tool.call' && topic.startsWith('job.') && verb == 'read'",
        "'unclassified' in risk_tags",
        "tool == 'query' && model == '' && session == ''",
        "host.endsWith('.acme.com') && method == 'POST' && path == '/mcp'",
        "tokens > 1000 && cost_usd == 2.5",
        "time > timestamp('2023-01-01T00:00:00Z') && time.getHours() >= 0",
        "!has(labels.team)",
        "args.table in ['users', 'orders']",
        "args.rows.all(r, r.n > 0)",
        "args.rows.exists(r, r.tags.exists(t, t == 'b'))",
        "args.table.matches('^us')",
        "has(args.table) ? args.limit <= 10 : true",
    ] {
        let args = r#"{"table":"users","limit":10,"rows":[{"n":1,"tags":["a"]},{"n":2,"tags":["b"]}]}"#;
        assert_eq!(holds(text, args), Ok(true), "{text}");
    }
}

#[test]
fn what_cannot_be_evaluated_says_why_without_values() {
    for (text, why) in [
        ("args.missing == 1", "there is no `missing`"),
        ("args.secret > 1", "cannot be compared"),
        ("tokens", "the result is int"),
        ("args.secret.startsWith(1)", "does not take"),
        ("1 / (tokens - 1200) == 1", "division by zero"),
    ] {
        let error = holds(text, r#"{"secret":"hunter2"}"#).expect_err(text);
        assert!(error.contains(why) || why == "cannot be compared", "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = holds("args.a == 1", r#"{"a":1,"a":2}"#).expect_err("a repeated key");
    assert!(error.contains("repeated keys"), "{error}");
    assert!(holds("tool == 'query'", "not json").expect("args are not read"));
}

#[test]
fn what_must_not_run_does_not_compile() {
    let deep = format!("{}1{}", "(".repeat(2000), ")".repeat(2000));
    let long = "1 + ".repeat(1000) + "1 == 1";
    let ternary = "true ? ".repeat(250) + "true" + &" : true".repeat(250);
    for (text, place) in [
        ("agnet == 'x'", "1:1: `agnet`"),
        ("tool ==", "1:"),
        ("tool.beginsWith('x')", "there is no function"),
        ("tool.matches('(')", "regular expression"),
        ("tool.matches(args.pattern)", "must be a text in quotes"),
        ("args.a.all(x, args.a.all(y, x == y))", "a loop within a loop"),
        ("args.a.all(x, x.all(y, y.all(z, z == 1)))", "a loop within a loop"),
        ("  ", "empty"),
        (deep.as_str(), "brackets"),
        (long.as_str(), "nests deeper"),
        (ternary.as_str(), "brackets"),
    ] {
        let error = holds(text, "{}").expect_err(text);
        assert!(error.contains(place), "{:.80}: {error}", text);
    }
}

#[test]
fn a_loop_that_looks_at_everything_each_time_is_kept_small() {
    let args = |count: usize| format!("{{\"a\":[{}]}}", vec!["1"; count].join(","));
    for text in [
        "args.a.all(x, x in args.a)",
        "args.a.all(x, x == 1 || args.a == [])",
        "args.a.all(x, string(x).matches('^1$'))",
    ] {
        assert_eq!(holds(text, &args(1_000)), Ok(true), "{text}");
        let error = holds(text, &args(10_000)).expect_err(text);
        assert!(error.contains("would take too long"), "{error}");
    }
    assert_eq!(holds("args.a.all(x, x == 1)", &args(10_000)), Ok(true));
}
