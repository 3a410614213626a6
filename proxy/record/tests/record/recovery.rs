//! What a crash leaves.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use sideguard_record::verify::verify;
use sideguard_record::{Log, OpenError};
use sideguard_types::audit::Phase;
use sideguard_types::time::Timestamp;

use super::{key, open, record, segment, settings};

/// A log of six records, the last a checkpoint.
fn sample(settings: &sideguard_record::Settings) -> Vec<u8> {
    let log = open(settings);
    for call in 0..5 {
        let _ = log.intent(&record(Phase::Intent, call)).expect("it is written");
    }
    log.close();
    fs::read(segment(settings, 1)).expect("a segment")
}

#[test]
fn a_log_that_is_cut_anywhere_keeps_every_whole_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    let bytes = sample(&settings);
    // Every byte of the last record's end, and enough of the rest: each cut costs several syncs.
    let cuts = (0..bytes.len()).step_by(13).chain(bytes.len() - 120..=bytes.len());
    for cut in cuts {
        let left = &bytes[..cut];
        fs::write(segment(&settings, 1), left).expect("a segment");
        let whole = left.iter().filter(|byte| **byte == b'\n').count() as u64;
        let torn = left.iter().rev().take_while(|byte| **byte != b'\n').count() as u64;
        let (log, recovered) = Log::open(settings.clone(), key(), Timestamp(0)).expect("a log");
        assert_eq!(recovered.last, whole, "cut at {cut}");
        assert_eq!(recovered.torn.map_or(0, |torn| torn.bytes), torn, "cut at {cut}");
        let next = log.intent(&record(Phase::Intent, 9)).expect("it is written").seq;
        assert_eq!(next, whole + 1 + u64::from(torn > 0), "a cut is told of");
        log.close();
        verify(&settings.dir, &[key().verifying_key()]).expect("a sound log");
        fs::remove_file(settings.dir.join(format!("torn-{:020}", whole + 1))).ok();
    }
}

#[test]
fn blocks_that_were_never_written_count_as_torn() {
    for zeros in [1, 100, 5_000] {
        for newline in [false, true] {
            let dir = tempfile::tempdir().expect("a directory");
            let settings = settings(dir.path());
            sample(&settings);
            let mut file = OpenOptions::new().append(true).open(segment(&settings, 1)).expect("a segment");
            file.write_all(&vec![0; zeros]).expect("a write");
            file.write_all(if newline { b"tail of a line\"}\n" } else { b"" }).expect("a write");
            let (log, recovered) = Log::open(settings.clone(), key(), Timestamp(0)).expect("a log");
            assert_eq!(recovered.last, 6);
            assert!(recovered.torn.is_some());
            log.close();
            verify(&settings.dir, &[key().verifying_key()]).expect("a sound log");
        }
    }
}

#[test]
fn a_changed_record_is_no_crash_and_is_not_written_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    let bytes = sample(&settings);
    let text = String::from_utf8(bytes).expect("text").replacen("\"call\":\"2\"", "\"call\":\"7\"", 1);
    fs::write(segment(&settings, 1), text).expect("a segment");
    match Log::open(settings.clone(), key(), Timestamp(0)) {
        Err(OpenError::Broken { file, line, .. }) => assert_eq!((file, line), (segment(&settings, 1), 3)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_segment_that_was_begun_and_not_written_is_gone_on_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    sample(&settings);
    fs::write(segment(&settings, 7), "").expect("a segment");
    let log = open(&settings);
    assert_eq!(log.intent(&record(Phase::Intent, 1)).expect("it is written").seq, 7);
    log.close();
    assert_eq!(verify(&settings.dir, &[]).expect("a sound log").segments, 2);
}

#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    sample(&settings);
    fs::write(segment(&settings, 9), "").expect("a segment");
    assert!(matches!(Log::open(settings, key(), Timestamp(0)), Err(OpenError::Broken { .. })));
}

#[test]
fn a_killed_writer_leaves_a_sound_log() {
    let exe = std::env::current_exe().expect("this test");
    for _ in 0..3 {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(&exe)
            .args(["--exact", "recovery::writes_until_it_is_killed", "--ignored", "--nocapture"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let written: u64 = lines
            .find_map(|line| line.expect("a line").strip_prefix("written ")?.parse().ok())
            .expect("the child writes");
        child.kill().expect("a child");
        child.wait().expect("a child");
        let settings = settings(dir.path());
        let (log, recovered) = Log::open(settings.clone(), key(), Timestamp(0)).expect("a log");
        assert!(recovered.last >= written, "{} of {written} are there", recovered.last);
        log.close();
        verify(&settings.dir, &[key().verifying_key()]).expect("a sound log");
    }
}

#[test]
#[ignore = "the child of `a_killed_writer_leaves_a_sound_log`: it never ends by itself"]
fn writes_until_it_is_killed() {
    let log = open(&settings(".".as_ref()));
    for call in 0.. {
        let written = log.intent(&record(Phase::Intent, call)).expect("it is written");
        log.later(&record(Phase::Outcome, call));
        if call == 500 {
            println!("\nwritten {}", written.seq);
        }
    }
}
