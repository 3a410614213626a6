//! The log's bytes, line by line, without looking into them: what ships them needs no more.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Lines, SegmentFile, segments};

/// A reader of whole lines that keeps its place.
#[derive(Debug)]
pub struct Raw {
    dir: PathBuf,
    next: u64,
    place: Option<Place>,
}

/// Where record `next` begins: in which segment, at which byte.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    offset: u64,
}

/// Some lines that follow each other.
#[derive(Debug, Default)]
pub struct Lump {
    /// Number of the first.
    pub from: u64,
    /// How many there are.
    pub count: u64,
    /// The lines, each with its newline.
    pub bytes: Vec<u8>,
}

/// Reads the log in `dir` from record `from` on.
#[must_use]
pub fn raw(dir: &Path, from: u64) -> Raw {
    Raw { dir: dir.to_owned(), next: from.max(1), place: None }
}

/// Number of the first record that is still in `dir`; `None` when there is no segment.
///
/// # Errors
/// When the directory cannot be read.
pub fn oldest(dir: &Path) -> io::Result<Option<u64>> {
    Ok(segments(dir)?.first().map(|segment| segment.first))
}

impl Raw {
    /// Number of the record that comes next.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The next lines up to record `upto`, which must be written: at least one, then no more than `most` bytes in all. A
    /// lump ends with its segment.
    ///
    /// # Errors
    /// When a file cannot be read, or the record is not there any more.
    pub fn take(&mut self, upto: u64, most: usize) -> io::Result<Lump> {
        let mut lump = Lump { from: self.next, ..Lump::default() };
        if self.next > upto {
            return Ok(lump);
        }
        let place = match self.place.take() {
            Some(place) => place,
            None => self.locate()?,
        };
        let mut lines = Lines::at(File::open(&place.path)?, place.offset)?;
        let mut line = Vec::new();
        while self.next <= upto {
            let end = lines.end;
            let whole = lines.next(&mut line)?;
            let fits = lump.count == 0 || lump.bytes.len() + line.len() < most;
            match whole {
                Some(true) if fits => {}
                Some(_) => {
                    self.place = Some(Place { path: place.path, offset: end });
                    return Ok(lump);
                }
                // The segment's end: what follows stands in the next one.
                None if lump.count > 0 || place.offset > 0 => return self.go_on(lump, upto, most),
                None => return Err(self.missing()),
            }
            lump.bytes.extend_from_slice(&line);
            lump.bytes.push(b'\n');
            lump.count = lump.count.saturating_add(1);
            self.next = self.next.saturating_add(1);
        }
        self.place = Some(Place { path: place.path, offset: lines.end });
        Ok(lump)
    }

    /// At a segment's end: hands out what there is, or begins with the next segment.
    fn go_on(&mut self, lump: Lump, upto: u64, most: usize) -> io::Result<Lump> {
        if lump.count > 0 {
            return Ok(lump);
        }
        let begins = |segment: &SegmentFile| segment.first == self.next;
        if segments(&self.dir)?.iter().any(begins) { self.take(upto, most) } else { Err(self.missing()) }
    }

    /// Finds record `next`: the segment that has it, and its line there.
    fn locate(&self) -> io::Result<Place> {
        let mut segments = segments(&self.dir)?;
        segments.retain(|segment| segment.first <= self.next);
        let segment = segments.pop().ok_or_else(|| self.missing())?;
        let mut lines = Lines::new(File::open(&segment.path)?);
        let mut line = Vec::new();
        for _ in segment.first..self.next {
            if lines.next(&mut line)? != Some(true) {
                return Err(self.missing());
            }
        }
        Ok(Place { path: segment.path, offset: lines.end })
    }

    fn missing(&self) -> io::Error {
        let text = format!("record {} is not in `{}`", self.next, self.dir.display());
        io::Error::new(io::ErrorKind::NotFound, text)
    }
}
