//! The journal on a disk that fails.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use parking_lot::Mutex;
use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::resource::Sync;
use sideguard_types::time::Timestamp;

use super::Settings;
use super::Unwritable;
use super::journal::Journal;
use crate::chain::Author;
use crate::disk::{Disk, Files, Medium};
use crate::read::{Filter, query};
use crate::recover;
use crate::verify::verify;

/// What is wrong with the disk.
#[derive(Default)]
struct Faults {
    /// Bytes that can still be written.
    room: Option<u64>,
    no_truncate: bool,
    no_sync: bool,
    rewrites: u32,
}

#[derive(Clone, Default)]
struct Flaky(Arc<Mutex<Faults>>);

struct FlakyFile {
    file: File,
    faults: Flaky,
}

impl Disk for Flaky {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Medium>> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Arc::new(FlakyFile { file, faults: self.clone() }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Files.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Files.sync_dir(dir)
    }
}

impl Medium for FlakyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut faults = self.faults.0.lock();
        if offset < self.file.metadata()?.len() {
            faults.rewrites += 1;
        }
        let room = faults.room.map_or(bytes.len(), |room| usize::try_from(room).unwrap_or(usize::MAX));
        let fits = bytes.len().min(room);
        Medium::write_at(&self.file, &bytes[..fits], offset)?;
        faults.room = faults.room.map(|room| room - fits as u64);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        Medium::read_at(&self.file, bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if self.faults.0.lock().no_truncate {
            return Err(io::Error::other("cannot truncate"));
        }
        self.file.truncate(len)
    }

    fn sync(&self) -> io::Result<()> {
        if self.faults.0.lock().no_sync {
            return Err(io::Error::other("cannot sync"));
        }
        self.file.sync()
    }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.to_owned(),
        sidecar: "test".to_owned(),
        sync: Sync::Always,
        segment_bytes: 8 << 10,
        max_bytes: None,
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn journal(dir: &Path, disk: &Flaky) -> Journal {
    let tail = recover::tail(dir).expect("a log");
    let author = Author::new("test", key());
    Journal::resume(Arc::new(disk.clone()), &settings(dir), author, tail, Timestamp(0)).expect("a journal")
}

fn record(phase: Phase, call: u64, seconds: i64) -> Record {
    Record { call: call.to_string(), ..Record::new(phase, Timestamp(seconds * 1_000_000)) }
}

/// Phase and call of every record but the log's own.
fn calls(dir: &Path) -> Vec<(Phase, String)> {
    let summary = verify(dir, &[key().verifying_key()]).expect("a sound log");
    assert_eq!(summary.torn, 0, "a failed write leaves nothing behind");
    query(dir, &Filter::default())
        .expect("a log")
        .map(|entry| entry.expect("a record").record)
        .filter(|record| record.phase != Phase::Control)
        .map(|record| (record.phase, record.call))
        .collect()
}

#[test]
fn an_intent_that_fits_only_in_part_leaves_no_trace() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Flaky::default();
    let mut journal = journal(dir.path(), &disk);
    journal.intent(&record(Phase::Intent, 1, 0)).expect("it is written");
    disk.0.lock().room = Some(100);
    let refused = journal.intent(&record(Phase::Intent, 2, 0)).expect_err("it does not fit");
    assert_eq!(refused.reason(), "disk_full");
    assert_eq!(calls(dir.path()), [(Phase::Intent, "1".to_owned())]);
}

#[test]
fn a_failed_disk_is_tried_once_a_second_and_heals_with_a_note() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Flaky::default();
    let mut journal = journal(dir.path(), &disk);
    disk.0.lock().room = Some(0);
    journal.intent(&record(Phase::Intent, 1, 10)).expect_err("the disk is full");
    journal.later(&record(Phase::Outcome, 0, 10));
    disk.0.lock().room = None;
    journal.intent(&record(Phase::Intent, 2, 10)).expect_err("too soon to try again");
    assert_eq!(journal.intent(&record(Phase::Intent, 3, 11)).expect("it is tried again"), 4);
    assert!(journal.trouble().is_none());
    assert_eq!(calls(dir.path()), [(Phase::Outcome, "0".to_owned()), (Phase::Intent, "3".to_owned())]);
    let noted = query(dir.path(), &Filter { phase: Some(Phase::Control), ..Filter::default() })
        .expect("a log")
        .filter_map(Result::ok)
        .any(|entry| entry.record.code.as_deref() == Some("record_resumed"));
    assert!(noted, "the gap is in the record");
}

