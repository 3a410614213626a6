//! Certificates for single hosts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use sideguard_types::time::Timestamp;

use super::{AuthorityError, BACK_DATED};

/// How long a host's certificate is good.
const LIFE: Duration = Duration::from_secs(30 * 86_400);
/// When it is made anew: after two thirds of that.
const RENEWED: Duration = Duration::from_secs(20 * 86_400);
/// Longest common name (RFC 5280, appendix A.1, `ub-common-name`).
const COMMON_NAME: usize = 64;

/// No certificate can be had for a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// It is neither a DNS name nor an IP address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Name(String),
    /// Signing failed.
    #[error("cannot sign a certificate for `{host}`")]
    Sign {
        /// The host.
        host: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// A certificate for one host.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) key: Arc<CertifiedKey>,
    made: Timestamp,
}

impl Leaf {
    /// Whether it may be shown at `now`. One from after `now` is not: the clock was set back.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        self.made <= now && now.since(self.made) < RENEWED
    }
}

/// Signs certificates. All share one key, made anew in each process: it is never written anywhere.
pub(super) struct Minter {
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
}

impl Minter {
    pub(super) fn new(issuer: Issuer<'static, KeyPair>) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Make)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = any_ecdsa_type(&der).map_err(AuthorityError::Tls)?;
        Ok(Self { issuer, key, signing })
    }

    /// A certificate for `host`, as [`normal`] returned it.
    pub(super) fn mint(&self, host: &str, now: Timestamp) -> Result<Leaf, LeafError> {
        let name = || LeafError::Name(host.to_owned());
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(Ia5String::try_from(host).map_err(|_| name())?),
        }];
        // Some old clients want a subject; a longer host has it in its alternative name alone.
        params.distinguished_name = DistinguishedName::new();
        let common_name = if host.len() <= COMMON_NAME { host } else { "Sideguard" };
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        params.not_before = date(before(now, BACK_DATED)).into();
        params.not_after = date(now.plus(LIFE)).into();
        let certificate = params
            .signed_by(&self.key, &self.issuer)
            .map_err(|source| LeafError::Sign { host: host.to_owned(), source })?;
        let key = CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(&self.signing));
        Ok(Leaf { key: Arc::new(key), made: now })
    }
}

/// `host` as certificates and their cache know it: lower case, no final dot, no brackets.
pub(super) fn normal(host: &str) -> Result<String, LeafError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    match DnsName::try_from(name) {
        Ok(name) => Ok(name.as_ref().to_ascii_lowercase()),
        Err(_) => Err(LeafError::Name(host.to_owned())),
    }
}

/// A serial number of 127 random bits (RFC 5280, 4.1.2.2: positive, unique, at most 20 bytes). The usual
/// one, a hash of the key, would be the same for all hosts, which browsers and Java refuse.
pub(super) fn serial() -> SerialNumber {
    let number = (rand::random::<u128>() >> 1).max(1);
    SerialNumber::from_slice(&number.to_be_bytes())
}

/// The moment `earlier` before `now`.
pub(super) fn before(now: Timestamp, earlier: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(earlier.as_micros()).unwrap_or(i64::MAX)))
}

/// A moment in the form that certificates take: from 1970 to the end of 9999 (RFC 5280, 4.1.2.5).
pub(super) fn date(at: Timestamp) -> SystemTime {
    const LAST: u64 = 253_402_300_799;
    UNIX_EPOCH + Duration::from_secs(u64::try_from(at.seconds()).unwrap_or(0).min(LAST))
}
