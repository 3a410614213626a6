//! A sidecar that belongs to a fleet: enrols once, follows what control has in force, puts new generations in force, reports.
//!
//! Control is not in the way of any call. What it said last is kept in the state directory, signature and all, and holds
//! when it cannot be reached: for reads as long as `control.maxStale`, for writes as long as `control.maxStaleWrites`.
//!
//! Control's word is what its key has signed, the one that enrolment told: generations and kill switches, of which only
//! newer ones are taken, and [`Beat`]s, which answer a nonce. Only a beat that names what this sidecar has counts as having
//! heard of control: whoever holds the line can neither change policy, nor hold it back unnoticed, nor bring an old one.

mod follow;
mod kept;
mod link;
mod passport;
mod taking;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use sideguard_client::{Client, ClientError};
use sideguard_policy::source::{self, Source};
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_runtime::secret::Secret;
use sideguard_types::call::{Caller, Verb};
use sideguard_types::control::feed::{Beat, Has};
use sideguard_types::control::{Enrolled, Kills, Lately, Refused, Report, Scope, Signed};
use sideguard_types::refusal::{Code, Refusal};
use sideguard_types::resource::{Control, Spec};
use sideguard_types::time::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};

use crate::app::Sidecar;
use crate::metrics::Counts;

pub(crate) use link::{belong, leave};

/// Most calls that wait for an approval at once.
const HOLDS: usize = 128;

/// Most breakers that a report names.
const BREAKERS: usize = 100;
/// Most open delegations that a report names.
const DELEGATIONS: usize = 200;
/// Bytes of chance in a nonce.
const NONCE: usize = 16;
/// The shortest time that rates are taken over.
const WINDOW: Duration = Duration::from_secs(4);
/// How often it is kept when control was heard of.
const KEEP_HEARD: Duration = Duration::from_secs(1);

/// What a sidecar knows of its fleet.
#[derive(Debug)]
pub(crate) struct Fleet {
    rules: Control,
    state: PathBuf,
    sidecar: String,
    /// Texts of the generation in force.
    sources: ArcSwap<Vec<Source>>,
    generation: AtomicU64,
    /// When the generation in force came into force at control, in microseconds.
    since: AtomicI64,
    refused: Mutex<Option<NotTaken>>,
    kills: watch::Sender<Kills>,
    /// When control was heard of last; none in this process's life at first.
    heard: Mutex<Heard>,
    /// What delegation needs of control.
    passports: passport::Passports,
    /// The tenant that it is enrolled for.
    tenant: ArcSwap<String>,
    /// The only agent that it is enrolled for, where its token named one.
    agent: ArcSwapOption<String>,
    /// Whether control has refused its key.
    disowned: AtomicBool,
    recent: Mutex<Recent>,
    /// Whether what is kept is what is in force: after a restart an older policy must not count as fresh.
    kept: AtomicBool,
    /// Why control is out of reach, while it is.
    trouble: Mutex<Option<String>>,
    /// Told when there is something to report.
    changed: Notify,
    /// Told when policy files were read again: a generation that did not go with them may now.
    files: Notify,
    /// The way to control, once this sidecar is enrolled.
    link: watch::Sender<Option<Arc<Link>>>,
    /// Places for calls that wait for an approval.
    pub(crate) holds: Semaphore,
    /// The last record that control has acknowledged, since the start.
    pub(crate) acknowledged: watch::Sender<u64>,
}

/// Tenant and name of budgets.
pub(crate) type Budgets = HashSet<(Option<String>, String)>;

/// The budgets in texts from control: control keeps their accounts.
pub(crate) fn budgets(sources: &[Source]) -> Budgets {
    let documents = source::load(sources).documents.into_iter();
    let budgets = documents.filter(|document| matches!(document.resource.spec, Spec::Budget(_)));
    budgets.map(|document| (document.resource.metadata.tenant, document.resource.metadata.name)).collect()
}

/// How control is asked in the name of this sidecar.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: Client,
    /// What nobody else knows, for hashes of what must not be guessed.
    pub(crate) secret: Secret<[u8; 32]>,
}

/// A generation that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NotTaken {
    told: Refused,
    /// Whether it was control's at all.
    signed: bool,
}

/// What was counted a few seconds ago.
#[derive(Debug, Default)]
struct Recent {
    begun: Option<(Stopwatch, Counts)>,
    last: Lately,
}

