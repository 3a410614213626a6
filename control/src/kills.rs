//! Kill switches: kept in one document, so that their number goes up with each change and sidecars know what is newer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sideguard_store::documents::{Expect, Revision};
use sideguard_store::{Store, StoreError};
use sideguard_types::control::{Kill, Kills, Scope};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::own_key;

/// Most switches at once; whole tenants and the fleet beyond that.
const MOST: usize = 1_000;
/// Most that a tenant's own keys switch on.
const MOST_OF_TENANT: usize = 100;

/// Most delegations of one tenant that are revoked at once.
const MOST_REVOKED: usize = 500;
/// How long that is kept: longer than the passport of whoever signed holds.
const REVOKED: Duration = Duration::from_secs(26 * 3_600);

/// All switches as they are kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) number: u64,
    pub(crate) kills: Vec<Kill>,
}

impl Kept {
    /// Those that bear on a tenant's sidecars.
    pub(crate) fn for_tenant(&self, tenant: &str) -> Kills {
        let bears = |scope: &&Scope| match scope {
            Scope::Fleet => true,
            Scope::Tenant(own) | Scope::Agent { tenant: own, .. } | Scope::Delegation { tenant: own, .. } => {
                own == tenant
            }
        };
        let scopes = self.kills.iter().map(|kill| &kill.scope).filter(bears).cloned().collect();
        Kills { tenant: tenant.to_owned(), number: self.number, scopes, signature: String::new() }
    }
}

/// The switches that are on.
pub(crate) async fn kept(store: &Store, now: Timestamp) -> Result<Kept, Failure> {
    Ok(read(store, now).await?.0)
}

async fn read(store: &Store, now: Timestamp) -> Result<(Kept, Option<Revision>), Failure> {
    let at = own_key("kills")?;
    match store.documents.get(now, &at).await? {
        None => Ok((Kept::default(), None)),
        Some(document) => {
            let kept =
                serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(at.to_string()))?;
            Ok((kept, Some(document.revision)))
        }
    }
}

/// Changes the switches; tried again when somebody else was faster.
async fn change(
    store: &Store,
    now: Timestamp,
    change: impl Fn(&mut Vec<Kill>) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    loop {
        let (mut kept, revision) = read(store, now).await?;
        if !change(&mut kept.kills)? {
            return Ok(false);
        }
        // A store that was put back to an earlier time must not use a number again: sidecars would take no notice.
        kept.number = u64::try_from(now.0).unwrap_or(0).max(kept.number.saturating_add(1));
        let value = serde_json::to_vec(&kept).map_err(|error| Failure::Invalid(error.to_string()))?;
        let expect = revision.map_or(Expect::Absent, Expect::Revision);
        match store.documents.put(now, &own_key("kills")?, value.into(), expect, None).await {
            Ok(_) => return Ok(true),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether it is about links that have all expired.
fn lapsed(kill: &Kill, now: Timestamp) -> bool {
    matches!(kill.scope, Scope::Delegation { .. }) && now.since(kill.time) > REVOKED
}

/// Switches one on.
pub(crate) async fn on(store: &Store, now: Timestamp, kill: &Kill) -> Result<(), Failure> {
    change(store, now, |kills| {
        if kills.iter().any(|known| known.scope == kill.scope && known.owner && !kill.owner) {
            return Ok(false);
        }
        kills.retain(|known| known.scope != kill.scope && !lapsed(known, now));
        if let Scope::Delegation { .. } = kill.scope {
            let revoked = kills.iter().filter(|known| matches!(known.scope, Scope::Delegation { .. }));
            if revoked.filter(|known| tenant(&known.scope) == tenant(&kill.scope)).count() >= MOST_REVOKED {
                return Err(Failure::Invalid(format!(
                    "{MOST_REVOKED} delegations of the tenant are revoked: stop the agent instead"
                )));
            }
            kills.push(kill.clone());
            return Ok(true);
        }
        // One tenant's do not take the places of others', and whoever governs all finds one always.
        let own = |known: &&Kill| {
            tenant(&known.scope) == tenant(&kill.scope) && !matches!(known.scope, Scope::Delegation { .. })
        };
        if !kill.owner && kills.iter().filter(own).count() >= MOST_OF_TENANT {
            return Err(Failure::Invalid(format!(
                "{MOST_OF_TENANT} kill switches of the tenant are on: stop the whole tenant instead"
            )));
        }
        let switches = kills.iter().filter(|known| !matches!(known.scope, Scope::Delegation { .. })).count();
        if switches >= MOST && matches!(kill.scope, Scope::Agent { .. }) {
            return Err(Failure::Invalid(format!(
                "{MOST} kill switches are on: stop a tenant or the fleet instead"
            )));
        }
        kills.push(kill.clone());
        Ok(true)
    })
    .await
    .map(drop)
}

fn tenant(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::Fleet => None,
        Scope::Tenant(tenant) | Scope::Agent { tenant, .. } | Scope::Delegation { tenant, .. } => {
            Some(tenant)
        }
    }
}

/// Switches one off; one that a key of all tenants has switched on only with another such key.
pub(crate) async fn off(store: &Store, now: Timestamp, scope: &Scope, owner: bool) -> Result<(), Failure> {
    let found = change(store, now, |kills| {
        if kills.iter().any(|known| known.scope == *scope && known.owner && !owner) {
            return Err(Failure::Forbidden("lift this: it was stopped by an operator of all tenants"));
        }
        let before = kills.len();
        kills.retain(|known| known.scope != *scope);
        Ok(kills.len() != before)
    });
    if found.await? { Ok(()) } else { Err(Failure::Missing(format!("kill switch for `{scope}`"))) }
}
