//! Writing the record.

mod durable;
mod journal;
#[cfg(test)]
mod tests;
mod unwritable;
mod writer;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use sideguard_types::audit::{Phase, Record};
use sideguard_types::resource::Sync;
use sideguard_types::time::Timestamp;

pub use durable::Durable;
pub use unwritable::Unwritable;

use crate::chain::{Author, Flaw};
use crate::disk::{Disk, Files};
use crate::key::{KeyError, publish};
use crate::recover;
use journal::Journal;
use writer::Writer;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its directory; made when it is not there, for the owner only.
    pub dir: PathBuf,
    /// Id of the sidecar, the same in every record.
    pub sidecar: String,
    /// When intents are forced to disk.
    pub sync: Sync,
    /// Bytes after which a segment ends and the next begins; 64 MiB is usual.
    pub segment_bytes: u64,
    /// Most bytes that all segments may take. When they are reached, segments that [`Log::shipped`] covers are
    /// removed, oldest first; when there is none, intents are refused. The last sixteenth is kept for other
    /// records, so that what a call came to can still be written.
    pub max_bytes: Option<u64>,
}

/// The log of one sidecar. Clones write to the same log.
///
/// A thread of its own (`record`) writes what waits and forces it to disk. It ends with [`Log::close`], or when
/// the last clone is dropped.
#[derive(Clone)]
pub struct Log {
    writer: Arc<Writer>,
}

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// `seq` of the last whole record; 0 when there is none.
    pub last: u64,
    /// What a crash left of the record after it; the log tells of it in a control record.
    pub torn: Option<Torn>,
}

/// Bytes of a record that a crash cut short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// Where they lie now.
    pub path: PathBuf,
    /// How many there are.
    pub bytes: u64,
}

/// An intent that is in the log: in the page cache, so that it survives the death of the process.
#[must_use = "with `sync: always` a call may leave only after `Log::durable`"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its number.
    pub seq: u64,
}

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be used.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process writes this log.
    #[error("the record in `{}` is written by another process: give each proxy its own state directory", .0.display())]
    Locked(PathBuf),
    /// The chain is broken: someone changed the record.
    #[error("the record is broken at `{}` line {line}: {flaw}; move its directory away to start a new one", file.display())]
    Broken {
        /// The segment.
        file: PathBuf,
        /// The line in it, from 1.
        line: u64,
        /// What is wrong.
        flaw: Box<Flaw>,
    },
    /// The public key cannot be kept beside the segments.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Log {
    /// Opens the log in `settings.dir`, or starts it, and goes on after its last whole record. `key` signs the
    /// checkpoints; `now` is the time of what recovery writes.
    ///
    /// # Errors
    /// When the directory cannot be used, another process has it, or the chain of its last segment is broken.
    /// A record that was cut short by a crash is no error: see [`Recovered::torn`].
    pub fn open(settings: Settings, key: SigningKey, now: Timestamp) -> Result<(Self, Recovered), OpenError> {
        Self::open_on(Arc::new(Files), settings, key, now)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        settings: Settings,
        key: SigningKey,
        now: Timestamp,
    ) -> Result<(Self, Recovered), OpenError> {
        let dir = &settings.dir;
        let io_error = |doing, path: &Path, source| OpenError::Io { doing, path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io_error("create", dir, e))?;
        let lock = lock(dir)?;
        publish(dir, &key.verifying_key())?;
        let tail = recover::tail(dir)?;
        let recovered = Recovered { last: tail.tip.next_seq.saturating_sub(1), torn: tail.torn.clone() };
        let current = tail.current.path.clone();
        let author = Author::new(&settings.sidecar, key);
        let public_key = author.public_key().to_owned();
        let mut journal = Journal::resume(Arc::clone(&disk), &settings, author, tail, now)
            .map_err(|e| io_error("open", &current, e))?;
        if let Some(torn) = &recovered.torn {
            journal.later(&torn_note(torn, recovered.last, now));
        }
        let writer = Writer::start(journal, disk, settings.sync, lock, public_key)
            .map_err(|e| io_error("write", dir, e))?;
        Ok((Self { writer: Arc::new(writer) }, recovered))
    }

    /// Writes an intent, after all that waits, before it returns: one write(2), no wait for the disk. Dispatch
    /// the call only after [`Log::durable`] as well.
    ///
    /// # Errors
    /// When it cannot be written; then nothing of it is in the log and the call must not leave. After a failure
    /// the disk is tried again at most once a second (of the records' time), so that refusing is cheap.
    pub fn intent(&self, record: &Record) -> Result<Written, Unwritable> {
        self.writer.intent(record)
    }

    /// Waits until an intent is as safe as the log's `sync` asks for: not at all with `batch`, until it is on
    /// disk with `always`. Needs no particular runtime.
    pub fn durable(&self, written: Written) -> Durable {
        self.writer.durable(written.seq)
    }

    /// Blocks until everything up to record `seq` is on disk, with `batch` too.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn wait_synced(&self, seq: u64) -> Result<(), Unwritable> {
        self.writer.wait_synced(seq)
    }

    /// Takes a record of any other phase. It is written, in order, with the next intent or within 5 ms. While
    /// the disk fails it waits in memory; beyond 16 MiB of those, records are counted instead of kept, and the
    /// log tells how many in its control record `record_resumed`.
    pub fn later(&self, record: &Record) {
        self.writer.later(record);
    }

    /// Writes what waits and forces everything to disk; also tries a failed disk again at once.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> Result<(), Unwritable> {
        self.writer.flush()
    }

    /// Says that every record up to `seq` is safe elsewhere, so that its segment may be removed for
    /// [`Settings::max_bytes`].
    pub fn shipped(&self, seq: u64) {
        self.writer.shipped(seq);
    }

    /// The last record that [`Log::shipped`] was told of since the start; 0 when there is none.
    #[must_use]
    pub fn shipped_to(&self) -> u64 {
        self.writer.shipped_to()
    }

    /// Public key that its checkpoints are signed with, in hex.
    #[must_use]
    pub fn public_key(&self) -> &str {
        self.writer.public_key()
    }

    /// `seq` of the last record that is written; 0 when there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.writer.last()
    }

    /// `seq` of the last record that is known to be on disk: what may be told to others, since no crash takes it back.
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.writer.synced()
    }

    /// Waits until record `seq` is on disk, also when it is yet to be written.
    pub fn on_disk(&self, seq: u64) -> Durable {
        self.writer.on_disk(seq)
    }

    /// Whether an intent could be written now, as far as is known. The log finds out by itself when it can again.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.writer.healthy()
    }

    /// Writes what waits and a last checkpoint, forces them to disk and lets go of the directory. Later writes
    /// are refused.
    pub fn close(&self) {
        self.writer.close();
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("last", &self.last()).finish_non_exhaustive()
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let error = |source| OpenError::Io { doing: "lock", path: path.clone(), source };
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(error(source)),
    }
}

fn torn_note(torn: &Torn, last: u64, now: Timestamp) -> Record {
    Record {
        code: Some("torn_tail".to_owned()),
        reason: format!(
            "{} bytes after record {last} were cut short by a crash; they are kept in `{}`",
            torn.bytes,
            torn.path.file_name().unwrap_or_default().display()
        ),
        ..Record::new(Phase::Control, now)
    }
}
