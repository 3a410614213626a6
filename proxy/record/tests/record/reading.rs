//! Queries and following.

use std::fs::OpenOptions;
use std::io::Write;

use sideguard_record::Settings;
use sideguard_record::read::{Entry, Filter, follow, query};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::time::Timestamp;
use sideguard_types::verdict::Decision;

use super::{open, record, segment, settings};

fn calls(settings: &Settings, filter: &Filter) -> Vec<String> {
    let entries = query(&settings.dir, filter).expect("a log");
    entries.map(|entry| entry.expect("a record").record.call).collect()
}

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

#[test]
fn a_query_yields_what_fits() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { segment_bytes: 4 << 10, ..settings(dir.path()) };
    let log = open(&settings);
    for call in 0..40 {
        let denied = call % 10 == 0;
        let record = Record {
            topic: format!("job.db.{}", if denied { "drop" } else { "read" }),
            decision: Some(if denied { Decision::Deny } else { Decision::Allow }),
            rule: "safety/block-destructive".to_owned(),
            ..record(Phase::Decision, call)
        };
        log.later(&record);
    }
    log.close();
    let some = Filter { phase: Some(Phase::Decision), ..Filter::default() };
    assert_eq!(calls(&settings, &some).len(), 40);
    let denied = Filter { decision: Some(Decision::Deny), ..Filter::default() };
    assert_eq!(calls(&settings, &denied), ["0", "10", "20", "30"]);
    let dropped = Filter { topic: Some("job.*.drop".to_owned()), limit: Some(2), ..Filter::default() };
    assert_eq!(calls(&settings, &dropped), ["0", "10"]);
    assert_eq!(calls(&settings, &Filter { tail: Some(3), ..denied.clone() }), ["10", "20", "30"]);
    assert_eq!(calls(&settings, &Filter { tail: Some(0), ..denied }), [""; 0]);
    let times = (Some(Timestamp(17_000)), Some(Timestamp(20_000)));
    assert_eq!(
        calls(&settings, &Filter { since: times.0, until: times.1, ..some.clone() }),
        ["17", "18", "19"]
    );
    assert_eq!(calls(&settings, &Filter { call: Some("5".to_owned()), ..some.clone() }), ["5"]);
    assert_eq!(calls(&settings, &Filter { agent: Some("nobody".to_owned()), ..some.clone() }), [""; 0]);
    assert_eq!(calls(&settings, &Filter { rule: Some("other/*".to_owned()), ..some }), [""; 0]);
}

#[test]
fn an_entry_gives_back_its_line_and_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    let log = open(&settings);
    let _ = log.intent(&record(Phase::Intent, 1)).expect("it is written");
    log.close();
    let entry =
        query(&settings.dir, &Filter::default()).expect("a log").next().expect("one").expect("a record");
    assert_eq!(entry.record, record(Phase::Intent, 1));
    assert_eq!((entry.seq, entry.sidecar.as_str()), (1, "sidecar-1"));
    assert_eq!(Entry::parse(entry.line.as_bytes()).expect("a record"), entry);
}

#[test]
fn following_yields_each_record_once_across_segments() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { segment_bytes: 4 << 10, ..settings(dir.path()) };
    let mut follow = follow(&settings.dir, 1);
    assert_eq!(follow.poll().expect("nothing yet"), []);
    let log = open(&settings);
    let mut seen = Vec::new();
    for call in 0..50 {
        let _ = log.intent(&record(Phase::Intent, call)).expect("it is written");
        if call % 7 == 0 {
            seen.extend(seqs(&follow.poll().expect("a log")));
        }
    }
    log.close();
    loop {
        let more = seqs(&follow.poll().expect("a log"));
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    assert_eq!(seen, (1..=log.last()).collect::<Vec<_>>());
    let mut late = sideguard_record::read::follow(&settings.dir, 30);
    assert_eq!(late.poll().expect("a log").first().map(|entry| entry.seq), Some(30));
}

#[test]
fn a_record_that_is_not_whole_is_not_handed_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    let log = open(&settings);
    let _ = log.intent(&record(Phase::Intent, 1)).expect("it is written");
    log.close();
    let mut file = OpenOptions::new().append(true).open(segment(&settings, 1)).expect("a segment");
    file.write_all(b"{\"v\":1,").expect("a write");
    let mut follow = follow(&settings.dir, 1);
    assert_eq!(seqs(&follow.poll().expect("a log")), [1, 2]);
    assert_eq!(query(&settings.dir, &Filter::default()).expect("a log").count(), 2);
    file.write_all(b"no record\n").expect("a write");
    let error = follow.poll().expect_err("a line that is no record");
    assert!(error.to_string().contains("line 3"), "{error}");
    assert_eq!(follow.poll().expect("it goes on behind it"), []);
}
