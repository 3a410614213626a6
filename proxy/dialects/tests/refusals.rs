//! Refusals: the golden file shows each code in each form.

use std::fmt::Write;
use std::time::Duration;

use proptest::prelude::*;
use sideguard_dialects::detect::Operation;
use sideguard_dialects::refuse::{self, Answer, Form, Of, Reply};
use sideguard_dialects::request::Unread;
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::{Dialect, McpRefusal};
use sideguard_types::time::Timestamp;

const CODES: [Code; 16] = [
    Code::PolicyDenied,
    Code::ScopeDenied,
    Code::ApprovalRequired,
    Code::BudgetExhausted,
    Code::RateLimited,
    Code::BreakerTripped,
    Code::Killed,
    Code::Fenced,
    Code::Unjudgeable,
    Code::BodyTooLarge,
    Code::Malformed,
    Code::PolicyUnavailable,
    Code::RecordUnavailable,
    Code::UpstreamUnreachable,
    Code::UpstreamTimeout,
    Code::Unauthenticated,
];
const FORMS: [Form; 5] = [Form::OpenAi, Form::Anthropic, Form::Google, Form::Mcp, Form::Problem];

fn refusal(code: Code) -> Refusal {
    let mut refusal = Refusal::new(code, "seed/block", "not allowed");
    refusal.call = "call_1".to_owned();
    match code {
        Code::ApprovalRequired => refusal.approval = Some("apr_1".to_owned()),
        Code::BudgetExhausted => refusal.reset_at = Timestamp::parse("2026-12-01T00:00:00Z").ok(),
        Code::RateLimited => refusal.retry_after = Some(Duration::from_millis(1500)),
        Code::BreakerTripped => refusal.retry_after = Some(Duration::from_secs(30)),
        Code::Unjudgeable => refusal.hint = Some("use a documented path".to_owned()),
        _ => {}
    }
    refusal
}

fn shown(reply: &Reply) -> String {
    let mut text = format!("{} {}\n", reply.status, reply.content_type);
    reply.headers.iter().for_each(|(name, value)| writeln!(text, "{name}: {value}").expect("it is a string"));
    text + &String::from_utf8_lossy(&reply.body) + "\n"
}

fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
    reply.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
}

#[test]
fn each_code_in_each_form() {
    let mut all = String::new();
    for form in FORMS {
        for code in CODES {
            writeln!(all, "--- {form:?} {}\n{}", code.as_str(), shown(&refuse::reply(form, &refusal(code))))
                .expect("it is a string");
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn mcp_refusals_keep_the_session_alive() {
    let (deny, approve) = (refusal(Code::PolicyDenied), refusal(Code::ApprovalRequired));
    let call = Answer { id: Some(br#""a\u0062""#), refusal: &deny, of: Of::Itself };
    let other = Answer { id: Some(b"7.0"), refusal: &approve, of: Of::Itself };
    let told = Answer { id: None, ..call };
    let unsent = Answer { id: Some(b"8"), refusal: &deny, of: Of::Another };
    let unread = Unread { batch: true, ids: vec![Some(b"3".to_vec()), None], code: -32602 };
    let mut all = String::new();
    for (label, reply) in [
        ("result", refuse::mcp_reply(&[call], false, McpRefusal::Result)),
        ("error", refuse::mcp_reply(&[call], false, McpRefusal::Error)),
        ("batch", refuse::mcp_reply(&[call, told, other, unsent], true, McpRefusal::Result)),
        ("notification", refuse::mcp_reply(&[told], false, McpRefusal::Error)),
        ("mismatch", refuse::mcp_header_mismatch(Some(b"3"), &refusal(Code::Unjudgeable))),
        ("unread", refuse::mcp_unread(&unread, &refusal(Code::Unjudgeable))),
    ] {
        writeln!(all, "--- {label}\n{}", shown(&reply)).expect("it is a string");
    }
    insta::assert_snapshot!(all);
}

#[test]
fn final_refusals_are_not_retried_and_others_say_when() {
    for code in CODES {
        let reply = refuse::reply(Form::OpenAi, &refusal(code));
        let retriable = matches!(code, Code::RateLimited | Code::BreakerTripped);
        let decided = !matches!(code, Code::UpstreamUnreachable | Code::UpstreamTimeout);
        assert_eq!(header(&reply, "x-should-retry"), (decided && !retriable).then_some("false"), "{code:?}");
        assert_eq!(header(&reply, "retry-after").is_some(), retriable, "{code:?}");
    }
    let mut late = refusal(Code::RateLimited);
    late.retry_after = Some(Duration::from_secs(61));
    let reply = refuse::reply(Form::OpenAi, &late);
    assert_eq!((header(&reply, "retry-after"), header(&reply, "x-should-retry")), (None, Some("false")));
    let mut configured = refusal(Code::BudgetExhausted);
    configured.status = 429;
    let reply = refuse::reply(Form::Anthropic, &configured);
    assert_eq!((reply.status, header(&reply, "x-should-retry")), (429, Some("false")));
}

#[test]
fn the_form_is_the_operation_s_or_else_the_provider_s() {
    for (op, governed, form) in [
        (Operation::Chat, Some(("anthropic", Dialect::Anthropic)), Form::OpenAi),
        (Operation::Messages, Some(("xai", Dialect::Openai)), Form::Anthropic),
        (Operation::ModelFree, Some(("anthropic", Dialect::Anthropic)), Form::Anthropic),
        (Operation::Plain, Some(("gemini", Dialect::Openai)), Form::Google),
        (Operation::Plain, Some(("openai", Dialect::Openai)), Form::OpenAi),
        (Operation::Mcp, None, Form::Mcp),
        (Operation::Plain, None, Form::Problem),
    ] {
        assert_eq!(Form::of(op, governed), form, "{op:?} {governed:?}");
    }
}

proptest! {
    #[test]
    fn whatever_the_words_the_reply_is_json_and_its_headers_are_safe(
        code in prop::sample::select(CODES.to_vec()), rule in ".{0,20}", reason in ".{0,20}", call in ".{0,300}",
        hint in prop::option::of(".{0,9}"), approval in prop::option::of("[\r\n -~é]{0,9}"),
        after in prop::option::of(any::<u64>()), id in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), batch in any::<bool>(),
    ) {
        let mut refusal = Refusal::new(code, rule, reason);
        (refusal.call, refusal.hint, refusal.approval) = (call, hint, approval);
        refusal.retry_after = after.map(Duration::from_millis);
        let mcp = refuse::mcp_reply(&[Answer { id: id.as_deref(), refusal: &refusal, of: Of::Itself }], batch, McpRefusal::Result);
        prop_assert_eq!(mcp.status, if id.is_some() { 200 } else { 202 });
        for reply in FORMS.map(|form| refuse::reply(form, &refusal)).into_iter().chain([mcp, refuse::mcp_header_mismatch(id.as_deref(), &refusal)]) {
            prop_assert!(reply.body.is_empty() || serde_json::from_slice::<serde_json::Value>(&reply.body).is_ok());
            for (name, value) in &reply.headers {
                prop_assert!(value.len() <= 256 && value.bytes().all(|b| (b' '..=b'~').contains(&b)), "{}: {}", name, value);
            }
        }
    }
}
