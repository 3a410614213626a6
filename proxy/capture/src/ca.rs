//! The sidecar's certificate authority, and the certificates that it shows to agents.

mod files;
mod leaf;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sideguard_types::time::Timestamp;

pub use leaf::LeafError;
use leaf::{Leaf, Minter};

/// How long the authority's certificate is good.
const LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How far before now certificates begin: clocks of containers and hosts differ.
const BACK_DATED: Duration = Duration::from_secs(86_400);
/// Most leaf certificates that are kept.
const CACHED: u64 = 1_024;

/// A clock; the proxy's own in production.
type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// A certificate authority of this sidecar alone: what its agents must trust.
///
/// Its files are `ca.crt` (0644) and `ca.key` (0600) in a directory of the owner's. It signs certificates for
/// single hosts only (path length 0).
pub struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    minter: Minter,
    leaves: Cache<String, Arc<Leaf>>,
    clock: Clock,
}

/// The authority cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be used.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others than the owner may read or write the key.
    #[error("the key `{}` can be used by others: run `chmod 600` on it, or remove it and `ca.crt` to have a new authority", .0.display())]
    Exposed(PathBuf),
    /// A file holds something else.
    #[error("`{}` is not {what}: remove `ca.crt` and `ca.key` to have a new authority", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// The certificate is there and its key is not.
    #[error("`{}` is missing but `ca.crt` is there: put the key back, or remove `ca.crt` to have a new authority", .0.display())]
    KeyMissing(PathBuf),
    /// The certificate belongs to another key.
    #[error("`{}` does not belong to `ca.key`: remove it to have it made anew", .0.display())]
    Mismatch(PathBuf),
    /// The certificate's time has not come or is over.
    #[error("`{}` is not valid now: check the clock, or remove `ca.crt` and `ca.key` to have a new authority", .0.display())]
    Expired(PathBuf),
    /// Making a key or certificate failed.
    #[error("cannot make the authority's key or certificate")]
    Make(#[source] rcgen::Error),
    /// TLS cannot use the key.
    #[error("cannot use the key of the hosts' certificates")]
    Tls(#[source] rustls::Error),
}

impl Authority {
    /// The authority in `dir`, made on first use. `clock` tells the time for the certificates that it signs.
    ///
    /// # Errors
    /// When a file cannot be read or written, the key can be read by others, or the files do not fit each other
    /// or the time.
    pub fn load_or_create(
        dir: &Path,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self, AuthorityError> {
        files::make_dir(dir)?;
        let (key_path, path) = (dir.join("ca.key"), dir.join("ca.crt"));
        let now = clock();
        let key = authority_key(&key_path, &path)?;
        let pem = match files::read(&path)? {
            Some(pem) => pem,
            None => {
                files::place(&path, &certificate(&key, now)?, 0o644)?;
                files::read(&path)?.unwrap_or_default()
            }
        };
        let der = check(&path, &pem, &key, now)?;
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|_| AuthorityError::Form { path, what: "a certificate authority" })?;
        let minter = Minter::new(issuer)?;
        Ok(Self { pem, der, minter, leaves: Cache::new(CACHED), clock: Box::new(clock) })
    }

    /// Its certificate in PEM: what an agent must trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate in DER.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// A certificate for `host`, a DNS name or IP address, with its key: from memory, or made in well under a
    /// millisecond.
    ///
    /// # Errors
    /// When `host` is neither.
    pub fn leaf(&self, host: &str) -> Result<Arc<CertifiedKey>, LeafError> {
        let host = leaf::normal(host)?;
        let now = (self.clock)();
        if let Some(leaf) = self.leaves.get(&host).filter(|leaf| leaf.is_fresh(now)) {
            return Ok(Arc::clone(&leaf.key));
        }
        let leaf = Arc::new(self.minter.mint(&host, now)?);
        let key = Arc::clone(&leaf.key);
        self.leaves.insert(host, leaf);
        Ok(key)
    }

    /// What rustls asks for certificates on one connection: the client's server name decides, and `host`, where
    /// the connection was going, stands in when there is none.
    ///
    /// # Errors
    /// When `host` is neither a DNS name nor an IP address.
    pub fn resolver(self: &Arc<Self>, host: &str) -> Result<Arc<dyn ResolvesServerCert>, LeafError> {
        Ok(Arc::new(Resolver { authority: Arc::clone(self), host: leaf::normal(host)? }))
    }

    /// A PEM bundle of `system` roots and this authority, for `SSL_CERT_FILE` and its like, which replace the
    /// system's roots.
    #[must_use]
    pub fn bundle(&self, system: &[u8]) -> Vec<u8> {
        let mut bundle = system.trim_ascii_end().to_vec();
        if !bundle.is_empty() {
            bundle.push(b'\n');
        }
        bundle.extend_from_slice(self.pem.as_bytes());
        bundle
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("leaves", &self.leaves.entry_count()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Resolver {
    authority: Arc<Authority>,
    host: String,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.authority.leaf(hello.server_name().unwrap_or(&self.host)).ok()
    }
}

/// The key at `path`, made when neither it nor the certificate is there.
fn authority_key(path: &Path, certificate: &Path) -> Result<KeyPair, AuthorityError> {
    let pem = match files::read_secret(path)? {
        Some(pem) => pem,
        None if files::read(certificate)?.is_some() => {
            return Err(AuthorityError::KeyMissing(path.to_owned()));
        }
        None => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Make)?;
            files::place(path, &key.serialize_pem(), 0o600)?;
            // Of two processes that make it at once, both go on with the one that was first.
            files::read_secret(path)?.unwrap_or_default()
        }
    };
    let form = || AuthorityError::Form { path: path.to_owned(), what: "an EC P-256 key in PEM" };
    let key = KeyPair::from_pem(&pem).map_err(|_| form())?;
    if key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256 { Ok(key) } else { Err(form()) }
}

/// A new certificate for the authority's key. The key's own identifier is in its name, so that several
/// authorities in one trust store can be told apart.
fn certificate(key: &KeyPair, now: Timestamp) -> Result<String, AuthorityError> {
    let mut params = CertificateParams::default();
    let id = params.key_identifier(key);
    let id: String = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Sideguard CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(leaf::serial());
    params.not_before = leaf::date(leaf::before(now, BACK_DATED)).into();
    params.not_after = leaf::date(now.plus(LIFE)).into();
    params.self_signed(key).map(|certificate| certificate.pem()).map_err(AuthorityError::Make)
}

/// The certificate in `pem`, if it is an authority of `key` and valid at `now`.
fn check(
    path: &Path,
    pem: &str,
    key: &KeyPair,
    now: Timestamp,
) -> Result<CertificateDer<'static>, AuthorityError> {
    use rustls::pki_types::pem::PemObject;
    let form = || AuthorityError::Form { path: path.to_owned(), what: "a certificate authority in PEM" };
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| form())?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| form())?;
    if !parsed.is_ca() {
        return Err(form());
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(AuthorityError::Mismatch(path.to_owned()));
    }
    let validity = parsed.validity();
    if now.seconds() < validity.not_before.timestamp() || now.seconds() >= validity.not_after.timestamp() {
        return Err(AuthorityError::Expired(path.to_owned()));
    }
    Ok(der)
}
