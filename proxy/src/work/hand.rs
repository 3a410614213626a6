//! From hand to hand: a job to whoever does it, once control has taken in that it starts; and back to control how it ended.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sideguard_client::{Client, ClientError};
use sideguard_runtime::secret::Secret;
use sideguard_runtime::tasks;
use sideguard_runtime::{chance, clock};
use sideguard_types::call::Verb;
use sideguard_types::control::jobs::{self, Outcome, Progress, Start};
use sideguard_types::time::Timestamp;

use super::Work;
use super::tie::{Heard, Held};
use crate::app::Sidecar;

/// Longest time that control may take to take in that a job starts, the way to it included.
const START: Duration = Duration::from_secs(10);
/// Longest time of one question at control.
const STEP: Duration = Duration::from_secs(4);
/// First pause after control could not be reached; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Longest time that whoever tells how a job ended waits for control's answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How long the end of a job that is over is still told: control may have taken it in before.
const LINGER: Duration = Duration::from_secs(30);

/// A job that starts: control knows, and nobody has it yet. Dropped, it waits for the next one who asks.
pub(super) struct Started<'w> {
    work: &'w Work,
    pub(super) held: Arc<Held>,
    pub(super) input: Value,
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        // Of one that was handed over nothing changes.
        self.work.change(|book| book.put_back(&self.held));
    }
}

impl Started<'_> {
    /// Hands it over, if it is still this worker's.
    pub(super) fn hand_over(&self) -> bool {
        self.work.change(|book| book.hand_over(&self.held, clock::uptime()))
    }
}

/// Waits for a job, at most `wait`.
pub(super) async fn next(sidecar: &Arc<Sidecar>, wait: Duration) -> Option<Started<'_>> {
    let work = sidecar.work.as_ref()?;
    let _asking = work.ask();
    let lapsed = work.change(|book| book.asked(clock::uptime()));
    if let Some(held) = lapsed {
        let message = "the agent let go of it when its lease could not be renewed".to_owned();
        let retry = held.job.spec.idempotent;
        tell_end(sidecar, held, Outcome::Failed { message, retry });
    }
    let mut changes = work.changes();
    let mut over = Box::pin(tokio::time::sleep(wait));
    loop {
        changes.borrow_and_update();
        if sidecar.drain.begun() {
            return None;
        }
        let picked = work.book.lock().start(clock::uptime());
        if let Some(held) = picked {
            if let Err((message, retry)) = held.take_on(sidecar, &work.skills.agent) {
                work.change(|book| book.decline(&held));
                tell_end(sidecar, held, Outcome::Failed { message, retry });
                continue;
            }
            let mut starting = Started { work, held, input: Value::Null };
            match tokio::time::timeout(START, start(sidecar, &starting.held)).await {
                Ok(Some(input)) => {
                    starting.input = input;
                    return Some(starting);
                }
                Ok(None) => continue,
                Err(_) => return None,
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = sidecar.drain.wait_begin() => {}
            () = &mut over => return None,
        }
    }
}

