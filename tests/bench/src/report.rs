//! The findings as JSON and as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::goals::{Goal, goals};
use crate::model::Case;
use crate::run::{CaseFindings, Figures, Findings, Plan};
use crate::target::Kind;

/// Everything, for programs.
pub(crate) fn json(plan: &Plan, findings: &Findings) -> Value {
    let cases: serde_json::Map<String, Value> = findings
        .cases
        .iter()
        .map(|found| {
            let value = json!({
                "requests_per_second_paced": found.rate,
                "targets": by_target(&found.targets),
                "sideguard_to": ratios(found),
            });
            (found.case.name().to_owned(), value)
        })
        .collect();
    let goals: Vec<Value> = goals(findings).iter().map(Goal::json).collect();
    json!({
        "machine": machine(),
        "plan": {
            "rounds": plan.rounds,
            "seconds": plan.time.as_secs_f64(),
            "rate": plan.rate,
            "connections": plan.connections,
            "realtime": plan.realtime,
            "awake": plan.awake,
        },
        "cases": cases,
        "processes": by_target(&findings.processes),
        "decisions": findings.decisions.iter().map(|found| json!({
            "rules": found.rules,
            "nanoseconds": rounded(found.nanoseconds),
            "per_second": rounded(1e9 / found.nanoseconds),
        })).collect::<Vec<_>>(),
        "goals": goals,
        "notes": findings.notes,
    })
}

/// Everything, for people.
pub(crate) fn text(findings: &Findings) -> String {
    let mut text = String::new();
    for found in &findings.cases {
        let _written = writeln!(text, "{} (latencies at {}/s)", found.case.name(), found.rate);
        text += &table(columns(found.case), &found.targets);
        for (other, ratios) in sideguard_to(found) {
            let _written = writeln!(text, "  sideguard to {}: {}", other.name(), shown(&ratios));
        }
        text.push('\n');
    }
    text += "processes\n";
    text += &table(PROCESS_COLUMNS, &findings.processes);
    if !findings.decisions.is_empty() {
        text += "\npolicy decisions\n";
    }
    for found in &findings.decisions {
        let (rules, time) = (found.rules, found.nanoseconds);
        let _written = writeln!(text, "  {rules:>6} rules: {time:>7.0} ns, {:>9.0}/s", 1e9 / time);
    }
    text += "\ngoals\n";
    for goal in goals(findings) {
        let _written = writeln!(text, "  {goal}");
    }
    for note in &findings.notes {
        let _written = writeln!(text, "note: {note}");
    }
    text
}

/// Name of a figure, and its heading.
type Columns = &'static [(&'static str, &'static str)];

const PROCESS_COLUMNS: Columns = &[
    ("ready_ms", "ready ms"),
    ("idle_rss_kib", "idle KiB"),
    ("idle_anonymous_kib", "idle anon"),
    ("loaded_rss_kib", "loaded KiB"),
    ("peak_rss_kib", "peak KiB"),
];

const fn columns(case: Case) -> Columns {
    match case {
        Case::Stream => &[
            ("cpu_us_per_request", "cpu us/req"),
            ("core_busy_percent", "core %"),
            ("added_first_p50_us", "+first p50"),
            ("added_first_p99_us", "+first p99"),
            ("added_chunk_p50_us", "+chunk p50"),
            ("added_chunk_p99_us", "+chunk p99"),
            ("first_p50_us", "first p50"),
            ("chunk_p50_us", "chunk p50"),
        ],
        Case::Chat1k | Case::Chat32k | Case::Connect => &[
            ("cpu_us_per_request", "cpu us/req"),
            ("requests_per_second", "req/s"),
            ("core_busy_percent", "core %"),
            ("added_p50_us", "+p50 us"),
            ("added_p99_us", "+p99 us"),
            ("p50_us", "p50 us"),
            ("p99_us", "p99 us"),
            ("paced_cpu_us_per_request", "cpu paced"),
        ],
    }
}

fn table(columns: Columns, targets: &BTreeMap<Kind, Figures>) -> String {
    let mut text = format!("  {:<10}", "");
    for (_, heading) in columns {
        let _written = write!(text, " {heading:>11}");
    }
    text.push('\n');
    for (kind, figures) in targets {
        let _written = write!(text, "  {:<10}", kind.name());
        for (name, _) in columns {
            let shown = figures.get(name).map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
            let _written = write!(text, " {shown:>11}");
        }
        text.push('\n');
    }
    text
}

fn by_target(targets: &BTreeMap<Kind, Figures>) -> Value {
    let shown = |figures: &Figures| -> serde_json::Map<String, Value> {
        figures.iter().map(|(name, value)| ((*name).to_owned(), rounded(*value).into())).collect()
    };
    targets.iter().map(|(kind, figures)| (kind.name().to_owned(), Value::Object(shown(figures)))).collect()
}

/// Sideguard's cost and speed of a case, each divided by that of every other proxy.
fn sideguard_to(found: &CaseFindings) -> Vec<(Kind, Figures)> {
    const RATIOS: [(&str, &str); 2] = [("cpu_us_per_request", "cpu"), ("requests_per_second", "requests")];
    let Some(own) = found.targets.get(&Kind::Sideguard) else { return Vec::new() };
    let others = [Kind::Hyper, Kind::Pingora, Kind::Envoy].into_iter();
    others
        .filter_map(|other| {
            let theirs = found.targets.get(&other)?;
            let ratio = |(name, short)| Some((short, own.get(name)? / theirs.get(name)?));
            Some((other, RATIOS.into_iter().filter_map(ratio).collect()))
        })
        .collect()
}

fn ratios(found: &CaseFindings) -> Value {
    by_target(&sideguard_to(found).into_iter().collect())
}

fn shown(ratios: &Figures) -> String {
    ratios.iter().map(|(name, value)| format!("{name} x{value:.2}")).collect::<Vec<_>>().join(", ")
}

fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let models: Vec<_> = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, model)| model.trim())
        .collect();
    json!({
        "cpu": models.first(),
        "cores": models.len(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_at_end": read("/proc/loadavg").split(' ').next(),
    })
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
