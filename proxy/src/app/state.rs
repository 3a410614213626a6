//! The state directory: CA, roots, record, tokens, and the file that tells where the ports are.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use rustls::ServerConfig;
use sideguard_capture::ca::Authority;
use sideguard_capture::java;
use sideguard_policy::ledger::{Ledger, Subject};
use sideguard_record::read::{self, Filter};
use sideguard_record::{Log, Settings, load_or_create_key};
use sideguard_runtime::ports::{self, place};
use sideguard_runtime::secret::Secret;
use sideguard_runtime::{clock, id};
use sideguard_types::audit::Amounts;
use sideguard_types::call::Caller;
use sideguard_types::resource::ProxySpec;

use super::sums::{self, Calls, Charge, Open};
use crate::roots;

const SEGMENT_BYTES: u64 = 64 << 20;
/// Smallest segment under a small bound.
const SMALLEST_SEGMENT: u64 = 64 << 10;
/// Bound of a fleet's sidecar's record when its configuration has none.
const MAX_SPOOL: u64 = 1 << 30;
/// The longest window that a budget can have, and a day.
const LOOK_BACK: Duration = Duration::from_secs(32 * 86_400);

/// What the state directory holds, opened.
pub(super) struct Files {
    pub(super) authority: Arc<Authority>,
    pub(super) server_tls: Arc<ServerConfig>,
    /// PEM file with the roots that upstreams are verified against.
    pub(super) roots: PathBuf,
    pub(super) log: Log,
    /// The key that the record is signed with.
    pub(super) key: Secret<SigningKey>,
    /// The ledger with the sums that the record tells of.
    pub(super) ledger: Ledger,
}

/// Makes the state directory when it is not there.
pub(super) fn make(state: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state);
    made.map_err(|error| format!("state: `{}`: {error}", state.display()))
}

/// Opens the state directory, making what is not there.
pub(super) fn open(
    state: &Path,
    config: &ProxySpec,
    ledger: Ledger,
    agent: Option<&Caller>,
) -> Result<Files, String> {
    let failed = |what: &Path, error: &dyn std::error::Error| format!("state: `{}`: {error}", what.display());
    make(state)?;
    let ca = state.join("ca");
    let authority =
        Authority::load_or_create(&ca, clock::now).map_err(|error| failed(&ca, &chain(&error)))?;
    let system = roots::load(&config.tls.trust)?;
    let bundle = authority.bundle(system.as_bytes());
    let (roots, agents) = (ca.join("roots.pem"), ca.join("bundle.pem"));
    // An empty file would not load; the sidecar's own authority signs nothing that is not its own.
    let trusted = if system.is_empty() { bundle.as_slice() } else { system.as_bytes() };
    place(&roots, trusted, 0o600).map_err(|error| failed(&roots, &error))?;
    place(&agents, &bundle, 0o644).map_err(|error| failed(&agents, &error))?;
    if let Some(dir) = &config.tls.publish {
        publish(dir, &bundle).map_err(|error| failed(dir, &error))?;
    }
    let authority = Arc::new(authority);
    let resolver = authority.resolver("sideguard.invalid").map_err(|error| failed(&ca, &error))?;
    let mut server_tls = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
    server_tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let spool = state.join("spool");
    let key_path = state.join("record.key");
    let key = load_or_create_key(&key_path).map_err(|error| failed(&key_path, &chain(&error)))?;
    let own = Secret::new(key.clone());
    let fleet_bound = config.control.is_some().then_some(MAX_SPOOL);
    let max_bytes = config.audit.max_spool.map(|size| size.0).or(fleet_bound);
    // Only whole segments go: small ones under a small bound, so that there is something to go.
    let segment_bytes =
        max_bytes.map_or(SEGMENT_BYTES, |bound| (bound / 16).clamp(SMALLEST_SEGMENT, SEGMENT_BYTES));
    let settings = Settings {
        dir: spool.clone(),
        sidecar: sidecar_id(state)?,
        sync: config.audit.sync,
        segment_bytes,
        max_bytes,
    };
    let (log, recovered) =
        Log::open(settings, key, clock::now()).map_err(|error| failed(&spool, &chain(&error)))?;
    let ledger = if recovered.last > 0 {
        restored(state, ledger, agent).map_err(|error| failed(&spool, &error))?
    } else {
        ledger
    };
    Ok(Files { authority, server_tls: Arc::new(server_tls), roots, log, key: own, ledger })
}

