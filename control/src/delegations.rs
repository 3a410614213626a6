//! Delegation, as far as it is control's: passports, by which sidecars know each other's signatures, and what is revoked.
//!
//! A chain itself never comes here: sidecars make and check it by themselves. What is revoked goes to them with the kill
//! switches, signed, within a second, and is forgotten once no link can be as old any more.

use std::time::Duration;

use sideguard_store::Store;
use sideguard_store::documents::Expect;
use sideguard_types::control::{Kill, Scope};
use sideguard_types::delegation::{Passport, PassportRequest, Revoke};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::{Principal, own_key};
use crate::kills;
use crate::signer::Signer;

/// How long a passport holds: longer than any link, which holds at most a day.
const LIFE: Duration = Duration::from_secs(25 * 3_600);
/// How long a sidecar's key is remembered that does not ask any more.
const FORGOTTEN: Duration = Duration::from_secs(7 * 86_400);
/// Longest id of a link or sidecar, and longest reason, in bytes.
const LONGEST_ID: usize = 100;
const LONGEST_REASON: usize = 500;

/// Gives a sidecar its passport. The key that it came with first stays its own.
pub(crate) async fn passport(
    store: &Store,
    signer: &Signer,
    now: Timestamp,
    who: &Principal,
    asked: PassportRequest,
) -> Result<Passport, Failure> {
    let PassportRequest { key } = asked;
    if sideguard_record::arriving::public_key(&key).is_none() {
        return Err(Failure::Invalid("`key` is not a public key: 64 hex digits".to_owned()));
    }
    let tenant = who.sidecars_tenant();
    let at = own_key(&format!("passports/{tenant}/{}", who.name))?;
    let expect = match store.documents.get(now, &at).await? {
        Some(known) if known.value[..] != *key.as_bytes() => {
            return Err(Failure::Conflict("this sidecar has come with another key before".to_owned()));
        }
        Some(known) => Expect::Revision(known.revision),
        None => Expect::Absent,
    };
    store.documents.put(now, &at, key.clone().into_bytes().into(), expect, Some(now.plus(FORGOTTEN))).await?;
    let passport = Passport {
        tenant: tenant.to_owned(),
        sidecar: who.name.clone(),
        agent: who.agent.clone(),
        key,
        expires: now.plus(LIFE),
        signature: String::new(),
    };
    Ok(Passport { signature: signer.attest(&passport.message()), ..passport })
}

/// Ends a link and all that was handed on under it, or all links of a sidecar.
pub(crate) async fn revoke(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    asked: Revoke,
) -> Result<Kill, Failure> {
    let Revoke { id, tenant, reason } = asked;
    let tenant = tenant.or_else(|| who.tenant.clone()).unwrap_or_else(|| "default".to_owned());
    if !who.reaches(&tenant) {
        return Err(Failure::Missing(format!("tenant `{tenant}`")));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(plain) || reason.len() > LONGEST_REASON {
        return Err(Failure::Invalid(
            "the id is none of a link or sidecar, or the reason is too long".to_owned(),
        ));
    }
    let scope = Scope::Delegation { tenant, id };
    let kill = Kill { scope, reason, by: who.name.clone(), owner: who.tenant.is_none(), time: now };
    kills::on(store, now, &kill).await?;
    Ok(kill)
}

/// Ends all links of a sidecar whose key was taken back.
pub(crate) async fn put_out(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    sidecar: &Principal,
) -> Result<(), Failure> {
    let asked = Revoke {
        id: sidecar.name.clone(),
        tenant: Some(sidecar.sidecars_tenant().to_owned()),
        reason: "the sidecar's key was taken back".to_owned(),
    };
    revoke(store, now, who, asked).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ed25519_dalek::SigningKey;
    use sideguard_runtime::clock;
    use sideguard_store::Store;
    use sideguard_types::control::Scope;
    use sideguard_types::delegation::{PassportRequest, Revoke};
    use sideguard_types::time::Timestamp;

    use super::{passport, revoke};
    use crate::error::Failure;
    use crate::keys::{Principal, Role};
    use crate::kills;
    use crate::signer::{Signer, hex};

    async fn store() -> (tempfile::TempDir, Store, Timestamp) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        (dir, store, clock::now())
    }

    #[tokio::test]
    async fn a_sidecar_keeps_the_key_that_it_came_with() {
        let (_dir, store, now) = store().await;
        let signer = Signer::open(&store, now).await.expect("a key");
        let ask = |seed| PassportRequest {
            key: hex(SigningKey::from_bytes(&[seed; 32]).verifying_key().as_bytes()),
        };
        let one = Principal::new("one", Role::Sidecar, Some("acme".to_owned()));
        let first = passport(&store, &signer, now, &one, ask(1)).await.expect("a passport");
        assert_eq!((first.tenant.as_str(), first.sidecar.as_str()), ("acme", "one"));
        assert!(first.expires > now.plus(Duration::from_secs(86_400)), "longer than any link");
        assert!(passport(&store, &signer, now, &one, ask(1)).await.is_ok(), "again");
        let other = passport(&store, &signer, now, &one, ask(2)).await;
        assert!(matches!(other, Err(Failure::Conflict(_))), "{other:?}");
        let elsewhere = Principal::new("one", Role::Sidecar, Some("umbrella".to_owned()));
        assert!(passport(&store, &signer, now, &elsewhere, ask(2)).await.is_ok(), "another tenant's");
        let odd = PassportRequest { key: "x".to_owned() };
        assert!(matches!(passport(&store, &signer, now, &one, odd).await, Err(Failure::Invalid(_))));
    }

    #[tokio::test]
    async fn what_is_revoked_reaches_its_tenant_and_is_forgotten_in_time() {
        let (_dir, store, now) = store().await;
        let asked = |id: &str, tenant: &str| Revoke {
            id: id.to_owned(),
            tenant: Some(tenant.to_owned()),
            reason: String::new(),
        };
        let owner = Principal::new("root", Role::Operator, None);
        let acme = Principal::new("alice", Role::Operator, Some("acme".to_owned()));
        revoke(&store, now, &acme, asked("l1", "acme")).await.expect("revoked");
        let foreign = revoke(&store, now, &acme, asked("l2", "umbrella")).await;
        assert!(matches!(foreign, Err(Failure::Missing(_))), "{foreign:?}");
        assert!(matches!(revoke(&store, now, &acme, asked("a/b", "acme")).await, Err(Failure::Invalid(_))));
        let told =
            async |tenant: &str| kills::kept(&store, now).await.expect("kept").for_tenant(tenant).scopes;
        let scope = |id: &str| Scope::Delegation { tenant: "acme".to_owned(), id: id.to_owned() };
        assert_eq!(told("acme").await, [scope("l1")]);
        assert_eq!(told("umbrella").await, []);
        let later = now.plus(Duration::from_secs(27 * 3_600));
        revoke(&store, later, &owner, asked("l3", "acme")).await.expect("revoked");
        assert_eq!(told("acme").await, [scope("l3")]);
    }
}
