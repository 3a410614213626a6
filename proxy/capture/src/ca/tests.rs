//! What the authority promises.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use sideguard_types::time::Timestamp;

use super::{Authority, AuthorityError, LeafError};

const NOW: Timestamp = Timestamp(1_795_000_000_000_000); // 2026-11-18

fn authority(dir: &Path) -> Authority {
    Authority::load_or_create(dir, || NOW).expect("an authority")
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("a root");
    Arc::new(roots)
}

/// Whether a client that trusts the authority takes `leaf` for `host` at `now`.
fn trusts(authority: &Authority, leaf: &CertificateDer<'_>, host: &str, now: Timestamp) -> bool {
    let provider = Arc::new(default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(authority), provider).build().expect("a verifier");
    let host = ServerName::try_from(host.to_owned()).expect("a name");
    let now = UnixTime::since_unix_epoch(Duration::from_micros(now.0.unsigned_abs()));
    verifier.verify_server_cert(leaf, &[], &host, &[], now).is_ok()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn an_authority_stays_the_same_and_its_key_is_the_owners() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("state/ca");
    let first = authority(&dir);
    let second = authority(&dir);
    assert_eq!(first.pem(), second.pem());
    assert_eq!((mode(&dir), mode(&dir.join("ca.key")), mode(&dir.join("ca.crt"))), (0o700, 0o600, 0o644));
    assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 2, "no draft stays behind");
    let leaf = second.leaf("api.openai.com").expect("a leaf");
    assert!(trusts(&first, &leaf.cert[0], "api.openai.com", NOW));
}

#[test]
fn many_processes_that_begin_at_once_share_one_authority() {
    let dir = tempfile::tempdir().expect("a directory");
    let pems: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| authority(dir.path()).pem().to_owned())).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(pems.iter().all(|pem| *pem == pems[0]));
}

#[test]
fn a_leaf_is_good_for_its_host_and_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = authority(dir.path());
    for (host, asked) in [
        ("api.openai.com", "API.OpenAI.com."),
        ("localhost", "localhost"),
        ("my_service.internal", "my_service.internal"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]"),
        (
            &format!("{}.{}.example", "a".repeat(63), "b".repeat(63)),
            &format!("{}.{}.example", "a".repeat(63), "b".repeat(63)),
        ),
    ] {
        let leaf = authority.leaf(asked).expect("a leaf");
        assert!(trusts(&authority, &leaf.cert[0], host, NOW), "{host}");
        assert!(!trusts(&authority, &leaf.cert[0], "evil.example", NOW), "{host}");
        leaf.keys_match().expect("the key is the certificate's");
    }
}

#[test]
fn what_is_no_host_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = authority(dir.path());
    for host in
        ["", ".", "*.openai.com", "a b", "a..b", "host:443", "[host]", "a/b", "\u{e9}.example", "nul\0"]
    {
        assert!(matches!(authority.leaf(host), Err(LeafError::Name(_))), "{host:?}");
    }
    assert!(authority.leaf(&"a.".repeat(200)).is_err());
}

#[test]
fn a_leaf_is_kept_and_made_anew_after_two_thirds_of_its_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = Arc::new(AtomicI64::new(NOW.0));
    let clock = Arc::clone(&now);
    let authority = Authority::load_or_create(dir.path(), move || Timestamp(clock.load(Ordering::Relaxed)))
        .expect("an authority");
    let day = |days: i64| NOW.0 + days * 86_400_000_000;
    let first = authority.leaf("a.example").expect("a leaf");
    now.store(day(19), Ordering::Relaxed);
    assert!(Arc::ptr_eq(&first, &authority.leaf("a.example").expect("a leaf")));
    assert!(trusts(&authority, &first.cert[0], "a.example", Timestamp(day(19))));
    now.store(day(21), Ordering::Relaxed);
    let second = authority.leaf("a.example").expect("a leaf");
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(trusts(&authority, &second.cert[0], "a.example", Timestamp(day(50))));
    assert!(!trusts(&authority, &first.cert[0], "a.example", Timestamp(day(31))));
    now.store(day(0), Ordering::Relaxed);
    let third = authority.leaf("a.example").expect("a leaf");
    assert!(trusts(&authority, &third.cert[0], "a.example", NOW), "the clock was set back");
}

#[test]
fn no_two_certificates_share_a_serial_number() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = authority(dir.path());
    let serial = |host: &str| {
        let leaf = authority.leaf(host).expect("a leaf");
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf.cert[0]).expect("a certificate");
        parsed.raw_serial().to_vec()
    };
    assert_ne!(serial("a.example"), serial("b.example"));
    assert!(serial("c.example").len() <= 20);
}

