//! The writer's state: what waits, where the chain stands, what is on disk. Under one mutex; starts no thread.

mod sync;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sideguard_types::audit::{Phase, Record};
use sideguard_types::time::Timestamp;

use super::{Settings, Unwritable};
use crate::chain::{Author, Tip, write_body};
use crate::disk::{Disk, Medium, SegmentFile, segment_path};
use crate::recover::Tail;
use crate::tree::Tree;
use crate::verify::CHECKPOINT_RECORDS;

/// A checkpoint is due after so much activity.
const CHECKPOINT_TIME: Duration = Duration::from_secs(10);
/// Pending bytes that are written at once.
const WRITE_AT: usize = 64 << 10;
/// Most bytes that wait while the disk fails.
const PENDING_MOST: usize = 16 << 20;
/// How often a failed disk is tried, in the records' time.
const RETRY: Duration = Duration::from_secs(1);

/// How much of the bound a write may use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// All but the part that is kept for what comes of calls that left.
    Intent,
    /// All of it.
    Outcome,
}

/// Why writing fails now.
struct Trouble {
    error: Unwritable,
    since: Timestamp,
    tried: Timestamp,
}

/// The segment that is written to.
struct Segment {
    first: u64,
    path: PathBuf,
    file: Arc<dyn Medium>,
    len: u64,
    synced: u64,
}

/// Lines that are being put together. The chain moves on only when they are written.
struct Batch {
    out: Vec<u8>,
    tip: Tip,
    /// Records since the last checkpoint.
    tree: Tree,
    signed_at: Timestamp,
    /// Bytes of the bodies that are in `out` or written.
    taken: usize,
    /// Bytes of the bodies that are written.
    written: usize,
    /// `seq` of the last body.
    last: u64,
}

pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    max_bytes: Option<u64>,
    author: Author,
    tip: Tip,
    segment: Segment,
    older: VecDeque<SegmentFile>,
    /// Bytes of all segments.
    total: u64,
    shipped: u64,
    /// Bodies that wait, each ended by a newline, which JSON never holds.
    pending: Vec<u8>,
    out: Vec<u8>,
    latest: Timestamp,
    /// Records since the last checkpoint.
    tree: Tree,
    signed_at: Timestamp,
    /// The segment may hold bytes beyond `segment.len`.
    ragged: bool,
    trouble: Option<Trouble>,
    lost: u64,
    new_names: bool,
    /// A sync failed: the system may have dropped what it could not write, and must be given it again.
    suspect: bool,
    synced: u64,
    closed: bool,
}

impl Journal {
    pub(super) fn resume(
        disk: Arc<dyn Disk>,
        settings: &Settings,
        author: Author,
        tail: Tail,
        now: Timestamp,
    ) -> io::Result<Self> {
        let file = disk.open(&tail.current.path)?;
        let len = tail.current.bytes;
        let total = tail.older.iter().fold(len, |sum, segment| sum.saturating_add(segment.bytes));
        let segment = Segment { first: tail.current.first, path: tail.current.path, file, len, synced: 0 };
        Ok(Self {
            disk,
            dir: settings.dir.clone(),
            segment_bytes: settings.segment_bytes,
            max_bytes: settings.max_bytes,
            author,
            tip: tail.tip,
            segment,
            older: tail.older.into(),
            total,
            shipped: 0,
            pending: Vec::new(),
            out: Vec::new(),
            latest: tail.latest.unwrap_or(now),
            tree: tail.tree,
            signed_at: tail.signed_at.unwrap_or(now),
            ragged: false,
            trouble: None,
            lost: 0,
            new_names: true,
            suspect: false,
            synced: 0,
            closed: false,
        })
    }

    /// Writes what waits and then `record`, or nothing of `record`. Returns its number.
    pub(super) fn intent(&mut self, record: &Record) -> Result<u64, Unwritable> {
        self.admit(record.time)?;
        let size = self.push(record);
        self.write(Room::Intent).inspect_err(|_| self.take_back(size))
    }

