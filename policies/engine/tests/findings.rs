//! What people are told about files that are wrong, word for word.

use sideguard_policy::source::{Source, load, load_proxy};
use sideguard_policy::{compile, lint};

/// The findings of one file, as they are printed.
fn told(name: &str, text: &str) -> String {
    match compile(&load(&[Source::new(name, text)])) {
        Ok(set) => format!("no findings, {} rules", set.rule_count()),
        Err(findings) => findings.iter().map(|finding| format!("{finding}\n")).collect(),
    }
}

macro_rules! golden {
    ($($name:ident: $text:expr;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(told(concat!(stringify!($name), ".yaml"), $text));
        }
    )*};
}

golden! {
    lost_indentation: "version: v1\nrules:\n- id: block-destructive\nmatch:\ntopics: [\"job.*.delete\", \"job.*.drop\"]\nrisk_tags: [\"destructive\"]\ndecision: deny\nreason: \"Destructive operations blocked by policy\"\n";
    several_errors_at_once: "version: v1\nrules:\n  - id: a\n    match: {topic: [x], verbs: [raed]}\n    decision: denny\n  - id: b\n    match: {tools: [\"[a-z]\"]}\n    when: agnet == 'x'\n    decision: deny\n";
    duplicate_keys: "version: v1\nrules:\n  - id: a\n    decision: deny\n    decision: allow\n    match: {labels: {team: x, team: y}}\n";
    tabs: "version: v1\nrules:\n\t- id: a\n";
    not_yaml: "version: v1\nrules: [{id: a\n";
    a_colon_in_text: "version: v1\nrules:\n  - id: a\n    reason: one: two\n    decision: deny\n";
    unknown_kind: "apiVersion: sideguard.dev/v1\nkind: Polcy\nmetadata: {name: x}\nspec: {}\n";
    envelope: "kind: Policy\nmetadata: {name: Not A Name}\nspecs: {}\n";
    wrong_types: "version: v1\nrules:\n  - id: a\n    match: {topics: job.*}\n    velocity: {max: many, window: 1w}\n    decision: deny\n  - just text\n  - id: c\n    match:\n    decision: deny\n";
    constraints_and_decisions: "version: v1\ndefault_decision: throttle\nrules:\n  - {id: a, decision: deny, constraints: {timeout: 1s}}\n  - {id: b, decision: throttle}\n  - {id: c, decision: constrain, constraints: {redact: [emial]}}\n  - {id: d, decision: allow, approval: {roles: [x]}}\n  - {id: d, decision: allow_with_constraints}\n";
    velocity_without_max: "version: v1\nrules:\n  - {id: a, velocity: {window: 1m}, decision: deny}\n";
    bad_expressions: "version: v1\nrules:\n  - {id: a, when: \"tool ==\", decision: deny}\n  - id: b\n    when: |\n      tool == 'x' &&\n        model.begins('y')\n    decision: deny\n";
    bad_patterns: "version: v1\nrules:\n  - {id: a, match: {content: {patterns: [\"(\", \"(a{1000}){1000}\"], detectors: [aws]}}, decision: deny}\n";
    hosts_and_delegation: "version: v1\nrules:\n  - {id: a, match: {hosts: [\"https://x.example/\", \"x:443\"], delegation: {}}, decision: deny}\n";
    budgets: "apiVersion: sideguard.dev/v1\nkind: Budget\nmetadata: {name: b}\nspec:\n  limits:\n    - {unit: usd, amount: 1.2345678}\n    - {unit: tokens, amount: 1.5, window: 1s}\n    - {unit: concurrency, amount: 3, window: day}\n    - {unit: dollars, amount: 3}\n";
    agents_and_upstreams: "apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: a}\nspec: {capabilities: [\"raed:job.*\"], keys: [{sha256: abc}]}\n---\napiVersion: sideguard.dev/v1\nkind: Upstream\nmetadata: {name: u}\nspec: {baseUrl: \"ftp://x\", dialect: opnai}\n";
    the_same_name_twice: "version: v1\nrules: []\n---\napiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: the-same-name-twice}\nspec: {}\n";
    nothing_known: "just: a map\n";
    workflow_cycles: "apiVersion: sideguard.dev/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  steps:\n    - {id: a, needs: [c], job: {topic: job.x.a}}\n    - {id: b, needs: [a], job: {topic: job.x.b}}\n    - {id: c, needs: [b], job: {topic: job.x.c}}\n";
    workflow_names: "apiVersion: sideguard.dev/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  steps:\n    - {id: fetch, needs: [fecth], job: {topic: job.x.a}}\n    - {id: fetch, job: {topic: job.x.b}}\n    - {id: Not-A-Name, job: {topic: \"no topic\"}}\n    - {id: two, job: {topic: job.x.a}, delay: {for: 1s}}\n    - {id: none}\n";
    workflow_expressions: "apiVersion: sideguard.dev/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  input:\n    amount: {type: int, required: true}\n  steps:\n    - id: fetch\n      job: {topic: job.x.a, input: {n: \"${{ input.amuont }}\"}}\n    - id: big\n      condition: {expr: input.amount > '3'}\n    - id: each\n      needs: [big]\n      forEach:\n        items: input.amount\n        step:\n          job: {topic: job.x.b, input: \"for ${{ item }}, ${{ steps.fetch.result }}\"}\n    - id: block\n      if: |\n        input.amount > 1 &&\n          steps.nothing.result\n      delay: {until: input.amount}\n  output: {total: \"${{ steps.fetch.result\"}\n";
    workflow_limits: "apiVersion: sideguard.dev/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  input: {a: {type: int, default: x}, b: {required: true, default: 1}}\n  timeout: 0s\n  steps:\n    - {id: a, job: {topic: job.x.a}, retry: {attempts: 50}}\n    - {id: b, delay: {}, retry: {attempts: 2}, timeout: 1s, compensate: {job: {topic: job.x.c}}}\n    - {id: c, forEach: {items: '[1]', maxParallel: 1000, step: {}}, retry: {attempts: 2}}\n    - {id: d, approval: {text: '', quorum: 0, expires: 30d}}\n    - {id: e, notify: {webhook: ''}, onFailure: undo}\n";
}