#[test]
fn memory_stays_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = authority(dir.path());
    for n in 0..1_500 {
        authority.leaf(&format!("host-{n}.example")).expect("a leaf");
    }
    authority.leaves.run_pending_tasks();
    assert!(authority.leaves.entry_count() <= super::CACHED);
}

/// The certificate that a client gets from a server which was going to `host`.
fn handshake(authority: &Arc<Authority>, host: &str, name: &str) -> Option<CertificateDer<'static>> {
    let provider = Arc::new(default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(authority.resolver(host).expect("a host"));
    // The certificates begin a day before `NOW`; the client's own clock must lie in their time.
    let mut client = ClientConfig::builder_with_details(provider, Arc::new(Fixed))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots(authority))
        .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets().ok()?;
        wire.clear();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut wire.as_slice()).expect("memory");
        client.process_new_packets().ok()?;
    }
    Some(client.peer_certificates()?.first()?.clone())
}

#[derive(Debug)]
struct Fixed;

impl rustls::time_provider::TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_micros(NOW.0.unsigned_abs())))
    }
}

#[test]
fn a_handshake_succeeds_by_name_and_by_address() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Arc::new(authority(dir.path()));
    assert!(
        handshake(&authority, "10.0.0.7", "api.openai.com").is_some(),
        "the name that the client says wins"
    );
    assert!(
        handshake(&authority, "10.0.0.7", "10.0.0.7").is_some(),
        "no name: where the connection was going"
    );
    assert!(handshake(&authority, "10.0.0.7", "10.0.0.8").is_none());
    assert!(authority.resolver("not a host").is_err());
}

#[test]
fn a_bundle_adds_the_authority_to_the_system() {
    let dir = tempfile::tempdir().expect("a directory");
    let other = tempfile::tempdir().expect("a directory");
    let (authority, system) = (authority(dir.path()), authority(other.path()));
    let count = |bundle: &[u8]| CertificateDer::pem_slice_iter(bundle).filter(Result::is_ok).count();
    assert_eq!(count(&authority.bundle(system.pem().trim_end().as_bytes())), 2);
    assert_eq!(count(&authority.bundle(b"")), 1);
}

#[test]
fn files_that_cannot_be_trusted_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let (key, certificate) = (dir.path().join("ca.key"), dir.path().join("ca.crt"));
    let other = tempfile::tempdir().expect("a directory");
    authority(other.path());
    let load = || Authority::load_or_create(dir.path(), || NOW).map(|_| ());
    load().expect("an authority");
    let pem = fs::read(&certificate).expect("a file");

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a file");
    assert!(matches!(load(), Err(AuthorityError::Exposed(path)) if path == key));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a file");

    fs::copy(other.path().join("ca.crt"), &certificate).expect("a file");
    assert!(matches!(load(), Err(AuthorityError::Mismatch(path)) if path == certificate));
    for junk in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(&certificate, junk).expect("a file");
        assert!(matches!(load(), Err(AuthorityError::Form { path, .. }) if path == certificate), "{junk:?}");
    }

    fs::write(&certificate, &pem).expect("a file");
    let late = NOW.plus(Duration::from_secs(11 * 365 * 86_400));
    assert!(matches!(Authority::load_or_create(dir.path(), move || late), Err(AuthorityError::Expired(_))));
    fs::remove_file(&key).expect("a file");
    assert!(matches!(load(), Err(AuthorityError::KeyMissing(path)) if path == key));
    fs::write(&key, "hello").expect("a file");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a file");
    assert!(matches!(load(), Err(AuthorityError::Form { path, .. }) if path == key));
}

#[test]
fn a_certificate_that_was_lost_is_made_anew_for_the_same_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = authority(dir.path());
    fs::remove_file(dir.path().join("ca.crt")).expect("a file");
    let second = authority(dir.path());
    let leaf = second.leaf("a.example").expect("a leaf");
    assert!(trusts(&first, &leaf.cert[0], "a.example", NOW), "old trust still holds");
}

#[test]
fn openssl_accepts_it_by_the_letter() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = authority(dir.path());
    for (host, by) in [("api.openai.com", "-verify_hostname"), ("10.1.2.3", "-verify_ip")] {
        let leaf = authority.leaf(host).expect("a leaf");
        let seconds = NOW.seconds().to_string();
        let child = Command::new("openssl")
            .args([
                "verify",
                "-x509_strict",
                "-purpose",
                "sslserver",
                "-attime",
                &seconds,
                by,
                host,
                "-CAfile",
            ])
            .arg(dir.path().join("ca.crt"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("SKIPPED: there is no `openssl` here, so nothing was checked with it");
            return;
        };
        let leaf = pem("CERTIFICATE", &leaf.cert[0]);
        child.stdin.take().expect("a pipe").write_all(leaf.as_bytes()).expect("a write");
        let output = child.wait_with_output().expect("openssl");
        assert!(output.status.success(), "{host}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `der` in PEM.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
