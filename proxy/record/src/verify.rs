//! Checking the record: every hash, every link, every signature.
//!
//! What is found: any record that was changed, removed, added, moved or cut short in the middle of the log, and
//! any part that was rewritten by someone without the key, as long as a checkpoint follows it. What cannot be
//! found from the directory alone: records cut off at the end ([`Summary::last`] and [`Summary::hash`] must then
//! be compared with what control was sent), oldest segments taken away ([`Summary::first`] likewise), a rewrite of
//! what follows the last checkpoint ([`Summary::unsigned_tail`] records), and anything done with the key itself.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;

pub use crate::chain::Flaw;
use crate::chain::{Link, Tip};
use crate::disk::{Lines, SegmentFile, segments};
use crate::key::{KeyError, published};
use crate::tree::Tree;

/// A log never leaves more records than this without a checkpoint.
pub const CHECKPOINT_RECORDS: u64 = 1_000;

/// What a sound log holds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Number of records, checkpoints included.
    pub records: u64,
    /// Number of segments.
    pub segments: u64,
    /// `seq` of the first record; 0 when there is none.
    pub first: u64,
    /// `seq` of the last record; 0 when there is none.
    pub last: u64,
    /// `hash` of the last record; empty when there is none.
    pub hash: String,
    /// Number of checkpoints.
    pub checkpoints: u64,
    /// Number of records after the last checkpoint: no signature vouches for these yet.
    pub unsigned_tail: u64,
    /// Bytes of a record at the end that is not whole: being written, or cut short by a crash.
    pub torn: u64,
}

/// The first thing that is wrong with a log.
#[derive(Debug, thiserror::Error)]
#[error("`{}` line {line}, record {seq}: {what}", file.display())]
pub struct Broken {
    /// The segment, or the directory when it has none.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: u64,
    /// The number that the record at this place should have.
    pub seq: u64,
    /// What is wrong.
    #[source]
    pub what: Flaw,
}

/// Checks the log in `dir` against the keys that may have signed it; with none, against `record.pub` in `dir`,
/// which shows damage but not a rewrite by someone who can change that file too.
///
/// # Errors
/// With the first record that is wrong.
pub fn verify(dir: &Path, public: &[VerifyingKey]) -> Result<Summary, Broken> {
    let unreadable = |what| Broken { file: dir.to_owned(), line: 0, seq: 0, what: Flaw::Unreadable(what) };
    let found;
    let trusted = if public.is_empty() {
        found = published(dir).map_err(|error| unreadable(key_error(error)))?;
        &found
    } else {
        public
    };
    let segments = segments(dir).map_err(unreadable)?;
    let mut check = Check { trusted, tip: Tip::START, tree: Tree::EMPTY, summary: Summary::default() };
    for (at, segment) in segments.iter().enumerate() {
        check.segment(segment, at + 1 == segments.len())?;
    }
    check.summary.segments = segments.len() as u64;
    Ok(check.summary)
}

/// A check under way: what came so far.
struct Check<'a> {
    trusted: &'a [VerifyingKey],
    tip: Tip,
    tree: Tree,
    summary: Summary,
}

impl Check<'_> {
    fn segment(&mut self, segment: &SegmentFile, last: bool) -> Result<(), Broken> {
        let fresh = self.summary.records == 0;
        let broken = |line, seq, what| Broken { file: segment.path.clone(), line, seq, what };
        if !fresh && segment.first != self.tip.next_seq {
            let expected = self.tip.next_seq;
            return Err(broken(1, expected, Flaw::Segment { expected }));
        }
        let file = File::open(&segment.path).map_err(|e| broken(1, segment.first, Flaw::Unreadable(e)))?;
        let (mut lines, mut line) = (Lines::new(file), Vec::new());
        loop {
            let expected = if self.summary.records == 0 { segment.first } else { self.tip.next_seq };
            match lines.next(&mut line) {
                Ok(None) => return Ok(()),
                Ok(Some(true)) => {
                    self.line(&line, segment.first).map_err(|what| broken(lines.number, expected, what))?;
                }
                Ok(Some(false)) if last => {
                    self.summary.torn = line.len() as u64;
                    return Ok(());
                }
                Ok(Some(false)) => return Err(broken(lines.number, expected, Flaw::Cut)),
                Err(error) => return Err(broken(lines.number, expected, Flaw::Unreadable(error))),
            }
        }
    }

    fn line(&mut self, line: &[u8], segment_first: u64) -> Result<(), Flaw> {
        let link = Link::read(line)?;
        if self.summary.records == 0 && segment_first > 1 {
            if link.seq != segment_first {
                return Err(Flaw::Seq { expected: segment_first, found: link.seq });
            }
            self.tip = link.tip();
        } else {
            link.follow(&mut self.tip)?;
        }
        link.check_signature(line, self.trusted)?;
        link.grow(&mut self.tree)?;
        let summary = &mut self.summary;
        summary.records += 1;
        summary.last = link.seq;
        summary.hash = String::from_utf8_lossy(&self.tip.prev).into_owned();
        if summary.records == 1 {
            summary.first = link.seq;
        }
        if link.is_checkpoint() {
            summary.checkpoints += 1;
            summary.unsigned_tail = 0;
        } else {
            summary.unsigned_tail += 1;
        }
        if summary.unsigned_tail > CHECKPOINT_RECORDS {
            return Err(Flaw::Unsigned(CHECKPOINT_RECORDS));
        }
        Ok(())
    }
}

fn key_error(error: KeyError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
