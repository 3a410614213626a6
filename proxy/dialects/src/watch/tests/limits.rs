use bytes::Bytes;
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::ToolCallRefusal;
use sideguard_types::units::Tokens;

use super::transcripts::{CHAT_ONE, CHAT_TEXT, MESSAGE_TWO, RESPONSE_TWO, chat, named};
use super::{Answer, Flow, Names, Options, StreamEnd, Watch, WholeError, events, options, pass, run, whole};

fn begun() -> [(Answer, String); 3] {
    let chat = chat(&CHAT_TEXT, "stop").split_inclusive("\n\n").take(2).collect();
    [
        (Answer::Chat, chat),
        (Answer::Responses, named(&RESPONSE_TWO[..3])),
        (Answer::Messages, named(&MESSAGE_TWO[..4])),
    ]
}

#[test]
fn text_is_given_out_in_the_same_feed() {
    for (answer, stream) in begun() {
        let mut watch = Watch::new(options(answer));
        for event in stream.split_inclusive("\n\n") {
            let mut out = Vec::new();
            let flow = watch.feed(Bytes::copy_from_slice(event.as_bytes()), &mut Names::default(), &mut out);
            assert_eq!((out.concat(), flow), (event.as_bytes().to_vec(), Flow::Go));
        }
        assert_eq!(watch.emitted_text(), "Hello");
        assert_eq!(watch.report().emitted_text_bytes, 5);
    }
}

#[test]
fn a_cut_stream_ends_with_its_dialects_error_and_nothing_more() {
    let refusal = Refusal::new(Code::BudgetExhausted, "budget/day", "the budget is used up");
    for (answer, stream) in begun() {
        let mut watch = Watch::new(options(answer));
        let mut judge = Names::default();
        let mut out = Vec::new();
        assert_eq!(watch.feed(stream.clone().into(), &mut judge, &mut out), Flow::Go);
        out.clear();
        watch.cut(&refusal, &mut out);
        let ending = String::from_utf8(out.concat()).unwrap();
        out.clear();
        watch.cut(&refusal, &mut out);
        assert_eq!(watch.feed(stream.into(), &mut judge, &mut out), Flow::End);
        assert_eq!(watch.finish(StreamEnd::Clean, &mut judge, &mut out), Flow::End);
        assert!(out.is_empty());
        let events = events(&ending);
        let error = &events[events.len() - 1]["error"];
        let text = "the budget is used up [budget_exhausted by `budget/day`]";
        assert_eq!(error["message"], text, "{answer:?}");
        match answer {
            Answer::Chat => assert_eq!(
                (&error["code"], &error["type"]),
                (&"budget_exhausted".into(), &"insufficient_quota".into())
            ),
            Answer::Messages => {
                assert!(ending.starts_with("event: error\n"));
                assert_eq!((&events[0]["type"], &error["type"]), (&"error".into(), &"billing_error".into()));
                assert_eq!(error["details"]["error_code"], "budget_exhausted");
            }
            Answer::Responses => {
                assert!(
                    ending.starts_with("event: response.failed\n") && ending.contains("\n\nevent: error\n")
                );
                assert_eq!(events[0]["response"]["error"]["code"], "budget_exhausted");
                assert_eq!(
                    (&events[1]["code"], &error["code"]),
                    (&"budget_exhausted".into(), &"budget_exhausted".into())
                );
                assert_eq!(events[1]["message"], text);
            }
        }
    }
}

