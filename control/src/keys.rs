//! Who is asking: keys, what they may do, and for whom. Kept as hashes; a key is told once, when it is made.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sideguard_store::documents::{Edit, Expect};
use sideguard_store::key::Key;
use sideguard_store::{Store, StoreError};
use sideguard_types::control::{Enrol, Enrolled, Token, TokenRequest};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::signer::hex;

/// Tenant of what belongs to the control service itself. No tenant can be called so.
pub(crate) const OWN: &str = "sideguard.control";
/// What keys begin with.
const KEY: &str = "sgk_";
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
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    tenant: String,
    agent: Option<String>,
    /// Hash of the key that was given for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spent: Option<String>,
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
    secret(KEY)
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
    let kept = Kept { tenant, agent: asked.agent, spent: None };
    let value = serde_json::to_vec(&kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    let at = own_key(&format!("tokens/{}", hash(&token)))?;
    store.documents.put(now, &at, value.into(), Expect::Absent, Some(expires)).await?;
    Ok(Token { token, expires })
}

/// Takes a token in exchange for a sidecar's key. Of two that bring the same token one gets it; that one may ask again, by
/// the key that it has made itself, when it has not heard the answer.
pub(crate) async fn enrol(
    store: &Store,
    now: Timestamp,
    enrol: Enrol,
    signer: String,
) -> Result<Enrolled, Failure> {
    let Enrol { token, sidecar, key } = enrol;
    // The name of its report's document, among others.
    own_key(&format!("sidecars/{sidecar}"))?;
    let key = match key {
        Some(key) if is_well_made(&key) => key,
        Some(_) => return Err(Failure::Invalid("a key is `sgk_` and 64 hex digits".to_owned())),
        None => fresh(),
    };
    let at = own_key(&format!("tokens/{}", hash(&token)))?;
    let kept = store.documents.get(now, &at).await?.ok_or(Failure::Unauthenticated)?;
    let whose: Kept = serde_json::from_slice(&kept.value).map_err(|_| Failure::Broken(at.to_string()))?;
    let Kept { tenant, agent, .. } = whose.clone();
    let principal = Principal { name: sidecar, role: Role::Sidecar, tenant: Some(tenant.clone()) };
    let enrolled = Enrolled { key, tenant, agent, signer };
    if let Some(spent) = whose.spent {
        // The key may have been revoked since.
        let same = spent == hash(&enrolled.key) && self::whose(store, now, &enrolled.key).await? == principal;
        return if same { Ok(enrolled) } else { Err(Failure::Unauthenticated) };
    }
    let spent = Kept { spent: Some(hash(&enrolled.key)), ..whose };
    let spent = serde_json::to_vec(&spent).map_err(|error| Failure::Invalid(error.to_string()))?;
    let spent = Edit::put(at, spent.into(), Expect::Revision(kept.revision)).until(kept.expires);
    match store.documents.put_all(now, vec![spent, edit(&enrolled.key, &principal)?]).await {
        Ok(_) => Ok(enrolled),
        Err(StoreError::Conflict { .. }) => Err(Failure::Unauthenticated),
        Err(error) => Err(error.into()),
    }
}

fn is_well_made(key: &str) -> bool {
    let digits = key.strip_prefix(KEY).unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use sideguard_runtime::clock;
    use sideguard_store::Store;
    use sideguard_types::control::{Enrol, TokenRequest};

    use super::{enrol, fresh, token};
    use crate::error::Failure;

    #[tokio::test]
    async fn a_token_is_good_for_one_sidecar_which_may_ask_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        let now = clock::now();
        let asked = TokenRequest { tenant: None, agent: None, seconds: None };
        let token = token(&store, now, asked).await.expect("a token").token;
        let ask = |key: Option<String>, sidecar: &str| {
            let ask = Enrol { token: token.clone(), sidecar: sidecar.to_owned(), key };
            enrol(&store, now, ask, String::new())
        };
        let own = fresh();
        let first = ask(Some(own.clone()), "a").await.expect("a key");
        assert_eq!(first.key, own);
        assert_eq!(ask(Some(own.clone()), "a").await.expect("the same answer"), first);
        for (key, sidecar) in [(None, "a"), (Some(fresh()), "a"), (Some(own), "b")] {
            let again = ask(key, sidecar).await;
            assert!(matches!(again, Err(Failure::Unauthenticated)), "{again:?}");
        }
        assert!(matches!(ask(Some("sgk_short".to_owned()), "a").await, Err(Failure::Invalid(_))));
    }
}