impl Recent {
    /// What came to the counts of a few seconds ago.
    fn see(&mut self, now: &Counts) -> Lately {
        match &self.begun {
            Some((since, before)) if since.elapsed() >= WINDOW => {
                self.last = Lately {
                    millis: since.micros() / 1_000,
                    calls: now.calls.saturating_sub(before.calls),
                    denied: now.denied.saturating_sub(before.denied),
                    tokens: now.tokens.saturating_sub(before.tokens),
                };
                self.begun = Some((Stopwatch::start(), *now));
            }
            Some(_) => {}
            None => self.begun = Some((Stopwatch::start(), *now)),
        }
        self.last
    }
}

/// When control was heard of.
#[derive(Debug)]
struct Heard {
    /// By the system's clock, from before this process began.
    before: Timestamp,
    /// By a stop-watch, which no change of the clock disturbs.
    since: Option<Stopwatch>,
    kept: Option<Stopwatch>,
}

impl Fleet {
    /// What is known from earlier: the last generation, if its signature still holds.
    ///
    /// # Errors
    /// When a file of the state directory cannot be read, or holds something else.
    pub(crate) fn open(rules: Control, state: &Path, sidecar: String) -> Result<Self, String> {
        let fleet = Self {
            rules: Control { url: rules.addresses(), urls: Vec::new(), ..rules },
            state: state.to_owned(),
            sidecar,
            sources: ArcSwap::default(),
            generation: AtomicU64::new(0),
            since: AtomicI64::new(0),
            refused: Mutex::new(None),
            kills: watch::Sender::default(),
            heard: Mutex::new(Heard { before: Timestamp(0), since: None, kept: None }),
            passports: passport::Passports::default(),
            tenant: ArcSwap::default(),
            agent: ArcSwapOption::empty(),
            disowned: AtomicBool::new(false),
            recent: Mutex::default(),
            kept: AtomicBool::new(true),
            trouble: Mutex::new(None),
            changed: Notify::new(),
            files: Notify::new(),
            link: watch::Sender::new(None),
            holds: Semaphore::new(HOLDS),
            acknowledged: watch::Sender::new(0),
        };
        if let Some(identity) = kept::identity(state)? {
            fleet.enrolled(&identity);
            fleet.passports.trust(&identity);
            if let Some(last) = kept::generation(state, &identity)? {
                fleet.sources.store(Arc::new(taking::sources(&last)));
                fleet.in_force(&last);
            }
            if let Some(kills) = kept::kills(state, &identity)? {
                fleet.kills.send_replace(kills);
            }
            fleet.heard.lock().before = kept::heard(state)?;
        }
        Ok(fleet)
    }

    /// Takes over whom it is enrolled for.
    fn enrolled(&self, identity: &Enrolled) {
        self.tenant.store(Arc::new(identity.tenant.clone()));
        self.agent.store(identity.agent.clone().map(Arc::new));
    }

    /// Takes in an error of control's: it may not know this sidecar's key any more.
    fn heed(&self, error: &ClientError) {
        if matches!(error, ClientError::Refused(problem) if problem.status == 401) {
            self.disowned.store(true, Ordering::Release);
        }
    }

    /// The sidecar's id.
    pub(crate) fn id(&self) -> &str {
        &self.sidecar
    }

