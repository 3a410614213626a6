//! The authority behind the webhook's certificate, and when it and the certificate are replaced: pure but for the keys.
//!
//! A new authority comes in three steps, so that no review is refused in between: it is made and told beside the old one; it
//! signs certificates once the API server has been told of it for a while; the old one is told no more when it has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sideguard_types::time::Timestamp;

/// A clock of the API server may be so much behind ours.
const BEHIND: Duration = Duration::from_secs(300);
/// Names of the Secret's entries.
const CA: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const NEXT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const OLD: &str = "old.crt";
const LEAF: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";

/// How long things last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// An authority.
    pub authority: Duration,
    /// A certificate.
    pub certificate: Duration,
    /// How long the API server must have been told of a new authority before it signs.
    pub settle: Duration,
}

impl Default for Ages {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self { authority: 365 * DAY, certificate: 30 * DAY, settle: Duration::from_secs(60) }
    }
}

/// A certificate and its key, both in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// What the Secret holds.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Kept {
    issuer: Pair,
    next: Option<Pair>,
    old: Option<String>,
    pub(super) leaf: Pair,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    /// It cannot be made or signed.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// What was kept is none.
    #[error("`{0}` of the Secret cannot be read")]
    Kept(&'static str),
}

impl Kept {
    /// Reads a Secret's `data`; nothing when an entry that is needed is missing.
    pub(super) fn read(data: &BTreeMap<String, String>) -> Option<Self> {
        let text = |name: &str| {
            let bytes = STANDARD.decode(data.get(name)?).ok()?;
            String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
        };
        let pair = |certificate, key| Some(Pair { certificate: text(certificate)?, key: text(key)? });
        let kept = Self {
            issuer: pair(CA, CA_KEY)?,
            next: pair(NEXT, NEXT_KEY),
            old: text(OLD),
            leaf: pair(LEAF, LEAF_KEY)?,
        };
        kept.is_whole().then_some(kept)
    }

    /// The Secret's `data`; an entry that is to go is nothing.
    pub(super) fn data(&self) -> BTreeMap<&'static str, Option<String>> {
        let Self { issuer, next, old, leaf } = self;
        let next = |pick: fn(&Pair) -> &String| next.as_ref().map(pick);
        [
            (CA, Some(&issuer.certificate)),
            (CA_KEY, Some(&issuer.key)),
            (NEXT, next(|pair| &pair.certificate)),
            (NEXT_KEY, next(|pair| &pair.key)),
            (OLD, old.as_ref()),
            (LEAF, Some(&leaf.certificate)),
            (LEAF_KEY, Some(&leaf.key)),
        ]
        .into_iter()
        .map(|(name, text)| (name, text.map(|text| STANDARD.encode(text))))
        .collect()
    }

    /// What the API server is to trust.
    pub(super) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| next.certificate.as_str());
        let all = [Some(self.issuer.certificate.as_str()), next, self.old.as_deref()];
        all.into_iter().flatten().collect()
    }

    fn is_whole(&self) -> bool {
        let mut all = vec![&self.issuer.certificate, &self.leaf.certificate];
        all.extend(self.next.as_ref().map(|next| &next.certificate));
        all.extend(&self.old);
        all.into_iter().all(|certificate| validity(certificate).is_some())
            && KeyPair::from_pem(&self.issuer.key).is_ok()
            && KeyPair::from_pem(&self.leaf.key).is_ok()
    }
}

/// What is to be kept instead, if anything: `told` says whether the API server trusts the whole bundle.
///
/// # Errors
/// When it cannot be made.
pub(super) fn step(
    kept: Option<&Kept>,
    names: &[String],
    ages: Ages,
    now: Timestamp,
    told: bool,
) -> Result<Option<Kept>, AuthorityError> {
    let Some(kept) = kept else {
        let issuer = authority(ages, now)?;
        let leaf = certificate(&issuer, names, ages, now)?;
        return Ok(Some(Kept { issuer, next: None, old: None, leaf }));
    };
    let span = |text: &str, name| validity(text).ok_or(AuthorityError::Kept(name));
    let issuer = span(&kept.issuer.certificate, CA)?;
    let leaf = span(&kept.leaf.certificate, LEAF)?;
    if let Some(next) = &kept.next {
        let (from, _) = span(&next.certificate, NEXT)?;
        // An authority that has ended signs nothing that anybody takes: better a gap than an end.
        let settled = told && now.since(from) >= ages.settle + BEHIND;
        if settled || issuer.1 <= now {
            let leaf = certificate(next, names, ages, now)?;
            let old = Some(kept.issuer.certificate.clone());
            return Ok(Some(Kept { issuer: next.clone(), next: None, old, leaf }));
        }
    } else if is_late(issuer, ages.authority, now) {
        return Ok(Some(Kept { next: Some(authority(ages, now)?), ..kept.clone() }));
    }
    if is_late(leaf, ages.certificate, now) || !covers(&kept.leaf.certificate, names) {
        let leaf = certificate(&kept.issuer, names, ages, now)?;
        return Ok(Some(Kept { leaf, ..kept.clone() }));
    }
    let ended = |old: &String| validity(old).is_none_or(|(_, until)| until <= now);
    if kept.old.as_ref().is_some_and(ended) {
        return Ok(Some(Kept { old: None, ..kept.clone() }));
    }
    Ok(None)
}

