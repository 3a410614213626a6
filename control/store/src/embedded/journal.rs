//! Journals in SQLite.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::documents::read_key;
use super::{Embedded, int, uint};
use crate::error::StoreError;
use crate::journal::{HEAVIEST_READ, Journal, LONGEST_READ, check};
use crate::key::{Key, Scope};

#[async_trait]
impl Journal for Embedded {
    async fn append(&self, key: &Key, from: u64, entries: Vec<Bytes>) -> Result<u64, StoreError> {
        check(key, from, &entries)?;
        let key = key.clone();
        self.write(move |db| append(db, &key, from, &entries), |_| ()).await
    }

    async fn read(&self, key: &Key, from: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let key = key.clone();
        let limit = limit.clamp(1, LONGEST_READ);
        self.read(move |db| {
            let Some((id, _)) = find(db, &key)? else { return Ok(Vec::new()) };
            let mut statement = db.prepare_cached(
                "SELECT position, entry FROM entries WHERE journal = ? AND position >= ? ORDER BY position",
            )?;
            let rows = statement.query_map(params![id, int(from)], |row| {
                Ok((uint(row.get(0)?), Bytes::from(row.get::<_, Vec<u8>>(1)?)))
            })?;
            let mut entries = Vec::new();
            let mut weight = 0;
            for row in rows.take(limit) {
                let (position, entry) = row?;
                weight += entry.len();
                entries.push((position, entry));
                if weight > HEAVIEST_READ {
                    break;
                }
            }
            Ok(entries)
        })
        .await
    }

    async fn end(&self, key: &Key) -> Result<u64, StoreError> {
        let key = key.clone();
        self.read(move |db| Ok(find(db, &key)?.map_or(0, |(_, next)| next))).await
    }

    async fn streams(&self, scope: &Scope, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, StoreError> {
        let start = after.map_or("", Key::as_str).max(scope.start()).to_owned();
        let end = scope.end();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |db| {
            db.prepare_cached("SELECT key FROM journals WHERE key > ? AND key < ? ORDER BY key LIMIT ?")?
                .query_map(params![start, end, limit], |row| row.get::<_, String>(0))?
                .map(|text| read_key(&text?))
                .collect()
        })
        .await
    }

    async fn truncate_before(&self, key: &Key, position: u64) -> Result<(), StoreError> {
        let key = key.clone();
        let write = move |db: &Connection| {
            if let Some((id, _)) = find(db, &key)? {
                db.prepare_cached("DELETE FROM entries WHERE journal = ? AND position < ?")?
                    .execute(params![id, int(position)])?;
            }
            Ok(())
        };
        self.write(write, |()| ()).await
    }
}

/// The number of a journal and the position after its last entry.
fn find(db: &Connection, key: &Key) -> Result<Option<(i64, u64)>, StoreError> {
    Ok(db
        .prepare_cached("SELECT id, next FROM journals WHERE key = ?")?
        .query_row([key.as_str()], |row| Ok((row.get(0)?, uint(row.get(1)?))))
        .optional()?)
}

fn append(db: &Connection, key: &Key, from: u64, entries: &[Bytes]) -> Result<u64, StoreError> {
    let found = find(db, key)?;
    let expected = found.map_or(0, |(_, next)| next);
    if from > expected {
        return Err(StoreError::Gap { key: key.clone(), expected });
    }
    let end = from + entries.len() as u64;
    for (position, entry) in (from..expected).zip(entries) {
        if differs(db, key, position, entry)? {
            return Err(StoreError::Fork { key: key.clone(), position });
        }
    }
    if end <= expected {
        return Ok(end);
    }
    let id = match found {
        Some((id, _)) => id,
        None => {
            db.prepare_cached("INSERT INTO journals (key, next) VALUES (?, 0)")?.execute([key.as_str()])?;
            db.last_insert_rowid()
        }
    };
    for (position, entry) in (from..).zip(entries).skip_while(|(position, _)| *position < expected) {
        db.prepare_cached("INSERT INTO entries (journal, position, entry) VALUES (?, ?, ?)")?
            .execute(params![id, int(position), &entry[..]])?;
    }
    db.prepare_cached("UPDATE journals SET next = ? WHERE id = ?")?.execute(params![int(end), id])?;
    Ok(end)
}

/// Whether another entry is at `position`; one that was truncated is taken for equal.
fn differs(db: &Connection, key: &Key, position: u64, entry: &Bytes) -> Result<bool, StoreError> {
    let present = db
        .prepare_cached(
            "SELECT entry FROM entries WHERE journal = (SELECT id FROM journals WHERE key = ?) AND position = ?",
        )?
        .query_row(params![key.as_str(), int(position)], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    Ok(present.is_some_and(|present| present != entry[..]))
}
