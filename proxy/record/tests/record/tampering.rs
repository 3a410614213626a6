//! What someone does to the record, and what `verify` says of it.

use std::fs;

use ed25519_dalek::SigningKey;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use sideguard_record::verify::{Broken, Flaw, verify};
use sideguard_record::{Log, Settings};
use sideguard_types::audit::Phase;
use sideguard_types::time::Timestamp;

use super::{key, open, record, segment, settings};

fn sample(settings: &Settings, records: usize) -> Vec<String> {
    let log = open(settings);
    for call in 0..records {
        let _ = log.intent(&record(Phase::Intent, call)).expect("it is written");
    }
    log.close();
    lines(settings)
}

fn lines(settings: &Settings) -> Vec<String> {
    let text = fs::read_to_string(segment(settings, 1)).expect("a segment");
    text.lines().map(str::to_owned).collect()
}

fn check(settings: &Settings, lines: &[String]) -> Result<(), Broken> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(segment(settings, 1), text).expect("a segment");
    verify(&settings.dir, &[key().verifying_key()]).map(|_| ())
}

#[test]
fn any_changed_byte_names_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    sample(&settings, 3);
    let good = fs::read(segment(&settings, 1)).expect("a segment");
    let mut line = 1;
    for at in 0..good.len() {
        let newline = good[at] == b'\n';
        let mut bad = good.clone();
        bad[at] ^= 0x20; // not 1: the case of a letter is a change as well
        fs::write(segment(&settings, 1), &bad).expect("a segment");
        let result = verify(&settings.dir, &[key().verifying_key()]);
        if newline && at + 1 == good.len() {
            assert!(
                result.is_ok_and(|summary| summary.torn > 0),
                "a last line without its end looks cut short"
            );
        } else {
            assert_eq!(result.expect_err("a change").line, line, "byte {at}");
        }
        line += u64::from(newline);
    }
}

#[test]
fn removed_added_and_moved_records_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    let good = sample(&settings, 8);
    let edit = |edit: &dyn Fn(&mut Vec<String>)| {
        let mut lines = good.clone();
        edit(&mut lines);
        check(&settings, &lines).expect_err("a change")
    };
    let removed = edit(&|lines| drop(lines.remove(3)));
    assert_eq!((removed.line, removed.seq), (4, 4));
    assert!(matches!(removed.what, Flaw::Seq { expected: 4, found: 5 }));
    assert_eq!(edit(&|lines| lines.swap(2, 5)).line, 3);
    assert_eq!(edit(&|lines| lines.insert(4, lines[3].clone())).line, 5);
    assert_eq!(edit(&|lines| drop(lines.remove(0))).line, 1);
    assert_eq!(edit(&|lines| lines.insert(2, String::new())).line, 3);
}

#[test]
fn a_rewrite_without_the_key_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    sample(&settings, 8);
    let thief = tempfile::tempdir().expect("a directory");
    let forged = super::settings(thief.path());
    let (log, _) = Log::open(forged.clone(), SigningKey::from_bytes(&[9; 32]), Timestamp(0)).expect("a log");
    let _ = log.intent(&record(Phase::Intent, 1)).expect("it is written");
    log.close();
    let broken = check(&settings, &lines(&forged)).expect_err("another key");
    assert!(matches!(broken.what, Flaw::Key(_)), "{broken}");
}

#[test]
fn a_rewrite_that_leaves_the_checkpoints_out_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    let log = open(&settings);
    for _ in 0..2_500 {
        let _ = log.intent(&record(Phase::Intent, 1)).expect("it is written");
    }
    log.close();
    let summary = verify(&settings.dir, &[]).expect("a sound log");
    assert_eq!((summary.records, summary.checkpoints), (2_503, 3));

    // Whoever can compute SHA-256 can chain the records anew, but cannot sign.
    let mut chain = Rechain::default();
    let kept = lines(&settings).into_iter().filter(|line| !line.contains("\"signature\""));
    let forged: Vec<String> = kept.map(|line| chain.link(&line)).collect();
    let broken = check(&settings, &forged).expect_err("no checkpoints");
    assert!(matches!(broken.what, Flaw::Unsigned(1_000)), "{broken}");
    assert_eq!(broken.line, 1_001);
}

#[derive(Default)]
struct Rechain {
    seq: u64,
    prev: Option<String>,
}

impl Rechain {
    fn link(&mut self, line: &str) -> String {
        use sha2::{Digest, Sha256};
        self.seq += 1;
        let prev = self.prev.clone().unwrap_or_else(|| "0".repeat(64));
        let body = line.split(",\"seq\":").next().expect("a record");
        let open = format!("{body},\"seq\":{},\"prev\":\"{prev}\",\"sidecar\":\"sidecar-1\"", self.seq);
        let hash: String = Sha256::digest(&open).iter().map(|byte| format!("{byte:02x}")).collect();
        self.prev = Some(hash.clone());
        format!("{open},\"hash\":\"{hash}\"}}")
    }
}

#[test]
fn a_missing_segment_and_a_cut_one_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { segment_bytes: 4 << 10, ..settings(dir.path()) };
    sample(&settings, 30);
    let mut segments: Vec<_> = fs::read_dir(&settings.dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .collect();
    segments.sort();
    let second = fs::read(&segments[1]).expect("a segment");
    fs::write(&segments[1], &second[..second.len() - 5]).expect("a segment");
    let broken = verify(&settings.dir, &[]).expect_err("a cut");
    assert_eq!(broken.file, segments[1]);
    assert!(matches!(broken.what, Flaw::Cut));
    fs::remove_file(&segments[1]).expect("a segment");
    let broken = verify(&settings.dir, &[]).expect_err("a gap");
    assert_eq!(broken.file, segments[2]);
    assert!(matches!(broken.what, Flaw::Segment { .. }));
}

proptest! {
    #[test]
    fn hostile_bytes_are_named_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings(dir.path());
        fs::create_dir_all(&settings.dir).expect("a directory");
        fs::write(segment(&settings, 1), &bytes).expect("a segment");
        match verify(&settings.dir, &[key().verifying_key()]) {
            Ok(summary) => prop_assert_eq!(summary.records, 0),
            Err(broken) => prop_assert!(broken.line >= 1),
        }
        if let Ok((log, recovered)) = Log::open(settings, key(), Timestamp(0)) {
            prop_assert_eq!(recovered.last, 0);
            log.close();
        }
    }
}
