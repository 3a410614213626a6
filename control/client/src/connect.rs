//! Connections to the control service, and the certificate that a client shows there.

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sideguard_runtime::https;
use sideguard_runtime::secret::Secret;

use crate::ClientError;

/// A client's own certificate, for a service that asks for one.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate and those above it, in PEM.
    pub certificate: Vec<u8>,
    /// Its private key, in PEM.
    pub key: Secret<Vec<u8>>,
}

/// TLS that trusts the given roots, or the system's when there are none, and shows its own certificate to a service that
/// asks for one.
pub(crate) fn tls(roots: Option<&[u8]>, own: Option<&Identity>) -> Result<ClientConfig, ClientError> {
    let config = https::trusting(roots).map_err(ClientError::Setup)?;
    let Some(own) = own else { return Ok(config.with_no_client_auth()) };
    let bad = |what: &str, error: &dyn std::fmt::Display| {
        ClientError::Setup(format!("{what} of this client: {error}"))
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&own.certificate).collect();
    let chain = chain.map_err(|error| bad("certificate", &error))?;
    let key = PrivateKeyDer::from_pem_slice(own.key.expose()).map_err(|error| bad("key", &error))?;
    config.with_client_auth_cert(chain, key).map_err(|error| bad("certificate", &error))
}
