//! What holds for any rules and any call.

use std::time::Duration;

use proptest::prelude::*;
use sideguard_policy::source::{Source, load};
use sideguard_policy::{PolicySet, Ruling, compile};
use sideguard_types::call::{Call, Caller, Class, Moment, Point, Velocity, Verb};
use sideguard_types::time::Timestamp;
use sideguard_types::units::{MicroUsd, Tokens};
use sideguard_types::verdict::{Decision, Verdict};

struct Never;

impl Velocity for Never {
    fn count(&self, _: u64, _: Duration, _: Timestamp) -> u64 {
        0
    }
}

const NOW: Moment<'static> = Moment { now: Timestamp(0), velocity: &Never };

/// Words that rules and calls share, so that they meet.
const TOPICS: [&str; 6] =
    ["job.db.delete", "job.db.drop_table", "job.crm.acme.com.get", "llm.openai.chat", "job.a.b.c", "job..x"];
const GLOBS: [&str; 10] = [
    "job.*.delete",
    "job.db.*",
    "*",
    "job.*",
    "*.get",
    "llm.openai.chat",
    "job.?.b.c",
    "job.db.drop",
    "*.b.*",
    "job.crm.*.get",
];
const HOSTS: [&str; 4] = ["crm.acme.com", "acme.com", "evil.example", ""];
const HOST_GLOBS: [&str; 4] = ["*.acme.com", "acme.com", "*", "crm.*"];
const TOOLS: [&str; 3] = ["drop_table", "Get", "x"];
const TOOL_GLOBS: [&str; 4] = ["drop_*", "get", "x", "*e*"];
const TAGS: [&str; 3] = ["destructive", "unclassified", "pii"];
const POINTS: [&str; 3] = ["tool.call", "llm.request", "tool.result"];
const DECISIONS: [&str; 5] = ["allow", "deny", "require_approval", "constrain", "throttle"];

fn some(words: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![2 => Just(vec![]), 3 => proptest::sample::subsequence(words, 1..=2)]
}

prop_compose! {
    fn rule()(
        topics in some(&GLOBS), hosts in some(&HOST_GLOBS), tools in some(&TOOL_GLOBS), tags in some(&TAGS),
        requires in some(&TAGS), points in some(&POINTS), verbs in some(&["read", "write", "admin"]),
        when in proptest::sample::select(vec!["", "tool == 'x'", "args.n > 1", "size(topic) > 12"]),
        decision in proptest::sample::select(&DECISIONS[..]),
    ) -> String {
        let mut keys = String::new();
        for (key, words) in [("topics", topics), ("hosts", hosts), ("tools", tools), ("risk_tags", tags),
            ("requires", requires), ("points", points), ("verbs", verbs)] {
            if !words.is_empty() {
                keys += &format!("{key}: {words:?}, ");
            }
        }
        let when = if when.is_empty() { String::new() } else { format!(", when: {when:?}") };
        let constraints = match decision {
            "constrain" | "throttle" => ", constraints: {rate: {calls: 1, per: 1s}}",
            _ => "",
        };
        format!("match: {{{keys}}}{when}, decision: {decision}{constraints}")
    }
}

prop_compose! {
    fn document()(
        rules in proptest::collection::vec(rule(), 0..8),
        default in proptest::sample::select(vec!["", "default_decision: allow\n", "default_decision: deny\n"]),
        mode in proptest::sample::select(vec!["", "", "mode: warn\n", "mode: {points: {tool.call: shadow}}\n"]),
    ) -> String {
        let rules: String = rules.iter().enumerate().map(|(n, rule)| format!("  - {{id: r{n}, {rule}}}\n")).collect();
        let rules = if rules.is_empty() { " []\n".to_owned() } else { format!("\n{rules}") };
        format!("version: v1\n{default}{mode}rules:{rules}")
    }
}

#[derive(Debug, Clone)]
struct Spoken {
    topic: &'static str,
    host: &'static str,
    tool: Option<&'static str>,
    tags: Vec<&'static str>,
    point: Point,
    verb: Verb,
    args: Option<&'static str>,
}

