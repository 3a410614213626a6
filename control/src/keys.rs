//! Who is asking: keys, what they may do, and for whom. Kept as hashes; a key is told once, when it is made.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sideguard_store::documents::{Edit, Expect};
use sideguard_store::key::Key;
use sideguard_store::{Store, StoreError};
use sideguard_types::control::{Enrolled, Token, TokenRequest};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::signer::hex;

/// Tenant of what belongs to the control service itself. No tenant can be called so.
pub(crate) const OWN: &str = "sideguard.control";
/// How long an enrolment token is good when nothing else is asked for.
const TOKEN_LIFE: std::time::Duration = std::time::Duration::from_secs(3_600);

/// A key of the control service's own documents.
pub(crate) fn own_key(path: &str) -> Result<Key, Failure> {
    Key::new(OWN, path).map_err(|error| Failure::Invalid(error.to_string()))
}

/// What a key may do; each role includes nothing of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Changes the desired state, sees everything of its tenant.
    Operator,
    /// Sees everything of its tenant.
    Viewer,
    /// Fetches policy and reports.
    Sidecar,
}

/// Whose key it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Principal {
    /// Name, for records.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The tenant that it is limited to; all when absent.
    #[serde(default)]
    pub(crate) tenant: Option<String>,
}

impl Principal {
    /// Whether it reaches a tenant.
    pub(crate) fn reaches(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }

    /// The tenant that a sidecar's key is for.
    pub(crate) fn sidecars_tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or("default")
    }
}

/// An enrolment token as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    tenant: String,
    agent: Option<String>,
}

/// What a key or token is kept as.
pub(crate) fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn secret(prefix: &str) -> String {
    format!("{prefix}{}", sideguard_runtime::id::token(32))
}

/// A key that nobody has yet.
pub(crate) fn fresh() -> String {
    secret("sgk_")
}

/// The edit that makes a key somebody's.
pub(crate) fn edit(key: &str, principal: &Principal) -> Result<Edit, Failure> {
    let value = serde_json::to_vec(principal).map_err(|error| Failure::Invalid(error.to_string()))?;
    Ok(Edit::put(own_key(&format!("keys/{}", hash(key)))?, value.into(), Expect::Absent))
}

/// Makes a key.
pub(crate) async fn make(store: &Store, now: Timestamp, principal: &Principal) -> Result<String, Failure> {
    let key = fresh();
    store.documents.put_all(now, vec![edit(&key, principal)?]).await?;
    Ok(key)
}

/// Whose a key is.
pub(crate) async fn whose(store: &Store, now: Timestamp, key: &str) -> Result<Principal, Failure> {
    let at = own_key(&format!("keys/{}", hash(key)))?;
    let kept = store.documents.get(now, &at).await?.ok_or(Failure::Unauthenticated)?;
    serde_json::from_slice(&kept.value).map_err(|_| Failure::Broken(at.to_string()))
}

/// Makes an enrolment token.
pub(crate) async fn token(store: &Store, now: Timestamp, asked: TokenRequest) -> Result<Token, Failure> {
    let tenant = asked.tenant.unwrap_or_else(|| "default".to_owned());
    // A name that could not be part of a key could not be a tenant's.
    Key::new(&tenant, "x").map_err(|error| Failure::Invalid(error.to_string()))?;
    let life = asked.seconds.map_or(TOKEN_LIFE, std::time::Duration::from_secs);
    let expires = now.plus(life);
    let token = secret("sgt_");
    let kept = Kept { tenant, agent: asked.agent };
    let value = serde_json::to_vec(&kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    let at = own_key(&format!("tokens/{}", hash(&token)))?;
    store.documents.put(now, &at, value.into(), Expect::Absent, Some(expires)).await?;
    Ok(Token { token, expires })
}

/// Takes a token in exchange for a sidecar's key. Of two that bring the same token one gets it.
pub(crate) async fn enrol(
    store: &Store,
    now: Timestamp,
    token: &str,
    sidecar: &str,
    signer: String,
) -> Result<Enrolled, Failure> {
    let at = own_key(&format!("tokens/{}", hash(token)))?;
    let kept = store.documents.get(now, &at).await?.ok_or(Failure::Unauthenticated)?;
    let whose: Kept = serde_json::from_slice(&kept.value).map_err(|_| Failure::Broken(at.to_string()))?;
    // The name of its report's document, among others.
    own_key(&format!("sidecars/{sidecar}"))?;
    match store.documents.delete(now, &at, Expect::Revision(kept.revision)).await {
        Ok(_) => {}
        Err(StoreError::Conflict { .. }) => return Err(Failure::Unauthenticated),
        Err(error) => return Err(error.into()),
    }
    let principal =
        Principal { name: sidecar.to_owned(), role: Role::Sidecar, tenant: Some(whose.tenant.clone()) };
    let key = make(store, now, &principal).await?;
    Ok(Enrolled { key, tenant: whose.tenant, agent: whose.agent, signer })
}
