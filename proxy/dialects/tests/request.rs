//! What requests ask for is read as their provider reads it, and changes touch nothing else.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value as Tree, json};
use sideguard_dialects::count::text_tokens;
use sideguard_dialects::detect::Operation;
use sideguard_dialects::request::{
    self, CapName, Change, McpRequest, ModelRequest, Request, header_mismatch,
};
use sideguard_dialects::{edit, json as places};
use sideguard_types::units::Tokens;

fn model(op: Operation, body: &[u8]) -> ModelRequest<'_> {
    match request::read(op, body) {
        Ok(Request::Model(request)) => *request,
        other => panic!("{other:?}"),
    }
}

fn mcp(body: &[u8]) -> McpRequest<'_> {
    match request::read(Operation::Mcp, body) {
        Ok(Request::Mcp(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn refused(op: Operation, body: &str) -> String {
    request::read(op, body.as_bytes())
        .map(|read| format!("read: {read:?}"))
        .expect_err("it is refused")
        .to_string()
}

#[test]
fn a_chat_is_read_whole() {
    let body = br#"{"model":"gpt-\u0078","stream":true,"n":3,"max_tokens":10,"max_completion_tokens":20,
        "stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}],
        "tools":[{"type":"function","function":{"name":"search"}},{"type":"custom","custom":{"name":"sql"}}],
        "functions":[{"name":"old"}],"web_search_options":{}}"#;
    let call = model(Operation::Chat, body);
    assert_eq!(call.model, "gpt-x");
    assert_eq!((call.stream, call.choices, call.include_usage), (true, 3, true));
    assert_eq!(call.output_cap, Some(Tokens(20)));
    assert_eq!(call.tools, ["search", "sql", "old"]);
    assert_eq!(call.hosted_tools, ["web_search_options"]);
    assert!(call.input.open);
}

#[test]
fn a_response_is_read_whole() {
    let body = br#"{"model":"m","input":"hi","max_output_tokens":5,"previous_response_id":"resp_1","tools":[
        {"type":"function","name":"f"},{"type":"web_search"},{"type":"mcp","server_url":"https://x.example/mcp"},
        {"type":"namespace","name":"crm","tools":[{"type":"function","name":"g"}]},{"type":"local_shell"}]}"#;
    let call = model(Operation::Responses, body);
    assert_eq!(call.output_cap, Some(Tokens(5)));
    assert_eq!(call.tools, ["f", "g", "local_shell"]);
    assert_eq!(call.hosted_tools, ["web_search", "mcp:https://x.example/mcp"]);
    assert!(call.input.open);
    assert!(!model(Operation::Responses, br#"{"model":"m","input":"hi"}"#).input.open);
}

#[test]
fn a_message_is_read_whole() {
    let body = br#"{"model":"claude","max_tokens":64,"system":"be kind","messages":[],"stream":false,
        "tools":[{"name":"a","input_schema":{}},{"type":"bash_20250124","name":"bash"},{"type":"web_search_20250305","name":"w"}],
        "mcp_servers":[{"type":"url","url":"https://y.example"}]}"#;
    let call = model(Operation::Messages, body);
    assert_eq!(call.output_cap, Some(Tokens(64)));
    assert_eq!(call.tools, ["a", "bash"]);
    assert_eq!(call.hosted_tools, ["web_search_20250305", "mcp:https://y.example"]);
    assert!(call.input.open);
    let counting = model(Operation::CountTokens, br#"{"model":"claude","messages":[]}"#);
    assert_eq!(counting.output_cap, Some(Tokens::ZERO));
    let embedding = model(Operation::Embeddings, br#"{"model":"e","input":[[1,2],[3]]}"#);
    assert_eq!(embedding.output_cap, Some(Tokens::ZERO));
}

#[test]
fn what_could_be_understood_otherwise_is_refused() {
    let chat = |members: &str| format!(r#"{{"model":"m","messages":[],{members}}}"#);
    for (members, word) in [
        (r#""max_tokens":1e2"#, "max_tokens"),
        (r#""max_tokens":100.0"#, "max_tokens"),
        (r#""max_tokens":-1"#, "max_tokens"),
        (r#""max_tokens":"5""#, "max_tokens"),
        (r#""max_completion_tokens":99999999999999999999"#, "max_completion_tokens"),
        (r#""Max_Tokens":9"#, "Max_Tokens"),
        (r#""MODEL":"x""#, "MODEL"),
        ("\"max_to\u{212A}ens\":9", "max_tokens"),
        (r#""\u017ftream":true"#, "stream"),
        (r#""model":"n""#, "duplicate"),
        (r#""models":["a","b"]"#, "models"),
        (r#""stream":"true""#, "stream"),
        (r#""stream":1"#, "stream"),
        (r#""stream_options":[]"#, "stream_options"),
        (r#""stream_options":{"Include_Usage":false}"#, "include_usage"),
        (r#""n":0.5"#, "n"),
        (r#""tools":{}"#, "tools"),
        (r#""tools":[{"function":{"name":"f"}}]"#, "tools[].type"),
        (r#""tools":[{"type":"function","function":{}}]"#, "tools[].name"),
        (r#""tools":[7]"#, "tools[].type"),
    ] {
        let message = refused(Operation::Chat, &chat(members));
        assert!(message.contains(word), "{members}: {message}");
    }
    for (op, body, word) in [
        (Operation::Chat, r#"{"messages":[]}"#, "model"),
        (Operation::Chat, r#"{"model":"m"}"#, "messages"),
        (Operation::Chat, r#"{"model":"m\u0000x","messages":[]}"#, "model"),
        (Operation::Chat, r#"{"model":"","messages":[]}"#, "model"),
        (Operation::Chat, "[]", "body"),
        (Operation::Chat, "{", "not JSON"),
        (Operation::Embeddings, r#"{"model":"m"}"#, "input"),
        (Operation::Responses, r#"{"model":"m","input":{}}"#, "input"),
        (Operation::Messages, r#"{"model":"m","messages":[]}"#, "max_tokens"),
        (Operation::Messages, r#"{"model":"m","messages":[],"max_tokens":null}"#, "max_tokens"),
        (Operation::Mcp, r#"{"jsonrpc":"1.0","method":"x"}"#, "jsonrpc"),
        (Operation::Mcp, r#"{"jsonrpc":"2.0","id":1}"#, "method"),
        (Operation::Mcp, r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#, "id"),
        (Operation::Mcp, r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, "name"),
        (Operation::Mcp, r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#, "name"),
        (
            Operation::Mcp,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","Name":"u"}}"#,
            "Name",
        ),
        (
            Operation::Mcp,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":[]}}"#,
            "arguments",
        ),
        (Operation::Mcp, r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#, "method"),
        (Operation::Mcp, "[]", "batch"),
        (Operation::Mcp, "[[]]", "message"),
    ] {
        let message = refused(op, body);
        assert!(message.contains(word), "{body}: {message}");
    }
}

#[test]
fn changes_are_spliced_in_and_all_else_stays() {
    let change = |cap: Option<u64>, name, model: Option<&str>, include_usage| Change {
        output_cap: cap.map(Tokens),
        cap_name: name,
        model: model.map(str::to_owned),
        include_usage,
    };
    let new = CapName::MaxCompletionTokens;
    let old = CapName::MaxTokens;
    let table = [
        (
            r#"{ "model" : "a" ,"messages":[]}"#,
            change(Some(9), new, None, false),
            r#"{"max_completion_tokens":9, "model" : "a" ,"messages":[]}"#,
        ),
        (
            r#"{"model":"a","messages":[]}"#,
            change(Some(9), old, Some("b\"c"), false),
            r#"{"max_tokens":9,"model":"b\"c","messages":[]}"#,
        ),
        (
            r#"{"model":"a","messages":[],"max_tokens": 70}"#,
            change(Some(9), new, Some("a"), false),
            r#"{"model":"a","messages":[],"max_tokens": 9}"#,
        ),
        (
            r#"{"model":"a","messages":[],"max_tokens":1,"max_completion_tokens":2}"#,
            change(Some(9), new, None, false),
            r#"{"model":"a","messages":[],"max_tokens":9,"max_completion_tokens":9}"#,
        ),
        (
            r#"{"model":"a","messages":[],"max_tokens":null}"#,
            change(Some(9), old, None, false),
            r#"{"model":"a","messages":[],"max_tokens":9}"#,
        ),
        (
            r#"{"model":"a","messages":[],"max_tokens":null}"#,
            change(Some(9), new, None, false),
            r#"{"max_completion_tokens":9,"model":"a","messages":[],"max_tokens":null}"#,
        ),
        (
            r#"{"model":"a","messages":[],"stream":true}"#,
            change(Some(9), old, None, true),
            r#"{"max_tokens":9,"stream_options":{"include_usage":true},"model":"a","messages":[],"stream":true}"#,
        ),
        (
            r#"{"model":"a","messages":[],"stream":true,"stream_options":null}"#,
            change(None, old, None, true),
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{ }}"#,
            change(None, old, None, true),
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":true }}"#,
        ),
        (
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{"x":1}}"#,
            change(None, old, None, true),
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":true,"x":1}}"#,
        ),
        (
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":false}}"#,
            change(None, old, None, true),
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
            change(None, old, None, true),
            r#"{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (r#"{"model":"a","messages":[]}"#, change(None, old, None, true), r#"{"model":"a","messages":[]}"#),
    ];
    for (body, change, expected) in table {
        let edits = model(Operation::Chat, body.as_bytes()).edits(&change);
        assert_eq!(String::from_utf8_lossy(&edit::apply(body.as_bytes(), edits)), expected, "{body}");
    }
    let cap = change(Some(9), new, None, true);
    for (op, body, expected) in [
        (
            Operation::Responses,
            r#"{"model":"a","input":""}"#,
            r#"{"max_output_tokens":9,"model":"a","input":""}"#,
        ),
        (
            Operation::Messages,
            r#"{"model":"a","messages":[],"max_tokens":10}"#,
            r#"{"model":"a","messages":[],"max_tokens":9}"#,
        ),
        (Operation::Embeddings, r#"{"model":"a","input":""}"#, r#"{"model":"a","input":""}"#),
        (Operation::CountTokens, r#"{"model":"a","messages":[]}"#, r#"{"model":"a","messages":[]}"#),
    ] {
        let edits = model(op, body.as_bytes()).edits(&cap);
        assert_eq!(String::from_utf8_lossy(&edit::apply(body.as_bytes(), edits)), expected, "{body}");
    }
}

#[test]
fn pictures_go_by_the_table_and_files_leave_the_bound_open() {
    let body = |part: Tree| {
        json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [part]}]}).to_string()
    };
    let bound = |op, part| model(op, body(part).as_bytes()).input;
    let data = "A".repeat(400_000);
    let chat = bound(
        Operation::Chat,
        json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}}),
    );
    assert!(!chat.open && chat.strict < Tokens(49_000), "{chat:?}");
    let message = bound(
        Operation::Messages,
        json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}),
    );
    assert!(!message.open && message.strict < Tokens(10_000), "{message:?}");
    let linked =
        bound(Operation::Chat, json!({"type": "image_url", "image_url": {"url": "https://x.example/i.png"}}));
    assert!(linked.strict > Tokens(48_000), "a picture by link is a picture");
    let text =
        bound(Operation::Chat, json!({"type": "text", "text": format!("data:image/png;base64,{data}")}));
    assert!(text.strict > Tokens(400_000), "text is text whatever it looks like");
    let posing = bound(
        Operation::Chat,
        json!({"type": "image_url", "image_url": {"url": format!("data:text/plain;base64,{data}")}, "text": data}),
    );
    assert!(posing.strict > Tokens(800_000), "only a picture's data goes by the table");
    let beside = bound(
        Operation::Chat,
        json!({"type": "image_url", "image_url": format!("data:image/png;base64,{data}"), "text": data}),
    );
    assert!(beside.strict > Tokens(400_000), "text beside a picture is text");
    for part in [
        json!({"type": "file", "file": {"file_id": "f"}}),
        json!({"type": "document", "source": {"type": "url"}}),
    ] {
        assert!(bound(Operation::Messages, part).open);
    }
    assert!(
        !bound(Operation::Messages, json!({"type": "document", "source": {"type": "text", "data": "x"}}))
            .open
    );
}

#[test]
fn mcp_messages_are_read_whole() {
    let body = br#"{"jsonrpc":"2.0","id": 1e0 ,"method":"tools/call","params":{"name":"drop_table","arguments":{"t":"x"},
        "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let request = mcp(body);
    let [message] = request.messages.as_slice() else { panic!("one message") };
    assert_eq!((message.id, message.method.as_deref()), (Some(&b"1e0"[..]), Some("tools/call")));
    assert_eq!((message.tool.as_deref(), message.args), (Some("drop_table"), Some(&br#"{"t":"x"}"#[..])));
    assert_eq!(message.protocol_version.as_deref(), Some("2026-07-28"));
    assert!(message.is_request() && !request.batch);
    let batch = mcp(
        br#"[{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":"a","result":{}}]"#,
    );
    assert!(batch.batch && batch.messages.iter().all(|message| !message.is_request()));
}

#[test]
fn headers_that_contradict_the_body_are_told() {
    let call = mcp(br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t\u00e9"}}"#).messages;
    let read =
        mcp(br#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a"}}"#).messages;
    assert_eq!(header_mismatch(&call, None, None), None);
    assert_eq!(header_mismatch(&call, Some("tools/call"), Some("=?base64?dMOp?=")), None);
    assert_eq!(header_mismatch(&read, Some("resources/read"), Some("file:///a")), None);
    for (method, name) in [
        (Some("tools/list"), None),
        (Some("Tools/Call"), None),
        (None, Some("t")),
        (None, Some("=?base64?!!?=")),
        (None, Some("=?base64?dA==?=")),
        (Some("tools/call"), Some("")),
    ] {
        assert!(header_mismatch(&call, method, name).is_some(), "{method:?} {name:?}");
    }
}

/// Unknown members that a client might send, as they would be written.
fn any_members() -> impl Strategy<Value = Vec<(String, String)>> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        Just("1.50e+01".to_owned()),
        Just(r#"{"a" :  1 ,"b":[ ]}"#.to_owned()),
        Just(r#""\u00e9\/\ud83d\ude00""#.to_owned()),
        "[ -~]{0,20}".prop_map(|text| Tree::from(text).to_string()),
    ];
    prop::collection::btree_map("x_[a-z]{1,8}", value, 0..6).prop_map(|members| members.into_iter().collect())
}

fn written(members: &[(String, String)], space: &str) -> String {
    let members: Vec<_> =
        members.iter().map(|(key, value)| format!("{space}\"{key}\"{space}:{space}{value}")).collect();
    format!("{{{}{space}}}", members.join(","))
}

/// Members as written, by key.
fn raw(body: &[u8]) -> BTreeMap<String, String> {
    let document = places::read(body).expect("it is JSON");
    document.members().map(|member| (member.key().into_owned(), member.value.raw().to_owned())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn without_change_the_body_is_sent_as_it_came(members in any_members(), space in "[ \n\t]{0,3}", at in 0..7_usize) {
        let mut members = members;
        let at = at.min(members.len());
        members.insert(at, ("messages".to_owned(), "[]".to_owned()));
        members.insert(at, ("model".to_owned(), r#""m""#.to_owned()));
        let body = written(&members, &space);
        let edits = model(Operation::Chat, body.as_bytes()).edits(&Change::default());
        prop_assert_eq!(edit::apply(body.as_bytes(), edits), body.as_bytes());
    }

    #[test]
    fn a_change_leaves_every_other_member_as_it_was_written(
        members in any_members(), space in "[ \n\t]{0,3}", at in 0..7_usize, cap in any::<u64>(),
        had in prop::option::of(0..9_u64), model_name in "[ -~]{1,9}",
    ) {
        let mut members = members;
        let at = at.min(members.len());
        members.insert(at, ("stream".to_owned(), "true".to_owned()));
        members.insert(at, ("messages".to_owned(), "[]".to_owned()));
        members.insert(at, ("model".to_owned(), r#""m""#.to_owned()));
        if let Some(had) = had {
            members.insert(at, ("max_tokens".to_owned(), had.to_string()));
        }
        let body = written(&members, &space);
        let change = Change {
            output_cap: Some(Tokens(cap)), cap_name: CapName::MaxTokens, model: Some(model_name.clone()), include_usage: true,
        };
        let sent = edit::apply(body.as_bytes(), model(Operation::Chat, body.as_bytes()).edits(&change));
        let mut expected = raw(body.as_bytes());
        expected.insert("max_tokens".to_owned(), cap.to_string());
        expected.insert("model".to_owned(), Tree::from(model_name.clone()).to_string());
        expected.insert("stream_options".to_owned(), r#"{"include_usage":true}"#.to_owned());
        prop_assert_eq!(raw(&sent), expected);
        let again = model(Operation::Chat, &sent);
        prop_assert_eq!(again.output_cap, Some(Tokens(cap)));
        prop_assert_eq!(&again.model, &model_name);
        prop_assert!(again.include_usage);
    }

    #[test]
    fn arguments_are_set_and_dropped_and_the_rest_stays(
        given in prop::option::of(prop::collection::btree_map("[a-f]", 0..9_u8, 0..6)), space in "[ \n]{0,2}",
        set in prop::collection::btree_map("[a-h]\"?", 10..99_u8, 0..4), drop in prop::collection::vec("[a-h]", 0..5),
    ) {
        let members: Vec<_> = given.iter().flatten().map(|(key, value)| (key.clone(), value.to_string())).collect();
        let arguments = given.as_ref().map_or_else(String::new, |_| format!("\"arguments\":{},", written(&members, &space)));
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{arguments}"name":"t", "x":1e2}}}}"#);
        let set: BTreeMap<String, Tree> = set.into_iter().map(|(key, value)| (key, Tree::from(value))).collect();
        let request = mcp(body.as_bytes());
        let sent = edit::apply(body.as_bytes(), request.messages[0].edits(&set, &drop));

        let mut expected: BTreeMap<String, Tree> = given.clone().unwrap_or_default().into_iter()
            .filter(|(key, _)| !drop.contains(key)).map(|(key, value)| (key, Tree::from(value))).collect();
        expected.extend(set.clone());
        let changed = mcp(&sent);
        let args: BTreeMap<String, Tree> = changed.messages[0].args
            .map(|args| serde_json::from_slice(args).expect("an object")).unwrap_or_default();
        prop_assert_eq!(args, expected);
        let untouched = set.is_empty() && !given.iter().flatten().any(|(key, _)| drop.contains(key));
        prop_assert!(!untouched || sent == body.as_bytes());
        prop_assert!(sent.ends_with(br#""name":"t", "x":1e2}}"#));
    }

    #[test]
    fn the_strict_bound_is_never_below_the_count(texts in prop::collection::vec(prop_oneof![
        ".{0,200}", "[ -~]{0,200}", "[一-龥]{0,80}", "[а-яА-Я ]{0,80}", "[ء-ي ]{0,80}", "[\u{1F300}-\u{1FAFF}]{0,40}",
        "[0-9]{0,80}", "(<\\|im_start\\|>|<\\|endoftext\\|>){0,9}", "[\\x00-\\x1f]{0,40}",
    ], 0..6)) {
        let messages: Vec<_> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        let body = json!({"model": "m", "max_tokens": 1, "messages": messages}).to_string();
        let counted: u64 = texts.iter().map(|text| text_tokens(text) + 4).sum::<u64>() + 3;
        for op in [Operation::Chat, Operation::Messages] {
            let call = model(op, body.as_bytes());
            prop_assert!(call.input.strict.0 >= counted, "{:?} < {}", call.input.strict, counted);
            let close = call.counted(body.as_bytes());
            prop_assert!(close <= call.input.strict && close.0 >= counted.min(call.input.strict.0), "{} {}", close, counted);
        }
    }

    #[test]
    fn any_body_is_read_without_panic(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            r#"[\[\]{}",:0-9a-z_\\ ]{0,60}"#.prop_map(String::into_bytes),
            (any_members(), "(model|messages|tools|input|n|max_tokens|stream|stream_options|functions|params|id|method)", r#"(null|1|"x"|\[\]|\{\}|\[\{\}\]|\[\{"type":"mcp"\}\]|true|-1)"#)
                .prop_map(|(mut members, key, value)| { members.push((key, value)); members.push(("jsonrpc".into(), "\"2.0\"".into())); written(&members, "").into_bytes() }),
        ],
        cap in prop::option::of(any::<u64>()), other in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let change = Change { output_cap: cap.map(Tokens), cap_name: CapName::MaxTokens, model: Some("z".into()), include_usage: true };
        for op in [
            Operation::Chat, Operation::Responses, Operation::Embeddings, Operation::Messages, Operation::CountTokens,
            Operation::Mcp, Operation::ModelFree, Operation::Plain,
        ] {
            match request::read(op, &body) {
                Ok(Request::Model(call)) => {
                    prop_assert!(places::read(&edit::apply(&body, call.edits(&change))).is_ok());
                    let _ = call.counted(&other);
                    let _ = call.counted(&body);
                }
                Ok(Request::Mcp(call)) => {
                    let set = [("k".to_owned(), Tree::Null)].into_iter().collect();
                    let edits = call.messages.iter().flat_map(|message| message.edits(&set, &["a".to_owned()])).collect();
                    prop_assert!(places::read(&edit::apply(&body, edits)).is_ok());
                    let _ = header_mismatch(&call.messages, Some("x"), Some("=?base64?x?="));
                }
                Ok(Request::Plain) | Err(_) => {}
            }
            let _ = sideguard_dialects::usage::whole(op, &body);
        }
    }
}
