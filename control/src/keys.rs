//! Who is asking: keys, what they may do, and for whom. Kept as hashes; a key is told once, when it is made.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sideguard_store::documents::{Edit, Expect};
use sideguard_store::key::{Key, Prefix};
use sideguard_store::{Store, StoreError};
use sideguard_types::control::keys::{KeyEntry, KeyRequest, NewKey};
use sideguard_types::control::{Enrol, Enrolled, Page, Token, TokenRequest};
use sideguard_types::time::Timestamp;

pub(crate) use sideguard_types::control::keys::Role;

use crate::error::Failure;
use crate::signer::hex;

/// Tenant of what belongs to the control service itself. No tenant can be called so.
pub(crate) const OWN: &str = "sideguard.control";
/// What keys begin with.
const KEY: &str = "sgk_";
/// How long an enrolment token is good when nothing else is asked for.
const TOKEN_LIFE: Duration = Duration::from_secs(3_600);
/// How long a sidecar's key is good that it got by somebody else's word; it asks for another one after half of that.
const ADMITTED: Duration = Duration::from_secs(2 * 3_600);
/// How exactly it is known when a key was used last.
const COARSE: Duration = Duration::from_secs(600);
/// Digits of a key's hash that name it.
const ID: usize = 16;
/// Longest name of a key, in bytes.
const LONGEST_NAME: usize = 100;
/// Most labels of a key.
const MOST_LABELS: usize = 32;
/// Keys that are read at once.
const READ: usize = 500;

/// A key of the control service's own documents.
pub(crate) fn own_key(path: &str) -> Result<Key, Failure> {
    Key::new(OWN, path).map_err(|error| Failure::Invalid(error.to_string()))
}

/// Refuses what cannot be a tenant's name.
pub(crate) fn tenant(name: &str) -> Result<(), Failure> {
    if name == OWN {
        return Err(Failure::Invalid(format!(
            "`{OWN}` is no tenant's name: the control service keeps its own things by it"
        )));
    }
    Key::new(name, "x").map(drop).map_err(|error| Failure::Invalid(error.to_string()))
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
    /// Labels that rules about approvals know people by.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The only agent that a sidecar speaks for; any of its tenant when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
}

impl Principal {
    /// One without labels.
    pub(crate) fn new(name: impl Into<String>, role: Role, tenant: Option<String>) -> Self {
        Self { name: name.into(), role, tenant, labels: BTreeMap::new(), agent: None }
    }

    /// Whether a sidecar may speak for an agent: its token may have named the only one.
    pub(crate) fn speaks_for(&self, agent: &str) -> Result<(), Failure> {
        match &self.agent {
            Some(own) if own != agent => {
                Err(Failure::Forbidden("speak for this agent: its token named another"))
            }
            _ => Ok(()),
        }
    }

    /// Whether it may change an object: one that holds for all tenants only without a limit to one.
    pub(crate) fn changes(&self, tenant: &str, shared: bool) -> bool {
        if shared { self.tenant.is_none() } else { self.reaches(tenant) }
    }

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

/// A key as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct KeptKey {
    #[serde(flatten)]
    principal: Principal,
    #[serde(default)]
    created: Timestamp,
    #[serde(default)]
    used: Option<Timestamp>,
    #[serde(default)]
    expires: Option<Timestamp>,
}

impl KeptKey {
    fn entry(self, hash: &str) -> KeyEntry {
        let Self { principal: Principal { name, role, tenant, labels, .. }, created, used, expires } = self;
        KeyEntry { id: hash.chars().take(ID).collect(), name, role, tenant, labels, created, used, expires }
    }
}

/// What a secret is kept as.
pub(crate) fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// A new secret.
pub(crate) fn secret(prefix: &str) -> String {
    format!("{prefix}{}", sideguard_runtime::id::token(32))
}

fn at(hash: &str) -> Result<Key, Failure> {
    own_key(&format!("keys/{hash}"))
}

/// A key that nobody has yet.
pub(crate) fn fresh() -> String {
    secret(KEY)
}

