//! Which replica drives runs. Two that do would be harmless, but would do everything twice.

use std::time::Duration;

use bytes::Bytes;
use sideguard_runtime::clock;
use sideguard_store::documents::Expect;
use sideguard_store::{Store, StoreError};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::own_key;

/// How long a replica has the right without renewing it.
const LEASE: Duration = Duration::from_secs(10);
/// How often it renews it, and others ask for it.
pub(super) const RENEW: Duration = Duration::from_secs(3);

/// Takes or renews the right; what this replica had before its end it has still. False while another one has it.
pub(super) async fn take(store: &Store, now: Timestamp, replica: &str) -> Result<bool, Failure> {
    let at = own_key("runs-driver")?;
    let value: Bytes = replica.to_owned().into_bytes().into();
    let expect = match store.documents.get(now, &at).await? {
        None => Expect::Absent,
        Some(own) if own.value == value => Expect::Revision(own.revision),
        Some(_) => return Ok(false),
    };
    match store.documents.put(now, &at, value, expect, Some(now.plus(LEASE))).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives it up, so that another replica need not wait for its end.
pub(crate) async fn release(store: &Store, replica: &str) -> Result<(), Failure> {
    let now = clock::now();
    let at = own_key("runs-driver")?;
    let own = store.documents.get(now, &at).await?.filter(|own| own.value == replica.as_bytes());
    if let Some(own) = own {
        match store.documents.delete(now, &at, Expect::Revision(own.revision)).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
