//! The sidecars that are known, and how each stands to the generation in force.

use std::time::Duration;

use serde::{Deserialize, Serialize};
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
    // Below the tenant: a sidecar that calls itself as another tenant's does is another one.
    let at = own_key(&format!("sidecars/{tenant}/{}", from.name))?;
    let kept = Kept { tenant, seen: now, report };
    let value = serde_json::to_vec(&kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    store.documents.put(now, &at, value.into(), Expect::Any, Some(now.plus(FORGOTTEN))).await?;
    Ok(())
}

/// The sidecars that a principal may see, of one tenant or of all, some of them. `after` is a page's `next`.
pub(crate) async fn list(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    tenant: Option<&str>,
    head: u64,
    after: Option<&str>,
    limit: usize,
) -> Result<Page<Sidecar>, Failure> {
    let invalid = |error: sideguard_store::key::KeyError| Failure::Invalid(error.to_string());
    let Some(tenant) = within(who, tenant) else { return Ok(Page { items: Vec::new(), next: None }) };
    let scope = match tenant {
        Some(tenant) => Prefix::new(OWN, &format!("sidecars/{tenant}")),
        None => Prefix::new(OWN, "sidecars"),
    };
    let scope = scope.map_err(invalid)?.into();
    let after = after.map(|place| own_key(&format!("sidecars/{place}"))).transpose()?;
    let page = store.documents.list(now, &scope, after.as_ref(), limit.min(PAGE)).await?;
    let mut records = records::standings(store, now, who).await?;
    let mut items = Vec::new();
    for document in &page.documents {
        let kept: Kept =
            serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(document.key.to_string()))?;
        let Kept { tenant, seen, report } = kept;
        let standing = standing(&report, seen, now, head);
        let id = place(&document.key).trim_start_matches(&format!("{tenant}/")).to_owned();
        let record = records.remove(&(tenant.clone(), id.clone()));
        items.push(Sidecar { id, tenant, standing, seen, record, report });
    }
    Ok(Page { items, next: page.next.as_ref().map(place) })
}

/// The tenant that a listing is about: that of the key, or the one asked for, or all. None when the key does not reach the
/// one asked for.
fn within<'a>(who: &'a Principal, asked: Option<&'a str>) -> Option<Option<&'a str>> {
    match (who.tenant.as_deref(), asked) {
        (Some(own), Some(asked)) if own != asked => None,
        (own, asked) => Some(own.or(asked)),
    }
}

/// Tenant and id, as they stand in a key.
fn place(key: &Key) -> String {
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