#[test]
fn hostile_files_are_refused_at_once() {
    let nested = "[".repeat(100_000);
    let blocks = "- ".repeat(50_000);
    let bomb = (0..10).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
        format!("{text}a{}: &a{} [{}]\n", n + 1, n + 1, vec![format!("*a{n}"); 9].join(", "))
    });
    let large = format!("# {}\n", "x".repeat(1 << 20));
    for (text, code) in [(nested, "depth"), (blocks, "depth"), (bomb, "size"), (large, "size")] {
        let loaded = load(&[Source::new("hostile.yaml", text)]);
        let codes: Vec<&str> = loaded.findings.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, [code]);
    }
}

#[test]
fn plain_scalars_are_read_as_what_is_asked_for() {
    let text = "version: v1\nrules:\n  - {id: 2026-01-01, match: {tools: [no, 1.0, null, ~x]}, decision: deny, reason: yes}\n";
    assert_eq!(told("x.yaml", text), "no findings, 1 rules");
}

#[test]
fn lint_tells_what_is_likely_not_meant() {
    let text = "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: one}\nspec:\n  rules:\n    - {id: wide, match: {topics: [\"job.db.*\"]}, decision: deny}\n    - {id: narrow, match: {topics: [job.db.drop], verbs: [admin]}, decision: deny}\n    - {id: tagged, match: {risk_tags: [dangerous]}, decision: deny}\n    - {id: elsewhere, match: {topics: [\"jobs.*\"]}, decision: deny}\n    - {id: late, match: {tools: [x]}, when: tool == 'x', decision: deny}\n---\napiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: two}\nspec:\n  rules:\n    - {id: hopeless, match: {topics: [job.db.read]}, decision: allow}\n    - {id: fine, match: {topics: [job.crm.read]}, decision: allow}\n";
    let loaded = load(&[Source::new("lint.yaml", text)]);
    let set = compile(&loaded).expect("it compiles");
    let told: String = lint::lint(&loaded, &set).iter().map(|finding| format!("{finding}\n")).collect();
    insta::assert_snapshot!(told);
}

#[test]
fn lint_sees_a_set_that_denies_everything() {
    let loaded = load(&[Source::new("no.yaml", "version: v1\nrules:\n  - {id: a, decision: deny}\n")]);
    let set = compile(&loaded).expect("it compiles");
    let codes: Vec<&str> = lint::lint(&loaded, &set).iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["denies-everything"]);
}

const PROXY: &str = "apiVersion: sideguard.dev/v1\nkind: Proxy\nspec:\n  agent: {name: researcher, tenant: acme}\n  listen: {outbound: \"127.0.0.1:4750\"}\n  limits: {maxBody: 1MiB}\n";

#[test]
fn the_environment_goes_over_the_file() {
    let env = [
        ("SIDEGUARD_CONTROL__URL", "http://127.0.0.1:4760"),
        ("SIDEGUARD_LISTEN__OUTBOUND", "127.0.0.1:0"),
        ("SIDEGUARD_LIMITS__MAX_BODY", "2MiB"),
        ("SIDEGUARD_POLICIES", "[a.yaml, b/]"),
        ("SIDEGUARD_AGENT__NAME", "007"),
        ("SIDEGUARD_SERVICE_HOST", "10.0.0.1"),
        ("HOME", "/root"),
        ("SIDEGUARD_LISTEN__ADMIN", "[::]:4751"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (metadata, spec) = load_proxy(&Source::new("proxy.yaml", PROXY), &env).expect("it is valid");
    assert_eq!(metadata.name, "proxy");
    assert_eq!(spec.control.map(|control| control.url).as_deref(), Some("http://127.0.0.1:4760"));
    assert_eq!(spec.listen.outbound, "127.0.0.1:0");
    assert_eq!(spec.listen.admin, "[::]:4751", "no list, though it begins as one");
    assert_eq!(spec.limits.max_body.0, 2 << 20);
    assert_eq!(spec.policies.len(), 2);
    assert_eq!(spec.agent.map(|agent| agent.name).as_deref(), Some("007"));
}

#[test]
fn what_is_wrong_in_a_proxy_is_told_file_and_environment_alike() {
    let text = PROXY.replace("maxBody: 1MiB", "maxBody: 1MB, maxBoddy: 1");
    let env = [
        ("SIDEGUARD_LISTEN__OUTBUND", "x"),
        ("SIDEGUARD_TLS__INTERCEPT", "[a"),
        ("SIDEGUARD_REFUSALS__BUDGET_STATUS", "many"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let findings = load_proxy(&Source::new("proxy.yaml", text), &env).expect_err("it is not valid");
    insta::assert_snapshot!(findings.iter().map(|finding| format!("{finding}\n")).collect::<String>());
}