prop_compose! {
    fn spoken()(
        topic in proptest::sample::select(&TOPICS[..]), host in proptest::sample::select(&HOSTS[..]),
        tool in proptest::option::of(proptest::sample::select(&TOOLS[..])), tags in some(&TAGS),
        point in proptest::sample::select(vec![Point::ToolCall, Point::LlmRequest, Point::ToolResult]),
        verb in proptest::sample::select(vec![Verb::Read, Verb::Write, Verb::Admin]),
        args in proptest::sample::select(vec![None, Some(r#"{"n":2}"#), Some(r#"{"n":"x"}"#), Some("broken")]),
    ) -> Spoken {
        Spoken { topic, host, tool, tags, point, verb, args }
    }
}

impl Spoken {
    fn with<R>(&self, judge: impl FnOnce(&Call<'_>) -> R) -> R {
        let caller = Caller { tenant: "default".into(), agent: "bot".into(), ..Caller::default() };
        judge(&Call {
            caller: &caller,
            point: self.point,
            class: Class {
                topic: self.topic.into(),
                alias: (self.topic == "job.db.drop_table").then(|| "job.db.drop".into()),
                verb: self.verb,
                risk_tags: self.tags.iter().map(|tag| (*tag).into()).collect(),
            },
            tool: self.tool,
            args: self.args.map(str::as_bytes),
            model: None,
            host: self.host,
            method: "",
            path: "",
            query: "",
            tokens: Tokens(0),
            cost: MicroUsd(0),
            session: None,
            content: b"",
        })
    }
}

fn set(documents: &[String]) -> PolicySet {
    let sources: Vec<Source> = documents
        .iter()
        .enumerate()
        .map(|(n, text)| Source::new(format!("d{n}.yaml"), text.clone()))
        .collect();
    match compile(&load(&sources)) {
        Ok(set) => set,
        Err(findings) => panic!("{}", findings.iter().map(|f| format!("{f}\n")).collect::<String>()),
    }
}

fn verdict(set: &PolicySet, call: &Spoken) -> Verdict {
    call.with(|call| set.decide(call, NOW).verdict().clone())
}

proptest! {
    /// `explain` tries every rule in order, without the index.
    #[test]
    fn the_index_changes_no_verdict(
        documents in proptest::collection::vec(document(), 0..4),
        calls in proptest::collection::vec(spoken(), 1..12),
    ) {
        let set = set(&documents);
        for spoken in &calls {
            let (indexed, linear) =
                spoken.with(|call| (set.decide(call, NOW).verdict().clone(), set.explain(call, NOW).verdict));
            prop_assert_eq!(indexed, linear);
        }
    }

    #[test]
    fn the_most_restrictive_document_wins(a in document(), b in document(), call in spoken()) {
        let firm = |text: &String| text.lines().filter(|line| !line.starts_with("mode")).map(|line| format!("{line}\n")).collect::<String>();
        let (a, b) = (firm(&a), firm(&b));
        let both = verdict(&set(&[a.clone(), b.clone()]), &call);
        let (a, b) = (verdict(&set(&[a]), &call), verdict(&set(&[b]), &call));
        let say = |verdict: &Verdict| (&*verdict.rule != "default").then_some(verdict.decision);
        prop_assert_eq!(both.decision, say(&a).max(say(&b)).unwrap_or(Decision::Deny));
    }

    #[test]
    fn a_document_that_is_not_enforced_changes_nothing_but_would(
        firm in document(), soft in document(), call in spoken()
    ) {
        let firm: String = firm.lines().filter(|line| !line.starts_with("mode")).map(|line| format!("{line}\n")).collect();
        let soft: String = soft.lines().filter(|line| !line.starts_with("mode")).map(|line| format!("{line}\n")).collect();
        let alone = verdict(&set(std::slice::from_ref(&firm)), &call);
        let watched = verdict(&set(&[firm, format!("{soft}mode: shadow\n")]), &call);
        prop_assert_eq!((alone.decision, alone.rule), (watched.decision, watched.rule));
    }

    #[test]
    fn the_order_of_files_does_not_matter(a in document(), b in document(), call in spoken()) {
        let (a, b) = (Source::new("a.yaml", a), Source::new("b.yaml", b));
        let sets = [[a.clone(), b.clone()], [b, a]].map(|sources| compile(&load(&sources)).expect("it compiles"));
        let [one, other] = sets;
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(verdict(&one, &call), verdict(&other, &call));
    }

    #[test]
    fn only_what_may_go_is_granted(document in document(), call in spoken()) {
        let set = set(&[document]);
        let granted = call.with(|call| matches!(set.decide(call, NOW), Ruling::Granted(_)));
        let approved = call.with(|call| matches!(set.decide_approved(call, NOW), Ruling::Granted(_)));
        let decision = verdict(&set, &call).decision;
        prop_assert_eq!(granted, decision < Decision::RequireApproval);
        prop_assert_eq!(approved, decision < Decision::Deny);
    }

    #[test]
    fn no_text_makes_loading_panic(text in "([ -~]|\n|  |- |: |\\[|rules:\n|version: v1\n|kind: Policy\n){0,60}") {
        let loaded = load(&[Source::new("x.yaml", text.clone())]);
        let _ = compile(&loaded);
        let _ = sideguard_policy::fmt::format(&Source::new("x.yaml", text));
    }

    #[test]
    fn no_name_makes_classifying_panic(server in ".{0,20}", tool in ".{0,40}", args in ".{0,40}") {
        let set = set(&[]);
        let class = set.classifier().tool(&server, &tool, Some(args.as_bytes()), Default::default());
        prop_assert!(class.topic.starts_with("job."));
        let _ = set.classifier().http(&server, &tool, &args);
        let _ = set.classifier().model(&server, &tool);
    }
}
