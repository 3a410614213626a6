//! Every file of cases under `policies/` holds, and the shipped bundles load without a warning.

use std::fs;
use std::path::{Path, PathBuf};

use sideguard_policy::source::{Source, load};
use sideguard_policy::{cases, compile, fmt, lint};
use sideguard_types::call::Moment;

fn files(folder: &str) -> Vec<Source> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    paths.sort();
    paths.iter().map(|path| source(path)).collect()
}

fn source(path: &Path) -> Source {
    Source::new(path.to_string_lossy(), fs::read_to_string(path).expect("a readable file"))
}

fn beside(name: &str, from: &Source) -> Option<Source> {
    let path = Path::new(&from.name).parent()?.join(name);
    path.exists().then(|| source(&path))
}

#[test]
fn every_case_comes_out_as_expected() {
    for (folder, least) in [("cases", 100), ("bundles/cases", 15)] {
        let report = cases::run(&files(folder), &beside);
        assert!(report.is_success(), "{report}");
        assert!(report.passed >= least, "only {} cases in `{folder}`", report.passed);
    }
}

#[test]
fn a_case_that_does_not_hold_is_told_with_its_line_and_the_story() {
    let text = "policies: [safety.yaml]\ncases:\n  - name: wishful\n    call: {server: db, tool: drop_table}\n    expect: {decision: allow}\n";
    let open = |_: &str, _: &Source| {
        files("bundles").into_iter().find(|source| source.name.ends_with("safety.yaml"))
    };
    let report = cases::run(&[Source::new("wish.yaml", text)], &open);
    let failure = report.failures.first().expect("the case fails");
    assert_eq!((failure.file.as_str(), failure.line), ("wish.yaml", 3));
    assert!(
        failure.message.contains("decision `allow` was expected, but came `deny`"),
        "{}",
        failure.message
    );
    assert!(failure.explanation.contains("deny by `safety/block-destructive`"), "{}", failure.explanation);
}

#[test]
fn a_policy_that_cannot_be_read_is_a_finding() {
    let report = cases::run(&[Source::new("c.yaml", "policies: [nowhere.yaml]\ncases: []\n")], &|_, _| None);
    assert!(!report.is_success());
    assert_eq!(report.findings.len(), 1);
}

#[test]
fn an_explanation_tells_what_matched_and_what_nearly_did() {
    let text = "version: v1\ndefault_decision: deny\nrules:\n  - {id: by-tool, match: {tools: [drop_table], agents: [dba]}, decision: allow}\n  - {id: by-verb, match: {verbs: [read], points: [llm.request]}, decision: allow}\n  - {id: by-time, match: {verbs: [admin]}, when: time.getHours() > 20, decision: ask}\n";
    let mut sources: Vec<Source> =
        files("bundles").into_iter().filter(|source| source.name.ends_with("starter.yaml")).collect();
    sources.push(Source::new("own.yaml", text));
    let set = compile(&load(&sources)).expect("it compiles");
    let call = cases::CallSpec {
        server: Some("db".into()),
        tool: Some("drop_table".into()),
        ..cases::CallSpec::default()
    };
    let counters = cases::Counters::default();
    let moment = Moment { now: call.time(), velocity: &counters };
    let story = call.with(set.classifier(), |call| set.explain(call, moment));
    insta::assert_snapshot!(story.to_string());
    let json = serde_json::to_value(&story).expect("it is data");
    assert_eq!(json["verdict"]["rule"], "starter/no-destruction");
}

#[test]
fn formatting_keeps_what_shipped_files_say_and_does_nothing_twice() {
    for folder in ["cases", "bundles", "bundles/cases"] {
        for source in files(folder) {
            let once = fmt::format(&source).expect("valid YAML");
            let twice = fmt::format(&Source::new("again.yaml", once.clone())).expect("valid YAML");
            assert_eq!(once, twice, "{}", source.name);
            assert_eq!(once, source.text, "{} is not formatted", source.name);
        }
    }
}

#[test]
fn the_starter_has_no_findings() {
    let bundles = files("bundles");
    let starter: Vec<Source> =
        bundles.into_iter().filter(|source| source.name.ends_with("starter.yaml")).collect();
    let loaded = load(&starter);
    let set = compile(&loaded).expect("it compiles");
    assert_eq!(lint::lint(&loaded, &set), []);
}
