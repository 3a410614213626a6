//! What the store keeps of a sink: who passes on now, and how far it has come. Both are written together, and only while the
//! lease is still the writer's: a replica that was taken for dead cannot put the position back.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sideguard_store::documents::{Edit, Expect, Revision};
use sideguard_store::key::Key;
use sideguard_store::{Store, StoreError};
use sideguard_types::time::Timestamp;

use super::Sink;
use crate::error::Failure;
use crate::keys::own_key;
use crate::records::follow::Cursor;

/// How long a replica has a sink without renewing that.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// How far a sink has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) cursor: Cursor,
    pub(super) delivered: u64,
    pub(super) filtered: u64,
    pub(super) skipped: u64,
    pub(super) last: Option<Timestamp>,
    pub(super) error: Option<String>,
}

fn state_key(sink: &Sink) -> Result<Key, Failure> {
    own_key(&format!("sinks/state/{}", sink.path()))
}

fn lease_key(sink: &Sink) -> Result<Key, Failure> {
    own_key(&format!("sinks/lease/{}", sink.path()))
}

/// How far a sink has come; `None` when it has not begun.
pub(super) async fn state(store: &Store, now: Timestamp, sink: &Sink) -> Result<Option<State>, Failure> {
    let at = state_key(sink)?;
    let Some(document) = store.documents.get(now, &at).await? else { return Ok(None) };
    serde_json::from_slice(&document.value).map(Some).map_err(|_| Failure::Broken(at.to_string()))
}

/// Who passes on now.
pub(super) async fn holder(store: &Store, now: Timestamp, sink: &Sink) -> Result<Option<String>, Failure> {
    let document = store.documents.get(now, &lease_key(sink)?).await?;
    Ok(document.map(|document| String::from_utf8_lossy(&document.value).into_owned()))
}

/// The right to pass on.
#[derive(Debug)]
pub(super) struct Lease {
    at: Key,
    replica: String,
    revision: Revision,
}

/// Takes the lease; `None` while another replica has it. What this replica had before its end it has still.
pub(super) async fn take(
    store: &Store,
    now: Timestamp,
    sink: &Sink,
    replica: &str,
) -> Result<Option<Lease>, Failure> {
    let at = lease_key(sink)?;
    let value: Bytes = replica.to_owned().into_bytes().into();
    let expect = match store.documents.get(now, &at).await? {
        None => Expect::Absent,
        Some(own) if own.value == value => Expect::Revision(own.revision),
        Some(_) => return Ok(None),
    };
    match store.documents.put(now, &at, value, expect, Some(now.plus(LEASE))).await {
        Ok(revision) => Ok(Some(Lease { at, replica: replica.to_owned(), revision })),
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives the lease up, if it is this replica's, so that another one need not wait for its end.
pub(super) async fn release(
    store: &Store,
    now: Timestamp,
    sink: &Sink,
    replica: &str,
) -> Result<(), Failure> {
    let at = lease_key(sink)?;
    if let Some(own) = store.documents.get(now, &at).await?.filter(|own| own.value == replica.as_bytes()) {
        match store.documents.delete(now, &at, Expect::Revision(own.revision)).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Lease {
    /// Renews it, and writes how far the sink has come.
    ///
    /// # Errors
    /// [`Failure::Conflict`] when it is another replica's now.
    pub(super) async fn renew(
        &mut self,
        store: &Store,
        now: Timestamp,
        sink: &Sink,
        state: Option<&State>,
    ) -> Result<(), Failure> {
        let value = self.replica.clone().into_bytes().into();
        let lease = Edit::put(self.at.clone(), value, Expect::Revision(self.revision));
        let mut edits = vec![lease.until(Some(now.plus(LEASE)))];
        if let Some(state) = state {
            let value = serde_json::to_vec(state).map_err(|error| Failure::Invalid(error.to_string()))?;
            edits.push(Edit::put(state_key(sink)?, value.into(), Expect::Any));
        }
        match store.documents.put_all(now, edits).await {
            Ok(revision) => {
                self.revision = revision;
                Ok(())
            }
            Err(StoreError::Conflict { .. }) => {
                Err(Failure::Conflict("another replica passes on to this sink now".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }
}
