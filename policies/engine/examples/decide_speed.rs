//! How long a judgement takes, by the number of rules: `cargo run --release --example decide_speed`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use sideguard_policy::source::{Source, load};
use sideguard_policy::{PolicySet, compile};
use sideguard_types::call::{Call, Caller, Moment, Point, Velocity};
use sideguard_types::time::Timestamp;
use sideguard_types::units::{MicroUsd, Tokens};

struct Never;

impl Velocity for Never {
    fn count(&self, _: u64, _: Duration, _: Timestamp) -> u64 {
        0
    }
}

/// Rules as people write them: by topic, tool, host and agent, some with tags and points.
fn text(rules: usize) -> String {
    let mut text = String::from("version: v1\ndefault_decision: allow\nrules:\n");
    for n in 0..rules {
        let (keys, decision) = match n % 5 {
            0 => (format!("topics: [\"job.svc{n}.*\", \"job.other{n}.*.get\"]"), "allow"),
            1 => (format!("tools: [tool_{n}], points: [tool.call]"), "deny"),
            2 => (format!("hosts: [\"*.h{n}.example\"], methods: [POST]"), "deny"),
            3 => (format!("agents: [agent-{n}], risk_tags: [destructive]"), "require_approval"),
            _ => (format!("topics: [\"job.*.op{n}\"], verbs: [write, admin]"), "deny"),
        };
        text.push_str(&format!("  - {{id: r{n}, match: {{{keys}}}, decision: {decision}}}\n"));
    }
    text
}

fn measure(set: &PolicySet, call: &Call<'_>) -> u128 {
    const ROUNDS: u32 = 200_000;
    let moment = Moment { now: Timestamp(0), velocity: &Never };
    let best = (0..5).map(|_| {
        #[expect(clippy::disallowed_methods, reason = "a stopwatch is what this program is")]
        let start = Instant::now();
        for _ in 0..ROUNDS {
            let _ = black_box(set.decide(black_box(call), moment));
        }
        start.elapsed()
    });
    best.min().map_or(0, |time| time.as_nanos() / u128::from(ROUNDS))
}

fn main() {
    let caller = Caller { tenant: "default".into(), agent: "agent-8".into(), ..Caller::default() };
    for rules in [10, 1_000, 10_000] {
        // A file may have 1 MiB: many rules stand in several.
        let sources: Vec<Source> = (0..rules / 1_000 + 1)
            .map(|n| Source::new(format!("d{n}.yaml"), text(rules.min(1_000))))
            .take((rules / 1_000).max(1))
            .collect();
        let set = match compile(&load(&sources)) {
            Ok(set) => set,
            Err(findings) => return findings.iter().for_each(|finding| eprintln!("{finding}")),
        };
        let time = |tool: &str| {
            let class =
                set.classifier().tool("crm.acme.com", tool, None, sideguard_policy::ToolHints::default());
            let call = Call {
                caller: &caller,
                point: Point::ToolCall,
                class,
                tool: Some(tool),
                args: None,
                model: None,
                host: "crm.acme.com",
                method: "POST",
                path: "/mcp",
                query: "",
                tokens: Tokens(0),
                cost: MicroUsd(0),
                session: None,
                content: b"",
            };
            measure(&set, &call)
        };
        let (apart, matched) = (time("list_customers"), time("tool_6"));
        println!("{:>7} rules: {matched} ns where one matches, {apart} ns where none does", set.rule_count());
    }
}
