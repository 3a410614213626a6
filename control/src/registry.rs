//! The sidecars that are known, and how each stands to the generation in force.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sideguard_runtime::clock;
use sideguard_store::Store;
use sideguard_store::documents::Expect;
use sideguard_store::key::{Key, Prefix};
use sideguard_types::control::{Page, Report, Sidecar, Standing};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::{OWN, Principal, own_key};
use crate::records;

/// After this long without a word a sidecar counts as lost.
const LOST: Duration = Duration::from_secs(20);
/// After this long it is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(7 * 86_400);
/// Every standing.
const ALL: [Standing; 4] = [Standing::Current, Standing::Stale, Standing::Refused, Standing::Lost];
/// Most sidecars of one page.
const PAGE: usize = 500;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    tenant: String,
    seen: Timestamp,
    report: Report,
}

/// Takes in what a sidecar tells.
pub(crate) async fn heard(
    store: &Store,
    now: Timestamp,
    from: &Principal,
    report: Report,
) -> Result<(), Failure> {
    let tenant = from.tenant.clone().unwrap_or_else(|| "default".to_owned());
    let kept = Kept { tenant, seen: now, report };
    let value = serde_json::to_vec(&kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    let at = own_key(&format!("sidecars/{}", from.name))?;
    store.documents.put(now, &at, value.into(), Expect::Any, Some(now.plus(FORGOTTEN))).await?;
    Ok(())
}

/// The sidecars that a principal may see, some of them.
pub(crate) async fn list(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    head: u64,
    after: Option<&str>,
) -> Result<Page<Sidecar>, Failure> {
    let invalid = |error: sideguard_store::key::KeyError| Failure::Invalid(error.to_string());
    let after = after.map(|id| own_key(&format!("sidecars/{id}"))).transpose()?;
    let scope = Prefix::new(OWN, "sidecars").map_err(invalid)?.into();
    let page = store.documents.list(now, &scope, after.as_ref(), PAGE).await?;
    let mut records = records::standings(store, now, who).await?;
    let mut items = Vec::new();
    for document in &page.documents {
        let kept: Kept =
            serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(document.key.to_string()))?;
        if who.reaches(&kept.tenant) {
            let Kept { tenant, seen, report } = kept;
            let standing = standing(&report, seen, now, head);
            let id = id(&document.key);
            let record = records.remove(&(tenant.clone(), id.clone()));
            items.push(Sidecar { id, tenant, standing, seen, record, report });
        }
    }
    Ok(Page { items, next: page.next.as_ref().map(id) })
}

/// How many sidecars stand how to the generation `head`.
pub(crate) async fn standings(store: &Store, head: u64) -> Result<HashMap<&'static str, u64>, Failure> {
    let invalid = |error: sideguard_store::key::KeyError| Failure::Invalid(error.to_string());
    let scope = Prefix::new(OWN, "sidecars").map_err(invalid)?.into();
    let now = clock::now();
    let mut standings: HashMap<&'static str, u64> =
        ALL.into_iter().map(|standing| (standing.as_str(), 0)).collect();
    let mut after = None;
    loop {
        let page = store.documents.list(now, &scope, after.as_ref(), PAGE).await?;
        for document in &page.documents {
            let kept: Kept = serde_json::from_slice(&document.value)
                .map_err(|_| Failure::Broken(document.key.to_string()))?;
            let standing = standing(&kept.report, kept.seen, now, head);
            *standings.entry(standing.as_str()).or_default() += 1;
        }
        after = page.next;
        if after.is_none() {
            return Ok(standings);
        }
    }
}

fn id(key: &Key) -> String {
    key.path().trim_start_matches("sidecars/").to_owned()
}

fn standing(report: &Report, seen: Timestamp, now: Timestamp, head: u64) -> Standing {
    if now.since(seen) > LOST {
        Standing::Lost
    } else if report.generation == head {
        Standing::Current
    } else if report.refused.as_ref().is_some_and(|refused| refused.generation > report.generation) {
        Standing::Refused
    } else {
        Standing::Stale
    }
}
