//! The tables, and the steps from one version of them to the next.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::error::StoreError;

/// The steps: the first makes version 1 from an empty database, and so on. Only ever add to the end.
const STEPS: [&str; 1] = ["
    CREATE TABLE counter (revision INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);
    CREATE TABLE documents (
        key TEXT PRIMARY KEY, revision INTEGER NOT NULL, value BLOB NOT NULL, expires INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX documents_expire ON documents (expires) WHERE expires IS NOT NULL;
    CREATE TABLE accounts (
        key TEXT PRIMARY KEY, spent INTEGER NOT NULL CHECK (spent >= 0), held INTEGER NOT NULL CHECK (held >= 0)
    ) WITHOUT ROWID;
    CREATE TABLE leases (key TEXT PRIMARY KEY, turn INTEGER NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX leases_expire ON leases (expires);
    CREATE TABLE lines (
        lease TEXT NOT NULL, line INTEGER NOT NULL, account TEXT NOT NULL,
        held INTEGER NOT NULL CHECK (held >= 0), PRIMARY KEY (lease, line)
    ) WITHOUT ROWID;
    CREATE TABLE journals (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, next INTEGER NOT NULL);
    CREATE TABLE entries (
        journal INTEGER NOT NULL, position INTEGER NOT NULL, entry BLOB NOT NULL, PRIMARY KEY (journal, position)
    ) WITHOUT ROWID;
"];

/// Opens the database in `file` for writing and brings it to the present version.
pub(super) fn open(dir: &Path, file: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(file)?;
    // Before anything is changed: a newer database stays as it is.
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::Newer { dir: dir.to_owned(), found, known });
    }
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    set_up(&connection)?;
    for (step, version) in STEPS.iter().zip(1_i64..).skip(usize::try_from(found).unwrap_or(0)) {
        connection.execute_batch(&format!("BEGIN; {step}; PRAGMA user_version = {version}; COMMIT"))?;
    }
    Ok(connection)
}

/// Opens another connection, for reading.
pub(super) fn open_reader(file: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    set_up(&connection)?;
    Ok(connection)
}

fn set_up(connection: &Connection) -> Result<(), StoreError> {
    connection.set_prepared_statement_cache_capacity(64);
    // Nobody else writes; a checkpoint may make a reader wait for a moment.
    connection.busy_timeout(std::time::Duration::from_secs(2))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::error::StoreError;

    #[test]
    fn a_newer_database_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("store.db");
        drop(super::open(dir.path(), &file).expect("a new database"));
        drop(super::open(dir.path(), &file).expect("the same again"));
        let newer = Connection::open(&file).expect("the database");
        newer.pragma_update(None, "user_version", 99).expect("a version");
        let error = super::open(dir.path(), &file).expect_err("a refusal");
        assert!(matches!(error, StoreError::Newer { found: 99, known: 1, .. }), "{error}");
        assert_eq!(newer.pragma_query_value(None, "user_version", |row| row.get(0)), Ok(99));
    }

    #[test]
    fn commits_are_synced_before_they_are_acknowledged() {
        let dir = tempfile::tempdir().expect("a directory");
        let connection = super::open(dir.path(), &dir.path().join("store.db")).expect("a new database");
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).expect("a mode");
        let level: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).expect("a level");
        assert_eq!((mode.as_str(), level), ("wal", 2));
    }
}