/// The edit that makes a key somebody's.
pub(crate) fn edit(now: Timestamp, key: &str, principal: &Principal) -> Result<Edit, Failure> {
    let kept = KeptKey { principal: principal.clone(), created: now, used: None, expires: None };
    let value = serde_json::to_vec(&kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    Ok(Edit::put(at(&hash(key))?, value.into(), Expect::Absent))
}

/// Makes a key.
pub(crate) async fn make(store: &Store, now: Timestamp, principal: &Principal) -> Result<String, Failure> {
    let key = fresh();
    store.documents.put_all(now, vec![edit(now, &key, principal)?]).await?;
    Ok(key)
}

async fn write(
    store: &Store,
    now: Timestamp,
    hash: &str,
    kept: &KeptKey,
    expect: Expect,
) -> Result<(), Failure> {
    let value = serde_json::to_vec(kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    store.documents.put(now, &at(hash)?, value.into(), expect, kept.expires).await?;
    Ok(())
}

/// Whose a key is.
pub(crate) async fn whose(store: &Store, now: Timestamp, key: &str) -> Result<Principal, Failure> {
    // What cannot be a key is not worth a question to the store.
    let plausible = key.strip_prefix("sgk_").is_some_and(|rest| rest.len() == 64);
    if plausible { whose_hash(store, now, &hash(key)).await } else { Err(Failure::Unauthenticated) }
}

/// Whose the key with a hash is.
pub(crate) async fn whose_hash(store: &Store, now: Timestamp, hash: &str) -> Result<Principal, Failure> {
    let at = at(hash)?;
    let document = store.documents.get(now, &at).await?.ok_or(Failure::Unauthenticated)?;
    let mut kept: KeptKey =
        serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(at.to_string()))?;
    if kept.used.is_none_or(|used| now.since(used) >= COARSE) {
        kept.used = Some(now);
        // Nothing hangs on it: the key may have been revoked or touched by another replica meanwhile.
        if let Err(error) = write(store, now, hash, &kept, Expect::Revision(document.revision)).await {
            tracing::debug!(%error, "the use of a key is not noted");
        }
    }
    Ok(kept.principal)
}

/// Refuses a time that is longer than anybody means.
fn lasts(seconds: Option<u64>) -> Result<(), Failure> {
    const LONGEST: u64 = 10 * 366 * 86_400;
    match seconds.filter(|seconds| *seconds > LONGEST) {
        Some(seconds) => Err(Failure::Invalid(format!("`seconds` is {seconds}: ten years are the most"))),
        None => Ok(()),
    }
}

/// Makes a key for somebody.
pub(crate) async fn create(
    store: &Store,
    now: Timestamp,
    by: &Principal,
    asked: KeyRequest,
) -> Result<NewKey, Failure> {
    let KeyRequest { name, role, tenant, labels, seconds } = asked;
    if role == Role::Sidecar {
        return Err(Failure::Invalid("a sidecar gets its key by enrolment: `sideguard token`".to_owned()));
    }
    if name.trim().is_empty()
        || name.len() > LONGEST_NAME
        || name.contains(char::is_control)
        || name.contains(':')
    {
        return Err(Failure::Invalid(format!(
            "`name` is empty, too long or has `:` or control characters: {name:?}"
        )));
    }
    if labels.len() > MOST_LABELS
        || labels.iter().any(|(key, value)| key.len().max(value.len()) > LONGEST_NAME)
    {
        return Err(Failure::Invalid(format!(
            "a key has up to {MOST_LABELS} labels of up to {LONGEST_NAME} bytes"
        )));
    }
    let tenant = tenant.or_else(|| by.tenant.clone());
    if let Some(tenant) = &tenant {
        self::tenant(tenant)?;
        if !by.reaches(tenant) {
            return Err(Failure::Missing(format!("tenant `{tenant}`")));
        }
    }
    lasts(seconds)?;
    if !labels.is_empty() && by.tenant.is_some() {
        // Rules of all tenants name approvers by labels.
        return Err(Failure::Forbidden("give labels: that takes an operator of all tenants"));
    }
    if seconds == Some(0) {
        return Err(Failure::Invalid("`seconds` is zero: leave it out for a key without an end".to_owned()));
    }
    let expires = seconds.map(|seconds| now.plus(Duration::from_secs(seconds)));
    let kept = KeptKey {
        principal: Principal { labels, ..Principal::new(name, role, tenant) },
        created: now,
        used: None,
        expires,
    };
    let key = secret("sgk_");
    write(store, now, &hash(&key), &kept, Expect::Absent).await?;
    Ok(NewKey { entry: kept.entry(&hash(&key)), key })
}

/// The keys that a principal may see: those of its tenant, or all.
pub(crate) async fn list(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    after: Option<&str>,
    limit: usize,
) -> Result<Page<KeyEntry>, Failure> {
    let scope = Prefix::new(OWN, "keys").map_err(|error| Failure::Invalid(error.to_string()))?.into();
    let mut after = after.map(at).transpose()?;
    let mut items: Vec<KeyEntry> = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.documents.list(now, &scope, after.as_ref(), READ).await?;
        for document in &page.documents {
            let kept: KeptKey = serde_json::from_slice(&document.value)
                .map_err(|_| Failure::Broken(document.key.to_string()))?;
            // Seen as one that is there or as none: a cursor must not name another tenant's key either.
            if who.tenant.is_some() && who.tenant != kept.principal.tenant {
                continue;
            }
            if items.len() == limit {
                return Ok(Page { items, next: cursor });
            }
            let hash = document.key.path().trim_start_matches("keys/");
            // After all digits: the next page begins behind this key.
            cursor = Some(format!("{}z", hash.chars().take(ID).collect::<String>()));
            items.push(kept.entry(hash));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(Page { items, next: None }),
        }
    }
}

