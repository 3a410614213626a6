//! Documents in Redis.
//!
//! A document is a hash. The keys of all are in one sorted set, in the order of their bytes; those that end are in
//! another, by their end.

use async_trait::async_trait;
use bytes::Bytes;
use sideguard_types::time::Timestamp;

use super::Shared;
use super::redis_server::{key, number, odd_answer};
use crate::documents::{
    Changes, Document, Documents, Edit, Expect, HEAVIEST_PAGE, LONGEST_PAGE, Page, Revision, check,
};
use crate::error::StoreError;
use crate::key::{Key, Scope};

#[async_trait]
impl Documents for Shared {
    async fn get(&self, now: Timestamp, key: &Key) -> Result<Option<Document>, StoreError> {
        let redis = self.redis()?;
        match redis.document(key.as_str()).await?.as_mut_slice() {
            [Some(revision), Some(expires), Some(value)] => {
                let found = document(key.clone(), revision, expires, std::mem::take(value))?;
                Ok(Some(found).filter(|found| found.expires.is_none_or(|end| end > now)))
            }
            [None, None, None] => Ok(None),
            _ => Err(odd_answer()),
        }
    }

    async fn put_all(&self, now: Timestamp, edits: Vec<Edit>) -> Result<Revision, StoreError> {
        check(&edits)?;
        let redis = self.redis()?;
        let now = now.0.to_string();
        let written: Vec<(String, String)> = edits
            .iter()
            .map(|edit| {
                let expect = match edit.expect {
                    Expect::Any => "any".to_owned(),
                    Expect::Absent => "absent".to_owned(),
                    Expect::Revision(revision) => revision.0.to_string(),
                };
                (expect, edit.expires.map(|end| end.0.to_string()).unwrap_or_default())
            })
            .collect();
        let mut arguments = vec![now.as_bytes()];
        for (edit, (expect, expires)) in edits.iter().zip(&written) {
            let kind: &[u8] = if edit.value.is_some() { b"put" } else { b"delete" };
            let value = edit.value.as_deref().unwrap_or_default();
            arguments.extend([
                edit.key.as_str().as_bytes(),
                expect.as_bytes(),
                kind,
                expires.as_bytes(),
                value,
            ]);
        }
        match redis.run(&redis.scripts.put_all, &arguments).await?.as_slice() {
            [ok, revision] if ok == b"ok" => Ok(Revision(number(revision)?)),
            [conflict, at, present] if conflict == b"conflict" => {
                let present = if present.is_empty() { None } else { Some(Revision(number(present)?)) };
                Err(StoreError::Conflict { key: key(at)?, present })
            }
            _ => Err(odd_answer()),
        }
    }

    async fn list(
        &self,
        now: Timestamp,
        scope: &Scope,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let redis = self.redis()?;
        let start = after.map_or("", Key::as_str).max(scope.start());
        let (now, end) = (now.0.to_string(), scope.end());
        let (limit, heaviest) = (limit.clamp(1, LONGEST_PAGE).to_string(), HEAVIEST_PAGE.to_string());
        let arguments =
            [now.as_bytes(), start.as_bytes(), end.as_bytes(), limit.as_bytes(), heaviest.as_bytes()];
        let mut answer = redis.run(&redis.scripts.list, &arguments).await?;
        let Some((next, rest)) = answer.split_first_mut() else { return Err(odd_answer()) };
        let next = if next.is_empty() { None } else { Some(key(next)?) };
        let documents = rest.chunks_mut(4).map(|chunk| match chunk {
            [name, revision, expires, value] => {
                document(key(name)?, revision, expires, std::mem::take(value))
            }
            _ => Err(odd_answer()),
        });
        Ok(Page { documents: documents.collect::<Result<_, _>>()?, next })
    }

    fn watch(&self, scope: Scope) -> Changes {
        self.feed.watch(scope)
    }

    async fn sweep(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let redis = self.redis()?;
        let (now, limit) = (now.0.to_string(), limit.min(LONGEST_PAGE).to_string());
        let answer = redis.run(&redis.scripts.sweep, &[now.as_bytes(), limit.as_bytes()]).await?;
        number(answer.first().ok_or_else(odd_answer)?)
    }
}

fn document(key: Key, revision: &[u8], expires: &[u8], value: Vec<u8>) -> Result<Document, StoreError> {
    let expires = if expires.is_empty() { None } else { Some(Timestamp(number(expires)?)) };
    Ok(Document { key, revision: Revision(number(revision)?), value: Bytes::from(value), expires })
}
