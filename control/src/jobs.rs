//! Jobs: taken, given to workers, followed to their end. [`state`] says what may become of one; [`crate::scheduler`] plans, and
//! [`reconcile`] carries plans out. Every job is one document that changes by compare-and-set alone, so that replicas,
//! workers and people can be at it at once.

mod board;
mod judge;
mod look;
mod places;
mod reconcile;
mod state;
mod submit;
mod workers;

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sideguard_runtime::clock;
use sideguard_store::documents::{Edit, Expect, Revision};
use sideguard_store::{Store, StoreError};
use sideguard_types::control::jobs::{Ended, Outcome, Progress};
use sideguard_types::job::{DEEPEST, Job, JobState, Large, too_deep};
use sideguard_types::time::Timestamp;

use crate::approvals;
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::Principal;
use crate::scheduler;
use crate::signer::hex;

use board::Board;
use judge::{Judge, Judgement};
use state::{Kept, Over, Said};

pub(crate) use look::Wanted;
#[cfg(test)]
pub(crate) use state::{dispatch, end, requeue, start, step};

/// How often a document is tried again that others change at the same time.
const TRIES: usize = 64;
/// Largest input and result that stand in the job itself, in bytes of JSON.
const INLINE: usize = 16 << 10;
/// Largest ones at all.
pub(crate) const LARGEST: usize = 3 << 20;
/// How the idempotency keys of jobs of runs begin.
pub(crate) const OF_RUNS: &str = "run/";
/// Largest progress.
const PROGRESS: usize = 4 << 10;

/// All that has to do with jobs.
#[derive(Debug)]
pub(crate) struct Jobs {
    store: Store,
    judge: Judge,
    board: Arc<Board>,
}

fn bytes(value: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value).map(Into::into).map_err(|error| Failure::Invalid(error.to_string()))
}

fn over(job: &str) -> Failure {
    Failure::Fenced(format!("the lease of job `{job}` is over: it is no longer this worker's"))
}

/// The edits that keep a job as it is now; `before` is what its document in the queue must be.
fn kept(job: &Job, now: Timestamp, before: Expect) -> Result<Vec<Edit>, Failure> {
    let (tenant, id) = (&job.tenant, &job.id);
    let open = places::open(tenant, id)?;
    Ok(match job.state {
        JobState::DeadLettered => vec![
            Edit::delete(open, before),
            Edit::put(places::dead(tenant, id)?, bytes(job)?, Expect::Absent),
        ],
        state if state.is_final() => {
            let over = places::over(tenant, id)?;
            let last = Some(places::kept(now));
            vec![Edit::delete(open, before), Edit::put(over, bytes(job)?, Expect::Any).until(last)]
        }
        _ => vec![Edit::put(open, bytes(job)?, before)],
    })
}