/// Takes a key back; who has it can do nothing more from the next request on.
pub(crate) async fn revoke(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    id: &str,
) -> Result<Principal, Failure> {
    let missing = || Failure::Missing(format!("key `{id}`"));
    if id.len() != ID || !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(missing());
    }
    let scope = Prefix::new(OWN, "keys").map_err(|error| Failure::Invalid(error.to_string()))?.into();
    // Names of documents are hashes, in order: the next one after the id is the one that begins with it.
    let page = store.documents.list(now, &scope, Some(&at(id)?), 1).await?;
    let found = page.documents.first().filter(|found| found.key.path().starts_with(&format!("keys/{id}")));
    let found = found.ok_or_else(missing)?;
    let kept: KeptKey =
        serde_json::from_slice(&found.value).map_err(|_| Failure::Broken(found.key.to_string()))?;
    if who.tenant.is_some() && who.tenant != kept.principal.tenant {
        return Err(missing());
    }
    store.documents.delete(now, &found.key, Expect::Any).await?;
    Ok(kept.principal)
}

/// Makes an enrolment token.
pub(crate) async fn token(store: &Store, now: Timestamp, asked: TokenRequest) -> Result<Token, Failure> {
    let tenant = asked.tenant.unwrap_or_else(|| "default".to_owned());
    lasts(asked.seconds)?;
    self::tenant(&tenant)?;
    let life = asked.seconds.map_or(TOKEN_LIFE, Duration::from_secs);
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
    let key = asked(&sidecar, key)?;
    let at = own_key(&format!("tokens/{}", hash(&token)))?;
    let kept = store.documents.get(now, &at).await?.ok_or(Failure::Unauthenticated)?;
    let whose: Kept = serde_json::from_slice(&kept.value).map_err(|_| Failure::Broken(at.to_string()))?;
    let Kept { tenant, agent, .. } = whose.clone();
    // One key for each sidecar: whoever enrols with a copied id puts the other one out, which is seen.
    let current = own_key(&format!("enrolled/{tenant}/{sidecar}"))?;
    let principal =
        Principal { agent: agent.clone(), ..Principal::new(sidecar, Role::Sidecar, Some(tenant.clone())) };
    let enrolled = Enrolled { key, tenant, agent, signer, renew: None };
    if let Some(spent) = whose.spent {
        // The key may have been revoked since.
        let same = spent == hash(&enrolled.key) && self::whose(store, now, &enrolled.key).await? == principal;
        return if same { Ok(enrolled) } else { Err(Failure::Unauthenticated) };
    }
    let spent = Kept { spent: Some(hash(&enrolled.key)), ..whose };
    let spent = serde_json::to_vec(&spent).map_err(|error| Failure::Invalid(error.to_string()))?;
    let spent = Edit::put(at, spent.into(), Expect::Revision(kept.revision)).until(kept.expires);
    let former = store.documents.get(now, &current).await?;
    let expect = former.as_ref().map_or(Expect::Absent, |former| Expect::Revision(former.revision));
    let own = Edit::put(current, hash(&enrolled.key).into_bytes().into(), expect);
    let mut edits = vec![spent, edit(now, &enrolled.key, &principal)?, own];
    if let Some(former) = former.as_ref().and_then(|former| std::str::from_utf8(&former.value).ok()) {
        edits.push(Edit::delete(self::at(former)?, Expect::Any));
    }
    match store.documents.put_all(now, edits).await {
        Ok(_) => Ok(enrolled),
        Err(StoreError::Conflict { .. }) => Err(Failure::Unauthenticated),
        Err(error) => Err(error.into()),
    }
}

