//! The journal of approvals, one for each tenant: what was asked, answered and used.

use serde_json::{Value, json};
use sideguard_runtime::clock;
use sideguard_store::{Store, StoreError};
use sideguard_types::control::approvals::Approval;

use super::{TRIES, bytes};
use crate::error::Failure;
use crate::keys::own_key;

/// Most events of a tenant that are kept.
const EVENTS: u64 = 10_000;

/// Puts what happened into the tenant's journal. The approval itself says it too: a journal that cannot be written stops
/// nothing.
pub(super) async fn event(store: &Store, approval: &Approval, what: &str, more: Value) {
    let entry = json!({"time": clock::now(), "approval": approval.id, "agent": approval.agent, "event": what, "more": more});
    if let Err(error) = appended(store, &approval.tenant, &entry).await {
        tracing::warn!(%error, what, "an approval's event is not in the journal");
    }
}

async fn appended(store: &Store, tenant: &str, entry: &Value) -> Result<(), Failure> {
    let key = own_key(&format!("approvals-events/{tenant}"))?;
    let entry = bytes(entry)?;
    for _ in 0..TRIES {
        let end = store.journal.end(&key).await?;
        match store.journal.append(&key, end, vec![entry.clone()]).await {
            Ok(end) => {
                if end.is_multiple_of(1_000) {
                    store.journal.truncate_before(&key, end.saturating_sub(EVENTS)).await?;
                }
                return Ok(());
            }
            Err(StoreError::Fork { .. } | StoreError::Gap { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::Conflict("too many events at once".to_owned()))
}
