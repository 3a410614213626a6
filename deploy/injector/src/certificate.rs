//! The certificate of the webhook's port, which can be replaced while the port is open: connections from then on get the new
//! one.
//!
//! It comes from files that are looked at again and again ([`follow`]) or from a Secret of the cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sideguard_types::time::Timestamp;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The certificate that is shown now. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Certificate(Arc<ArcSwapOption<Shown>>);

#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    expires: Timestamp,
}

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is something else.
    #[error("there is no {0} in PEM")]
    Form(&'static str),
    /// Certificate and key do not fit, or TLS cannot use them.
    #[error("the certificate cannot be used: {0}")]
    Unfit(String),
}

impl Certificate {
    /// Shows another one from now on: the leaf and those above it, and the leaf's private key, both in PEM. The old one stays
    /// when this cannot be used.
    ///
    /// # Errors
    /// When the texts are something else, or do not fit each other.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError::Form("certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::Form("private key"))?;
        let leaf = chain.first().ok_or(CertificateError::Form("certificate"))?;
        let unfit = |error: &dyn std::fmt::Display| CertificateError::Unfit(error.to_string());
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|error| unfit(&error))?;
        let expires = Timestamp(parsed.validity().not_after.timestamp().saturating_mul(1_000_000));
        let key = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|error| unfit(&error))?;
        self.0.store(Some(Arc::new(Shown { key: Arc::new(key), expires })));
        Ok(())
    }

    /// When the one that is shown ends; nothing when there is none yet.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.0.load().as_ref().map(|shown| shown.expires)
    }

    /// Reads it from files.
    ///
    /// # Errors
    /// As for [`Certificate::replace`], and when a file cannot be read.
    pub fn read(&self, chain: &Path, key: &Path) -> Result<(), CertificateError> {
        let (chain, key) = (read(chain)?, read(key)?);
        self.replace(&chain, &key)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|shown| Arc::clone(&shown.key))
    }
}

/// Looks at the files for as long as it is polled, and shows what is new in them. What cannot be used is told in the log; the
/// old one stays.
pub async fn follow(certificate: Certificate, chain: PathBuf, key: PathBuf) {
    let mut before = (read(&chain).ok(), read(&key).ok());
    loop {
        tokio::time::sleep(LOOK).await;
        let now = (read(&chain).ok(), read(&key).ok());
        if now == before {
            continue;
        }
        let (Some(new), Some(its)) = &now else {
            tracing::warn!(file = %chain.display(), "the certificate or its key cannot be read: the old one stays");
            before = now;
            continue;
        };
        match certificate.replace(new, its) {
            Ok(()) => tracing::info!(file = %chain.display(), "new certificate"),
            // The two files may be written one after the other.
            Err(error) => {
                tracing::warn!(%error, file = %chain.display(), "new certificate refused: the old one stays")
            }
        }
        before = now;
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Read { path: path.to_owned(), source })
}
