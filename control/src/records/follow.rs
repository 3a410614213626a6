//! Passing the record on: every entry of every sidecar at least once, each sidecar's in order.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sideguard_runtime::clock;
use sideguard_store::Store;
use sideguard_store::documents::{Change, Changes};
use sideguard_types::control::Page;
use sideguard_types::control::records::Entry;

use super::head::Head;
use crate::error::Failure;
use crate::keys::{Principal, Role};

/// Most entries of one batch.
const BATCH: usize = 500;
/// How often all sidecars are looked at without a notice, should one have been lost.
const LOOK: Duration = Duration::from_secs(10);

/// How far somebody has come: for each sidecar, the number of the record that comes next. Kept by whoever follows, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cursor(BTreeMap<String, u64>);

impl Cursor {
    /// Behind all that there is now.
    pub(crate) async fn now(store: &Store) -> Result<Self, Failure> {
        let heads = heads(store).await?;
        Ok(Self(heads.iter().map(|head| (head.name(), head.chain.next)).collect()))
    }
}

/// Somebody who follows.
pub(crate) struct Follow {
    store: Store,
    changes: Changes,
    cursor: Cursor,
    /// Sidecars that have more than the cursor says, as far as is known.
    due: Vec<Head>,
}

/// Follows the record of all sidecars from `cursor` on; an empty one is the beginning.
pub(crate) fn follow(store: &Store, cursor: Cursor) -> Result<Follow, Failure> {
    let changes = store.documents.watch(Head::scope()?);
    Ok(Follow { store: store.clone(), changes, cursor, due: Vec::new() })
}

/// How many entries there are that a cursor is still before.
pub(crate) async fn waiting(store: &Store, cursor: &Cursor) -> Result<u64, Failure> {
    let left = |head: &Head| {
        let next = cursor.0.get(&head.name()).copied().unwrap_or(head.first).max(head.first);
        head.chain.next.saturating_sub(next)
    };
    Ok(heads(store).await?.iter().map(left).sum())
}

impl Follow {
    /// The next entries of one sidecar, as soon as there are some. They have been passed on when the caller has kept the
    /// [`Cursor`] that comes with them; until then they come again after a restart.
    pub(crate) async fn next(&mut self) -> Result<(Vec<Entry>, Cursor), Failure> {
        loop {
            while let Some(head) = self.due.last() {
                let name = head.name();
                let next = self.cursor.0.get(&name).copied().unwrap_or(head.first).max(head.first);
                if next >= head.chain.next {
                    self.due.pop();
                    continue;
                }
                let entries = read(&self.store, head, next, BATCH).await?;
                let Some(last) = entries.last() else { return Err(Failure::Broken(name)) };
                self.cursor.0.insert(name, last.position.saturating_add(1));
                return Ok((entries, self.cursor.clone()));
            }
            self.due = heads(&self.store).await?;
            self.due.retain(|head| {
                self.cursor.0.get(&head.name()).copied().unwrap_or(head.first) < head.chain.next
            });
            if self.due.is_empty() {
                self.news().await?;
            }
        }
    }

    /// Waits until some sidecar has shipped more.
    async fn news(&mut self) -> Result<(), Failure> {
        match tokio::time::timeout(LOOK, self.changes.next()).await {
            Ok(Some(Change::Changed { .. } | Change::Resync)) | Err(_) => Ok(()),
            Ok(None) => Err(sideguard_store::StoreError::Closed.into()),
        }
    }
}

/// A page of one sidecar's record in its own order, from the record on that `after` names.
pub(crate) async fn journal(
    store: &Store,
    who: &Principal,
    which: (&str, Option<&str>),
    after: Option<&str>,
) -> Result<Page<Entry>, Failure> {
    let head = Head::only(store, clock::now(), who, which).await?;
    let from = after.map_or(Ok(head.first), str::parse);
    let from = from.map_err(|_| Failure::Invalid("`after` is not the number of a record".to_owned()))?;
    let items = read(store, &head, from.max(head.first), BATCH).await?;
    let next = items.last().map(|entry| entry.position.saturating_add(1));
    let next = next.filter(|next| *next < head.chain.next).map(|next| next.to_string());
    Ok(Page { items, next })
}

impl Head {
    /// `sidecar/tenant`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.sidecar, self.tenant)
    }
}

async fn heads(store: &Store) -> Result<Vec<Head>, Failure> {
    let all = Principal::new("follow", Role::Viewer, None);
    Head::list(store, clock::now(), &all, None).await
}

/// Some entries of a sidecar from record `next` on.
pub(super) async fn read(store: &Store, head: &Head, next: u64, most: usize) -> Result<Vec<Entry>, Failure> {
    let lines = store.journal.read(&head.journal()?, next.saturating_sub(head.first), most).await?;
    lines.iter().map(|(position, line)| entry(head, *position, line)).collect()
}

/// A line with where it is kept.
pub(super) fn entry(head: &Head, position: u64, line: &[u8]) -> Result<Entry, Failure> {
    let broken = || Failure::Broken(head.name());
    let text = String::from_utf8(line.to_vec()).map_err(|_| broken())?;
    Ok(Entry {
        sidecar: head.sidecar.clone(),
        tenant: head.tenant.clone(),
        position: head.first.saturating_add(position),
        record: RawValue::from_string(text).map_err(|_| broken())?,
    })
}
