//! Files, one JSON object a line, on disk before they count as delivered.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sideguard_types::resource::NdjsonSink;

use super::outlet::Undelivered;
use super::shape::Shaped;

/// An open file.
#[derive(Debug)]
pub(super) struct Ndjson(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    path: PathBuf,
    /// None after something went wrong: what it holds is looked at anew.
    file: Option<(File, u64)>,
    rotate_at: u64,
    keep: u32,
}

impl Ndjson {
    pub(super) async fn open(spec: &NdjsonSink, files: &Path) -> Result<Self, String> {
        let path = files.join(&spec.file);
        let open = Open { path, file: None, rotate_at: spec.rotate_at.0.max(1), keep: spec.keep };
        let this = Self(Arc::new(Mutex::new(open)));
        this.write(String::new()).await.map_err(|error| error.to_string())?;
        Ok(this)
    }

    pub(super) async fn deliver(&mut self, part: &[Shaped]) -> Result<(), Undelivered> {
        let mut text = String::with_capacity(part.iter().map(|one| one.json.len() + 1).sum());
        for one in part {
            text.push_str(&one.json);
            text.push('\n');
        }
        self.write(text).await.map_err(|error| Undelivered::NotNow(error.to_string()))
    }

    async fn write(&self, text: String) -> io::Result<()> {
        let open = Arc::clone(&self.0);
        // A disk may be slow: not on a thread that serves others.
        let written = tokio::task::spawn_blocking(move || {
            let mut open = open.lock();
            let written = open.write(text.as_bytes());
            if written.is_err() {
                open.file = None;
            }
            written.map_err(|error| io::Error::other(format!("`{}`: {error}", open.path.display())))
        });
        written.await.map_err(io::Error::other)?
    }
}

impl Open {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let (mut file, size) = match self.file.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        if size > 0 && size.saturating_add(text.len() as u64) > self.rotate_at {
            drop(file);
            self.rotate()?;
            return self.write(text);
        }
        if !text.is_empty() {
            file.write_all(text)?;
            file.sync_data()?;
        }
        self.file = Some((file, size.saturating_add(text.len() as u64)));
        Ok(())
    }

    /// `FILE` becomes `FILE.1`, that `FILE.2`, and so on; the oldest goes.
    fn rotate(&self) -> io::Result<()> {
        let older = |number: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            return std::fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            match std::fs::rename(older(number), older(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        std::fs::rename(&self.path, older(1))
    }
}

/// Opens a file at its end. A line that a crash cut short goes: its entry comes again.
fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    let whole = whole_lines(&mut file, size)?;
    if whole < size {
        file.set_len(whole)?;
    }
    Ok((file, whole))
}

/// Where the last whole line ends.
fn whole_lines(file: &mut File, size: u64) -> io::Result<u64> {
    const STEP: u64 = 8 << 10;
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::{Open, open};

    #[test]
    fn a_file_is_turned_at_its_size_and_a_cut_line_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("below/out.ndjson");
        let mut file = Open { path: path.clone(), file: None, rotate_at: 10, keep: 2 };
        for line in ["{\"a\":1}\n", "{\"a\":2}\n", "{\"a\":3}\n", "{\"a\":4}\n"] {
            file.write(line.as_bytes()).expect("a line");
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join("below").join(name)).ok();
        assert_eq!(read("out.ndjson").as_deref(), Some("{\"a\":4}\n"));
        assert_eq!(read("out.ndjson.1").as_deref(), Some("{\"a\":3}\n"));
        assert_eq!(read("out.ndjson.2").as_deref(), Some("{\"a\":2}\n"));
        assert_eq!(read("out.ndjson.3"), None, "no more than two are kept");
        std::fs::write(&path, "{\"a\":5}\n{\"a\"").expect("a file");
        assert_eq!(open(&path).expect("a file").1, 8);
        assert_eq!(read("out.ndjson").as_deref(), Some("{\"a\":5}\n"));
    }
}