/// Writes the bundle where agents of other containers find it, in both its forms.
fn publish(dir: &Path, bundle: &[u8]) -> std::io::Result<()> {
    let store = java::store(&String::from_utf8_lossy(bundle));
    place(&dir.join("truststore.jks"), &store, 0o644)?;
    place(&dir.join("bundle.pem"), bundle, 0o644)
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> std::io::Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    std::io::Error::other(text)
}

/// Rebuilds the budgets' sums from the record: what was settled, and in full what was never heard of again.
fn restored(state: &Path, mut ledger: Ledger, agent: Option<&Caller>) -> std::io::Result<Ledger> {
    let now = clock::now();
    let since = sideguard_types::time::Timestamp(
        now.0.saturating_sub(i64::try_from(LOOK_BACK.as_micros()).unwrap_or(i64::MAX)),
    );
    let filter = Filter { since: Some(since), ..Filter::default() };
    let mut calls = Calls::default();
    for earlier in sums::read(state, &mut calls)?.iter().filter(|charge| charge.time >= since) {
        charge(&mut ledger, agent, earlier);
    }
    for entry in read::query(&state.join("spool"), &filter)? {
        if let Some(ended) = calls.take(&entry?.record) {
            charge(&mut ledger, agent, &ended);
        }
    }
    for Open { who, time, reserved, tools } in calls.into_open() {
        charge(&mut ledger, agent, &Charge { who, time, used: reserved, calls: tools.max(1) });
    }
    Ok(ledger)
}

fn charge(ledger: &mut Ledger, agent: Option<&Caller>, charge: &Charge) {
    let none = std::collections::BTreeMap::new();
    let Charge { who, time, used, calls } = charge;
    let labels = agent.filter(|agent| agent.agent == who.agent).map_or(&none, |agent| &agent.labels);
    let who = Subject {
        tenant: &who.tenant,
        agent: &who.agent,
        labels,
        session: who.session.as_deref(),
        model: who.model.as_deref(),
    };
    ledger.restore(&who, *used, *time);
    for _ in 1..*calls {
        ledger.restore(&who, Amounts::default(), *time);
    }
}

/// Puts aside what budgets have to know of complete segments up to record `upto`, so that these may be removed.
///
/// # Errors
/// When that cannot be done.
pub(crate) fn put_aside(state: &Path, upto: u64) -> std::io::Result<()> {
    sums::write(state, upto, LOOK_BACK)
}

/// The sidecar's id: made once, kept in the state directory.
pub(super) fn sidecar_id(state: &Path) -> Result<String, String> {
    kept(&state.join("sidecar.id"), || id::new(clock::now()), 0o644)
}

/// The token that changes on the admin port need.
pub(super) fn admin_token(state: &Path) -> Result<String, String> {
    kept(&state.join("admin.token"), || id::token(24), 0o600)
}

fn kept(path: &Path, make: impl FnOnce() -> String, mode: u32) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("state: `{}`: {error}", path.display());
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let text = make();
    place(path, format!("{text}\n").as_bytes(), mode).map_err(failed)?;
    Ok(text)
}

/// Tells where the ports are, for whoever waits for them.
pub(super) fn write_ports(
    state: &Path,
    outbound: SocketAddr,
    admin: SocketAddr,
    inbound: &[String],
) -> Result<(), String> {
    let mut all = vec![("outbound", outbound.to_string()), ("admin", admin.to_string())];
    if !inbound.is_empty() {
        all.push(("inbound", inbound.join(",")));
    }
    ports::announce(state, &all)
        .map_err(|error| format!("state: `{}`: {error}", state.join(ports::FILE).display()))
}

/// Takes the ports away when they close.
pub(super) fn remove_ports(state: &Path) {
    // They may never have been written.
    let _ = ports::withdraw(state, &["outbound", "admin", "inbound"]);
}