/// The key that a sidecar asks for by its own id.
fn asked(sidecar: &str, key: Option<String>) -> Result<String, Failure> {
    if sidecar.contains('/') {
        return Err(Failure::Invalid(format!("`{sidecar}` is not a sidecar's id")));
    }
    match key {
        Some(key) if is_well_made(&key) => Ok(key),
        Some(_) => Err(Failure::Invalid("a key is `sgk_` and 64 hex digits".to_owned())),
        None => Ok(fresh()),
    }
}

/// Gives a sidecar a key for a while, on the word of somebody else than an enrolment token of ours: for this tenant and
/// agent. A sidecar's id stays one agent's: nobody enrols by it for another one.
pub(crate) async fn admit(
    store: &Store,
    now: Timestamp,
    enrol: Enrol,
    (tenant, agent): (String, String),
    signer: String,
) -> Result<Enrolled, Failure> {
    let Enrol { sidecar, key, .. } = enrol;
    let key = asked(&sidecar, key)?;
    let current = own_key(&format!("enrolled/{tenant}/{sidecar}"))?;
    let former = store.documents.get(now, &current).await?;
    let former_hash = former.as_ref().and_then(|former| std::str::from_utf8(&former.value).ok());
    let holder = match former_hash {
        Some(hash) => store.documents.get(now, &self::at(hash)?).await?,
        None => None,
    };
    if let Some(holder) = &holder {
        let kept: KeptKey =
            serde_json::from_slice(&holder.value).map_err(|_| Failure::Broken(holder.key.to_string()))?;
        if kept.principal.agent.as_ref() != Some(&agent) {
            return Err(Failure::Forbidden("enrol by this sidecar's id: it is another agent's"));
        }
    }
    let principal = Principal {
        agent: Some(agent.clone()),
        ..Principal::new(sidecar, Role::Sidecar, Some(tenant.clone()))
    };
    let expires = now.plus(ADMITTED);
    let kept = KeptKey { principal, created: now, used: None, expires: Some(expires) };
    let value = serde_json::to_vec(&kept).map_err(|error| Failure::Invalid(error.to_string()))?;
    let own = hash(&key);
    let again = former_hash == Some(own.as_str());
    // Nobody's key but its own former one may be in that place.
    let expect = match &holder {
        Some(holder) if again => Expect::Revision(holder.revision),
        _ => Expect::Absent,
    };
    let place = former.as_ref().map_or(Expect::Absent, |former| Expect::Revision(former.revision));
    let mut edits = vec![
        Edit::put(self::at(&own)?, value.into(), expect).until(Some(expires)),
        Edit::put(current, own.into_bytes().into(), place).until(Some(expires)),
    ];
    if let Some(former) = former_hash.filter(|_| !again) {
        edits.push(Edit::delete(self::at(former)?, Expect::Any));
    }
    match store.documents.put_all(now, edits).await {
        Ok(_) => {
            let renew = Some(now.plus(ADMITTED / 2));
            Ok(Enrolled { key, tenant, agent: Some(agent), signer, renew })
        }
        Err(StoreError::Conflict { .. }) => Err(Failure::Unauthenticated),
        Err(error) => Err(error.into()),
    }
}

/// Whether a text has the form of a key.
pub(crate) fn is_well_made(key: &str) -> bool {
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