#[test]
fn what_a_failed_write_left_is_removed_before_the_next() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Flaky::default();
    let mut journal = journal(dir.path(), &disk);
    *disk.0.lock() = Faults { room: Some(50), no_truncate: true, ..Faults::default() };
    journal.intent(&record(Phase::Intent, 1, 0)).expect_err("the disk is full");
    disk.0.lock().room = None;
    journal.intent(&record(Phase::Intent, 2, 5)).expect_err("the rest cannot be removed");
    disk.0.lock().no_truncate = false;
    journal.intent(&record(Phase::Intent, 3, 10)).expect("it is written");
    assert_eq!(calls(dir.path()), [(Phase::Intent, "3".to_owned())]);
}

#[test]
fn what_waits_is_bounded_and_what_was_lost_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Flaky::default();
    let mut journal = journal(dir.path(), &disk);
    disk.0.lock().room = Some(0);
    let big = Record { reason: "x".repeat(32 << 10), ..record(Phase::Outcome, 1, 0) };
    for _ in 0..640 {
        journal.later(&big);
    }
    disk.0.lock().room = None;
    journal.write_pending().expect("the disk is well");
    let kept = calls(dir.path()).len();
    assert!((500..=520).contains(&kept), "{kept}: 16 MiB of them");
    let filter = Filter { phase: Some(Phase::Control), ..Filter::default() };
    let told = query(dir.path(), &filter).expect("a log").filter_map(Result::ok);
    let lost = format!("{} records lost", 640 - kept);
    assert!(told.map(|entry| entry.record.reason).any(|reason| reason.contains(&lost)));
}

/// Forces to disk as the log's thread does.
fn sync(journal: &mut Journal, disk: &Flaky) {
    let unsynced = journal.to_sync();
    let result = unsynced.sync(disk);
    journal.note_sync(&unsynced, result);
}

#[test]
fn a_failed_sync_refuses_until_the_bytes_are_written_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Flaky::default();
    let mut journal = journal(dir.path(), &disk);
    journal.intent(&record(Phase::Intent, 1, 0)).expect("it is written");
    disk.0.lock().no_sync = true;
    sync(&mut journal, &disk);
    assert!(matches!(journal.trouble(), Some(Unwritable::Io { .. })));
    assert_eq!(journal.synced(), 0);
    disk.0.lock().no_sync = false;
    journal.intent(&record(Phase::Intent, 2, 5)).expect_err("what was written may be lost still");
    sync(&mut journal, &disk);
    assert_eq!((journal.synced(), disk.0.lock().rewrites), (1, 1));
    journal.intent(&record(Phase::Intent, 3, 10)).expect("the disk is well");
    assert!(journal.trouble().is_none());
    assert_eq!(calls(dir.path()), [(Phase::Intent, "1".to_owned()), (Phase::Intent, "3".to_owned())]);
}

#[derive(Debug, Clone)]
enum Step {
    Intent,
    Later,
    Write,
    Room(Option<u64>),
    NoTruncate(bool),
}

proptest! {
    #[test]
    fn the_log_holds_what_it_took_in_order_and_nothing_else(
        steps in proptest::collection::vec(prop_oneof![
            4 => proptest::strategy::Just(Step::Intent),
            4 => proptest::strategy::Just(Step::Later),
            1 => proptest::strategy::Just(Step::Write),
            1 => (0_u64..3_000).prop_map(|room| Step::Room(Some(room))),
            2 => proptest::strategy::Just(Step::Room(None)),
            1 => any::<bool>().prop_map(Step::NoTruncate),
        ], 0..120),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Flaky::default();
        let mut journal = journal(dir.path(), &disk);
        let mut expected = Vec::new();
        for (at, step) in (1_u32..).zip(&steps) {
            let (call, seconds) = (u64::from(at), i64::from(at) * 2);
            match step {
                Step::Intent => {
                    if journal.intent(&record(Phase::Intent, call, seconds)).is_ok() {
                        expected.push((Phase::Intent, call.to_string()));
                    }
                }
                Step::Later => {
                    journal.later(&record(Phase::Outcome, call, seconds));
                    expected.push((Phase::Outcome, call.to_string()));
                }
                Step::Write => { let _ = journal.write_pending(); }
                Step::Room(room) => disk.0.lock().room = *room,
                Step::NoTruncate(no) => disk.0.lock().no_truncate = *no,
            }
        }
        *disk.0.lock() = Faults::default();
        journal.write_pending().expect("the disk is well");
        journal.finish();
        prop_assert_eq!(calls(dir.path()), expected);
    }
}
