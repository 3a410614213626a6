//! How webhooks are signed: notifications of approvals, their answers, and batches of records alike.

/// Header with the time of a signature, in seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "x-sideguard-timestamp";
/// Header with the signature: `v1=` and the HMAC-SHA256 of [`signed`] in hex.
pub const SIGNATURE_HEADER: &str = "x-sideguard-signature";

/// What is signed: the header's timestamp, a dot, and the body. As the time is signed too, nothing can be sent again much
/// later.
#[must_use]
pub fn signed(timestamp: &str, body: &[u8]) -> Vec<u8> {
    [timestamp.as_bytes(), b".", body].concat()
}