/// Tells control that a job starts, until it has taken that in. Gives the job's input; nothing when the job is no longer
/// this worker's.
async fn start(sidecar: &Sidecar, held: &Held) -> Option<Value> {
    let (id, mut pause) = (held.lease.job.as_str(), PAUSE);
    let mut input = (held.job.large_input.is_none()).then(|| held.job.spec.input.clone());
    loop {
        if held.is_fenced(clock::uptime()) {
            return None;
        }
        let client = sidecar.fleet.as_ref()?.joined().await;
        match begun(&client, held, &mut input).await {
            Ok(()) => return input,
            Err(error) if is_over(&error) => {
                held.end();
                return None;
            }
            Err(error) => tracing::warn!(job = id, %error, "control does not take in that a job starts"),
        }
        tokio::time::sleep(chance::within(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What is large is fetched first: whoever starts a job has it.
async fn begun(client: &Client, held: &Held, input: &mut Option<Value>) -> Result<(), ClientError> {
    if input.is_none() {
        *input = Some(client.job_input(&held.lease.job).await?);
    }
    client.start_job(&held.lease.job, Start { epoch: held.lease.epoch }, STEP).await
}

/// Whether control says that a lease is over, or knows nothing of the job.
fn is_over(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(problem) if matches!(problem.status, 404 | 409 | 410))
}

/// Tells control how a job ended, and waits for its answer for a while; it is told further then, and whoever comes again
/// waits for the same answer. The first word counts.
pub(super) async fn finish(sidecar: &Arc<Sidecar>, held: &Arc<Held>, outcome: Outcome) -> Option<Heard> {
    let work = sidecar.work.as_ref()?;
    if work.change(|book| book.end(held)) {
        held.heard.send_replace(None);
        tell_end(sidecar, Arc::clone(held), outcome);
    }
    let mut heard = held.heard.subscribe();
    let answer = heard.wait_for(Option::is_some);
    tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?.clone()
}

/// Tells control how a job ended, in a task that ends when control has answered.
pub(super) fn tell_end(sidecar: &Arc<Sidecar>, held: Arc<Held>, outcome: Outcome) {
    let sidecar = Arc::clone(sidecar);
    tasks::spawn("job-end", async move {
        let busy = sidecar.drain.busy();
        let returned = outcome == Outcome::GivenBack;
        let mut heard = told(&sidecar, &held, outcome).await;
        if returned && heard == Heard::Refused {
            // Control has taken in that it starts, and nobody had it then: it is not to wait for its time limit.
            let message = "it was not taken by the agent in time".to_owned();
            heard = told(&sidecar, &held, Outcome::Failed { message, retry: true }).await;
        }
        // What was done for it is done: nothing more passes in its name, whatever is left of the process that did it.
        if !matches!(heard, Heard::Unfit(..)) {
            held.end();
        }
        let Some(work) = &sidecar.work else { return };
        work.change(|book| match &heard {
            Heard::Unfit(..) if !returned => book.reopen(&held),
            heard => book.close(&held, (!returned).then_some(*heard == Heard::Taken)),
        });
        held.heard.send_replace(Some(heard));
        drop(busy);
    });
}

async fn told(sidecar: &Sidecar, held: &Held, outcome: Outcome) -> Heard {
    let ended = jobs::Ended { epoch: held.lease.epoch, outcome };
    let mut pause = PAUSE;
    let mut over = None;
    loop {
        if let Some(client) = sidecar.fleet.as_ref().and_then(crate::fleet::Fleet::client) {
            match client.end_job(&held.lease.job, &ended, STEP).await {
                Ok(()) => return Heard::Taken,
                Err(error) if is_over(&error) => return Heard::Refused,
                Err(ClientError::Refused(problem)) if matches!(problem.status, 400 | 413 | 422) => {
                    return Heard::Unfit(problem.status, problem.detail);
                }
                Err(error) => {
                    tracing::warn!(job = held.lease.job, %error, "control does not take in how a job ended");
                }
            }
        }
        let now = clock::uptime();
        if held.is_over() && now.saturating_sub(*over.get_or_insert(now)) > LINGER {
            return Heard::Refused;
        }
        tokio::time::sleep(chance::within(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Tells control how far a job is, once.
pub(super) async fn progress(sidecar: &Sidecar, held: &Held, progress: Value) -> Result<(), ClientError> {
    let client = match &sidecar.fleet {
        Some(fleet) => fleet.joined().await,
        None => std::future::pending().await,
    };
    let told = Progress { epoch: held.lease.epoch, progress };
    let answer = client.progress_job(&held.lease.job, &told, STEP).await;
    if answer.as_ref().is_err_and(is_over) {
        held.end();
        if let Some(work) = &sidecar.work {
            work.change(|_| ());
        }
    }
    answer
}

/// The W3C trace context that a job's calls belong to.
pub(super) fn traceparent(held: &Held) -> String {
    format!("00-{}-{}-01", held.job.trace_id, sideguard_runtime::id::token(8))
}

/// What became of the end of a job, for whoever did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Control has it.
    Taken,
    /// The job was no longer this worker's: the result does not count.
    Refused,
    /// Control does not take it as it is, with the reason: another one may be told.
    Unfit(String),
    /// Control is away; it goes on being told.
    Away,
}

/// Takes the worker's jobs within this process, instead of an agent.
#[derive(Clone)]
pub struct Hands(Arc<Sidecar>);

/// A job in such hands.
#[derive(Debug, Clone)]
pub struct Task(Arc<Held>, Value);

impl Hands {
    /// The hands of a sidecar's worker, if it has one. No agent gets jobs from now on.
    pub(crate) fn of(sidecar: &Arc<Sidecar>) -> Option<Self> {
        let work = sidecar.work.as_ref()?;
        work.taken.store(true, std::sync::atomic::Ordering::Release);
        Some(Self(Arc::clone(sidecar)))
    }

    /// Waits for a job; none when the sidecar stops.
    pub async fn next(&self) -> Option<Task> {
        const ASK: Duration = Duration::from_secs(60);
        const STOPPED: Duration = Duration::from_millis(500);
        while !self.0.drain.begun() {
            let caller = self.0.work.as_ref().and_then(|work| work.caller.as_deref());
            if self.0.stops(caller, Verb::Write).is_some() {
                tokio::time::sleep(STOPPED).await;
                continue;
            }
            if let Some(started) = next(&self.0, ASK).await
                && started.hand_over()
            {
                return Some(Task(Arc::clone(&started.held), started.input.clone()));
            }
        }
        None
    }

    /// Tells how a job ended.
    pub async fn finish(&self, task: &Task, outcome: Outcome) -> Ended {
        match finish(&self.0, &task.0, outcome).await {
            Some(Heard::Taken) => Ended::Taken,
            Some(Heard::Refused) => Ended::Refused,
            Some(Heard::Unfit(_, why)) => Ended::Unfit(why),
            None => Ended::Away,
        }
    }

    /// Takes no more jobs, gives back what nobody has started, and lets the rest go on.
    pub fn drain(&self) {
        self.0.drain.begin();
    }
}

impl Task {
    pub(crate) const fn held(&self) -> &Arc<Held> {
        &self.0
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.lease.job
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.0.job.spec.topic
    }

    /// What is to be done.
    #[must_use]
    pub const fn input(&self) -> &Value {
        &self.1
    }

    /// How often it was given to a worker, this time included.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.job.attempts
    }

    /// The moment when it must be done.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.0.deadline
    }

    /// The W3C trace context that its calls belong to.
    #[must_use]
    pub fn traceparent(&self) -> String {
        traceparent(&self.0)
    }

    /// The key by which its calls are known.
    #[must_use]
    pub fn key(&self) -> &Secret<String> {
        &self.0.key
    }

    /// Waits until the job is no longer this worker's: control has said so, or has not renewed the lease for a while. Its
    /// calls are refused from the lease's end on.
    pub async fn taken(&self) {
        const RENEWED: Duration = Duration::from_secs(5);
        let tie = super::Tie::Job(Arc::clone(&self.0));
        loop {
            tie.until_fenced().await;
            let mut changes = self.0.changes();
            let renewed = async {
                while !self.0.is_over() && self.0.is_fenced(clock::uptime()) {
                    // The sender lives as long as the job.
                    let _ = changes.changed().await;
                }
                !self.0.is_over()
            };
            if !tokio::time::timeout(RENEWED, renewed).await.unwrap_or(false) {
                return;
            }
        }
    }

    /// Whether it may be done twice.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.0.job.spec.idempotent
    }
}
