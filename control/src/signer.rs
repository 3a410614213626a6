//! The key that generations and proofs are signed with: made once, kept in the store, so that every replica signs alike.

use ed25519_dalek::{Signer as _, SigningKey};
use sideguard_runtime::secret::Secret;
use sideguard_store::documents::Expect;
use sideguard_store::{Store, StoreError};
use sideguard_types::control::feed::Beat;
use sideguard_types::control::{Kills, Signed};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::own_key;

/// The signing key.
#[derive(Debug)]
pub(crate) struct Signer(Secret<SigningKey>);

impl Signer {
    /// The store's key, made when there is none.
    pub(crate) async fn open(store: &Store, now: Timestamp) -> Result<Self, Failure> {
        let at = own_key("signer")?;
        let fresh = SigningKey::from_bytes(&rand::random());
        let made =
            store.documents.put(now, &at, fresh.to_bytes().to_vec().into(), Expect::Absent, None).await;
        match made {
            Ok(_) => return Ok(Self(Secret::new(fresh))),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let kept = store.documents.get(now, &at).await?.ok_or_else(|| Failure::Broken(at.to_string()))?;
        let bytes: [u8; 32] = kept.value[..].try_into().map_err(|_| Failure::Broken(at.to_string()))?;
        Ok(Self(Secret::new(SigningKey::from_bytes(&bytes))))
    }

    /// The public key, in hex.
    pub(crate) fn public(&self) -> String {
        hex(self.0.expose().verifying_key().as_bytes())
    }

    /// Its signature over a message, in hex.
    pub(crate) fn attest(&self, message: &[u8]) -> String {
        hex(&self.0.expose().sign(message).to_bytes())
    }

    /// Signs a generation.
    pub(crate) fn sign(&self, mut signed: Signed) -> Signed {
        signed.signature = self.attest(&signed.message());
        signed
    }

    /// Signs kill switches.
    pub(crate) fn kills(&self, mut kills: Kills) -> Kills {
        kills.signature = self.attest(&kills.message());
        kills
    }

    /// Signs what is in force.
    pub(crate) fn beat(&self, mut beat: Beat) -> Beat {
        beat.signature = self.attest(&beat.message());
        beat
    }
}

/// Bytes in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
