use super::cover;
use crate::policy::PolicySet;
use crate::source::{Source, load};

fn set(rules: &str) -> PolicySet {
    let text = format!("version: v1\nrules:\n{rules}");
    crate::compile(&load(&[Source::new("x.yaml", text)])).expect("it compiles")
}

fn covers(wide: &str, narrow: &str) -> bool {
    let set = set(&format!("  - {{id: a, {wide}}}\n  - {{id: b, {narrow}}}\n"));
    let [a, b] = set.rules.as_slice() else { panic!("two rules") };
    cover::covers(a, b)
}

#[test]
fn a_rule_covers_what_has_more_conditions() {
    for (wide, narrow) in [
        ("decision: deny", "match: {tools: [x]}, decision: deny"),
        ("match: {tools: [\"x*\"]}, decision: deny", "match: {tools: [xy], verbs: [read]}, decision: deny"),
        ("match: {topics: [\"*\"]}, decision: deny", "decision: deny"),
        ("match: {requires: [a]}, decision: deny", "match: {requires: [a, b]}, decision: deny"),
    ] {
        assert!(covers(wide, narrow), "{wide} / {narrow}");
    }
}

#[test]
fn a_rule_does_not_cover_what_could_escape_it() {
    for (wide, narrow) in [
        ("when: tool == 'x', decision: deny", "match: {tools: [x]}, decision: deny"),
        ("velocity: {max: 1, window: 1m}, decision: deny", "decision: deny"),
        ("match: {tools: [xy]}, decision: deny", "match: {tools: [\"x*\"]}, decision: deny"),
        ("match: {tools: [\"*\"]}, decision: deny", "decision: deny"),
        ("match: {requires: [a, b]}, decision: deny", "match: {requires: [a]}, decision: deny"),
        // The second sees aliases, the first does not.
        ("match: {topics: [\"job.*\"]}, decision: allow", "match: {topics: [\"job.*\"]}, decision: deny"),
    ] {
        assert!(!covers(wide, narrow), "{wide} / {narrow}");
    }
}
