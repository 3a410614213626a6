//! The key that signs checkpoints.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::{SigningKey, VerifyingKey};
use rand::RngCore;

use crate::chain::{hex, unhex};

/// Name of the file with the public keys, one in hex a line.
const PUBLIC_FILE: &str = "record.pub";

/// The key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read or written.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others than the owner may read or write the key.
    #[error("the key `{}` can be used by others: run `chmod 600` on it, or remove it to have a new one", .0.display())]
    Exposed(PathBuf),
    /// The file is not a key.
    #[error("`{}` is not a key: 64 hex digits are needed", .0.display())]
    Form(PathBuf),
}

/// The signing key at `path`, made on first use: 32 bytes in hex, readable by the owner only. Its public key is
/// kept beside it in `record.pub`.
///
/// # Errors
/// When a file cannot be read or written, the key is open to others, or the file is not a key.
pub fn load_or_create_key(path: &Path) -> Result<SigningKey, KeyError> {
    let key = match load(path)? {
        Some(key) => key,
        None => {
            create(path)?;
            load(path)?.ok_or_else(|| KeyError::Form(path.to_owned()))?
        }
    };
    publish(path.parent().unwrap_or(Path::new(".")), &key.verifying_key())?;
    Ok(key)
}

/// Adds `key` to the public keys in `dir`, unless it is there.
pub(crate) fn publish(dir: &Path, key: &VerifyingKey) -> Result<(), KeyError> {
    let path = dir.join(PUBLIC_FILE);
    let io = |source| KeyError::Io { doing: "write", path: path.clone(), source };
    if published(dir)?.contains(key) {
        return Ok(());
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o644).open(&path).map_err(io)?;
    file.write_all(format!("{}\n", hex(key.as_bytes())).as_bytes()).map_err(io)
}

/// The public keys in `dir`; none when there is no file.
pub(crate) fn published(dir: &Path) -> Result<Vec<VerifyingKey>, KeyError> {
    let path = dir.join(PUBLIC_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(KeyError::Io { doing: "read", path, source }),
    };
    text.lines()
        .map(|line| unhex(line.trim()).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok()))
        .map(|key| key.ok_or_else(|| KeyError::Form(path.clone())))
        .collect()
}

fn load(path: &Path) -> Result<Option<SigningKey>, KeyError> {
    let io = |source| KeyError::Io { doing: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::Exposed(path.to_owned()));
    }
    let text = io::read_to_string(file).map_err(io)?;
    let seed = unhex::<32>(text.trim()).ok_or_else(|| KeyError::Form(path.to_owned()))?;
    Ok(Some(SigningKey::from_bytes(&seed)))
}

/// Makes the key whole under another name first, so that no one ever sees half of it; of two makers at once, one wins.
fn create(path: &Path) -> Result<(), KeyError> {
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    let draft = path.with_extension(format!("new-{:08x}", rand::rng().next_u32()));
    let io = |source| KeyError::Io { doing: "create", path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(io)?;
    let written = file.write_all(format!("{}\n", hex(&seed)).as_bytes()).and_then(|()| file.sync_all());
    let placed = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    fs::remove_file(&draft).map_err(io)?;
    placed.map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_the_same_and_is_the_owners() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("record.key");
        let made = load_or_create_key(&path).expect("a new key");
        let loaded = load_or_create_key(&path).expect("the same key");
        assert_eq!(made.to_bytes(), loaded.to_bytes());
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(published(dir.path()).expect("keys"), [made.verifying_key()]);
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 2, "no draft stays behind");
    }

    #[test]
    fn a_key_open_to_others_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("record.key");
        load_or_create_key(&path).expect("a new key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a file");
        assert!(matches!(load_or_create_key(&path), Err(KeyError::Exposed(_))));
    }

    #[test]
    fn what_is_no_key_is_refused_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("record.key");
        fs::write(&path, "hello").expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file");
        assert!(matches!(load_or_create_key(&path), Err(KeyError::Form(_))));
        assert_eq!(fs::read_to_string(&path).expect("a file"), "hello");
    }
}
