//! What is known of one sidecar's record beside its lines.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sideguard_record::arriving::Chain;
use sideguard_store::Store;
use sideguard_store::documents::{Expect, Revision};
use sideguard_store::key::{Key, KeyError, Prefix, Scope};
use sideguard_types::control::records::{Alarm, Journal, Kept};
use sideguard_types::time::Timestamp;

use super::block::Block;
use crate::error::Failure;
use crate::keys::Principal;

/// Tenant of the heads: apart from the rest of control's documents, since they change all the time.
const HEADS: &str = "sideguard.records";
/// Most heads of one read.
const PAGE: usize = 1_000;

/// How far a sidecar's record has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) tenant: String,
    pub(crate) sidecar: String,
    /// Public key that its checkpoints are signed with, in hex: the one that it came with first.
    pub(crate) key: String,
    /// Number of the first record that is kept; it is at position 0 of the journal.
    pub(crate) first: u64,
    pub(crate) chain: Chain,
    /// The latest time of any record so far.
    pub(crate) latest: Timestamp,
    /// What the block holds that is not complete yet.
    pub(crate) block: Block,
    #[serde(default)]
    pub(crate) alarm: Option<Alarm>,
}

impl Head {
    pub(super) fn new(tenant: &str, sidecar: &str, key: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            sidecar: sidecar.to_owned(),
            key: key.to_owned(),
            first: 1,
            chain: Chain::start(),
            latest: Timestamp::default(),
            block: Block::default(),
            alarm: None,
        }
    }

    /// A sidecar's head, and its revision.
    pub(crate) async fn read(
        store: &Store,
        now: Timestamp,
        tenant: &str,
        sidecar: &str,
    ) -> Result<Option<(Self, Revision)>, Failure> {
        let at = key(tenant, sidecar)?;
        let Some(document) = store.documents.get(now, &at).await? else { return Ok(None) };
        Ok(Some((decode(&at, &document.value)?, document.revision)))
    }

    /// Writes it, if it is still at the revision that it was read at.
    pub(super) async fn write(
        &self,
        store: &Store,
        now: Timestamp,
        revision: Option<Revision>,
    ) -> Result<(), Failure> {
        let value = serde_json::to_vec(self).map_err(|error| Failure::Invalid(error.to_string()))?;
        let expect = revision.map_or(Expect::Absent, Expect::Revision);
        store.documents.put(now, &key(&self.tenant, &self.sidecar)?, value.into(), expect, None).await?;
        Ok(())
    }

    /// The heads that a principal may see, of one sidecar or of all.
    pub(crate) async fn list(
        store: &Store,
        now: Timestamp,
        who: &Principal,
        sidecar: Option<&str>,
    ) -> Result<Vec<Self>, Failure> {
        let below = sidecar.map_or_else(|| "heads".to_owned(), |sidecar| format!("heads/{sidecar}"));
        let scope = Prefix::new(HEADS, &below).map_err(invalid)?.into();
        let (mut heads, mut after) = (Vec::new(), None);
        loop {
            let page = store.documents.list(now, &scope, after.as_ref(), PAGE).await?;
            for document in &page.documents {
                let head: Self = decode(&document.key, &document.value)?;
                if who.reaches(&head.tenant) {
                    heads.push(head);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(heads);
            }
        }
    }

    /// The heads' scope, to watch.
    pub(super) fn scope() -> Result<Scope, Failure> {
        Ok(Prefix::new(HEADS, "heads").map_err(invalid)?.into())
    }

    /// The journal with its lines.
    pub(crate) fn journal(&self) -> Result<Key, Failure> {
        Key::new(&self.tenant, &format!("record/{}", self.sidecar)).map_err(invalid)
    }

    /// The journal with the marks of its blocks.
    pub(crate) fn marks(&self) -> Result<Key, Failure> {
        Key::new(&self.tenant, &format!("record-marks/{}", self.sidecar)).map_err(invalid)
    }

    /// How many lines are kept.
    pub(crate) fn total(&self) -> u64 {
        self.chain.next.saturating_sub(self.first)
    }

    /// The one head of a sidecar that a principal may see; of several tenants' the one that is named.
    pub(super) async fn only(
        store: &Store,
        now: Timestamp,
        who: &Principal,
        (sidecar, tenant): (&str, Option<&str>),
    ) -> Result<Self, Failure> {
        let mut heads = Self::list(store, now, who, Some(sidecar)).await?;
        heads.retain(|head| tenant.is_none_or(|tenant| head.tenant == tenant));
        let head = heads.pop().ok_or_else(|| Failure::Missing(format!("record of a sidecar `{sidecar}`")))?;
        if heads.is_empty() {
            return Ok(head);
        }
        Err(Failure::Invalid("sidecars of several tenants have this id: name the `tenant`".to_owned()))
    }

    fn kept(self) -> Kept {
        Kept { last: self.chain.next.saturating_sub(1), time: self.latest, alarm: self.alarm }
    }
}

/// How far the records of the sidecars that a principal may see have come, by tenant and sidecar.
pub(crate) async fn standings(
    store: &Store,
    now: Timestamp,
    who: &Principal,
) -> Result<HashMap<(String, String), Kept>, Failure> {
    let heads = Head::list(store, now, who, None).await?;
    Ok(heads.into_iter().map(|head| ((head.tenant.clone(), head.sidecar.clone()), head.kept())).collect())
}

/// The journals that a principal may see.
pub(crate) async fn journals(
    store: &Store,
    now: Timestamp,
    who: &Principal,
) -> Result<Vec<Journal>, Failure> {
    let heads = Head::list(store, now, who, None).await?;
    let journal = |head: Head| Journal {
        sidecar: head.sidecar.clone(),
        tenant: head.tenant.clone(),
        key: head.key.clone(),
        first: head.first,
        kept: head.kept(),
    };
    Ok(heads.into_iter().map(journal).collect())
}

/// Where a head is kept. A sidecar's id is one segment: with `/` in it, it could stand for another one's.
fn key(tenant: &str, sidecar: &str) -> Result<Key, Failure> {
    if sidecar.contains('/') {
        return Err(Failure::Invalid(format!("`{sidecar}` is not a sidecar's id")));
    }
    Key::new(HEADS, &format!("heads/{sidecar}/{tenant}")).map_err(invalid)
}

fn decode(key: &Key, value: &[u8]) -> Result<Head, Failure> {
    serde_json::from_slice(value).map_err(|_| Failure::Broken(key.to_string()))
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn invalid(error: KeyError) -> Failure {
    Failure::Invalid(error.to_string())
}
