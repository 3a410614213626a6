//! Files of the record: names of segments, and the seam through which the log writes them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where segments are made; the real one is [`Files`], tests put one that fails in its place.
pub(crate) trait Disk: Send + Sync {
    /// Opens the file at `path` for writing, making it when it is not there.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Medium>>;
    /// Removes the file at `path`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// One file that the log writes.
pub(crate) trait Medium: Send + Sync {
    /// Writes all of `bytes` from `offset` on: one write(2) unless the system stops it short.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads exactly `bytes.len()` bytes from `offset` on.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// The file system.
pub(crate) struct Files;

impl Disk for Files {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Medium>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl Medium for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A segment as it lies in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// Path of the segment whose first record is `first`.
pub(crate) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.ndjson"))
}

/// Path of what a crash left of record `seq`.
pub(crate) fn torn_path(dir: &Path, seq: u64) -> PathBuf {
    dir.join(format!("torn-{seq:020}"))
}

/// The segments of `dir`, oldest first. Other files are passed over.
pub(crate) fn segments(dir: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(first) = entry.file_name().to_str().and_then(segment_first) {
            found.push(SegmentFile { first, path: entry.path(), bytes: entry.metadata()?.len() });
        }
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

fn segment_first(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".ndjson")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// Reads a file line by line and knows where it is.
pub(crate) struct Lines {
    reader: BufReader<File>,
    /// Line number of the line that was read last, from 1.
    pub(crate) number: u64,
    /// Offset at which the line that was read last begins.
    pub(crate) start: u64,
    /// Offset after it.
    pub(crate) end: u64,
}

impl Lines {
    pub(crate) fn new(file: File) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, file), number: 0, start: 0, end: 0 }
    }

    /// From the line on that begins at `offset`; its number is not known then.
    pub(crate) fn at(mut file: File, offset: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { start: offset, end: offset, ..Self::new(file) })
    }

    /// Reads the next line into `line`, without its newline; `None` at the end of the file. `Some(false)` is a
    /// line that has no newline.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
        line.clear();
        let read = self.reader.read_until(b'\n', line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number = self.number.saturating_add(1);
        self.start = self.end;
        self.end = self.end.saturating_add(read as u64);
        let whole = line.last() == Some(&b'\n');
        if whole {
            line.pop();
        }
        Ok(Some(whole))
    }
}
