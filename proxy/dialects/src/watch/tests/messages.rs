use super::transcripts::{MESSAGE_TWO, named};
use super::{Answer, Flow, REFUSED, ToolKind, calls, counts, pass, pass_whole};

fn text_block(index: u64, text: &str) -> [String; 2] {
    [
        format!(
            r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"text","text":""}}}}"#
        ),
        format!(
            r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"text_delta","text":"{text}"}}}}"#
        ),
    ]
}

#[test]
fn each_block_is_judged_once_and_usage_is_cumulative() {
    let outcome = pass(Answer::Messages, &named(&MESSAGE_TWO), &[]);
    let asked: Vec<_> = outcome.asked.iter().map(|(id, name, args, _)| [id.as_str(), name, args]).collect();
    assert_eq!(
        asked,
        [["toolu_a", "search", r#"{"q":"cats"}"#], ["toolu_b", "delete", r#"{"path":"/etc"}"#]]
    );
    assert_eq!(counts(&outcome.report), [Some(3210), Some(89), Some(3000), Some(200), None]);
    assert_eq!((outcome.report.complete, outcome.report.model.as_deref()), (true, Some("claude-5")));
}

#[test]
fn a_refused_block_becomes_text_in_its_place() {
    let outcome = pass(Answer::Messages, &named(&MESSAGE_TWO), &["search"]);
    let [start, delta] = text_block(1, REFUSED);
    let expected = [&MESSAGE_TWO[..5], &[&start, &delta], &MESSAGE_TWO[9..]].concat();
    assert_eq!(outcome.out, named(&expected));
    assert_eq!(calls(&outcome.report), [("search", true), ("delete", false)]);
}

#[test]
fn with_all_refused_the_turn_ends() {
    let outcome = pass(Answer::Messages, &named(&MESSAGE_TWO), &["search", "delete"]);
    let ([start1, delta1], [start2, delta2]) = (text_block(1, REFUSED), text_block(2, REFUSED));
    let ended = MESSAGE_TWO[12].replace(r#""tool_use""#, r#""end_turn""#);
    let calls =
        [&start1, &delta1, MESSAGE_TWO[9], &start2, &delta2, MESSAGE_TWO[11], &ended, MESSAGE_TWO[13]];
    assert_eq!(outcome.out, named(&[&MESSAGE_TWO[..5], &calls].concat()));
}

#[test]
fn usage_that_a_later_event_does_not_state_stays_and_the_placeholder_does_not_count() {
    let cut = pass(Answer::Messages, &named(&MESSAGE_TWO[..5]), &[]);
    assert_eq!(counts(&cut.report), [Some(3210), None, Some(3000), Some(200), None]);
    assert_eq!((cut.report.complete, cut.flow), (false, Flow::End));
    let more = r#"{"type":"message_delta","delta":{},"usage":{"input_tokens":20,"cache_read_input_tokens":null,"output_tokens":0}}"#;
    let outcome = pass(Answer::Messages, &named(&[MESSAGE_TWO[0], more]), &[]);
    assert_eq!(counts(&outcome.report), [Some(3220), Some(0), Some(3000), Some(200), None]);
}

#[test]
fn a_ping_overtakes_a_held_block() {
    let ping = r#"{"type":"ping"}"#;
    let mut stream = MESSAGE_TWO.to_vec();
    stream.insert(8, ping);
    let mut expected = MESSAGE_TWO.to_vec();
    expected.insert(5, ping);
    assert_eq!(pass(Answer::Messages, &named(&stream), &[]).out, named(&expected));
}

#[test]
fn input_after_its_end_or_beside_a_whole_one_ends_the_stream() {
    let late =
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#;
    for at in [11, 12] {
        let mut stream = MESSAGE_TWO.to_vec();
        stream.insert(at, late);
        let outcome = pass(Answer::Messages, &named(&stream), &[]);
        assert_eq!(outcome.flow, Flow::End, "{at}");
        assert!(
            outcome.out.ends_with("\n\n") && outcome.out.contains("event: error\ndata: {"),
            "{}",
            outcome.out
        );
    }
    let mut twice = MESSAGE_TWO.to_vec();
    twice.insert(10, MESSAGE_TWO[5]);
    assert_eq!(pass(Answer::Messages, &named(&twice), &[]).flow, Flow::End);
}

#[test]
fn a_call_without_input_has_an_empty_object() {
    let stream = named(&[MESSAGE_TWO[5], MESSAGE_TWO[6], MESSAGE_TWO[9]]);
    assert_eq!(pass(Answer::Messages, &stream, &[]).asked[0].2, "{}");
}

#[test]
fn a_refused_hosted_call_hides_its_result_and_a_server_tool_is_only_reported() {
    let blocks = [
        r#"{"type":"server_tool_use","id":"s","name":"web_search","input":{}}"#,
        r#"{"type":"mcp_tool_use","id":"m","name":"mail","server_name":"x","input":{"to":"me"}}"#,
        r#"{"type":"mcp_tool_result","tool_use_id":"m","is_error":false,"content":[{"type":"text","text":"sent"}]}"#,
    ];
    let start = |(index, block): (usize, &&str)| {
        let start = format!(r#"{{"type":"content_block_start","index":{index},"content_block":{block}}}"#);
        named(&[&start, &format!(r#"{{"type":"content_block_stop","index":{index}}}"#)])
    };
    let mut stream: String = blocks.iter().enumerate().map(start).collect();
    stream.push_str(&named(&[r#"{"type":"message_stop"}"#]));
    let allowed = pass(Answer::Messages, &stream, &[]);
    assert_eq!((allowed.out, allowed.asked[0].3), (stream.clone(), ToolKind::Mcp));
    let refused = pass(Answer::Messages, &stream, &["mail"]);
    assert_eq!(calls(&refused.report), [("web_search", false), ("mail", true)]);
    assert!(!refused.out.contains("sent") && refused.out.contains(REFUSED));
    assert!(refused.out.contains(r#""text":"The result of a refused tool call is not shown.""#));
    let (whole, _) =
        pass_whole(Answer::Messages, &format!(r#"{{"content":[{}]}}"#, blocks.join(",")), &["mail"]);
    assert!(!whole.contains("sent") && whole.contains("web_search") && whole.contains(REFUSED));
}

#[test]
fn a_whole_message_loses_only_what_was_refused() {
    let body = |call: &str, reason: &str| {
        format!(
            r#"{{"type":"message","model":"claude-5","content":[{{"type":"text","text":"Hi"}},{call}],"stop_reason":"{reason}" , "usage":{{"input_tokens":10,"output_tokens":5}}}}"#
        )
    };
    let call = r#"{"type":"tool_use","id":"a","name":"delete","input":{"path":"/etc"}}"#;
    let (same, report) = pass_whole(Answer::Messages, &body(call, "tool_use"), &[]);
    assert_eq!((same, counts(&report)[1]), (body(call, "tool_use"), Some(5)));
    let (changed, _) = pass_whole(Answer::Messages, &body(call, "tool_use"), &["delete"]);
    assert_eq!(changed, body(&format!(r#"{{"type":"text","text":"{REFUSED}"}}"#), "end_turn"));
}
