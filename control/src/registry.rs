//! The sidecars that are known, and how each stands to the generation in force.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sideguard_runtime::clock;
use sideguard_store::Store;
use sideguard_store::documents::{Edit, Expect};
use sideguard_store::key::{Key, Prefix};
use sideguard_types::control::{Page, Report, Sidecar, Standing};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::{self, OWN, Principal, own_key};
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
    seen: Timestamp,
    report: Report,
}

/// Names one tenant's sidecar: an id is the sidecar's own word, and must not reach another tenant's.
fn place(tenant: &str, id: &str) -> Result<Key, Failure> {
    own_key(&format!("sidecars/{tenant}/{id}"))
}

/// Takes in what a sidecar tells.
pub(crate) async fn heard(
    store: &Store,
    now: Timestamp,
    from: &Principal,
    report: Report,
) -> Result<(), Failure> {
    let at = place(from.sidecars_tenant(), &from.name)?;
    let kept = Kept { seen: now, report };
    let value = serde_json::to_vec(&kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    store.documents.put(now, &at, value.into(), Expect::Any, Some(now.plus(FORGOTTEN))).await?;
    Ok(())
}

/// Forgets a sidecar that has ended for good, and its key when it brings it.
pub(crate) async fn left(
    store: &Store,
    now: Timestamp,
    from: &Principal,
    key: Option<&str>,
) -> Result<(), Failure> {
    let mut edits = vec![Edit::delete(place(from.sidecars_tenant(), &from.name)?, Expect::Any)];
    if let Some(key) = key {
        edits.push(Edit::delete(own_key(&format!("keys/{}", keys::hash(key)))?, Expect::Any));
    }
    store.documents.put_all(now, edits).await?;
    Ok(())
}

/// The sidecars that a principal may see, some of them.
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
    let tenant = match (who.tenant.as_deref(), tenant) {
        (Some(own), Some(asked)) if own != asked => return Ok(Page { items: Vec::new(), next: None }),
        (own, asked) => own.or(asked),
    };
    let scope = tenant.map_or_else(|| "sidecars".to_owned(), |tenant| format!("sidecars/{tenant}"));
    let after = after.map(|after| own_key(&format!("sidecars/{after}"))).transpose()?;
    let scope = Prefix::new(OWN, &scope).map_err(invalid)?.into();
    let page = store.documents.list(now, &scope, after.as_ref(), limit.min(PAGE)).await?;
    let mut records = records::standings(store, now, who).await?;
    let mut items = Vec::new();
    for document in &page.documents {
        let broken = || Failure::Broken(document.key.to_string());
        let Kept { seen, report } = serde_json::from_slice(&document.value).map_err(|_| broken())?;
        let (tenant, id) = name(&document.key).split_once('/').ok_or_else(broken)?;
        let standing = standing(&report, seen, now, head);
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        let record = records.remove(&(tenant.clone(), id.clone()));
        items.push(Sidecar { id, tenant, standing, seen, record, report });
    }
    Ok(Page { items, next: page.next.as_ref().map(|key| name(key).to_owned()) })
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

/// `TENANT/ID`.
fn name(key: &Key) -> &str {
    key.path().trim_start_matches("sidecars/")
}

fn standing(report: &Report, seen: Timestamp, now: Timestamp, head: u64) -> Standing {
    if now.since(seen) > LOST {
        Standing::Lost
    } else if report.refused.as_ref().is_some_and(|refused| refused.generation == head) {
        // Also when the store was put back to an older one, or to another one of the same number.
        Standing::Refused
    } else if report.generation == head {
        Standing::Current
    } else {
        Standing::Stale
    }
}
