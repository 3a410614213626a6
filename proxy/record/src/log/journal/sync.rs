//! Forcing to disk what is written, without the journal's lock while the disk works.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Journal;
use crate::disk::{Disk, Medium};
use crate::log::Unwritable;

/// What must be forced to disk, to be done without the journal's lock: the end of a segment.
pub(in crate::log) struct Unsynced {
    segment: u64,
    path: PathBuf,
    file: Arc<dyn Medium>,
    from: u64,
    to: u64,
    upto: u64,
    dir: Option<PathBuf>,
    again: bool,
}

impl Unsynced {
    /// Forces it to disk.
    pub(in crate::log) fn sync(&self, disk: &dyn Disk) -> Result<(), Unwritable> {
        let rewritten = if self.again { self.rewrite() } else { Ok(()) };
        let synced = rewritten.and_then(|()| self.file.sync());
        let named = synced.and_then(|()| self.dir.as_ref().map_or(Ok(()), |dir| disk.sync_dir(dir)));
        named.map_err(|error| Unwritable::Io {
            doing: "sync",
            path: self.path.clone(),
            source: Arc::new(error),
        })
    }

    /// Writes the same bytes again, which makes them due to be written to disk once more.
    fn rewrite(&self) -> io::Result<()> {
        let size = usize::try_from(self.to.saturating_sub(self.from)).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        self.file.read_at(&mut bytes, self.from)?;
        self.file.write_at(&bytes, self.from)
    }
}

impl Journal {
    /// Whether something that is written is not forced to disk yet.
    pub(in crate::log) fn unsynced(&self) -> bool {
        self.segment.synced < self.segment.len || self.new_names || self.suspect
    }

    /// Number of the last record that is known to be on disk.
    pub(in crate::log) fn synced(&self) -> u64 {
        self.synced
    }

    /// What must be forced to disk now.
    pub(in crate::log) fn to_sync(&self) -> Unsynced {
        let segment = &self.segment;
        Unsynced {
            segment: segment.first,
            path: segment.path.clone(),
            file: Arc::clone(&segment.file),
            from: segment.synced,
            to: segment.len,
            upto: self.last(),
            dir: self.new_names.then(|| self.dir.clone()),
            again: self.suspect,
        }
    }

    /// Takes note of what became of `done`. Only one may be under way at once.
    pub(in crate::log) fn note_sync(&mut self, done: &Unsynced, result: Result<(), Unwritable>) {
        if let Err(error) = result {
            self.suspect = true;
            return self.trouble_with(error);
        }
        self.suspect = false;
        // A segment that ended in the meantime was forced to disk then.
        if self.segment.first == done.segment {
            self.segment.synced = self.segment.synced.max(done.to);
            self.new_names &= done.dir.is_none();
        }
        self.synced = self.synced.max(done.upto);
    }
}
