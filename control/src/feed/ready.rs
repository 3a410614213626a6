//! The newest generation for each tenant, made when it is first asked for: a change must not read and sign the same texts
//! for each sidecar.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use sideguard_runtime::clock;
use sideguard_store::Store;
use sideguard_types::control::Signed;
use tokio::sync::OnceCell;

use crate::desired::{self, Kept};
use crate::error::Failure;
use crate::signer::Signer;

/// A generation as one tenant's sidecars get it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) signed: Signed,
    /// The same as an event of the stream; all streams share it.
    pub(super) event: Bytes,
}

type Cell = Arc<OnceCell<Arc<Made>>>;

/// Generations that are made or being made.
#[derive(Debug, Default)]
pub(super) struct Ready(Mutex<(u64, HashMap<String, Cell>)>);

impl Ready {
    /// The generation `kept` for a tenant. One makes it, the others of the tenant wait for that.
    pub(super) async fn of(
        &self,
        store: &Store,
        signer: &Signer,
        kept: &Kept,
        tenant: &str,
    ) -> Result<Arc<Made>, Failure> {
        let cell = self.cell(kept.told.number, tenant);
        let made = cell.get_or_try_init(|| async {
            let fresh = desired::for_tenant(store, clock::now(), kept, tenant).await?;
            let signed = signer.sign(fresh);
            let event = super::stream::event("generation", &signed)?;
            Ok::<_, Failure>(Arc::new(Made { signed, event }))
        });
        made.await.map(Arc::clone)
    }

    fn cell(&self, number: u64, tenant: &str) -> Cell {
        let mut cells = self.0.lock();
        if cells.0 < number {
            *cells = (number, HashMap::new());
        }
        if cells.0 > number {
            // Somebody still asks for the one before: made for that one alone.
            return Cell::default();
        }
        Arc::clone(cells.1.entry(tenant.to_owned()).or_default())
    }
}
