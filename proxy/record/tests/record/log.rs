//! Writing.

use std::fs;
use std::process::Command;
use std::task::{Context, Poll, Waker};

use sideguard_record::verify::verify;
use sideguard_record::{Log, OpenError, Settings, Unwritable};
use sideguard_types::audit::Phase;
use sideguard_types::resource::Sync;
use sideguard_types::time::Timestamp;

use super::{key, open, record, segment, settings};

#[test]
fn a_log_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    for round in 0..3 {
        let (log, recovered) = Log::open(settings.clone(), key(), Timestamp(0)).expect("a log");
        assert_eq!(recovered.last, round * 3);
        assert_eq!(recovered.torn, None);
        let written = log.intent(&record(Phase::Intent, 1)).expect("it is written");
        assert_eq!(written.seq, round * 3 + 1);
        log.later(&record(Phase::Outcome, 1));
        log.close(); // adds the checkpoint
    }
    let summary = verify(&settings.dir, &[key().verifying_key()]).expect("a sound log");
    assert_eq!((summary.records, summary.checkpoints, summary.unsigned_tail), (9, 3, 0));
}

#[test]
fn the_hash_can_be_checked_with_sha256sum() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    let log = open(&settings);
    let _ = log.intent(&record(Phase::Intent, 1)).expect("it is written");
    log.close();
    let script = r#"sed -n 1p "$1" | sed 's/,"hash":"[0-9a-f]*"}$//' | tr -d '\n' | sha256sum"#;
    let file = segment(&settings, 1);
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(&file).output().expect("a shell");
    let sum = String::from_utf8(output.stdout).expect("text");
    let line = fs::read_to_string(file).expect("a segment");
    let line = line.lines().next().expect("a record");
    assert!(
        line.ends_with(&format!(",\"hash\":\"{}\"}}", sum.split(' ').next().expect("a sum"))),
        "{line} {sum}"
    );
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    let log = open(&settings);
    assert!(matches!(Log::open(settings.clone(), key(), Timestamp(0)), Err(OpenError::Locked(_))));
    log.close();
    open(&settings).close();
}

#[test]
fn many_threads_make_one_dense_chain() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { segment_bytes: 256 << 10, ..settings(dir.path()) };
    let log = open(&settings);
    let mut seqs: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let intent = |call| log.intent(&record(Phase::Intent, call)).expect("it is written").seq;
                    (0..1_000)
                        .map(intent)
                        .inspect(|_| log.later(&record(Phase::Outcome, 0)))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    log.close();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 8_000);
    let summary = verify(&settings.dir, &[key().verifying_key()]).expect("a sound log");
    assert_eq!(summary.records, 16_000 + summary.checkpoints);
    assert_eq!(summary.last, summary.records);
    assert!(summary.segments > 10, "{} segments", summary.segments);
}

#[test]
fn segments_end_with_a_checkpoint_and_within_their_size() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { segment_bytes: 8 << 10, ..settings(dir.path()) };
    let log = open(&settings);
    for call in 0..100 {
        let _ = log.intent(&record(Phase::Intent, call)).expect("it is written");
    }
    log.close();
    let segments =
        fs::read_dir(&settings.dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let segments: Vec<_> = segments.filter(|path| path.extension().is_some_and(|e| e == "ndjson")).collect();
    assert!(segments.len() > 3);
    for path in segments {
        let text = fs::read_to_string(&path).expect("a segment");
        assert!(text.len() <= 8 << 10, "{} bytes", text.len());
        assert!(text.lines().last().expect("a record").contains(r#""code":"checkpoint""#));
    }
}

#[test]
fn a_full_log_refuses_intents_until_segments_are_shipped() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { segment_bytes: 8 << 10, max_bytes: Some(64 << 10), ..settings(dir.path()) };
    let log = open(&settings);
    let mut call = 0;
    let refused = loop {
        call += 1;
        match log.intent(&record(Phase::Intent, call)) {
            Ok(_) => {}
            Err(error) => break error,
        }
        assert!(call < 1_000, "the bound does not hold");
    };
    assert!(matches!(refused, Unwritable::Full { .. }));
    assert!(!log.healthy());
    log.later(&record(Phase::Outcome, call)); // what came of a call that left still has room
    assert!(log.flush().is_ok());
    assert!(!log.healthy());
    log.shipped(log.last());
    let _ = log.intent(&record(Phase::Intent, call + 1_000)).expect("there is room again");
    assert!(log.healthy());
    log.close();
    let summary = verify(&settings.dir, &[key().verifying_key()]).expect("a sound log");
    assert!(summary.first > 1);
    let bytes: u64 = fs::read_dir(&settings.dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").metadata().expect("a file").len())
        .sum();
    assert!(bytes <= 65 << 10, "{bytes} bytes");
    open(&settings).close();
}

#[test]
fn always_waits_for_the_disk_and_batch_does_not() {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let batch = open(&settings(dir.path()));
    let written = batch.intent(&record(Phase::Intent, 1)).expect("it is written");
    let mut durable = std::pin::pin!(batch.durable(written));
    assert!(matches!(durable.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))));

    let other = tempfile::tempdir().expect("a directory");
    let always = open(&Settings { sync: Sync::Always, ..settings(other.path()) });
    let written = always.intent(&record(Phase::Intent, 1)).expect("it is written");
    let mut durable = std::pin::pin!(always.durable(written));
    let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    while durable.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        std::thread::park();
    }
    always.wait_synced(written.seq).expect("it is on disk");
}

#[test]
fn many_threads_wait_for_the_disk_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(&Settings { sync: Sync::Always, ..settings(dir.path()) });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for call in 0..20 {
                    let written = log.intent(&record(Phase::Intent, call)).expect("it is written");
                    log.wait_synced(written.seq).expect("it is on disk");
                }
            });
        }
    });
    assert!(log.last() >= 80);
}

#[test]
fn what_waits_is_written_without_being_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(&settings(dir.path()));
    log.later(&record(Phase::Outcome, 1));
    while log.last() == 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_closed_log_refuses() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(&settings(dir.path()));
    log.close();
    log.close();
    assert!(matches!(log.intent(&record(Phase::Intent, 1)), Err(Unwritable::Closed)));
    assert!(log.flush().is_err());
    assert!(!log.healthy());
}

#[test]
fn a_dropped_log_still_writes_what_waits() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(dir.path());
    let log = open(&settings);
    log.later(&record(Phase::Outcome, 1));
    drop(log);
    // The lock goes when the thread has written.
    let log = loop {
        match Log::open(settings.clone(), key(), Timestamp(0)) {
            Ok((log, _)) => break log,
            Err(OpenError::Locked(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(log.last(), 2);
}