impl Jobs {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, judge: Judge::default(), board: Arc::new(Board::default()) }
    }

    /// Follows the store until the task is dropped.
    pub(crate) async fn follow(self: Arc<Self>) {
        Arc::clone(&self.board).follow(self.store.clone()).await;
    }

    /// How many open jobs are in which state.
    pub(crate) fn counts(&self) -> std::collections::HashMap<JobState, u64> {
        self.board.counts()
    }

    /// Changes an open job by compare-and-set; tried again when somebody else was faster. `None` when it is not open.
    async fn change<T>(
        &self,
        tenant: &str,
        id: &str,
        change: impl Fn(&mut Job, Timestamp) -> Result<Option<(T, Vec<Edit>)>, Failure>,
    ) -> Result<Option<(Job, Option<T>)>, Failure> {
        let mut known = self.board.job(tenant, id).map(|(job, revision)| ((*job).clone(), revision));
        for _ in 0..TRIES {
            let now = clock::now();
            let found = match known.take() {
                Some(found) => Some(found),
                None => self.open_job(now, tenant, id).await?,
            };
            let Some((mut job, revision)) = found else { return Ok(None) };
            // What is refused by an old reading may be right by a new one.
            let (told, also) = match change(&mut job, now) {
                Ok(Some(changed)) => changed,
                Ok(None) => return Ok(Some((job, None))),
                Err(error) => match self.open_job(now, tenant, id).await? {
                    Some((again, newer)) if newer != revision => {
                        known = Some((again, newer));
                        continue;
                    }
                    Some(_) => return Err(error),
                    None => return Ok(None),
                },
            };
            let mut edits = kept(&job, now, Expect::Revision(revision))?;
            edits.extend(also);
            match self.store.documents.put_all(now, edits).await {
                Ok(revision) => {
                    self.board.put_job(tenant, id, Some(job.clone()), revision);
                    return Ok(Some((job, Some(told))));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::Conflict(format!("too many change job `{id}` at once: try again")))
    }

    /// An open job as the store has it.
    async fn open_job(
        &self,
        now: Timestamp,
        tenant: &str,
        id: &str,
    ) -> Result<Option<(Job, Revision)>, Failure> {
        let key = places::open(tenant, id)?;
        let Some(document) = self.store.documents.get(now, &key).await? else { return Ok(None) };
        let job = serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(key.to_string()))?;
        Ok(Some((job, document.revision)))
    }

    /// A worker is about to hand a job over: from then on it counts as started.
    pub(crate) async fn start(&self, who: &Principal, id: &str, epoch: u64) -> Result<(), Failure> {
        let started = self
            .change(who.sidecars_tenant(), id, |job, now| match state::start(job, now, &who.name, epoch) {
                Ok(true) => Ok(Some(((), Vec::new()))),
                Ok(false) => Ok(None),
                Err(Over) => Err(over(id)),
            })
            .await?;
        started.map(drop).ok_or_else(|| over(id))
    }

    /// How far a job is.
    pub(crate) async fn progress(
        &self,
        waiting: &Waiting,
        who: &Principal,
        id: &str,
        told: Progress,
    ) -> Result<(), Failure> {
        let tenant = who.sidecars_tenant();
        if told.progress.to_string().len() > PROGRESS {
            return Err(Failure::Invalid(format!("progress is {PROGRESS} bytes of JSON at most")));
        }
        let Some((job, _)) = self.known(tenant, id).await? else { return Err(over(id)) };
        let set = self.judge.set(&self.store, waiting, clock::now(), tenant).await?;
        // What policy keeps out of results does not get out this way.
        let progress = match self.told(&set, &job, &told.progress)? {
            Ok(clean) => clean,
            Err(why) => return Err(Failure::Invalid(format!("this progress is not kept: {why}"))),
        };
        let changed = self
            .change(tenant, id, |job, _| {
                if !state::holds(job, &who.name, told.epoch) {
                    return Err(over(id));
                }
                job.progress = progress.clone();
                Ok(Some(((), Vec::new())))
            })
            .await?;
        changed.map(drop).ok_or_else(|| over(id))
    }

    /// What a worker tells of a job, as policy lets it be kept; else why it is not.
    fn told(
        &self,
        set: &sideguard_policy::PolicySet,
        job: &Job,
        told: &Value,
    ) -> Result<Result<Value, String>, Failure> {
        let agent = job.hold.as_ref().map_or("", |hold| hold.agent.as_str());
        let text = serde_json::to_vec(told).map_err(|error| Failure::Invalid(error.to_string()))?;
        if text.len() > LARGEST {
            return Err(Failure::TooLarge);
        }
        if too_deep(told) {
            return Ok(Err(format!("it is nested deeper than {DEEPEST}")));
        }
        let refused = |rule: &str, why: &str| Ok(Err(format!("{rule}: {why}")));
        match self.judge.result(set, clock::now(), job, agent, &text) {
            Judgement::No { rule, reason } => refused(&rule, &reason),
            Judgement::Ask(verdict) => refused(&verdict.rule, "a result cannot wait for people"),
            Judgement::Yes { most, .. } if most.is_some_and(|most| text.len() as u64 > most) => {
                refused("constraints", "it is longer than `max_output_bytes`")
            }
            Judgement::Yes { redact, .. } if redact.is_empty() => Ok(Ok(told.clone())),
            Judgement::Yes { redact, .. } => match judge::redacted(&text, &redact) {
                Some(clean) => serde_json::from_slice(&clean)
                    .map(Ok)
                    .map_err(|error| Failure::Invalid(error.to_string())),
                None => refused("constraints", "it cannot be redacted"),
            },
        }
    }

    /// A worker tells how a job ended.
    pub(crate) async fn ended(
        &self,
        waiting: &Waiting,
        who: &Principal,
        id: &str,
        told: Ended,
    ) -> Result<(), Failure> {
        let tenant = who.sidecars_tenant();
        let Ended { epoch, outcome } = told;
        let set = self.judge.set(&self.store, waiting, clock::now(), tenant).await;
        let (said, large) = match (Said::of(&outcome), outcome) {
            (Some(Said::Failed { message, retry }), _) => {
                let Some((job, _)) = self.known(tenant, id).await? else {
                    return self.gone(who, id, epoch).await;
                };
                let set = set.as_deref().map_err(|_| Failure::Unsure)?;
                let message = match self.told(set, &job, &Value::String(message))? {
                    Ok(Value::String(clean)) => clean,
                    Ok(_) => String::new(),
                    Err(why) => format!("what its worker says of it is not kept: {why}"),
                };
                (Said::Failed { message, retry }, None)
            }
            (Some(said), _) => (said, None),
            (None, Outcome::Succeeded(result)) => {
                let Some((job, _)) = self.known(tenant, id).await? else {
                    return self.gone(who, id, epoch).await;
                };
                self.judged(set.as_deref().map_err(|_| Failure::Unsure)?, &job, &result)?
            }
            (None, Outcome::Failed { .. } | Outcome::GivenBack) => return Err(over(id)),
        };
        let pool = |job: &Job| {
            let hold = job.hold.as_ref()?;
            let set = set.as_ref().ok()?;
            set.pools().iter().find(|pool| pool.name == hold.pool && pool.is_for(tenant))
        };
        let changed = self
            .change(tenant, id, |job, now| {
                let again = now.plus(scheduler::pause(pool(job), job.failures + 1));
                let data = large.clone().map(|data| {
                    let key = places::data(tenant, id, "result")?;
                    Ok::<_, Failure>(Edit::put(key, data, Expect::Any).until(Some(places::kept(now))))
                });
                match state::ended(job, now, &who.name, epoch, said.clone(), again) {
                    Ok(true) => Ok(Some(((), data.transpose()?.into_iter().collect()))),
                    Ok(false) => Ok(None),
                    Err(Over) => Err(over(id)),
                }
            })
            .await?;
        match changed {
            Some(_) => Ok(()),
            None => self.gone(who, id, epoch).await,
        }
    }

    /// A job that is not open any more: fine if it ended by this worker's own word, which was told before.
    async fn gone(&self, who: &Principal, id: &str, epoch: u64) -> Result<(), Failure> {
        let now = clock::now();
        let job = self.read(now, who.sidecars_tenant(), id).await?;
        let again = job.is_some_and(|mut job| {
            state::ended(&mut job, now, &who.name, epoch, Said::GivenBack, now) == Ok(false)
        });
        if again { Ok(()) } else { Err(over(id)) }
    }

    /// An open job, from the board or else from the store.
    async fn known(&self, tenant: &str, id: &str) -> Result<Option<(Job, Revision)>, Failure> {
        match self.board.job(tenant, id) {
            Some((job, revision)) => Ok(Some(((*job).clone(), revision))),
            None => self.open_job(clock::now(), tenant, id).await,
        }
    }

    /// A result as it may be kept, apart from the job if it is large.
    fn judged(
        &self,
        set: &sideguard_policy::PolicySet,
        job: &Job,
        result: &Value,
    ) -> Result<(Said, Option<Bytes>), Failure> {
        let value = match self.told(set, job, result)? {
            Ok(value) => value,
            Err(why) => return Ok((Said::Refused(why), None)),
        };
        let text = bytes(&value)?;
        if text.len() > INLINE {
            let large = Large { bytes: text.len() as u64, sha256: hex(&Sha256::digest(&text)) };
            return Ok((Said::Result(Kept::Large(large)), Some(text)));
        }
        Ok((Said::Result(Kept::Inline(value)), None))
    }

    /// Takes a job back; a dead-lettered one is dropped.
    pub(crate) async fn cancel(&self, who: &Principal, tenant: &str, id: &str) -> Result<Job, Failure> {
        let by = who.name.clone();
        let changed = self
            .change(tenant, id, |job, now| Ok(state::cancel(job, now, &by).then(|| ((), Vec::new()))))
            .await?;
        if let Some((job, _)) = changed {
            if let Some(approval) = &job.approval
                && let Err(error) = approvals::withdraw(&self.store, tenant, approval, "taken back").await
            {
                tracing::warn!(%error, job = id, "people are still asked about a job that was taken back");
            }
            return Ok(job);
        }
        self.undead(tenant, id, |job, now| {
            state::end(
                job,
                now,
                JobState::Cancelled,
                sideguard_types::job::JobReason::Cancelled,
                &format!("dropped by `{by}`"),
            );
        })
        .await
    }

    /// Puts a dead-lettered job into the queue again.
    pub(crate) async fn retry(&self, tenant: &str, id: &str) -> Result<Job, Failure> {
        self.undead(tenant, id, state::revive).await
    }

    /// Changes a dead-lettered job, which then is one no more.
    async fn undead(
        &self,
        tenant: &str,
        id: &str,
        change: impl Fn(&mut Job, Timestamp),
    ) -> Result<Job, Failure> {
        let now = clock::now();
        let key = places::dead(tenant, id)?;
        let Some(document) = self.store.documents.get(now, &key).await? else {
            let job = self.read(now, tenant, id).await?.ok_or_else(|| places::missing(id))?;
            return Err(Failure::Conflict(format!("job `{id}` is {}", job.state.as_str())));
        };
        let mut job: Job =
            serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(key.to_string()))?;
        change(&mut job, now);
        let mut edits = kept(&job, now, Expect::Any)?;
        edits.push(Edit::delete(key, Expect::Revision(document.revision)));
        if job.large_input.is_some() && !job.state.is_final() {
            let input = places::data(tenant, id, "input")?;
            let Some(data) = self.store.documents.get(now, &input).await? else {
                return Err(Failure::Conflict(format!("the input of job `{id}` is not kept any more")));
            };
            edits.push(Edit::put(input, data.value, Expect::Any).until(Some(submit::ends(&job))));
        }
        let revision = self.store.documents.put_all(now, edits).await.map_err(|error| match error {
            StoreError::Conflict { .. } => Failure::Conflict(format!("somebody else was at job `{id}`")),
            error => error.into(),
        })?;
        self.board.put_job(tenant, id, Some(job.clone()), revision);
        Ok(job)
    }
}
