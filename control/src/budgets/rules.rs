//! The limits in force, from the generation in force.

use std::collections::HashMap;

use sideguard_policy::ledger::{Ledger, Touched};
use sideguard_policy::source::{self, Source};
use sideguard_store::Store;
use sideguard_types::resource::{BudgetSpec, Metadata, Spec};
use sideguard_types::time::Timestamp;

use crate::desired::{self, Kept};
use crate::error::Failure;

/// Shares at which alerts are raised where a budget does not say.
const ALERTS: [f64; 2] = [0.8, 1.0];
/// Most shares of a budget that are heeded.
const MOST_ALERTS: usize = 16;

/// The limits of one generation.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) generation: u64,
    /// Empty accounts: only what the limits say is asked.
    pub(super) ledger: Ledger,
    /// Shares by limit, in thousandths, the lowest first.
    pub(super) alerts: HashMap<String, Vec<u32>>,
    /// Tenants with budgets of their own.
    pub(super) tenants: Vec<String>,
}

impl Rules {
    pub(super) async fn read(store: &Store, now: Timestamp, kept: &Kept) -> Result<Self, Failure> {
        let entries: Vec<_> =
            kept.entries.iter().filter(|entry| entry.name.kind == "Budget").cloned().collect();
        let texts = desired::texts(store, now, &entries).await?;
        let sources: Vec<Source> = entries
            .iter()
            .zip(texts)
            .map(|(entry, text)| Source::new(format!("{}/{}", entry.name.tenant, entry.name.name), text))
            .collect();
        Self::new(kept.told.number, &sources)
    }

    /// The limits by their names.
    pub(super) fn by_name(&self) -> HashMap<&str, Touched<'_>> {
        self.ledger.all().map(|limit| (&**limit.limit, limit)).collect()
    }

    fn new(generation: u64, sources: &[Source]) -> Result<Self, Failure> {
        let mut budgets: Vec<(Metadata, BudgetSpec)> = source::load(sources)
            .documents
            .into_iter()
            .filter_map(|document| match document.resource.spec {
                Spec::Budget(spec) => Some((document.resource.metadata, spec)),
                _ => None,
            })
            .collect();
        budgets.sort_by(|(a, _), (b, _)| (&a.tenant, &a.name).cmp(&(&b.tenant, &b.name)));
        let ledger = Ledger::new(&budgets).map_err(|error| Failure::Invalid(error.to_string()))?;
        let shares = budgets.iter().flat_map(|(_, spec)| {
            let shares = shares(spec.alerts.as_deref().unwrap_or(&ALERTS));
            spec.limits.iter().map(move |_| shares.clone())
        });
        let alerts = ledger.all().map(|limit| limit.limit.to_string()).zip(shares).collect();
        let mut tenants: Vec<String> =
            budgets.into_iter().filter_map(|(metadata, _)| metadata.tenant).collect();
        tenants.dedup();
        Ok(Self { generation, ledger, alerts, tenants })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "held between 0 and 1,000,000")]
fn shares(shares: &[f64]) -> Vec<u32> {
    let mut shares: Vec<u32> = shares
        .iter()
        .filter(|share| share.is_finite() && **share > 0.0)
        .take(MOST_ALERTS)
        .map(|share| (share * 1000.0).round().clamp(1.0, 1_000_000.0) as u32)
        .collect();
    shares.sort_unstable();
    shares.dedup();
    shares
}
