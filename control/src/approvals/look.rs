//! What people see of approvals.

use sideguard_store::Store;
use sideguard_store::key::Prefix;
use sideguard_types::control::Page;
use sideguard_types::control::approvals::{Approval, Held, State};
use sideguard_types::time::Timestamp;

use super::place::{at, held_at, missing};
use super::{one, read, state, tenant_of};
use crate::error::Failure;
use crate::keys::{OWN, Principal};

/// One approval with the whole request, for whoever may see its tenant.
pub(crate) async fn whole(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    id: &str,
) -> Result<Approval, Failure> {
    let tenant = tenant_of(store, now, who, id).await?;
    let (mut approval, _) = one(store, now, &tenant, id).await?.ok_or_else(|| missing(id))?;
    if let Some((held, _)) = read::<Held>(store, now, &held_at(&tenant, id)?).await? {
        (approval.headers, approval.body, approval.arguments) = (held.headers, held.body, held.arguments);
        approval.cut = false;
    }
    Ok(approval)
}

/// The approvals of a state that a principal may see, the newest of each tenant first. `after` is a page's `next`.
pub(crate) async fn list(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    wanted: Option<State>,
    after: Option<&str>,
    limit: usize,
) -> Result<Page<Approval>, Failure> {
    let path = who.tenant.as_ref().map_or_else(|| "approvals".to_owned(), |own| format!("approvals/{own}"));
    let scope = Prefix::new(OWN, &path).map_err(|error| Failure::Invalid(error.to_string()))?.into();
    let mut after = match after.map(|after| after.rsplit_once('/')) {
        None => None,
        Some(Some((tenant, id))) if who.reaches(tenant) => Some(at(tenant, id)?),
        Some(_) => return Err(Failure::Invalid("`after` is not where a page ended".to_owned())),
    };
    let mut items: Vec<Approval> = Vec::new();
    loop {
        let page = store.documents.list(now, &scope, after.as_ref(), limit).await?;
        for document in page.documents {
            let mut approval: Approval = serde_json::from_slice(&document.value)
                .map_err(|_| Failure::Broken(document.key.to_string()))?;
            state::lapse(&mut approval, now);
            if wanted.is_none_or(|wanted| wanted == approval.state) {
                items.push(approval);
            }
            if items.len() >= limit {
                let next = items.last().map(|last| format!("{}/{}", last.tenant, last.id));
                return Ok(Page { items, next });
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(Page { items, next: None });
        }
    }
}
