//! The way to control: enrolment, sessions one after another, reports, and the farewell.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sideguard_client::{Client, ClientError, Identity};
use sideguard_runtime::chance;
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_runtime::secret::Secret;
use sideguard_types::control::feed::Leave;
use sideguard_types::control::{Enrol, Enrolled};
use sideguard_types::resource::Control;

use super::follow::{self, Way};
use super::{Fleet, Link, kept, passport, report};
use crate::app::Sidecar;

/// How often a sidecar reports when nothing changes.
const REPORT: Duration = Duration::from_secs(5);
/// Reports that follow a change come within this time: a whole fleet's are not to come at once.
const SPREAD: Duration = Duration::from_millis(250);
/// First pause after control could not be reached; it doubles up to [`LONGEST_PAUSE`]. Each is cut short by chance.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Nothing: a session ends in an error or not at all.
pub(super) enum Never {}

/// Why a session ends.
enum Ended {
    /// The key is halfway to its end.
    Renew,
    /// Control is out of reach, or refuses this sidecar.
    Away(String),
}

impl From<String> for Ended {
    fn from(error: String) -> Self {
        Self::Away(error)
    }
}

/// Belongs to the fleet until the task is dropped.
pub(crate) async fn belong(sidecar: Arc<Sidecar>) {
    let Some(fleet) = &sidecar.fleet else { return };
    let (mut pause, mut renew) = (PAUSE, false);
    loop {
        let since = Stopwatch::start();
        match session(&sidecar, fleet, std::mem::take(&mut renew)).await {
            Ok(never) => match never {},
            Err(Ended::Renew) => {
                renew = true;
                continue;
            }
            Err(Ended::Away(error)) => {
                tracing::warn!(%error, "control is out of reach");
                *fleet.trouble.lock() = Some(error);
            }
        }
        if since.elapsed() > LONGEST_PAUSE {
            pause = PAUSE;
        }
        tokio::time::sleep(chance::within(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn session(sidecar: &Arc<Sidecar>, fleet: &Fleet, renew: bool) -> Result<Never, Ended> {
    let told = |error: ClientError| error.to_string();
    let client = client(&fleet.rules)?.anywhere();
    let identity = enrolled(fleet, &client, renew).await?;
    fleet.enrolled(&identity);
    fleet.passports.trust(&identity);
    let client = client.with_key(&Secret::new(identity.key.clone())).map_err(told)?;
    let secret = Secret::new(Sha256::digest(identity.key.as_bytes()).into());
    fleet.link.send_replace(Some(Arc::new(Link { client: client.clone(), secret })));
    let way = Way { sidecar, fleet, client: &client, identity: &identity };
    let belonging = async {
        tokio::try_join!(
            follow::follow(way),
            tell(sidecar, fleet, &client, &identity),
            passport::keep(sidecar, fleet, &client, &identity),
        )
    };
    tokio::select! {
        ended = belonging => Ok(ended?.0),
        () = renewal(&identity) => Err(Ended::Renew),
    }
}

/// Waits until it is time to ask for another key. A clock that runs ahead of control's makes it no busy time.
async fn renewal(identity: &Enrolled) {
    const SHORTEST: Duration = Duration::from_secs(60);
    match identity.renew {
        Some(renew) => {
            let left = u64::try_from(renew.0.saturating_sub(clock::now().0)).unwrap_or(0);
            tokio::time::sleep(Duration::from_micros(left).max(SHORTEST)).await;
        }
        None => std::future::pending().await,
    }
}

/// Whether an address is one that strangers stand on the way to: plain HTTP, and not to this machine.
fn is_open(address: &str) -> bool {
    let Some(rest) = address.trim().strip_prefix("http://") else { return false };
    let host = rest.split('/').next().unwrap_or_default();
    !["127.", "localhost", "[::1]"].iter().any(|own| host.starts_with(own))
}

/// A client of control without a key, with the files that its TLS needs.
fn client(rules: &Control) -> Result<Client, String> {
    if rules.addresses().split(',').any(is_open) {
        tracing::warn!(
            "control is asked without TLS over a network: who holds the line can forge its answers"
        );
    }
    let read = |file: &Option<PathBuf>| {
        let read = |file: &PathBuf| fs::read(file).map_err(|error| format!("`{}`: {error}", file.display()));
        file.as_ref().map(read).transpose()
    };
    let own = match (read(&rules.certificate)?, read(&rules.key)?) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key: Secret::new(key) }),
        (None, None) => None,
        _ => return Err("`control.certificate` and `control.key` go together".to_owned()),
    };
    Client::with_identity(&rules.addresses(), None, read(&rules.ca)?.as_deref(), own.as_ref())
        .map_err(|error| error.to_string())
}

/// Who this sidecar is, from enrolment or from earlier. It enrols again when it is time to, or when control has refused its key.
async fn enrolled(fleet: &Fleet, client: &Client, renew: bool) -> Result<Enrolled, String> {
    let known = kept::identity(&fleet.state)?;
    let disowned = fleet.disowned.load(Ordering::Acquire);
    let Some(known) = known else { return enrol(fleet, client, None).await };
    // A token that was good for one enrolment is not worth another try.
    if known.renew.is_none() || !(disowned || renew) {
        return Ok(known);
    }
    match enrol(fleet, client, Some(&known)).await {
        Ok(identity) => {
            fleet.disowned.store(false, Ordering::Release);
            Ok(identity)
        }
        Err(error) if disowned => Err(error),
        Err(error) => {
            tracing::warn!(error, "cannot enrol again now: the key is good for a while yet");
            Ok(known)
        }
    }
}

/// Enrols, as nobody else than before.
async fn enrol(fleet: &Fleet, client: &Client, before: Option<&Enrolled>) -> Result<Enrolled, String> {
    let token = fleet
        .rules
        .token
        .as_ref()
        .ok_or("`control.token` is needed to enrol: `sideguard token` makes one")?;
    // Read at each use: a service account's token is another one every hour.
    let text =
        fs::read_to_string(&token.file).map_err(|error| format!("`{}`: {error}", token.file.display()))?;
    // Kept before it is told: when the answer is lost, the same is asked again.
    let key = kept::own_key(&fleet.state)?;
    let ask = Enrol { token: text.trim().to_owned(), sidecar: fleet.sidecar.clone(), key: Some(key) };
    let identity = client.enrol(&ask).await.map_err(|error| format!("enrolment: {error}"))?;
    if before.is_some_and(|known| (&known.signer, &known.tenant) != (&identity.signer, &identity.tenant)) {
        let reason = "enrolment: this is another control service, or another tenant, than before: start anew with an empty \
            state directory";
        return Err(reason.to_owned());
    }
    kept::keep_identity(&fleet.state, &identity)?;
    Ok(identity)
}

/// Tells control how this sidecar stands.
async fn tell(
    sidecar: &Arc<Sidecar>,
    fleet: &Fleet,
    client: &Client,
    identity: &Enrolled,
) -> Result<Never, String> {
    loop {
        let (report, asked) = (report(sidecar, fleet), Stopwatch::start());
        // The feed notices whether control is there; a store that is away for a moment does not end it.
        match client.report(&report).await {
            Ok(Some(beat)) => fleet.beat(identity, &beat, &report.nonce, asked),
            Ok(None) => {}
            Err(ClientError::Refused(problem)) if problem.status >= 500 => {
                tracing::warn!(error = problem.detail, "control takes no report now");
            }
            Err(error) => {
                fleet.heed(&error);
                return Err(error.to_string());
            }
        }
        tokio::select! {
            () = fleet.changed.notified() => tokio::time::sleep(chance::within(SPREAD)).await,
            () = tokio::time::sleep(REPORT) => {}
        }
    }
}

/// Says farewell. With `forget` the key ends too.
pub(crate) async fn leave(sidecar: &Sidecar, forget: bool) {
    let Some(fleet) = &sidecar.fleet else { return };
    let Ok(Some(identity)) = kept::identity(&fleet.state) else { return };
    let client = client(&fleet.rules)
        .and_then(|client| client.with_key(&Secret::new(identity.key)).map_err(|error| error.to_string()));
    let Ok(client) = client else { return };
    if let Err(error) = client.leave(&Leave { forget }).await {
        tracing::warn!(%error, "control has not heard the farewell: it will count this sidecar as lost");
    }
}