    /// Takes `record`; it is written when much waits or with [`Journal::write_pending`].
    pub(super) fn later(&mut self, record: &Record) {
        let full = self.pending.len() > PENDING_MOST;
        if full || self.closed {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        self.push(record);
        if self.pending.len() >= WRITE_AT && !self.disk_failed() {
            // A failure is kept as the journal's trouble, and the record waits.
            let _ = self.write(Room::Outcome);
        }
    }

    /// Writes what waits; tries a failed disk again.
    pub(super) fn write_pending(&mut self) -> Result<(), Unwritable> {
        if self.trouble.is_some() && self.probe(self.latest).is_ok() {
            return Ok(());
        }
        if let Some(trouble) = self.trouble.as_ref().filter(|_| self.disk_failed()) {
            return Err(trouble.error.clone());
        }
        if self.pending.is_empty() { Ok(()) } else { self.write(Room::Outcome).map(|_| ()) }
    }

    /// Takes nothing from now on.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Writes what waits and a last checkpoint.
    pub(super) fn finish(&mut self) {
        let written = self.write_pending();
        if written.is_ok() && self.tree.count() > 0 {
            let mut batch = self.begin();
            self.checkpoint(&mut batch);
            // No one is left to be told; the next start finds the log whole either way.
            let _ = self.commit(&mut batch, Room::Outcome);
        }
    }

    pub(super) fn shipped(&mut self, seq: u64) {
        self.shipped = self.shipped.max(seq);
    }

    pub(super) fn shipped_to(&self) -> u64 {
        self.shipped
    }

    pub(super) fn last(&self) -> u64 {
        self.tip.next_seq.saturating_sub(1)
    }

    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    pub(super) fn trouble(&self) -> Option<&Unwritable> {
        self.trouble.as_ref().map(|trouble| &trouble.error)
    }

    pub(super) fn has_work(&self) -> bool {
        !self.pending.is_empty() || self.trouble.is_some() || self.unsynced()
    }

    /// Whether the disk itself fails, as opposed to the log's bound being reached.
    fn disk_failed(&self) -> bool {
        matches!(self.trouble(), Some(Unwritable::Io { .. }))
    }

    /// Whether an intent may be tried at `now`.
    fn admit(&mut self, now: Timestamp) -> Result<(), Unwritable> {
        if self.closed {
            return Err(Unwritable::Closed);
        }
        match &self.trouble {
            None => Ok(()),
            Some(trouble) if apart(now, trouble.tried) < RETRY => Err(trouble.error.clone()),
            Some(_) => self.probe(now),
        }
    }

    /// Tries to write again, beginning with a control record that tells of the gap.
    fn probe(&mut self, now: Timestamp) -> Result<(), Unwritable> {
        let Some(trouble) = &mut self.trouble else { return Ok(()) };
        trouble.tried = now;
        if self.suspect {
            return Err(trouble.error.clone());
        }
        let reason = format!(
            "no calls were let through since {}: {}; {} records lost",
            trouble.since, trouble.error, self.lost
        );
        let code = Some("record_resumed".to_owned());
        let size = self.push(&Record { code, reason, ..Record::new(Phase::Control, now) });
        self.write(Room::Intent).inspect_err(|_| self.take_back(size))?;
        self.lost = 0;
        self.trouble = None;
        Ok(())
    }

    /// Adds a record to those that wait; returns its size there.
    fn push(&mut self, record: &Record) -> usize {
        let before = self.pending.len();
        write_body(record, &mut self.pending);
        self.pending.push(b'\n');
        self.latest = record.time;
        self.pending.len().saturating_sub(before)
    }

    /// Removes the last record of those that wait, which takes `size` there.
    fn take_back(&mut self, size: usize) {
        self.pending.truncate(self.pending.len().saturating_sub(size));
    }

    /// Writes all that waits; returns the number of its last record. What could not be written goes on waiting.
    fn write(&mut self, room: Room) -> Result<u64, Unwritable> {
        let pending = mem::take(&mut self.pending);
        let mut batch = self.begin();
        let result = self.mend().and_then(|()| self.write_bodies(&pending, &mut batch, room));
        self.pending = pending;
        self.pending.drain(..batch.written);
        self.out = batch.out;
        if let Err(error) = &result {
            self.trouble_with(error.clone());
        }
        result.map(|()| batch.last)
    }

    fn write_bodies(&mut self, bodies: &[u8], batch: &mut Batch, room: Room) -> Result<(), Unwritable> {
        let mut start = 0_usize;
        for newline in memchr::memchr_iter(b'\n', bodies) {
            let body = bodies.get(start..=newline).unwrap_or_default();
            start = newline.saturating_add(1);
            if self.is_full_with(batch, body.len()) {
                if batch.tree.count() > 0 {
                    self.checkpoint(batch);
                }
                self.commit(batch, room)?;
                self.rotate()?;
            }
            batch.last = batch.tip.next_seq;
            let hash = self.author.line(&mut batch.tip, body.trim_ascii_end(), &mut batch.out);
            batch.tree.add(hash);
            batch.taken = batch.taken.saturating_add(body.len());
            if u64::from(batch.tree.count()) >= CHECKPOINT_RECORDS {
                self.checkpoint(batch);
            }
        }
        if apart(self.latest, batch.signed_at) >= CHECKPOINT_TIME {
            self.checkpoint(batch);
        }
        self.commit(batch, room)
    }

    fn begin(&mut self) -> Batch {
        let mut out = mem::take(&mut self.out);
        out.clear();
        Batch {
            out,
            tip: self.tip,
            tree: self.tree,
            signed_at: self.signed_at,
            taken: 0,
            written: 0,
            last: self.last(),
        }
    }

    fn checkpoint(&self, batch: &mut Batch) {
        self.author.checkpoint(&mut batch.tip, self.latest, &batch.tree, &mut batch.out);
        batch.signed_at = self.latest;
        batch.tree = Tree::EMPTY;
    }

    /// Whether the segment has no room for a body of `size`, and a checkpoint after it.
    fn is_full_with(&self, batch: &Batch, size: usize) -> bool {
        let used = self.segment.len.saturating_add(batch.out.len() as u64);
        let line = self.author.overhead().saturating_mul(2).saturating_add(size as u64);
        used > 0 && used.saturating_add(line) > self.segment_bytes
    }

    /// Writes the batch's lines and moves the chain past them, or leaves the segment as it was.
    fn commit(&mut self, batch: &mut Batch, room: Room) -> Result<(), Unwritable> {
        let size = batch.out.len() as u64;
        self.make_room(size, room)?;
        if let Err(error) = self.segment.file.write_at(&batch.out, self.segment.len) {
            self.ragged = true;
            // When this fails too, the next write begins with it.
            let _ = self.mend();
            return Err(self.io_error("write", error));
        }
        self.segment.len = self.segment.len.saturating_add(size);
        self.total = self.total.saturating_add(size);
        self.tip = batch.tip;
        self.tree = batch.tree;
        self.signed_at = batch.signed_at;
        batch.written = batch.taken;
        batch.out.clear();
        Ok(())
    }

    /// Removes what a failed write left.
    fn mend(&mut self) -> Result<(), Unwritable> {
        if self.ragged {
            self.segment.file.truncate(self.segment.len).map_err(|error| self.io_error("mend", error))?;
            self.ragged = false;
        }
        Ok(())
    }

    /// Ends the segment and begins the next. The one that ends is forced to disk first: were power to fail and
    /// the next one to be there without its end, the chain would look broken.
    fn rotate(&mut self) -> Result<(), Unwritable> {
        if let Err(error) = self.segment.file.sync() {
            self.suspect = true;
            return Err(self.io_error("sync", error));
        }
        self.segment.synced = self.segment.len;
        self.synced = self.last();
        let first = self.tip.next_seq;
        let path = segment_path(&self.dir, first);
        let file = self.disk.open(&path).map_err(|error| self.io_error("extend", error))?;
        let ended = mem::replace(&mut self.segment, Segment { first, path, file, len: 0, synced: 0 });
        self.older.push_back(SegmentFile { first: ended.first, path: ended.path, bytes: ended.len });
        self.new_names = true;
        Ok(())
    }

    /// Removes shipped segments until `size` more bytes fit. The segment before the current one stays: a log
    /// must hold one record at least, or it could not go on from it.
    fn make_room(&mut self, size: u64, room: Room) -> Result<(), Unwritable> {
        let Some(max_bytes) = self.max_bytes else { return Ok(()) };
        let bound = match room {
            Room::Intent => max_bytes.saturating_sub(max_bytes / 16),
            Room::Outcome => max_bytes,
        };
        while self.total.saturating_add(size) > bound {
            let next_first = self.older.get(1).map(|next| next.first);
            let removable = next_first.is_some_and(|next| next.saturating_sub(1) <= self.shipped);
            let Some(oldest) = self.older.front().filter(|_| removable) else {
                return Err(Unwritable::Full { max_bytes });
            };
            self.disk.remove(&oldest.path).map_err(|error| self.io_error("shorten", error))?;
            self.total = self.total.saturating_sub(oldest.bytes);
            self.older.pop_front();
        }
        Ok(())
    }

    fn trouble_with(&mut self, error: Unwritable) {
        let now = self.latest;
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { error, since, tried: now });
    }

    fn io_error(&self, doing: &'static str, source: io::Error) -> Unwritable {
        Unwritable::Io { doing, path: self.segment.path.clone(), source: Arc::new(source) }
    }
}

/// The time between two moments, in whichever order: a clock that jumps back makes things due, not late.
fn apart(a: Timestamp, b: Timestamp) -> Duration {
    a.since(b).max(b.since(a))
}
