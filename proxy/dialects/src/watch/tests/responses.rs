use serde_json::{Value, json};

use super::transcripts::{RESPONSE_CREATED, RESPONSE_TWO, named};
use super::{Answer, Flow, REFUSED, ToolKind, calls, counts, events, pass, pass_whole};

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The message that stands in the place of a refused item.
fn message(id: &str) -> Value {
    json!({"id": id, "type": "message", "status": "completed", "role": "assistant",
           "content": [{"type": "refusal", "refusal": REFUSED}]})
}

#[test]
fn each_item_is_judged_once_and_usage_comes_from_the_last_event() {
    let outcome = pass(Answer::Responses, &named(&RESPONSE_TWO), &[]);
    let asked: Vec<_> = outcome.asked.iter().map(|(id, name, args, _)| [id.as_str(), name, args]).collect();
    assert_eq!(asked, [["call_a", "search", r#"{"q":"cats"}"#], ["call_b", "delete", r#"{"path":"/etc"}"#]]);
    assert_eq!(counts(&outcome.report), [Some(7), Some(9), Some(3), None, Some(4)]);
    assert_eq!((outcome.report.complete, outcome.report.model.as_deref()), (true, Some("gpt-5")));
}

#[test]
fn a_refused_item_becomes_a_refusal_in_its_place() {
    let outcome = pass(Answer::Responses, &named(&RESPONSE_TWO), &["search"]);
    assert!(outcome.out.starts_with(&named(&RESPONSE_TWO[..4])));
    let events = events(&outcome.out);
    let kinds: Vec<&str> = events[4..10].iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "response.output_item.added",
            "response.content_part.added",
            "response.refusal.delta",
            "response.refusal.done",
            "response.content_part.done",
            "response.output_item.done"
        ]
    );
    let numbers: Vec<u64> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..15).collect::<Vec<u64>>());
    assert_eq!(events[9]["item"], message("msg_refused_fc_1"));
    assert_eq!((&events[6]["item_id"], &events[6]["output_index"]), (&json!("msg_refused_fc_1"), &json!(1)));
    let mut last = parsed(RESPONSE_TWO[13]);
    last["sequence_number"] = json!(14);
    last["response"]["output"][1] = message("msg_refused_fc_1");
    assert_eq!(events[14], last);
    assert_eq!(calls(&outcome.report), [("search", true), ("delete", false)]);
}

#[test]
fn with_all_refused_no_call_is_left() {
    let outcome = pass(Answer::Responses, &named(&RESPONSE_TWO), &["search", "delete"]);
    assert!(!outcome.out.contains("function_call") && !outcome.out.contains("/etc"));
    let last = events(&outcome.out).pop().unwrap();
    assert_eq!(last["response"]["output"][2], message("msg_refused_fc_2"));
}

#[test]
fn a_call_that_only_the_last_event_holds_is_judged_there() {
    let stream = named(&RESPONSE_TWO[13..]);
    let outcome = pass(Answer::Responses, &stream, &["delete"]);
    assert_eq!(outcome.asked.len(), 2);
    let last = events(&outcome.out).pop().unwrap();
    assert_eq!(last["response"]["output"][1]["name"], "search");
    assert_eq!(last["response"]["output"][2], message("msg_refused_fc_2"));
}

