//! A throw-away authority, the one certificate it issues, and TLS settings made of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name that the stand-in model's certificate is for; in an example domain, so that it leads nowhere.
pub(crate) const HOST: &str = "api.bench.example";

/// Where the authority and the certificate lie.
#[derive(Clone)]
pub(crate) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes them in `directory`.
    pub(crate) fn make(directory: &Path) -> Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "bench authority");
        let root = authority.self_signed(&authority_key)?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![HOST.to_owned(), "127.0.0.1".to_owned()])?
            .signed_by(&key, &Issuer::new(authority, authority_key))?;
        let made = Self::at(directory);
        fs::write(made.root(), root.pem())?;
        fs::write(made.chain(), leaf.pem())?;
        fs::write(made.key(), key.serialize_pem())?;
        Ok(made)
    }

    /// Those that lie in `directory`.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// File of the authority's certificate.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// File of the certificate for [`HOST`].
    pub(crate) fn chain(&self) -> PathBuf {
        self.directory.join("leaf.pem")
    }

    /// File of its key.
    pub(crate) fn key(&self) -> PathBuf {
        self.directory.join("leaf.key")
    }

    /// Settings of a server that shows the certificate and speaks HTTP/1.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>> {
        let chain = CertificateDer::pem_file_iter(self.chain())?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(self.key())?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Settings of a client that speaks HTTP/1 and trusts the authorities in the given PEM files.
pub(crate) fn client(roots: &[PathBuf]) -> Result<Arc<ClientConfig>> {
    let mut trusted = RootCertStore::empty();
    for file in roots {
        let mut trust = || -> Result<()> {
            for root in CertificateDer::pem_file_iter(file)? {
                trusted.add(root?)?;
            }
            Ok(())
        };
        trust().with_context(|| format!("cannot trust `{}`", file.display()))?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
