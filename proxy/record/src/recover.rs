//! Finding the end of a log that may have been cut short by a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sideguard_types::time::Timestamp;

use crate::chain::{Flaw, Link, Tip};
use crate::disk::{Lines, SegmentFile, segment_path, segments, torn_path};
use crate::log::{OpenError, Torn};
use crate::tree::Tree;

/// Where a log goes on.
pub(crate) struct Tail {
    pub(crate) tip: Tip,
    /// The segment that is written to, its length that of its whole records.
    pub(crate) current: SegmentFile,
    /// The segments before it.
    pub(crate) older: Vec<SegmentFile>,
    /// Records since the last checkpoint of the segment.
    pub(crate) tree: Tree,
    /// Time of the last checkpoint of the segment, or of its first record.
    pub(crate) signed_at: Option<Timestamp>,
    /// Time of the last record.
    pub(crate) latest: Option<Timestamp>,
    pub(crate) torn: Option<Torn>,
}

/// Reads the last segment of `dir`, checks its chain and puts aside what a crash left at its end.
pub(crate) fn tail(dir: &Path) -> Result<Tail, OpenError> {
    let mut older = segments(dir).map_err(|source| io_error("read", dir, source))?;
    let Some(current) = older.pop() else {
        let current = SegmentFile { first: 1, path: segment_path(dir, 1), bytes: 0 };
        return Ok(Tail {
            tip: Tip::START,
            current,
            older,
            tree: Tree::EMPTY,
            signed_at: None,
            latest: None,
            torn: None,
        });
    };
    let before = match older.last() {
        Some(previous) => Some(end_of(previous)?),
        None if current.first == 1 => Some(Tip::START),
        None => None, // older segments were shipped and removed: the first line says what came before it
    };
    let mut tail = scan(current, before)?;
    tail.older = older;
    tail.torn = put_aside(dir, &tail)?;
    Ok(tail)
}

/// Checks the lines of the last segment up to its end or to what a crash left of it.
fn scan(current: SegmentFile, before: Option<Tip>) -> Result<Tail, OpenError> {
    let fail = |source| io_error("read", &current.path, source);
    let mut lines = Lines::new(File::open(&current.path).map_err(fail)?);
    let (mut line, mut tip) = (Vec::new(), before);
    let (mut tree, mut signed_at, mut latest, mut good) = (Tree::EMPTY, None, None, 0);
    while let Some(whole) = lines.next(&mut line).map_err(fail)? {
        let broken =
            |flaw| OpenError::Broken { file: current.path.clone(), line: lines.number, flaw: Box::new(flaw) };
        // JSON never holds a raw NUL: a block that was allotted and never written before the power went.
        if !whole || line.contains(&0) {
            break;
        }
        let link = Link::read(&line).map_err(broken)?;
        match &mut tip {
            Some(tip) => link.follow(tip).map_err(broken)?,
            None if link.seq == current.first => tip = Some(link.tip()),
            None => return Err(broken(Flaw::Segment { expected: link.seq })),
        }
        link.grow(&mut tree).map_err(broken)?;
        if signed_at.is_none() || link.is_checkpoint() {
            signed_at = Some(link.time);
        }
        latest = Some(link.time);
        good = lines.end;
    }
    let Some(tip) = tip.filter(|tip| tip.next_seq >= current.first) else {
        let flaw = Box::new(Flaw::Segment { expected: before.map_or(current.first, |tip| tip.next_seq) });
        return Err(OpenError::Broken { file: current.path, line: 1, flaw });
    };
    let current = SegmentFile { bytes: good, ..current };
    Ok(Tail { tip, current, older: Vec::new(), tree, signed_at, latest, torn: None })
}

/// Moves what lies behind the last whole record into a file of its own. When a crash came after that and before
/// the log could tell of it, the file is still there and is told of now.
fn put_aside(dir: &Path, tail: &Tail) -> Result<Option<Torn>, OpenError> {
    let segment = &tail.current.path;
    let path = torn_path(dir, tail.tip.next_seq);
    let mut rest = Vec::new();
    let mut file =
        OpenOptions::new().read(true).write(true).open(segment).map_err(|e| io_error("open", segment, e))?;
    file.seek(SeekFrom::Start(tail.current.bytes))
        .and_then(|_| file.read_to_end(&mut rest))
        .map_err(|e| io_error("read", segment, e))?;
    if !rest.is_empty() {
        let mut options = OpenOptions::new();
        let torn = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        torn.and_then(|mut torn| torn.write_all(&rest).and_then(|()| torn.sync_all()))
            .map_err(|e| io_error("write", &path, e))?;
        file.set_len(tail.current.bytes)
            .and_then(|()| file.sync_all())
            .map_err(|e| io_error("cut", segment, e))?;
    }
    match fs::metadata(&path) {
        Ok(metadata) => Ok(Some(Torn { path, bytes: metadata.len() })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path, error)),
    }
}

/// Where the chain stands at the end of a segment that is complete.
fn end_of(segment: &SegmentFile) -> Result<Tip, OpenError> {
    let fail = |source| io_error("read", &segment.path, source);
    let mut lines = Lines::new(File::open(&segment.path).map_err(fail)?);
    let (mut line, mut last) = (Vec::new(), Vec::new());
    while let Some(whole) = lines.next(&mut line).map_err(fail)? {
        if !whole {
            let flaw = Box::new(Flaw::Cut);
            return Err(OpenError::Broken { file: segment.path.clone(), line: lines.number, flaw });
        }
        std::mem::swap(&mut line, &mut last);
    }
    let broken = |flaw| OpenError::Broken {
        file: segment.path.clone(),
        line: lines.number.max(1),
        flaw: Box::new(flaw),
    };
    Link::read(&last).map(|link| link.tip()).map_err(broken)
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { doing, path: path.to_owned(), source }
}
