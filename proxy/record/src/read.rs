//! Reading the record: queries over what is there, and following what is being written.
//!
//! Nothing here checks the chain; that is [`crate::verify`].

mod filter;
mod follow;
mod raw;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sideguard_types::audit::Record;
use sideguard_types::time::Timestamp;

pub use filter::{Filter, glob};
pub use follow::{Follow, follow};
pub use raw::{Lump, Raw, oldest, raw};

use crate::disk::{Lines, SegmentFile, segments};

/// One record as it stands in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// Hash of the record before, in hex.
    pub prev: String,
    /// Its own hash, in hex.
    pub hash: String,
    /// Which sidecar wrote it.
    pub sidecar: String,
    /// Public key of a checkpoint, in hex.
    pub key: Option<String>,
    /// Signature of a checkpoint, in hex.
    pub signature: Option<String>,
    /// What it says.
    pub record: Record,
    /// The line as it stands in the log, without its newline: what an export must hand on, byte for byte.
    pub line: String,
}

impl Entry {
    /// Reads one line of the log.
    ///
    /// # Errors
    /// When it is not a record.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Envelope {
            seq: u64,
            prev: String,
            hash: String,
            sidecar: String,
            #[serde(default)]
            key: Option<String>,
            #[serde(default)]
            signature: Option<String>,
        }
        let Envelope { seq, prev, hash, sidecar, key, signature } = serde_json::from_slice(line)?;
        let record = serde_json::from_slice(line)?;
        let line = String::from_utf8_lossy(line).into_owned();
        Ok(Self { seq, prev, hash, sidecar, key, signature, record, line })
    }
}

/// The entries in `dir` that fit `filter`, oldest first, read as they are asked for. A record at the end that is
/// not whole is passed over.
///
/// # Errors
/// When the directory cannot be read. Each item is an error when its file cannot be read, or its line is not a record;
/// reading goes on after it.
pub fn query(dir: &Path, filter: &Filter) -> io::Result<impl Iterator<Item = io::Result<Entry>> + use<>> {
    let mut segments: VecDeque<_> = segments(dir)?.into();
    if let Some(since) = filter.since {
        // A segment that ends before another begins early enough holds nothing of interest.
        while segments.get(1).is_some_and(|next| first_time(next).is_some_and(|time| time < since)) {
            segments.pop_front();
        }
    }
    let limit = filter.limit.unwrap_or(usize::MAX);
    let tail = filter.tail.map(|most| last(&segments, filter, most));
    let rest = if tail.is_some() { VecDeque::new() } else { segments };
    let forward = Scan { segments: rest, lines: None, line: Vec::new() }.filter(matching(filter.clone()));
    Ok(tail.into_iter().flatten().chain(forward).take(limit))
}

/// The last `most` entries that fit, found from the end so that old segments need not be read.
fn last(segments: &VecDeque<SegmentFile>, filter: &Filter, most: usize) -> VecDeque<io::Result<Entry>> {
    let mut found = VecDeque::new();
    for segment in segments.iter().rev() {
        let scan = Scan { segments: [segment.clone()].into(), lines: None, line: Vec::new() };
        let mut here = VecDeque::new();
        for entry in scan.filter(matching(filter.clone())) {
            here.push_back(entry);
            if here.len() + found.len() > most {
                here.pop_front();
            }
        }
        here.append(&mut found);
        found = here;
        if found.len() >= most {
            break;
        }
    }
    found
}

fn matching(filter: Filter) -> impl FnMut(&io::Result<Entry>) -> bool {
    move |entry| entry.as_ref().map_or(true, |entry| filter.fits(&entry.record))
}

fn first_time(segment: &SegmentFile) -> Option<Timestamp> {
    let mut line = Vec::new();
    let whole = Lines::new(File::open(&segment.path).ok()?).next(&mut line).ok()??;
    whole.then(|| Entry::parse(&line).ok().map(|entry| entry.record.time)).flatten()
}

/// Entries of some segments, one after the other.
struct Scan {
    segments: VecDeque<SegmentFile>,
    lines: Option<(PathBuf, Lines)>,
    line: Vec<u8>,
}

impl Iterator for Scan {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((path, lines)) = &mut self.lines else {
                let segment = self.segments.pop_front()?;
                match File::open(&segment.path) {
                    Ok(file) => self.lines = Some((segment.path, Lines::new(file))),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            match lines.next(&mut self.line) {
                Ok(Some(true)) => return Some(parse_at(&self.line, path, lines.number)),
                Ok(Some(false) | None) => self.lines = None,
                Err(error) => {
                    self.lines = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

fn parse_at(line: &[u8], path: &Path, number: u64) -> io::Result<Entry> {
    Entry::parse(line).map_err(|error| {
        let text = format!("`{}` line {number} is not a record: {error}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}