#[test]
fn a_stream_that_does_not_say_that_it_is_over_ends_with_an_error() {
    for (answer, stream) in begun() {
        let options = Options { call: "call_7".to_owned(), ..options(answer) };
        let outcome = run(&options, &[stream.as_bytes()], StreamEnd::Clean, &[]);
        let ending = outcome.out.strip_prefix(&stream).unwrap();
        assert!(ending.contains("upstream_unreachable") && ending.contains("call_7"), "{ending}");
        assert_eq!((outcome.flow, outcome.report.complete), (Flow::End, false));
    }
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_error_unless_it_was_over() {
    for (answer, stream) in begun() {
        let outcome = run(&options(answer), &[stream.as_bytes(), b"data: {"], StreamEnd::Cut, &[]);
        let ending = outcome.out.strip_prefix(&stream).unwrap();
        assert!(ending.contains("upstream_unreachable"), "{ending}");
        assert_eq!(outcome.flow, Flow::End);
    }
    for (name, answer, stream) in super::transcripts::all() {
        if name.ends_with("CR") {
            // Its last event is known to be over only when the stream is.
            continue;
        }
        let outcome = run(&options(answer), &[stream.as_bytes()], StreamEnd::Cut, &[]);
        assert_eq!((outcome.out, outcome.flow), (stream, Flow::Go));
    }
}

#[test]
fn an_event_without_its_blank_line_is_judged_all_the_same() {
    let one = chat(&CHAT_ONE, "tool_calls");
    let stream = one.strip_suffix("\n\ndata: [DONE]\n\n").unwrap();
    assert_eq!(pass(Answer::Chat, stream, &[]).out, stream);
    assert!(!pass(Answer::Chat, stream, &["search"]).out.contains("cats"));
    let cut = stream.strip_suffix('}').unwrap();
    let outcome = pass(Answer::Chat, cut, &[]);
    assert!(
        outcome.flow == Flow::End && outcome.out.contains("unjudgeable") && !outcome.out.contains("cats")
    );
}

#[test]
fn what_is_no_json_object_ends_the_stream_and_comments_do_not() {
    for (answer, stream) in begun() {
        let commented = format!(": keep-alive\n\n{stream}:\n\nid: 4\n\nretry: 10\n\n");
        assert!(pass(answer, &commented, &[]).out.starts_with(&commented));
        for bad in [
            "data: {\"a\":1,\"a\":2}\n\n",
            "data: ping\n\n",
            "data: [1]\n\n",
            "data: {} {}\n\n",
            "data: {\"a\":\"\\ud800\"}\n\n",
            " data: {}\n\n",
            "Data: {}\n\n",
        ] {
            let outcome = pass(answer, &format!("{stream}{bad}{stream}"), &[]);
            let ending = outcome.out.strip_prefix(&stream).unwrap();
            assert!(
                outcome.flow == Flow::End && ending.contains("unjudgeable") && !ending.contains(bad),
                "{bad}"
            );
        }
    }
}

#[test]
fn an_escaped_key_hides_no_call() {
    let stream = chat(&CHAT_ONE, "tool_calls").replace("tool_calls\":[", r#"tool\u005fcalls":["#);
    let outcome = pass(Answer::Chat, &stream, &["search"]);
    assert_eq!(outcome.asked.len(), 1);
    assert!(!outcome.out.contains("cats"));
}

#[test]
fn a_refusal_that_is_an_error_ends_the_stream() {
    for (answer, stream) in [
        (Answer::Chat, chat(&CHAT_ONE, "tool_calls")),
        (Answer::Responses, named(&RESPONSE_TWO)),
        (Answer::Messages, named(&MESSAGE_TWO)),
    ] {
        let options = Options { refuse: ToolCallRefusal::Error, ..options(answer) };
        let outcome = run(&options, &[stream.as_bytes()], StreamEnd::Clean, &["search"]);
        assert_eq!((outcome.flow, outcome.asked.len()), (Flow::End, 1));
        assert!(outcome.out.contains("policy_denied") && !outcome.out.contains("cats"), "{}", outcome.out);
        assert_eq!(super::calls(&outcome.report)[0], ("search", true));
    }
}

#[test]
fn a_whole_answer_is_refused_when_a_refusal_is_an_error_and_when_it_cannot_be_read() {
    let body = r#"{"content":[{"type":"tool_use","id":"a","name":"delete","input":{}}]}"#;
    let error = Options { refuse: ToolCallRefusal::Error, ..options(Answer::Messages) };
    let judged = whole(&error, body.into(), &mut Names::refusing(&["delete"]));
    assert_eq!(judged, Err(WholeError::Refused(super::refusal())));
    for bad in ["", "<html>", r#"{"a":1,"a":1}"#, "[]", r#"{"content":[{"type":"tool_use"}]}"#] {
        let judged = whole(&options(Answer::Messages), bad.into(), &mut Names::default());
        assert!(matches!(judged, Err(WholeError::Unjudgeable(_))), "{bad}");
    }
}

#[test]
fn more_than_may_be_held_cuts_the_stream() {
    let stream = chat(&CHAT_ONE, "tool_calls");
    let first: usize = stream.split_inclusive("\n\n").take(1).map(str::len).sum();
    for (max_held, flow) in [(300, Flow::End), (10_000, Flow::Go)] {
        let options = Options { max_held, ..options(Answer::Chat) };
        let outcome = run(&options, &[stream.as_bytes()], StreamEnd::Clean, &[]);
        assert_eq!(outcome.flow, flow);
        assert!(outcome.out.starts_with(&stream[..first]));
        assert_eq!(outcome.out.contains("unjudgeable"), flow == Flow::End);
    }
}

#[test]
fn text_far_beyond_its_reserve_is_cut_and_text_within_it_never() {
    let delta = r#"{"content":"so it goes on and on "}"#;
    for (times, flow) in [(2000, Flow::End), (100, Flow::Go)] {
        let stream = chat(&vec![delta; times], "stop");
        let options = Options { output_limit: Some(Tokens(600)), ..options(Answer::Chat) };
        let outcome = run(&options, &[stream.as_bytes()], StreamEnd::Clean, &[]);
        assert_eq!((outcome.flow, outcome.out.contains("budget_exhausted")), (flow, flow == Flow::End));
    }
}