/// Whether two thirds of a life are over.
fn is_late((_, until): (Timestamp, Timestamp), life: Duration, now: Timestamp) -> bool {
    until.since(now) <= life / 3
}

fn der(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

/// From when until when a certificate is good.
fn validity(pem: &str) -> Option<(Timestamp, Timestamp)> {
    let der = der(pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
    let micros = |seconds: i64| Timestamp(seconds.saturating_mul(1_000_000));
    let validity = parsed.validity();
    Some((micros(validity.not_before.timestamp()), micros(validity.not_after.timestamp())))
}

/// Whether a certificate is for all of these names.
fn covers(pem: &str, names: &[String]) -> bool {
    let Some(der) = der(pem) else { return false };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return false };
    let Ok(Some(own)) = parsed.subject_alternative_name() else { return false };
    let has = |name: &String| {
        own.value
            .general_names
            .iter()
            .any(|one| matches!(one, x509_parser::extensions::GeneralName::DNSName(own) if own == name))
    };
    names.iter().all(has)
}

fn lasting(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let moment = |at: Timestamp| {
        let seconds = at.0.div_euclid(1_000_000);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    };
    let behind = i64::try_from(BEHIND.as_micros()).unwrap_or(0);
    params.not_before = moment(Timestamp(now.0.saturating_sub(behind)));
    params.not_after = moment(now.plus(life));
}

fn authority(ages: Ages, now: Timestamp) -> Result<Pair, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // A name of its own: what verifies by names must not take one for the other.
    let name = format!("sideguard-injector {}", sideguard_runtime::id::token(4));
    params.distinguished_name.push(DnType::CommonName, name);
    lasting(&mut params, now, ages.authority);
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn certificate(issuer: &Pair, names: &[String], ages: Ages, now: Timestamp) -> Result<Pair, AuthorityError> {
    let signer = Issuer::from_ca_cert_pem(&issuer.certificate, KeyPair::from_pem(&issuer.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
    lasting(&mut params, now, ages.certificate);
    Ok(Pair { certificate: params.signed_by(&key, &signer)?.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use sideguard_types::time::Timestamp;

    use super::{Ages, Kept, step, validity};

    const HOUR: Duration = Duration::from_secs(3_600);

    fn names() -> Vec<String> {
        vec!["sideguard-injector.sideguard-system.svc".to_owned()]
    }

    fn read(kept: &Kept) -> Option<Kept> {
        let data = kept.data().into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?)));
        Kept::read(&data.collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn over_two_years_there_is_always_a_good_certificate_whose_authority_was_told_before() {
        let (ages, mut now) = (Ages::default(), Timestamp(1_795_000_000_000_000));
        let mut kept = step(None, &names(), ages, now, false).expect("keys").expect("a first one");
        let (mut told, mut leaves, mut authorities) = (kept.bundle(), 1, 1);
        for _ in 0..(2 * 365 * 24) {
            now = now.plus(HOUR);
            // The API server was told of what stood there an hour ago.
            let trusted = told == kept.bundle();
            if let Some(next) = step(Some(&kept), &names(), ages, now, trusted).expect("keys") {
                leaves += usize::from(next.leaf != kept.leaf);
                authorities += usize::from(next.issuer != kept.issuer);
                assert!(told.contains(&next.issuer.certificate), "signed by what nobody was told of");
                assert!(read(&next) == Some(next.clone()), "it reads what it writes");
                kept = next;
            }
            told = kept.bundle();
            let (from, until) = validity(&kept.leaf.certificate).expect("a certificate");
            assert!(from <= now && until.since(now) > Duration::from_secs(86_400), "less than a day is left");
            assert!(told.matches("BEGIN").count() <= 3);
        }
        assert!((30..45).contains(&leaves), "{leaves}");
        assert!((3..=4).contains(&authorities), "one for each two thirds of a year: {authorities}");
    }

    #[test]
    fn what_is_kept_broken_is_made_anew_and_other_names_get_a_certificate() {
        let (ages, now) = (Ages::default(), Timestamp(1_795_000_000_000_000));
        let kept = step(None, &names(), ages, now, false).expect("keys").expect("a first one");
        assert!(step(Some(&kept), &names(), ages, now, true).expect("keys").is_none());
        let other = vec!["other.ns.svc".to_owned()];
        let moved = step(Some(&kept), &other, ages, now, true).expect("keys").expect("another one");
        assert!(moved.issuer == kept.issuer && moved.leaf != kept.leaf);
        for entry in ["ca.crt", "ca.key", "tls.crt", "tls.key"] {
            let data = kept.data().into_iter().map(|(name, text)| {
                (
                    name.to_owned(),
                    if name == entry { "bm9uc2Vuc2U=".to_owned() } else { text.unwrap_or_default() },
                )
            });
            assert!(Kept::read(&data.collect()).is_none(), "{entry}");
        }
    }
}