    /// Control as this sidecar may ask it, as soon as it is enrolled.
    pub(crate) async fn joined(&self) -> Client {
        let mut links = self.link.subscribe();
        let client = links
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|link| link.as_ref().map(|link| link.client.clone()));
        match client {
            Some(client) => client,
            // It ends with the sidecar, which outlives whoever waits.
            None => std::future::pending().await,
        }
    }

    /// Policy files were read again.
    pub(crate) fn files_changed(&self) {
        self.files.notify_one();
    }

    /// Texts of the generation in force.
    pub(crate) fn sources(&self) -> Vec<Source> {
        self.sources.load().to_vec()
    }

    /// Takes over texts that are in force now.
    pub(crate) fn adopted(&self, texts: Arc<Vec<Source>>) {
        self.sources.store(texts);
    }

    /// The way to control, once enrolled.
    pub(crate) fn client(&self) -> Option<Arc<Client>> {
        self.link.borrow().as_ref().map(|link| Arc::new(link.client.clone()))
    }

    /// Why calls of an agent may not go on now, if so.
    pub(crate) fn stops(&self, caller: &Caller, verb: Verb) -> Option<Refusal> {
        if let Some(scope) = self.kills.borrow().scopes.iter().find(|scope| scope.stops(caller)) {
            if let Scope::Delegation { id, .. } = scope {
                let chain: Vec<&str> =
                    caller.chain.iter().chain([&caller.agent]).map(String::as_str).collect();
                let reason = format!("{}: link `{id}` is revoked", chain.join(" → "));
                return Some(Refusal::new(Code::ScopeDenied, format!("delegation/{id}"), reason));
            }
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
        if let Some(own) = self.agent.load().as_ref().filter(|own| *caller.agent != ***own) {
            let reason = format!("this sidecar is enrolled for `{own}`, and for no other agent");
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

    /// Waits until the kill switch of a scope that the caller is in is on.
    pub(crate) async fn until_stopped(&self, caller: &Caller) {
        let stops = |kills: &Kills| kills.scopes.iter().any(|scope| scope.stops(caller));
        // It ends with the sidecar, which outlives whoever waits.
        let _ = self.kills.subscribe().wait_for(stops).await;
    }

    /// Whether there is a policy to judge by that is fresh enough for reads at least.
    pub(crate) fn governs(&self) -> bool {
        self.loaded() && self.silent() <= self.rules.max_stale.0
    }

    /// Whether there is a policy, be it too old.
    pub(crate) fn loaded(&self) -> bool {
        self.generation.load(Ordering::Acquire) > 0
    }

    /// Waits until there is a policy to judge by.
    ///
    /// # Errors
    /// Why there is none after `most`.
    pub(crate) async fn governed(&self, most: Duration) -> Result<(), String> {
        const LOOK: Duration = Duration::from_millis(10);
        let coming = async {
            while !self.governs() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(most, coming).await.map_err(|_| {
            let trouble = self.trouble.lock().clone();
            trouble.unwrap_or_else(|| "it has no policy: `sideguard apply` one".to_owned())
        })
    }

    /// The way to control, as soon as there is one, within so long.
    pub(crate) async fn link(&self, within: Duration) -> Option<Arc<Link>> {
        let mut links = self.link.subscribe();
        let link = links.wait_for(Option::is_some);
        tokio::time::timeout(within, link).await.ok()?.ok()?.clone()
    }

    /// Where people see something of control's.
    pub(crate) fn page(&self, place: &str) -> String {
        format!(
            "{}/#/{place}",
            self.rules.addresses().split(',').next().unwrap_or_default().trim_end_matches('/')
        )
    }

    /// What it has, for a question with a fresh nonce.
    fn has(&self) -> Has {
        Has {
            generation: self.generation.load(Ordering::Acquire),
            kills: self.kills.borrow().number,
            nonce: sideguard_runtime::id::token(NONCE),
        }
    }

    /// From now on what is kept does not say any more that control was heard of.
    fn unkept(&self) {
        self.kept.store(false, Ordering::Release);
        kept::forget_heard(&self.state);
    }

    fn in_force(&self, signed: &Signed) {
        self.since.store(signed.time.0, Ordering::Release);
        self.generation.store(signed.number, Ordering::Release);
    }

    fn silent(&self) -> Duration {
        let heard = self.heard.lock();
        heard.since.map_or_else(|| clock::now().since(heard.before), Stopwatch::elapsed)
    }

    /// Takes in that what this sidecar has was in force when `asked` was started.
    fn hear(&self, asked: Stopwatch) {
        let due = {
            let mut heard = self.heard.lock();
            if heard.since.is_some_and(|since| since.elapsed() <= asked.elapsed()) {
                return;
            }
            heard.since = Some(asked);
            let due = heard.kept.is_none_or(|kept| kept.elapsed() >= KEEP_HEARD);
            if due {
                heard.kept = Some(Stopwatch::start());
            }
            due
        };
        // After a restart without control it counts as silent since then.
        if due && self.kept.load(Ordering::Acquire) {
            kept::keep_heard(&self.state, asked.elapsed());
        }
    }

    /// Checks a beat that answers a question. `asked` is when its making can have begun at the earliest.
    fn beat(&self, identity: &Enrolled, beat: &Beat, nonce: &str, asked: Stopwatch) {
        if beat.tenant != identity.tenant || beat.nonce != nonce || !taking::is_signed(identity, beat) {
            tracing::error!(
                "an answer of control is not signed by it, or is one to another question: it is ignored"
            );
            return;
        }
        let have = self.generation.load(Ordering::Acquire);
        let same =
            beat.generation == have && (have == 0 || beat.since.0 == self.since.load(Ordering::Acquire));
        let mut refused = self.refused.lock();
        if !same && beat.generation == have && refused.is_none() {
            let reason = format!(
                "control has another generation {have} than the one in force: was its store put back?"
            );
            tracing::error!(reason, "generation refused: the old one stays in force");
            *refused = Some(NotTaken { told: Refused { generation: have, reason }, signed: true });
            self.changed.notify_one();
        }
        let passed = |refused: &NotTaken| refused.signed && refused.told.generation == beat.generation;
        let known = same || refused.as_ref().is_some_and(passed);
        drop(refused);
        // What it has of kill switches may be newer than what a store has that was put back.
        if known && beat.kills <= self.kills.borrow().number {
            self.hear(asked);
        }
    }
}

fn report(sidecar: &Sidecar, fleet: &Fleet) -> Report {
    let counts = sidecar.metrics.counts();
    let lately = fleet.recent.lock().see(&counts);
    Report {
        agents: sidecar.agents().iter().map(|agent| agent.agent.clone()).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: fleet.generation.load(Ordering::Acquire),
        digest: sidecar.policy.load().set.digest().to_string(),
        refused: fleet.refused.lock().as_ref().map(|refused| refused.told.clone()),
        ready: sidecar.log.healthy() && !sidecar.killed(),
        calls: counts.calls,
        denied: counts.denied,
        tokens: counts.tokens,
        cost: counts.cost,
        lately,
        breakers: sidecar.unhealthy_breakers().into_iter().take(BREAKERS).collect(),
        delegations: sidecar.delegations.newest(DELEGATIONS),
        nonce: sideguard_runtime::id::token(NONCE),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ed25519_dalek::{Signer, SigningKey};
    use sideguard_runtime::clock::Stopwatch;
    use sideguard_types::control::feed::Beat;
    use sideguard_types::control::{Enrolled, Signed};
    use sideguard_types::resource::Control;
    use sideguard_types::time::Timestamp;

    use super::Fleet;

    const OLD: Duration = Duration::from_secs(1_000);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn enrolled(key: &SigningKey) -> Enrolled {
        let signer = hex(key.verifying_key().as_bytes());
        Enrolled { key: String::new(), tenant: "acme".to_owned(), agent: None, signer, renew: None }
    }

    fn signed(key: &SigningKey, beat: Beat) -> Beat {
        let signature = hex(&key.sign(&beat.message()).to_bytes());
        Beat { signature, ..beat }
    }

    #[test]
    fn only_controls_own_word_on_what_is_here_counts_as_fresh() {
        let dir = tempfile::tempdir().expect("a directory");
        let (own, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let good = Beat {
            tenant: "acme".to_owned(),
            generation: 7,
            since: Timestamp(70),
            kills: 0,
            nonce: "n".to_owned(),
            time: Timestamp(80),
            signature: String::new(),
        };
        let heard = |key: &SigningKey, beat: Beat, nonce: &str| {
            let rules = Control::new("http://control".to_owned(), None);
            let fleet = Fleet::open(rules, dir.path(), "sc".to_owned()).expect("a fleet");
            fleet.in_force(&Signed {
                tenant: "acme".to_owned(),
                number: 7,
                time: Timestamp(70),
                documents: Vec::new(),
                signature: String::new(),
            });
            fleet.beat(&enrolled(&own), &signed(key, beat), nonce, Stopwatch::start());
            (fleet.silent() < OLD, fleet.refused.lock().is_some())
        };
        assert_eq!(heard(&own, good.clone(), "n"), (true, false));
        assert_eq!(heard(&other, good.clone(), "n"), (false, false), "another's word");
        assert_eq!(heard(&own, good.clone(), "m"), (false, false), "an answer to an earlier question");
        let elsewhere = Beat { tenant: "umbrella".to_owned(), ..good.clone() };
        assert_eq!(heard(&own, elsewhere, "n"), (false, false), "another tenant's");
        let newer = Beat { generation: 8, ..good.clone() };
        assert_eq!(heard(&own, newer, "n"), (false, false), "a generation is held back");
        let stopped = Beat { kills: 9, ..good.clone() };
        assert_eq!(heard(&own, stopped, "n"), (false, false), "a kill switch is held back");
        let forked = Beat { since: Timestamp(71), ..good };
        assert_eq!(heard(&own, forked, "n"), (true, true), "another generation of the same number");
    }

    #[test]
    fn what_was_heard_only_gets_younger() {
        let dir = tempfile::tempdir().expect("a directory");
        let rules = Control::new("http://control".to_owned(), None);
        let fleet = Fleet::open(rules, dir.path(), "sc".to_owned()).expect("a fleet");
        let early = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(5));
        let late = Stopwatch::start();
        fleet.hear(late);
        fleet.hear(early);
        assert!(fleet.silent() <= late.elapsed());
        assert!(early.later(OLD).elapsed() < OLD, "not after now");
    }
}
