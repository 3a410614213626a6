//! A sidecar that belongs to a fleet: enrols once, waits for what control has to say, puts new generations in force, reports.
//!
//! Control is not in the way of any call. What it said last is kept in the state directory, signature and all, and holds
//! when it cannot be reached: for reads as long as `control.maxStale`, for writes as long as `control.maxStaleWrites`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sideguard_client::{Client, ClientError};
use sideguard_policy::source::Source;
use sideguard_runtime::clock;
use sideguard_runtime::secret::Secret;
use sideguard_types::call::{Caller, Verb};
use sideguard_types::control::{Enrol, Enrolled, Kills, Refused, Report, Signed};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::Control;
use sideguard_types::time::Timestamp;
use tokio::sync::{Notify, watch};

use crate::app::Sidecar;

/// How often a sidecar reports when nothing changes.
const REPORT: Duration = Duration::from_secs(5);
/// First pause after control could not be reached; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Name of the file with what enrolment gave.
const IDENTITY: &str = "control.json";
/// Name of the file with the last generation.
const GENERATION: &str = "generation.json";
/// Name of the file that says when control was heard of last.
const HEARD: &str = "control.heard";

/// What a sidecar knows of its fleet.
#[derive(Debug)]
pub(crate) struct Fleet {
    rules: Control,
    state: PathBuf,
    sidecar: String,
    /// Texts of the generation in force.
    sources: ArcSwap<Vec<Source>>,
    generation: AtomicU64,
    refused: Mutex<Option<Refused>>,
    kills: ArcSwap<Kills>,
    /// When control was heard of last, in microseconds.
    heard: AtomicI64,
    /// The tenant that it is enrolled for.
    tenant: ArcSwap<String>,
    /// Told when there is something to report.
    changed: Notify,
    /// Control as this sidecar may ask it, once it is enrolled.
    joined: watch::Sender<Option<Client>>,
    /// The last record that control has acknowledged, since the start.
    pub(crate) acknowledged: watch::Sender<u64>,
}

/// Why a generation is not taken.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("its signature is not control's")]
    Signature,
    #[error("it is generation {got}, and {have} is in force already: generations only go up")]
    Older { got: u64, have: u64 },
    #[error("{0}")]
    Policy(String),
}

impl Fleet {
    /// What is known from earlier: the last generation, if its signature still holds.
    ///
    /// # Errors
    /// When a file of the state directory cannot be read, or holds something else.
    pub(crate) fn open(rules: Control, state: &Path, sidecar: String) -> Result<Self, String> {
        let fleet = Self {
            rules,
            state: state.to_owned(),
            sidecar,
            sources: ArcSwap::default(),
            generation: AtomicU64::new(0),
            refused: Mutex::new(None),
            kills: ArcSwap::default(),
            heard: AtomicI64::new(0),
            tenant: ArcSwap::default(),
            changed: Notify::new(),
            joined: watch::Sender::new(None),
            acknowledged: watch::Sender::new(0),
        };
        let (identity, last) = (fleet.identity()?, read::<Signed>(&state.join(GENERATION))?);
        if let (Some(identity), Some(last)) = (identity, last) {
            verify(&identity.signer, &last).map_err(|error| format!("`{GENERATION}`: {error}"))?;
            fleet.sources.store(Arc::new(sources(&last)));
            fleet.generation.store(last.number, Ordering::Release);
            fleet.tenant.store(Arc::new(identity.tenant));
            // What lies ahead was written before the clock was set back: it says nothing of how long ago that was.
            let heard = read::<Timestamp>(&state.join(HEARD))?.filter(|heard| *heard <= clock::now());
            fleet.heard.store(heard.unwrap_or_default().0, Ordering::Release);
        }
        Ok(fleet)
    }

    /// The sidecar's id.
    pub(crate) fn id(&self) -> &str {
        &self.sidecar
    }

