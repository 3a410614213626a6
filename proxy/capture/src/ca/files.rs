//! The authority's files: whole or not there, and secret where they must be.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::AuthorityError;

/// Makes the directory for its owner only, unless it is there.
pub(super) fn make_dir(dir: &Path) -> Result<(), AuthorityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io_error("create", dir, e))
}

/// The text of a file; `None` when it is not there.
pub(super) fn read(path: &Path) -> Result<Option<String>, AuthorityError> {
    let file = open(path)?;
    file.map(|file| io::read_to_string(file).map_err(|e| io_error("read", path, e))).transpose()
}

/// The text of a file that only its owner may read; `None` when it is not there.
pub(super) fn read_secret(path: &Path) -> Result<Option<String>, AuthorityError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mode = file.metadata().map_err(|e| io_error("read", path, e))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(AuthorityError::Exposed(path.to_owned()));
    }
    io::read_to_string(file).map(Some).map_err(|e| io_error("read", path, e))
}

/// Puts a new file in place, whole from the first moment; one that is there already stays as it is.
pub(super) fn place(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let draft = path.with_extension(format!("new-{:08x}", rand::random::<u32>()));
    let fail = |e| io_error("create", path, e);
    // Secret until it is complete, whatever it will be.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(fail)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all());
    let placed = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    fs::remove_file(&draft).map_err(fail)?;
    placed.map_err(fail)
}

fn open(path: &Path) -> Result<Option<File>, AuthorityError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, error)),
    }
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> AuthorityError {
    AuthorityError::Io { doing, path: path.to_owned(), source }
}
