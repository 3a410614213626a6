//! The journal shared between callers and the thread that writes what waits and forces it to disk.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use sideguard_types::audit::Record;
use sideguard_types::resource::Sync;

use super::Unwritable;
use super::Written;
use super::durable::Durable;
use super::journal::Journal;
use crate::disk::Disk;

/// How long a record may wait to be written.
const WRITE_AFTER: Duration = Duration::from_millis(5);
/// With `batch`, every so many rounds of `WRITE_AFTER` end with a sync: within the 20 ms that are promised.
const SYNC_ROUNDS: u32 = 3;
/// How often a failed disk is tried.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    journal: Mutex<Journal>,
    /// Something waits; the thread sleeps on it when there is nothing to do.
    work: Condvar,
    /// Something cannot wait for the end of the thread's round.
    hurry: Condvar,
    /// A sync ended, well or not.
    synced: Condvar,
    /// Who waits for which record to be on disk.
    waiting: Mutex<Vec<(u64, Waker)>>,
    /// Held while forcing to disk.
    syncing: Mutex<()>,
    disk: Arc<dyn Disk>,
    sync: Sync,
}

/// The journal's owner: its end is the thread's end.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    public_key: String,
}

impl Writer {
    pub(super) fn start(
        journal: Journal,
        disk: Arc<dyn Disk>,
        sync: Sync,
        lock: File,
        public_key: String,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            journal: Mutex::new(journal),
            work: Condvar::new(),
            hurry: Condvar::new(),
            synced: Condvar::new(),
            waiting: Mutex::new(Vec::new()),
            syncing: Mutex::new(()),
            disk,
            sync,
        });
        let thread = thread::Builder::new().name("record".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                run(&shared);
                drop(lock); // only now may another process write here
            }
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), public_key })
    }

    pub(super) fn intent(&self, record: &Record) -> Result<Written, Unwritable> {
        let written = self.shared.journal.lock().intent(record);
        self.shared.work.notify_one();
        written.map(|seq| Written { seq })
    }

    pub(super) fn later(&self, record: &Record) {
        self.shared.journal.lock().later(record);
        self.shared.work.notify_one();
    }

    pub(super) fn durable(&self, seq: u64) -> Durable {
        let wait = match self.shared.sync {
            Sync::Batch => None,
            Sync::Always => Some((Arc::clone(&self.shared), seq)),
        };
        Durable { wait }
    }

    pub(super) fn on_disk(&self, seq: u64) -> Durable {
        Durable { wait: Some((Arc::clone(&self.shared), seq)) }
    }

    pub(super) fn synced(&self) -> u64 {
        self.shared.journal.lock().synced()
    }

    pub(super) fn wait_synced(&self, seq: u64) -> Result<(), Unwritable> {
        let mut journal = self.shared.journal.lock();
        let seq = seq.min(journal.last());
        loop {
            if let Some(result) = settled(&journal, seq) {
                return result;
            }
            self.shared.hurry.notify_one();
            self.shared.synced.wait(&mut journal);
        }
    }

    pub(super) fn flush(&self) -> Result<(), Unwritable> {
        if self.shared.journal.lock().closed() {
            return Err(Unwritable::Closed);
        }
        // The sync may be what heals the disk, so the write is tried once more after it.
        if self.shared.journal.lock().write_pending().is_err() {
            self.shared.sync()?;
            self.shared.journal.lock().write_pending()?;
        }
        self.shared.sync()
    }

    pub(super) fn shipped(&self, seq: u64) {
        self.shared.journal.lock().shipped(seq);
    }

    pub(super) fn shipped_to(&self) -> u64 {
        self.shared.journal.lock().shipped_to()
    }

    pub(super) fn public_key(&self) -> &str {
        &self.public_key
    }

    pub(super) fn last(&self) -> u64 {
        self.shared.journal.lock().last()
    }

    pub(super) fn healthy(&self) -> bool {
        let journal = self.shared.journal.lock();
        journal.trouble().is_none() && !journal.closed()
    }

    pub(super) fn close(&self) {
        self.shared.close();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    /// Ready when record `seq` is on disk or cannot be brought there; otherwise `waker` is called when it may be.
    pub(super) fn poll_synced(&self, seq: u64, waker: &Waker) -> Poll<Result<(), Unwritable>> {
        // The journal stays locked until the waker is in: a sync that ends in between would be missed otherwise.
        let journal = self.journal.lock();
        if let Some(result) = settled(&journal, seq) {
            return Poll::Ready(result);
        }
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|(at, known)| *at == seq && known.will_wake(waker)) {
            waiting.push((seq, waker.clone()));
        }
        Poll::Pending
    }

    /// Tells the thread to write the end and to stop.
    fn close(&self) {
        self.journal.lock().close();
        self.work.notify_all();
        self.hurry.notify_all();
    }

    /// Forces to disk what is written so far and tells those who wait.
    fn sync(&self) -> Result<(), Unwritable> {
        let result = {
            let _one_at_once = self.syncing.lock();
            let unsynced = self.journal.lock().to_sync();
            let result = unsynced.sync(&*self.disk);
            self.journal.lock().note_sync(&unsynced, result.clone());
            result
        };
        self.synced.notify_all();
        self.wake();
        result
    }

    /// Wakes those whose record has been settled, without a lock that their polling would need.
    fn wake(&self) {
        let ready: Vec<_> = {
            let journal = self.journal.lock();
            let mut waiting = self.waiting.lock();
            waiting.extract_if(.., |(seq, _)| settled(&journal, *seq).is_some()).collect()
        };
        for (_, waker) in ready {
            waker.wake();
        }
    }
}

/// Whether record `seq` is on disk, or why it cannot get there; `None` while that is open.
fn settled(journal: &Journal, seq: u64) -> Option<Result<(), Unwritable>> {
    if journal.synced() >= seq {
        return Some(Ok(()));
    }
    match journal.trouble() {
        Some(error @ Unwritable::Io { .. }) => Some(Err(error.clone())),
        _ => None,
    }
}

fn run(shared: &Shared) {
    let mut round = 0_u32;
    loop {
        let mut journal = shared.journal.lock();
        while !journal.has_work() && !journal.closed() {
            shared.work.wait(&mut journal);
        }
        let pause = if journal.trouble().is_some() {
            Some(RETRY)
        } else if shared.sync == Sync::Always && journal.unsynced() {
            None
        } else {
            Some(WRITE_AFTER)
        };
        if let Some(pause) = pause.filter(|_| !journal.closed()) {
            shared.hurry.wait_for(&mut journal, pause);
        }
        let closed = journal.closed();
        // A failure stays with the journal, which tells every caller.
        let failed = journal.write_pending().is_err();
        if closed {
            journal.finish();
        }
        let due = journal.unsynced();
        drop(journal);
        round = round.wrapping_add(1);
        if due && (closed || failed || shared.sync == Sync::Always || round.is_multiple_of(SYNC_ROUNDS)) {
            // The same.
            let _ = shared.sync();
        }
        if closed {
            shared.synced.notify_all();
            return shared.wake();
        }
    }
}
