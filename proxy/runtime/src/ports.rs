//! `ports.json` in the state directory: where the daemons of this state can be reached. Several share it; each tells its
//! own ports once it is ready and takes them away when it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Name of the file.
pub const FILE: &str = "ports.json";

/// Tells ports and files, by name.
///
/// # Errors
/// When the file cannot be written.
pub fn announce(state: &Path, own: &[(&str, String)]) -> io::Result<()> {
    change(state, |ports| {
        for (name, value) in own {
            ports.insert((*name).to_owned(), Value::String(value.clone()));
        }
    })
}

/// Takes names away; the file goes with the last one.
///
/// # Errors
/// When the file cannot be written.
pub fn withdraw(state: &Path, own: &[&str]) -> io::Result<()> {
    change(state, |ports| ports.retain(|name, _| !own.contains(&name.as_str())))
}

fn change(state: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> io::Result<()> {
    // Held until the end of this function, however it ends.
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(state.join("ports.lock"))?;
    File::lock(&lock)?;
    let path = state.join(FILE);
    let mut ports = match fs::read(&path) {
        // What nobody can read helps nobody: it is written anew.
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(error),
    };
    change(&mut ports);
    if ports.is_empty() {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    place(&path, format!("{}\n", Value::Object(ports)).as_bytes(), 0o644)
}

/// Writes a whole file or none of it.
///
/// # Errors
/// When it cannot be written.
pub fn place(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let next = written(path, bytes, mode)?.0;
    fs::rename(next, path)
}

/// As [`place`], and it is on disk then: a power cut takes nothing of it.
///
/// # Errors
/// As [`place`], and when the disk does not take it.
pub fn place_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (next, file) = written(path, bytes, mode)?;
    file.sync_all()?;
    fs::rename(next, path)?;
    // The name is in the directory.
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// The file beside `path` that is to take its place.
fn written(path: &Path, bytes: &[u8], mode: u32) -> io::Result<(PathBuf, File)> {
    let next = path.with_extension("next");
    // What a crash left behind.
    let _ = fs::remove_file(&next);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
    file.write_all(bytes)?;
    Ok((next, file))
}

#[cfg(test)]
mod tests {
    use super::{FILE, announce, withdraw};

    #[test]
    fn daemons_of_one_state_keep_each_others_ports() {
        let dir = tempfile::tempdir().expect("a directory");
        announce(dir.path(), &[("outbound", "a".to_owned())]).expect("written");
        announce(dir.path(), &[("control", "b".to_owned())]).expect("written");
        let text = std::fs::read_to_string(dir.path().join(FILE)).expect("a file");
        assert_eq!(text, "{\"control\":\"b\",\"outbound\":\"a\"}\n");
        withdraw(dir.path(), &["control"]).expect("written");
        withdraw(dir.path(), &["control"]).expect("nothing to do");
        let text = std::fs::read_to_string(dir.path().join(FILE)).expect("a file");
        assert_eq!(text, "{\"outbound\":\"a\"}\n");
        withdraw(dir.path(), &["outbound"]).expect("written");
        assert!(!dir.path().join(FILE).exists());
    }
}
