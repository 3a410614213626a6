//! Java's own key store format, JKS, as a store of trusted certificates: Java reads no PEM and no environment.
//!
//! Source: OpenJDK, `sun.security.provider.JavaKeyStore`, version 2 of the format.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha1::{Digest, Sha1};

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED: u32 = 2;
/// The password of every JDK's own store; it protects nothing.
const PASSWORD: &str = "changeit";

/// A store that holds the certificates of a PEM bundle. What is no certificate is left out.
#[must_use]
pub fn store(bundle: &str) -> Vec<u8> {
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(bundle.as_bytes()).filter_map(Result::ok).collect();
    let count = u32::try_from(certificates.len()).unwrap_or(0);
    let mut store = Vec::with_capacity(bundle.len());
    for number in [MAGIC, VERSION, count] {
        store.extend(number.to_be_bytes());
    }
    for (number, certificate) in (0_u32..count).zip(&certificates) {
        store.extend(TRUSTED.to_be_bytes());
        text(&mut store, &format!("sideguard-{number}"));
        // When it was put in, in milliseconds: nobody asks.
        store.extend(0_u64.to_be_bytes());
        text(&mut store, "X.509");
        store.extend(u32::try_from(certificate.len()).unwrap_or(0).to_be_bytes());
        store.extend_from_slice(certificate);
    }
    let mut digest = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        digest.update(unit.to_be_bytes());
    }
    digest.update(b"Mighty Aphrodite");
    digest.update(&store);
    store.extend(digest.finalize());
    store
}

/// A text of ASCII, as `DataOutput.writeUTF` has it.
fn text(store: &mut Vec<u8>, text: &str) {
    store.extend(u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    store.extend_from_slice(text.as_bytes());
}