#[test]
fn a_last_event_that_contradicts_what_was_judged_ends_the_stream() {
    for (from, to) in
        [(r#"{\"path\":\"/etc\"}"#, r#"{\"path\":\"/\"}"#), (r#""name":"delete""#, r#""name":"erase""#)]
    {
        let last = RESPONSE_TWO[13].replace(from, to);
        let stream = named(&[&RESPONSE_TWO[..13], &[&last]].concat());
        let outcome = pass(Answer::Responses, &stream, &[]);
        assert_eq!(outcome.flow, Flow::End);
        let ending = outcome.out.strip_prefix(&named(&RESPONSE_TWO[..13])).unwrap();
        assert!(ending.starts_with("event: response.failed\n"), "{ending}");
    }
}

#[test]
fn arguments_stated_in_two_ways_end_the_stream_before_they_are_judged() {
    for broken in [6, 7, 8] {
        let mut stream = RESPONSE_TWO;
        let other = stream[broken].replace("cats", "dogs");
        stream[broken] = &other;
        let outcome = pass(Answer::Responses, &named(&stream[..9]), &[]);
        assert_eq!((outcome.flow, outcome.asked.len()), (Flow::End, 0), "{broken}");
    }
}

#[test]
fn custom_built_in_and_hosted_calls_are_judged_and_other_items_pass() {
    let items = [
        r#"{"id":"ctc","type":"custom_tool_call","call_id":"c","name":"patch","input":"*** x"}"#,
        r#"{"id":"lsc","type":"local_shell_call","call_id":"l","action":{"type":"exec","command":["ls"]}}"#,
        r#"{"id":"mcp","type":"mcp_call","server_label":"s","name":"mail","arguments":"{}","output":"sent"}"#,
        r#"{"id":"ws","type":"web_search_call","status":"completed"}"#,
        r#"{"id":"rs","type":"reasoning","summary":[]}"#,
    ];
    let event = |(index, item): (usize, &&str)| {
        let done = format!(r#"{{"type":"response.output_item.done","output_index":{index},"item":{item}}}"#);
        named(&[&done])
    };
    let stream: String = items.iter().enumerate().map(event).collect();
    let outcome = pass(Answer::Responses, &stream, &["mail"]);
    let asked: Vec<_> = outcome
        .asked
        .iter()
        .map(|(id, name, args, kind)| (id.as_str(), name.as_str(), args.as_str(), *kind))
        .collect();
    assert_eq!(
        asked,
        [
            ("c", "patch", "*** x", ToolKind::Custom),
            ("l", "local_shell", r#"{"type":"exec","command":["ls"]}"#, ToolKind::BuiltIn),
            ("mcp", "mail", "{}", ToolKind::Mcp)
        ]
    );
    assert!(!outcome.out.contains("sent") && outcome.out.contains("web_search_call"));
    let added = &events(&outcome.out)[2];
    assert_eq!((&added["item"]["id"], added.get("sequence_number")), (&json!("msg_refused_mcp"), None));
}

#[test]
fn an_item_that_never_ends_is_not_given_out() {
    let outcome = pass(Answer::Responses, &named(&RESPONSE_TWO[..7]), &[]);
    assert_eq!(outcome.flow, Flow::End);
    assert!(!outcome.out.contains("cats"));
    let ending = events(&outcome.out).split_off(4);
    assert_eq!(ending[0]["response"]["id"], "resp_1");
    assert_eq!((&ending[0]["sequence_number"], &ending[1]["sequence_number"]), (&json!(4), &json!(5)));
    assert_eq!(
        (&ending[1]["code"], &ending[1]["error"]["code"]),
        (&json!("unjudgeable"), &json!("unjudgeable"))
    );
    let mut ended = RESPONSE_TWO[..8].to_vec();
    ended.push(RESPONSE_TWO[13]);
    assert_eq!(pass(Answer::Responses, &named(&ended), &[]).out, named(&ended), "the last event ends it");
}

#[test]
fn an_event_whose_name_is_not_its_type_ends_the_stream() {
    let stream =
        named(&[RESPONSE_CREATED]).replace("event: response.created", "event: response.output_text.delta");
    assert_eq!(pass(Answer::Responses, &stream, &[]).flow, Flow::End);
}

#[test]
fn a_whole_response_loses_only_what_was_refused() {
    let body = parsed(RESPONSE_TWO[13])["response"].to_string();
    let (same, report) = pass_whole(Answer::Responses, &body, &[]);
    assert_eq!((same, counts(&report)[0]), (body.clone(), Some(7)));
    let (changed, report) = pass_whole(Answer::Responses, &body, &["delete"]);
    let mut expected = parsed(&body);
    expected["output"][2] = message("msg_refused_fc_2");
    assert_eq!((parsed(&changed), calls(&report)), (expected, vec![("search", false), ("delete", true)]));
}
