//! What the port says in TLS: its certificate, and whose certificates it takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sideguard_types::resource::ControlTls;
use tokio_rustls::TlsAcceptor;

/// Why the port cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is something else.
    #[error("`{}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate and the key do not fit together, or cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Unfit(String),
}

/// The side of the service. A client that brings a certificate must have it from the roots; one that brings none gets as far
/// as health checks ([`crate::api`] holds that).
pub(crate) fn acceptor(tls: &ControlTls) -> Result<TlsAcceptor, TlsError> {
    let unfit = |error: rustls::Error| TlsError::Unfit(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?;
    let config = match &tls.clients {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| file(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| file(path, &error))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let text = fs::read(&tls.key).map_err(|error| file(&tls.key, &error))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| file(&tls.key, &error))?;
    let mut config = config.with_single_cert(certificates(&tls.certificate)?, key).map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = fs::read(path).map_err(|error| file(path, &error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(file(path, &"no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(file(path, &error)),
    }
}

fn file(path: &Path, reason: &impl ToString) -> TlsError {
    TlsError::File { path: path.to_owned(), reason: reason.to_string() }
}
