use super::transcripts::{CHAT_MIXED, CHAT_ONE, CHAT_TEXT, CHAT_TWO, chat, chat_chunk, chat_chunk_with};
use super::{
    Answer, Flow, REFUSED, StreamEnd, ToolKind, calls, counts, events, options, pass, pass_whole, run,
};

fn asked(name: &str, id: &str, args: &str, kind: ToolKind) -> (String, String, String, ToolKind) {
    (id.to_owned(), name.to_owned(), args.to_owned(), kind)
}

#[test]
fn each_call_is_judged_once_with_all_of_its_arguments() {
    let one = pass(Answer::Chat, &chat(&CHAT_ONE, "tool_calls"), &[]);
    assert_eq!(one.asked, [asked("search", "call_a", r#"{"q":"cats"}"#, ToolKind::Function)]);
    let mixed = pass(Answer::Chat, &chat(&CHAT_MIXED, "tool_calls"), &[]);
    assert_eq!(
        mixed.asked,
        [
            asked("search", "call_a", r#"{"q":"cats"}"#, ToolKind::Function),
            asked("delete", "call_b", "rm /etc", ToolKind::Custom)
        ]
    );
    assert_eq!((one.report.model.as_deref(), one.report.complete), (Some("gpt-5"), true));
}

#[test]
fn the_only_call_refused_becomes_text_and_a_stop() {
    let outcome = pass(Answer::Chat, &chat(&CHAT_ONE, "tool_calls"), &["search"]);
    let told = format!(r#"{{"content":"{REFUSED}","refusal":"{REFUSED}"}}"#);
    assert_eq!(outcome.out, chat(&[CHAT_ONE[0], &told], "stop"));
    assert_eq!((calls(&outcome.report), outcome.flow), (vec![("search", true)], Flow::Go));
}

#[test]
fn the_second_of_two_refused_leaves_the_first_byte_for_byte() {
    let outcome = pass(Answer::Chat, &chat(&CHAT_TWO, "tool_calls"), &["delete"]);
    let told = format!(r#"{{"content":"\n\n{REFUSED}","refusal":"\n\n{REFUSED}"}}"#);
    assert_eq!(outcome.out, chat(&[&CHAT_TWO[..4], &[&told]].concat(), "tool_calls"));
}

#[test]
fn the_first_of_two_refused_moves_the_second_to_its_index() {
    let outcome = pass(Answer::Chat, &chat(&CHAT_TWO, "tool_calls"), &["search"]);
    let told = format!(r#"{{"content":"\n\n{REFUSED}","refusal":"\n\n{REFUSED}"}}"#);
    let moved: Vec<String> =
        CHAT_TWO[4..].iter().map(|d| d.replace(r#""index":1"#, r#""index":0"#)).collect();
    let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
    assert_eq!(outcome.out, chat(&[&CHAT_TWO[..1], &[&told], &moved[..]].concat(), "tool_calls"));
}

#[test]
fn calls_and_text_in_one_event_are_told_apart() {
    let outcome = pass(Answer::Chat, &chat(&CHAT_MIXED, "tool_calls"), &["search", "delete"]);
    let deltas: Vec<String> =
        events(&outcome.out).iter().map(|event| event["choices"][0]["delta"].to_string()).collect();
    let told = format!(r"\n\n{REFUSED}\n{REFUSED}");
    assert_eq!(deltas[0], format!(r#"{{"content":"On it.{told}","refusal":"{told}","role":"assistant"}}"#));
    assert_eq!(deltas[1], r#"{"content":" Done."}"#);
    assert!(outcome.out.contains(r#""finish_reason":"stop""#));
    let one = pass(Answer::Chat, &chat(&CHAT_MIXED, "tool_calls"), &["search"]);
    let left = &events(&one.out)[0]["choices"][0]["delta"]["tool_calls"];
    assert_eq!(
        left.to_string(),
        r#"[{"custom":{"input":"rm /etc","name":"delete"},"id":"call_b","index":0,"type":"custom"}]"#
    );
}

#[test]
fn the_older_form_of_calls_is_judged_as_well() {
    let deltas = [
        r#"{"role":"assistant","content":null,"function_call":{"name":"delete","arguments":""}}"#,
        r#"{"function_call":{"arguments":"{}"}}"#,
    ];
    let allowed = pass(Answer::Chat, &chat(&deltas, "function_call"), &[]);
    assert_eq!(allowed.asked, [asked("delete", "", "{}", ToolKind::Function)]);
    let refused = pass(Answer::Chat, &chat(&deltas, "function_call"), &["delete"]);
    let told = format!(r#"{{"role":"assistant","content":"{REFUSED}","refusal":"{REFUSED}"}}"#);
    assert_eq!(refused.out, chat(&[&told], "stop"));
}

#[test]
fn parallel_calls_in_turns_or_all_at_index_zero_are_kept_apart() {
    let pieces = |b: u64| {
        [
            r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"search","arguments":"{\"q\":"}}]}"#
                .to_owned(),
            format!(
                r#"{{"tool_calls":[{{"index":{b},"id":"b","function":{{"name":"delete","arguments":"{{}}"}}}}]}}"#
            ),
            r#"{"tool_calls":[{"index":0,"id":"a","function":{"arguments":"1}"}}]}"#.to_owned(),
        ]
    };
    let turns = pieces(1);
    let turns = pass(Answer::Chat, &chat(&turns.each_ref().map(String::as_str), "tool_calls"), &[]);
    let args: Vec<&str> = turns.asked.iter().map(|asked| asked.2.as_str()).collect();
    assert_eq!(args, [r#"{"q":1}"#, "{}"]);
    let zero = pieces(0);
    let zero = pass(Answer::Chat, &chat(&[&zero[0], &zero[1]], "tool_calls"), &["delete"]);
    assert_eq!(calls(&zero.report), [("search", false), ("delete", true)]);
    assert!(!zero.out.contains(r#""id":"b""#) && zero.out.contains(r#""finish_reason":"tool_calls""#));
}

#[test]
fn what_could_be_read_in_two_ways_ends_the_stream() {
    let call = |piece: &str| format!(r#"{{"tool_calls":[{piece}]}}"#);
    let first = call(r#"{"index":0,"id":"a","function":{"name":"search","arguments":""}}"#);
    for second in [
        call(r#"{"index":0,"function":{"name":"delete"}}"#),
        call(r#"{"index":0,"custom":{"input":"x"}}"#),
        call(r#"{"index":0,"custom":{},"function":{}}"#),
        call(r#"{"index":-1,"function":{}}"#),
        r#"{"tool_calls":{"index":0}}"#.to_owned(),
        r#"{"content":"a","content":"b"}"#.to_owned(),
    ] {
        let outcome = pass(Answer::Chat, &chat(&[&first, &second], "tool_calls"), &[]);
        assert_eq!(outcome.flow, Flow::End, "{second}");
        assert!(
            outcome.out.starts_with(r#"data: {"error":"#) && outcome.out.contains("unjudgeable"),
            "{}",
            outcome.out
        );
        assert_eq!(outcome.asked, [], "{second}");
    }
}

#[test]
fn more_of_a_call_after_its_choice_is_finished_ends_the_stream() {
    let finished = chat(&CHAT_ONE, "tool_calls").replace("data: [DONE]\n\n", "");
    let more = chat_chunk(&format!(r#"{{"index":0,"delta":{}}}"#, CHAT_ONE[3]));
    let outcome = pass(Answer::Chat, &format!("{finished}{more}"), &[]);
    assert!(outcome.out.strip_prefix(&finished).is_some_and(|error| error.starts_with(r#"data: {"error""#)));
}

#[test]
fn usage_is_read_in_every_shape_and_absent_is_not_zero() {
    let usage =
        |input: u64, output: u64| format!(r#"{{"prompt_tokens":{input},"completion_tokens":{output}}}"#);
    let choice =
        |finish: &str| format!(r#"{{"index":0,"delta":{{"content":"a"}},"finish_reason":{finish}}}"#);
    let (going, stopped) = (choice("null"), choice(r#""stop""#));
    let done = "data: [DONE]\n\n";
    let table = [
        ("missing", chat_chunk(&stopped), [None; 5]),
        (
            "alone",
            chat_chunk(&stopped) + &chat_chunk_with("", &usage(5, 7)) + done,
            [Some(5), Some(7), None, None, None],
        ),
        (
            "with choices",
            chat_chunk_with(&stopped, &usage(5, 7)) + done,
            [Some(5), Some(7), None, None, None],
        ),
        ("zero", chat_chunk_with(&stopped, &usage(0, 0)) + done, [Some(0), Some(0), None, None, None]),
        (
            "on every chunk",
            chat_chunk_with(&going, &usage(5, 1))
                + &chat_chunk_with(&stopped, &usage(5, 2))
                + &chat_chunk(""),
            [Some(5), Some(2), None, None, None],
        ),
        (
            "in a choice",
            chat_chunk(&format!(
                r#"{{"index":0,"delta":{{}},"finish_reason":"stop","usage":{}}}"#,
                usage(3, 4)
            )),
            [Some(3), Some(4), None, None, None],
        ),
    ];
    for (name, stream, expected) in table {
        let outcome = pass(Answer::Chat, &stream, &[]);
        assert_eq!((counts(&outcome.report), outcome.report.complete), (expected, true), "{name}");
        assert_eq!(outcome.out, stream, "{name}");
    }
}

#[test]
fn a_usage_chunk_that_nobody_asked_for_is_hidden_and_counted() {
    let text = chat(&CHAT_TEXT, "stop");
    let usage = chat_chunk_with("", r#"{"prompt_tokens":5,"completion_tokens":7}"#);
    let azure = format!("{}{text}", chat_chunk(""));
    let stream = azure.replace("data: [DONE]", &format!("{usage}data: [DONE]"));
    let hiding = super::Options { hide_usage_chunk: true, ..options(Answer::Chat) };
    let outcome = run(&hiding, &[stream.as_bytes()], StreamEnd::Clean, &[]);
    assert_eq!((outcome.out, outcome.report.usage.output.map(|t| t.0)), (azure, Some(7)));
    assert_eq!(pass(Answer::Chat, &stream, &[]).out, stream);
}

#[test]
fn a_whole_completion_loses_only_what_was_refused() {
    let body = |content: &str, calls: &str, finish: &str| {
        format!(
            r#"{{ "id":"x","model":"gpt-5","choices":[{{"index":0,"message":{{"role":"assistant","content":{content}{calls}}},"finish_reason":"{finish}"}}],"usage":{{"prompt_tokens":5,"completion_tokens":7}} }}"#
        )
    };
    let search = r#"{"id":"a","type":"function","function":{"name":"search","arguments":"{}"}}"#;
    let delete = r#"{"id":"b","type":"function","function":{"name":"delete","arguments":"{ }"}}"#;
    let both = body("null", &format!(r#","tool_calls":[{search},{delete}]"#), "tool_calls");
    let (same, report) = pass_whole(Answer::Chat, &both, &[]);
    assert_eq!((same, report.complete, counts(&report)[1]), (both.clone(), true, Some(7)));
    let text = format!("\"{REFUSED}\"");
    let (one, report) = pass_whole(Answer::Chat, &both, &["delete"]);
    assert_eq!(one, body(&text, &format!(r#","tool_calls":[{search}],"refusal":{text}"#), "tool_calls"));
    assert_eq!(calls(&report), [("search", false), ("delete", true)]);
    let (none, _) = pass_whole(Answer::Chat, &both, &["search", "delete"]);
    let told = format!(r#""{REFUSED}\n{REFUSED}""#);
    assert_eq!(none, body(&told, &format!(r#","refusal":{told}"#), "stop"));
}
