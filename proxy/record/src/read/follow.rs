//! Following a log while it is written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Entry, parse_at};
use crate::disk::segments;

/// Most bytes that one poll takes from a segment.
const CHUNK: u64 = 4 << 20;

/// A reader that yields records as they are written. It keeps its place by itself; the caller says when to look.
#[derive(Debug)]
pub struct Follow {
    dir: PathBuf,
    /// The next record to hand out.
    next: u64,
    /// The segment that is read, how far, and the number of the line there.
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    first: u64,
    path: PathBuf,
    offset: u64,
    line: u64,
}

/// Follows the log in `dir` from record `from` on (1 is the beginning). The directory need not be there yet.
#[must_use]
pub fn follow(dir: &Path, from: u64) -> Follow {
    Follow { dir: dir.to_owned(), next: from, place: None }
}

impl Follow {
    /// The whole records that were written since the last poll, at most some 4 MiB of them. Empty means that
    /// there are none yet. Records whose segment is gone are passed over: compare [`Entry::seq`].
    ///
    /// # Errors
    /// When a file cannot be read or a line is not a record. Polling again goes on behind that line.
    pub fn poll(&mut self) -> io::Result<Vec<Entry>> {
        loop {
            // The next segment is looked for before this one is read: once it is there, this one has its end.
            let Some(next) = self.locate()? else { return Ok(Vec::new()) };
            let (entries, at_end) = self.read_on()?;
            match next {
                Some(place) if at_end => self.place = Some(place),
                _ => return Ok(entries),
            }
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
    }

    /// Finds the segment to read, if there is one yet, and says which one comes after it.
    fn locate(&mut self) -> io::Result<Option<Option<Place>>> {
        let mut segments = match segments(&self.dir) {
            Ok(segments) => segments,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let here = self.place.as_ref().map_or(self.next, |place| place.first);
        let after = segments.partition_point(|segment| segment.first <= here);
        let mut later = segments.split_off(after).into_iter().map(|segment| Place {
            first: segment.first,
            path: segment.path,
            offset: 0,
            line: 0,
        });
        if self.place.is_none() {
            let at = segments.pop().map(|s| Place { first: s.first, path: s.path, offset: 0, line: 0 });
            self.place = at.or_else(|| later.next());
        }
        Ok(self.place.is_some().then(|| later.next()))
    }

    /// Reads whole lines from the place on; says whether the segment's end was reached.
    fn read_on(&mut self) -> io::Result<(Vec<Entry>, bool)> {
        let Some(place) = &mut self.place else { return Ok((Vec::new(), true)) };
        let mut file = match File::open(&place.path) {
            Ok(file) => file,
            // Shipped and removed in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), true)),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(place.offset))?;
        let mut bytes = Vec::new();
        let mut at_end = false;
        // A record longer than a chunk is read all the same.
        while !at_end && !bytes.contains(&b'\n') {
            at_end = (file.by_ref().take(CHUNK).read_to_end(&mut bytes)? as u64) < CHUNK;
        }
        let mut entries = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else { break };
            let entry = parse_at(text, &place.path, place.line.saturating_add(1));
            if entry.is_err() && !entries.is_empty() {
                return Ok((entries, false)); // the next poll begins with the error
            }
            place.offset = place.offset.saturating_add(line.len() as u64);
            place.line = place.line.saturating_add(1);
            let entry = entry?;
            if entry.seq >= self.next {
                self.next = entry.seq.saturating_add(1);
                entries.push(entry);
            }
        }
        Ok((entries, at_end))
    }
}