    /// Control, as soon as this sidecar is enrolled there.
    pub(crate) async fn joined(&self) -> Client {
        let mut joined = self.joined.subscribe();
        loop {
            if let Some(client) = joined.borrow_and_update().clone() {
                return client;
            }
            // The sender is this fleet's own: it lives as long as whoever waits here.
            if joined.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Texts of the generation in force.
    pub(crate) fn sources(&self) -> Vec<Source> {
        self.sources.load().to_vec()
    }

    /// Why calls of an agent may not go on now, if so.
    pub(crate) fn stops(&self, caller: &Caller, verb: Verb) -> Option<Refusal> {
        if let Some(scope) =
            self.kills.load().scopes.iter().find(|scope| scope.holds(&caller.tenant, &caller.agent))
        {
            return Some(Refusal::new(
                Code::Killed,
                "kill",
                format!("calls of `{scope}` are stopped by the kill switch"),
            ));
        }
        if self.generation.load(Ordering::Acquire) == 0 {
            let mut refusal =
                Refusal::new(Code::PolicyUnavailable, "control", "no policy has come from control yet");
            refusal.hint = Some(format!("is `{}` reachable, and is anything applied there?", self.rules.url));
            return Some(refusal);
        }
        if *caller.tenant != **self.tenant.load() {
            let reason = format!("this sidecar is enrolled for another tenant than `{}`", caller.tenant);
            return Some(Refusal::new(Code::Unauthenticated, "control", reason));
        }
        let silent = self.silent();
        let most = if verb == Verb::Read { self.rules.max_stale } else { self.rules.max_stale_writes };
        (silent > most.0).then(|| {
            let what = if verb == Verb::Read { "reads" } else { "writes" };
            let reason = format!("control has not been heard of for longer than {most}: {what} have to wait");
            Refusal::new(Code::PolicyUnavailable, "control", reason)
        })
    }

    fn identity(&self) -> Result<Option<Enrolled>, String> {
        read(&self.state.join(IDENTITY))
    }

    fn silent(&self) -> Duration {
        clock::now().since(Timestamp(self.heard.load(Ordering::Acquire)))
    }

    fn alive(&self) {
        let now = clock::now();
        self.heard.store(now.0, Ordering::Release);
        // After a restart without control it counts as silent since the time before.
        if let Err(error) = keep(&self.state.join(HEARD), &now) {
            tracing::warn!(%error, "cannot keep when control was heard of");
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, String> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| format!("`{}`: {error}: remove it to start anew", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("`{}`: {error}", path.display())),
    }
}

fn keep(path: &Path, what: &impl Serialize) -> Result<(), String> {
    let bytes = serde_json::to_vec(what).map_err(|error| error.to_string())?;
    sideguard_runtime::ports::place(path, &bytes, 0o600)
        .map_err(|error| format!("`{}`: {error}", path.display()))
}

fn sources(signed: &Signed) -> Vec<Source> {
    signed.documents.iter().map(|text| Source::new(text.name.clone(), text.text.clone())).collect()
}

fn verify(signer: &str, signed: &Signed) -> Result<(), Unfit> {
    let key: [u8; 32] = unhex(signer).ok_or(Unfit::Signature)?;
    let signature: [u8; 64] = unhex(&signed.signature).ok_or(Unfit::Signature)?;
    let key = VerifyingKey::from_bytes(&key).map_err(|_| Unfit::Signature)?;
    let signature = Signature::from_bytes(&signature);
    key.verify(&signed.message(), &signature).map_err(|_| Unfit::Signature)
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != N * 2 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Belongs to the fleet until the task is dropped.
pub(crate) async fn belong(sidecar: Arc<Sidecar>) {
    let Some(fleet) = &sidecar.fleet else { return };
    let mut pause = PAUSE;
    loop {
        match session(&sidecar, fleet).await {
            Ok(never) => match never {},
            Err(error) => {
                tracing::warn!(%error, "control is out of reach");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        if fleet.silent() < REPORT {
            pause = PAUSE;
        }
    }
}

/// Nothing: a session ends in an error or not at all.
enum Never {}

async fn session(sidecar: &Arc<Sidecar>, fleet: &Fleet) -> Result<Never, String> {
    let told = |error: ClientError| error.to_string();
    let client = Client::new(&fleet.rules.url, None, None).map_err(told)?;
    let identity = enrolled(fleet, &client).await?;
    fleet.tenant.store(Arc::new(identity.tenant.clone()));
    let client = client.with_key(&Secret::new(identity.key.clone())).map_err(told)?;
    fleet.joined.send_replace(Some(client.clone()));
    tokio::try_join!(follow(sidecar, fleet, &client, &identity), tell(sidecar, fleet, &client))
        .map(|(never, _)| never)
}

/// Who this sidecar is, from enrolment or from earlier.
async fn enrolled(fleet: &Fleet, client: &Client) -> Result<Enrolled, String> {
    if let Some(known) = fleet.identity()? {
        return Ok(known);
    }
    let token = fleet
        .rules
        .token
        .as_ref()
        .ok_or("`control.token` is needed to enrol: `sideguard token` makes one")?;
    let text =
        fs::read_to_string(&token.file).map_err(|error| format!("`{}`: {error}", token.file.display()))?;
    let ask = Enrol { token: text.trim().to_owned(), sidecar: fleet.sidecar.clone() };
    let identity = client.enrol(&ask).await.map_err(|error| format!("enrolment: {error}"))?;
    keep(&fleet.state.join(IDENTITY), &identity)?;
    Ok(identity)
}

/// Waits for what is new.
async fn follow(
    sidecar: &Arc<Sidecar>,
    fleet: &Fleet,
    client: &Client,
    identity: &Enrolled,
) -> Result<Never, String> {
    loop {
        let have = fleet.generation.load(Ordering::Acquire);
        let passed = fleet.refused.lock().as_ref().map_or(have, |refused| refused.generation.max(have));
        let feed = client.feed(passed, fleet.kills.load().number).await.map_err(|error| error.to_string())?;
        fleet.alive();
        if let Some(kills) = feed.kills {
            tracing::warn!(number = kills.number, stopped = kills.scopes.len(), "kill switches changed");
            fleet.kills.store(Arc::new(kills));
            sidecar.told("kills");
        }
        if let Some(signed) = feed.generation {
            let number = signed.number;
            let taken = take(sidecar, fleet, identity, signed).await;
            if let Err(error) = taken {
                tracing::error!(generation = number, %error, "generation refused: the old one stays in force");
                *fleet.refused.lock() = Some(Refused { generation: number, reason: error.to_string() });
            }
            fleet.changed.notify_one();
        }
    }
}

/// Puts a generation in force.
async fn take(
    sidecar: &Arc<Sidecar>,
    fleet: &Fleet,
    identity: &Enrolled,
    signed: Signed,
) -> Result<(), Unfit> {
    if signed.tenant != identity.tenant {
        return Err(Unfit::Signature);
    }
    verify(&identity.signer, &signed)?;
    let have = fleet.generation.load(Ordering::Acquire);
    if signed.number <= have {
        return Err(Unfit::Older { got: signed.number, have });
    }
    let before = fleet.sources.swap(Arc::new(sources(&signed)));
    let own = Arc::clone(sidecar);
    // Thousands of rules take a while to compile: not on a thread that serves calls.
    let built = tokio::task::spawn_blocking(move || own.reload()).await;
    let built =
        built.map_err(|error| error.to_string()).and_then(|built| built.map_err(|error| error.to_string()));
    if let Err(error) = built {
        fleet.sources.store(before);
        return Err(Unfit::Policy(error));
    }
    fleet.generation.store(signed.number, Ordering::Release);
    *fleet.refused.lock() = None;
    // In force it is; after a restart without control the one before would be.
    if let Err(error) = keep(&fleet.state.join(GENERATION), &signed) {
        tracing::error!(%error, "the generation cannot be kept");
    }
    Ok(())
}

/// Tells control how this sidecar stands.
async fn tell(sidecar: &Arc<Sidecar>, fleet: &Fleet, client: &Client) -> Result<Never, String> {
    loop {
        let report = report(sidecar, fleet);
        client.report(&report).await.map_err(|error| error.to_string())?;
        fleet.alive();
        tokio::select! {
            () = fleet.changed.notified() => {}
            () = tokio::time::sleep(REPORT) => {}
        }
    }
}

fn report(sidecar: &Sidecar, fleet: &Fleet) -> Report {
    let (calls, denied) = sidecar.metrics.counts();
    Report {
        agents: sidecar.agents().iter().map(|agent| agent.agent.clone()).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: fleet.generation.load(Ordering::Acquire),
        digest: sidecar.policy.load().set.digest().to_string(),
        refused: fleet.refused.lock().clone(),
        ready: sidecar.log.healthy(),
        calls,
        denied,
        breakers: sidecar.unhealthy_breakers(),
    }
}
