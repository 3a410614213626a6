//! The secret that a webhook shares with control, and what is signed by it.

use http::{HeaderMap, HeaderValue};
use ring::hmac;
use sideguard_types::control::webhook::{SIGNATURE_HEADER, TIMESTAMP_HEADER, signed};
use sideguard_types::time::Timestamp;

use crate::signer::hex;

/// Shortest secret, in bytes.
const SHORTEST: usize = 16;

/// A webhook's secret.
#[derive(Debug)]
pub(crate) struct Key(hmac::Key);

impl Key {
    /// # Errors
    /// When the secret is too short.
    pub(crate) fn new(secret: &str) -> Result<Self, String> {
        if secret.len() < SHORTEST {
            return Err(format!("holds fewer than {SHORTEST} bytes: `openssl rand -hex 32` makes a secret"));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())))
    }

    /// The HMAC-SHA256 of a message, in hex.
    pub(crate) fn sign(&self, message: &[u8]) -> String {
        hex(hmac::sign(&self.0, message).as_ref())
    }

    /// Whether a message has this signature.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&self.0, message, signature).is_ok()
    }

    /// The headers of a body that is sent now.
    ///
    /// # Errors
    /// When they cannot stand in a header, which digits always can.
    pub(crate) fn headers(&self, now: Timestamp, body: &[u8]) -> Result<HeaderMap, String> {
        let timestamp = now.seconds();
        let signature = format!("v1={}", self.sign(&signed(&timestamp.to_string(), body)));
        let signature = HeaderValue::try_from(signature).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        headers.insert(TIMESTAMP_HEADER, HeaderValue::from(timestamp));
        headers.insert(SIGNATURE_HEADER, signature);
        Ok(headers)
    }
}
