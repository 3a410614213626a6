//! Documents in SQLite.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use sideguard_types::time::Timestamp;

use super::{Embedded, int, uint};
use crate::documents::{
    Change, Changes, Document, Documents, Edit, Expect, HEAVIEST_PAGE, LONGEST_PAGE, Page, Revision, check,
};
use crate::error::StoreError;
use crate::key::{Key, Scope};

#[async_trait]
impl Documents for Embedded {
    async fn get(&self, now: Timestamp, key: &Key) -> Result<Option<Document>, StoreError> {
        let key = key.clone();
        let found = self
            .read(move |db| {
                db.prepare_cached("SELECT key, revision, value, expires FROM documents WHERE key = ?")?
                    .query_row([key.as_str()], document)
                    .optional()?
                    .transpose()
            })
            .await?;
        Ok(found.filter(|document| document.expires.is_none_or(|end| end > now)))
    }

    async fn put_all(&self, now: Timestamp, edits: Vec<Edit>) -> Result<Revision, StoreError> {
        check(&edits)?;
        let feed = self.feed.clone();
        let write = move |db: &Connection| {
            let mut changed = Vec::new();
            for edit in &edits {
                let present = present(db, now, &edit.key)?;
                meets(edit, present)?;
                if edit.value.is_some() || present.is_some() {
                    changed.push(edit.key.clone());
                }
            }
            let revision = if changed.is_empty() { revision(db)? } else { next_revision(db)? };
            for edit in edits {
                apply(db, edit, revision)?;
            }
            Ok((revision, changed))
        };
        let (revision, _) = self.write(write, move |(revision, changed)| tell(&feed, *revision, changed)).await?;
        Ok(revision)
    }

    async fn list(
        &self,
        now: Timestamp,
        scope: &Scope,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let start = after.map_or("", Key::as_str).max(scope.start()).to_owned();
        let end = scope.end();
        let limit = limit.clamp(1, LONGEST_PAGE);
        self.read(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT key, revision, value, expires FROM documents
                 WHERE key > ?1 AND key < ?2 AND (expires IS NULL OR expires > ?3) ORDER BY key",
            )?;
            let mut page = Page::default();
            let mut weight = 0;
            for found in statement.query_map(params![start, end, now.0], document)? {
                if page.documents.len() == limit || weight > HEAVIEST_PAGE {
                    page.next = page.documents.last().map(|last| last.key.clone());
                    break;
                }
                let document = found??;
                weight += document.value.len();
                page.documents.push(document);
            }
            Ok(page)
        })
        .await
    }

    fn watch(&self, scope: Scope) -> Changes {
        self.feed.watch(scope)
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let feed = self.feed.clone();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let write = move |db: &Connection| {
            let mut statement = db.prepare_cached(
                "DELETE FROM documents WHERE key IN
                 (SELECT key FROM documents WHERE expires <= ? ORDER BY expires LIMIT ?) RETURNING key",
            )?;
            let texts = statement.query_map(params![now.0, limit], |row| row.get::<_, String>(0))?;
            let keys = texts.map(|text| read_key(&text?)).collect::<Result<Vec<_>, _>>()?;
            let revision = if keys.is_empty() { revision(db)? } else { next_revision(db)? };
            Ok((revision, keys))
        };
        let (_, keys) = self.write(write, move |(revision, keys)| tell(&feed, *revision, keys)).await?;
        Ok(keys.len())
    }
}

fn tell(feed: &crate::documents::Feed, revision: Revision, keys: &[Key]) {
    for key in keys {
        feed.tell(Change::Changed { key: key.clone(), revision });
    }
}

fn present(db: &Connection, now: Timestamp, key: &Key) -> Result<Option<Revision>, StoreError> {
    Ok(db
        .prepare_cached(
            "SELECT revision FROM documents WHERE key = ?1 AND (expires IS NULL OR expires > ?2)",
        )?
        .query_row(params![key.as_str(), now.0], |row| row.get(0).map(uint))
        .optional()?
        .map(Revision))
}

fn meets(edit: &Edit, present: Option<Revision>) -> Result<(), StoreError> {
    let met = match edit.expect {
        Expect::Any => true,
        Expect::Absent => present.is_none(),
        Expect::Revision(revision) => present == Some(revision),
    };
    if met { Ok(()) } else { Err(StoreError::Conflict { key: edit.key.clone(), present }) }
}

fn apply(db: &Connection, edit: Edit, revision: Revision) -> Result<(), StoreError> {
    let key = edit.key.as_str();
    match edit.value {
        Some(value) => db
            .prepare_cached("INSERT OR REPLACE INTO documents (key, revision, value, expires) VALUES (?, ?, ?, ?)")?
            .execute(params![key, int(revision.0), &value[..], edit.expires.map(|end| end.0)])?,
        None => db.prepare_cached("DELETE FROM documents WHERE key = ?")?.execute([key])?,
    };
    Ok(())
}

fn revision(db: &Connection) -> Result<Revision, StoreError> {
    let mut statement = db.prepare_cached("SELECT revision FROM counter")?;
    Ok(Revision(statement.query_row([], |row| row.get(0).map(uint))?))
}

fn next_revision(db: &Connection) -> Result<Revision, StoreError> {
    let mut statement = db.prepare_cached("UPDATE counter SET revision = revision + 1 RETURNING revision")?;
    Ok(Revision(statement.query_row([], |row| row.get(0).map(uint))?))
}

fn document(row: &Row<'_>) -> rusqlite::Result<Result<Document, StoreError>> {
    let text: String = row.get(0)?;
    let revision = Revision(uint(row.get(1)?));
    let value = Bytes::from(row.get::<_, Vec<u8>>(2)?);
    let expires = row.get::<_, Option<i64>>(3)?.map(Timestamp);
    Ok(read_key(&text).map(|key| Document { key, revision, value, expires }))
}

pub(super) fn read_key(text: &str) -> Result<Key, StoreError> {
    Key::read(text).map_err(|error| StoreError::broken("reading a key", error))
}
