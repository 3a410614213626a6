//! The roots that upstreams are verified against, and the bundles that are made of them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The system's roots and those in `extra`, as PEM.
///
/// # Errors
/// The file that cannot be read or holds no certificate.
pub(crate) fn load(extra: &[PathBuf]) -> Result<String, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        tracing::warn!("no system roots found: install `ca-certificates`, or name roots in `tls.trust`");
    }
    let mut pem = String::with_capacity(256 << 10);
    for certificate in &found.certs {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        for line in text.as_bytes().chunks(64) {
            // Writing to a String cannot fail, and base64 is ASCII.
            let _ = writeln!(pem, "{}", std::str::from_utf8(line).unwrap_or_default());
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    for path in extra {
        let text = read(path)?;
        pem.push_str(text.trim_end());
        pem.push('\n');
    }
    Ok(pem)
}

/// How many roots the system has.
#[must_use]
pub fn count() -> usize {
    rustls_native_certs::load_native_certs().certs.len()
}

pub(crate) fn read(path: &Path) -> Result<String, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("tls.trust: `{}`: {error}", path.display()))?;
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(format!("tls.trust: `{}` holds no PEM certificate", path.display()));
    }
    Ok(text)
}
