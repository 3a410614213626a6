//! The loop: look at all jobs and workers, plan, do, repeat. One replica at a time does it, by a lease; two at it would do no
//! harm, since each change is void when its document has changed since it was looked at.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sideguard_runtime::clock;
use sideguard_store::StoreError;
use sideguard_store::documents::{Edit, Expect, Revision};
use sideguard_types::control::Scope;
use sideguard_types::control::approvals::{Redeem, State as Answered};
use sideguard_types::job::{Job, JobReason, JobState};
use sideguard_types::time::Timestamp;

use super::board::Moment;
use super::{Jobs, Judgement, kept, state};
use crate::approvals;
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::{Principal, Role, own_key};
use crate::scheduler::{self, Action, Plan, Registered, Stood, View};

/// How long a replica is the one that plans without renewing that.
const LEASE: Duration = Duration::from_secs(6);
/// How often it renews that.
const RENEW: Duration = Duration::from_secs(2);
/// Changes that come together are planned for together.
const GATHER: Duration = Duration::from_millis(1);
/// The longest pause between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How often people's answers are looked for.
const ANSWERS: Duration = Duration::from_millis(500);
/// Most documents that are written at once.
const BATCH: usize = 200;
/// The pause after an error.
const PAUSE: Duration = Duration::from_millis(300);

/// The right to plan.
#[derive(Debug, Default)]
struct Turn {
    revision: Option<Revision>,
    renewed: Option<clock::Stopwatch>,
}

impl Jobs {
    /// Plans and acts while this replica is the one to do it, until the task is dropped.
    pub(crate) async fn reconcile(self: Arc<Self>, waiting: Arc<Waiting>, replica: String) {
        let mut changes = self.board.changes();
        let mut turn = Turn::default();
        let mut answers = clock::Stopwatch::start();
        loop {
            let began = clock::Stopwatch::start();
            let next = match self.round(&waiting, &replica, &mut turn, &mut answers).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "jobs cannot be planned now");
                    tokio::time::sleep(PAUSE).await;
                    None
                }
            };
            let busy = began.elapsed().min(LOOK);
            let pause = next.map_or(LOOK, |next| next.since(clock::now()).min(LOOK));
            // A timeout is a reason to look as well.
            let _ = tokio::time::timeout(pause, changes.changed()).await;
            // Rounds that take long come less often: no tenant's changes are to use up the service.
            tokio::time::sleep(busy.max(GATHER)).await;
            changes.borrow_and_update();
        }
    }

    /// One look at everything; tells when to look again at the latest.
    async fn round(
        &self,
        waiting: &Waiting,
        replica: &str,
        turn: &mut Turn,
        answers: &mut clock::Stopwatch,
    ) -> Result<Option<Timestamp>, Failure> {
        if !self.board.is_ready() || !self.is_ours(turn, replica).await? {
            return Ok(None);
        }
        let Some((kept, kills)) = waiting.in_force() else { return Ok(None) };
        let stopped: Vec<Scope> = kills.kills.iter().map(|kill| kill.scope.clone()).collect();
        let mut moment = self.board.moment();
        let now = clock::now();
        let pools = self.pools(waiting, now, &kept, &mut moment).await?;
        let view =
            View { now, pools: &pools, workers: &moment.workers, jobs: &moment.jobs, stopped: &stopped };
        let plan = scheduler::plan(&view);
        if tracing::enabled!(target: "sideguard::plans", tracing::Level::TRACE) {
            let recorded = serde_json::to_string(&(view.record(), &plan)).unwrap_or_default();
            tracing::trace!(target: "sideguard::plans", recorded, "planned");
        }
        self.carry_out(waiting, &plan).await?;
        if answers.elapsed() >= ANSWERS {
            *answers = clock::Stopwatch::start();
            self.take_answers(waiting, &moment.jobs).await?;
        }
        Ok(plan.next)
    }

    /// Whether it is this replica's turn: it is as long as it renews it.
    async fn is_ours(&self, turn: &mut Turn, replica: &str) -> Result<bool, Failure> {
        if turn.renewed.is_some_and(|renewed| renewed.elapsed() < RENEW) {
            return Ok(true);
        }
        let (now, at) = (clock::now(), own_key("jobs/turn")?);
        let begun = clock::Stopwatch::start();
        let expect = match (self.store.documents.get(now, &at).await?, turn.revision) {
            (None, _) => Expect::Absent,
            (Some(document), _) if document.value == replica.as_bytes() => {
                Expect::Revision(document.revision)
            }
            (Some(_), _) => {
                *turn = Turn::default();
                return Ok(false);
            }
        };
        let value = replica.to_owned().into_bytes().into();
        match self.store.documents.put(now, &at, value, expect, Some(now.plus(LEASE))).await {
            Ok(revision) => {
                *turn = Turn { revision: Some(revision), renewed: Some(begun) };
                Ok(true)
            }
            Err(StoreError::Conflict { .. }) => {
                *turn = Turn::default();
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Lets another replica plan at once.
    pub(crate) async fn release(&self, replica: &str) -> Result<(), Failure> {
        let (now, at) = (clock::now(), own_key("jobs/turn")?);
        let own = self.store.documents.get(now, &at).await?;
        if let Some(own) = own.filter(|own| own.value == replica.as_bytes()) {
            match self.store.documents.delete(now, &at, Expect::Revision(own.revision)).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The pools of all tenants that have jobs or workers. Tenants whose set does not compile are left out of the moment:
    /// nothing becomes of what is theirs until it does, and they hold up nobody else.
    async fn pools(
        &self,
        waiting: &Waiting,
        now: Timestamp,
        kept: &crate::desired::Kept,
        moment: &mut Moment,
    ) -> Result<Vec<sideguard_policy::pool::Pool>, Failure> {
        if kept.told.number == 0 {
            return Ok(Vec::new());
        }
        let jobs = moment.jobs.iter().map(|job| &job.tenant);
        let tenants: BTreeSet<String> =
            jobs.chain(moment.workers.iter().map(|worker| &worker.tenant)).cloned().collect();
        let (mut pools, mut broken) = (Vec::new(), BTreeSet::new());
        let mut shared = true;
        for tenant in tenants {
            match self.judge.set(&self.store, waiting, now, &tenant).await {
                Ok(set) => {
                    // Those that are everybody's are in each tenant's set.
                    pools.extend(set.pools().iter().filter(|pool| shared || pool.tenant.is_some()).cloned());
                    shared = false;
                }
                Err(Failure::Broken(_)) => {
                    broken.insert(tenant);
                }
                Err(error) => return Err(error),
            }
        }
        if !broken.is_empty() {
            moment.jobs.retain(|job| !broken.contains(&job.tenant));
            moment.workers.retain(|worker| !broken.contains(&worker.tenant));
        }
        Ok(pools)
    }

    /// Does what is planned, many documents in one write.
    async fn carry_out(&self, waiting: &Waiting, plan: &Plan) -> Result<(), Failure> {
        for actions in plan.actions.chunks(BATCH) {
            let mut changed = Vec::new();
            for action in actions {
                changed.extend(self.change_for(waiting, action).await?);
            }
            self.write(changed).await?;
        }
        Ok(())
    }

    /// What an action writes; nothing when it is void by now.
    async fn change_for(&self, waiting: &Waiting, action: &Action) -> Result<Option<Written>, Failure> {
        let now = clock::now();
        let (tenant, id) = match action {
            Action::Bury { tenant, worker } => {
                let known = self.board.worker(tenant, worker);
                return Ok(known.filter(|(worker, _)| worker.until <= now && !worker.dead).map(
                    |(worker, at)| {
                        tracing::warn!(worker = %worker.id, tenant = %worker.tenant, "a worker is lost");
                        Written::Worker(Box::new(Registered { dead: true, ..(*worker).clone() }), at)
                    },
                ));
            }
            Action::Dispatch { tenant, job, .. }
            | Action::Requeue { tenant, job, .. }
            | Action::Ready { tenant, job }
            | Action::End { tenant, job, .. } => (tenant, job),
        };
        let Some((job, revision)) = self.board.job(tenant, id) else { return Ok(None) };
        let mut job = (*job).clone();
        let as_planned = match action {
            Action::Requeue { stood, .. } | Action::End { stood, .. } => *stood == Stood::of(&job),
            _ => true,
        };
        if !as_planned || !self.is_lost_if_so(action, &job).await? {
            return Ok(None);
        }
        match action {
            Action::Bury { .. } => return Ok(None),
            Action::Ready { .. } if job.state == JobState::Scheduled => {
                job.until = None;
                let reason = job.reason;
                state::step(&mut job, now, JobState::Pending, reason);
            }
            Action::Dispatch { worker, pool, .. } if job.state == JobState::Pending => {
                let Some((worker, _)) = self.board.worker(tenant, worker) else { return Ok(None) };
                let set = self.judge.set(&self.store, waiting, now, tenant).await?;
                let Ok(input) = self.data(&job, "input").await else {
                    let message = "its input is not there any more";
                    state::end(&mut job, now, JobState::Failed, JobReason::Failed, message);
                    return Ok(Some(Written::Job(Box::new(job), revision)));
                };
                match self.judge.dispatch(&set, now, &job, &worker.skills.agent, &input) {
                    Judgement::Yes { .. } => state::dispatch(&mut job, now, &worker, pool),
                    Judgement::No { rule, reason } => {
                        let message = format!("{rule}: {reason}");
                        state::end(&mut job, now, JobState::Denied, JobReason::DispatchDenied, &message);
                    }
                    // Whoever approved the job approved that it is done.
                    Judgement::Ask(_) if job.approval.is_some() => {
                        state::dispatch(&mut job, now, &worker, pool);
                    }
                    Judgement::Ask(verdict) => {
                        let message = format!("{}: ask for approval at `job.submit`", verdict.rule);
                        state::end(&mut job, now, JobState::Denied, JobReason::DispatchDenied, &message);
                    }
                }
            }
            Action::Requeue { reason, until, .. } if job.state.is_leased() => {
                state::requeue(&mut job, now, *reason, *until);
            }
            Action::End { state: last, reason, .. } if !job.state.is_final() => {
                state::end(&mut job, now, *last, *reason, "");
            }
            _ => return Ok(None),
        }
        Ok(Some(Written::Job(Box::new(job), revision)))
    }

    /// False for a job that is to be taken from its worker as lost while the store says that the worker has it still: what
    /// the board knows of workers may be behind.
    async fn is_lost_if_so(&self, action: &Action, job: &Job) -> Result<bool, Failure> {
        let lost = match action {
            Action::Requeue { reason, .. } => *reason == JobReason::WorkerLost,
            Action::End { state, .. } => *state == JobState::DeadLettered && job.state.is_leased(),
            _ => false,
        };
        let Some(hold) = job.hold.as_ref().filter(|_| lost) else { return Ok(true) };
        let worker = self.read_worker(clock::now(), &job.tenant, &hold.worker).await?;
        let has = worker.is_some_and(|(worker, _)| !worker.dead && worker.session == hold.session);
        // A job that nobody starts in time is dead-lettered with its worker alive.
        let tried = matches!(action, Action::End { reason: JobReason::AttemptsExhausted, .. });
        Ok(!has || tried && hold.started.is_none())
    }

    /// Writes all of it at once; when somebody was at one of the documents, each alone.
    async fn write(&self, changed: Vec<Written>) -> Result<(), Failure> {
        if changed.is_empty() {
            return Ok(());
        }
        let now = clock::now();
        let mut edits = Vec::with_capacity(changed.len() + 8);
        for one in &changed {
            edits.extend(one.edits(now)?);
        }
        match self.store.documents.put_all(now, edits).await {
            Ok(revision) => changed.into_iter().for_each(|one| self.written(one, revision)),
            Err(StoreError::Conflict { .. }) if changed.len() > 1 => {
                for one in changed {
                    match self.store.documents.put_all(now, one.edits(now)?).await {
                        Ok(revision) => self.written(one, revision),
                        Err(StoreError::Conflict { .. }) => self.behind(&one).await?,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(StoreError::Conflict { .. }) => {
                for one in &changed {
                    self.behind(one).await?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The board does not know yet what a document is: it is read now.
    async fn behind(&self, one: &Written) -> Result<(), Failure> {
        let now = clock::now();
        if let Written::Job(job, _) = one
            && let Some((job, revision)) = self.open_job(now, &job.tenant, &job.id).await?
        {
            self.board.put_job(&job.tenant.clone(), &job.id.clone(), Some(job), revision);
        }
        Ok(())
    }

    fn written(&self, one: Written, revision: Revision) {
        match one {
            Written::Job(job, _) => {
                self.board.put_job(&job.tenant.clone(), &job.id.clone(), Some(*job), revision);
            }
            Written::Worker(worker, _) => {
                self.board.put_worker(&worker.tenant.clone(), &worker.id.clone(), Some(*worker), revision);
            }
        }
    }

    /// Takes up what people have answered.
    async fn take_answers(&self, waiting: &Waiting, jobs: &[Arc<Job>]) -> Result<(), Failure> {
        for job in jobs.iter().filter(|job| job.state == JobState::ApprovalRequired) {
            match self.take_answer(waiting, job).await {
                Err(Failure::Store(error)) => return Err(error.into()),
                // What is wrong with one question is not to hold up the answers to others.
                Err(error) => {
                    tracing::warn!(%error, job = %job.id, "the answer to a job cannot be taken now");
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn take_answer(&self, waiting: &Waiting, job: &Arc<Job>) -> Result<(), Failure> {
        let Some(approval) = &job.approval else { return Ok(()) };
        let asker = Principal::new("control", Role::Sidecar, Some(job.tenant.clone()));
        let standing = approvals::wait(&self.store, &asker, approval, Duration::ZERO).await?;
        match standing.state {
            Answered::Pending => Ok(()),
            Answered::Approved | Answered::Consumed => self.approved(waiting, &asker, job, approval).await,
            Answered::Denied | Answered::Expired => {
                let why = standing.reason.unwrap_or_else(|| "nobody answered in time".to_owned());
                let by = standing.by.join(", ");
                let message = if by.is_empty() { why } else { format!("{why} ({by})") };
                self.answered(job, |job, now| {
                    state::end(job, now, JobState::Denied, JobReason::ApprovalDenied, &message);
                })
                .await
            }
        }
    }

    /// An approved job is judged once more: the policy may have changed while people thought.
    async fn approved(
        &self,
        waiting: &Waiting,
        asker: &Principal,
        job: &Job,
        approval: &str,
    ) -> Result<(), Failure> {
        let now = clock::now();
        let input = self.data(job, "input").await?;
        let set = self.judge.set(&self.store, waiting, now, &job.tenant).await?;
        if let Judgement::No { rule, reason } = self.judge.approved(&set, now, job, &input) {
            let message = format!("{rule}: {reason}");
            return self
                .answered(job, |job, now| {
                    state::end(job, now, JobState::Denied, JobReason::SubmitDenied, &message);
                })
                .await;
        }
        let asked = approvals::whole(&self.store, now, &asker_of(asker), approval).await?;
        let redeem = Redeem {
            agent: job.by.name.clone(),
            call: job.id.clone(),
            hash: asked.hash,
            policy_digest: asked.policy_digest,
        };
        match approvals::redeem(&self.store, asker, approval, &redeem).await {
            Ok(_) => self.answered(job, state::granted).await,
            Err(Failure::Conflict(why)) => {
                self.answered(job, |job, now| {
                    state::end(job, now, JobState::Denied, JobReason::ApprovalDenied, &why);
                })
                .await
            }
            Err(error) => Err(error),
        }
    }

    async fn answered(&self, job: &Job, change: impl Fn(&mut Job, Timestamp)) -> Result<(), Failure> {
        let changed = self.change(&job.tenant, &job.id, |job, now| {
            Ok((job.state == JobState::ApprovalRequired).then(|| {
                change(job, now);
                ((), Vec::new())
            }))
        });
        changed.await.map(drop)
    }
}

/// Control itself, as it reads an approval.
fn asker_of(asker: &Principal) -> Principal {
    Principal { role: Role::Viewer, ..asker.clone() }
}

/// A document to be written over the one of this revision.
enum Written {
    Job(Box<Job>, Revision),
    Worker(Box<Registered>, Revision),
}

impl Written {
    fn edits(&self, now: Timestamp) -> Result<Vec<Edit>, Failure> {
        match self {
            Self::Job(job, revision) => kept(job, now, Expect::Revision(*revision)),
            Self::Worker(worker, revision) => {
                let key = super::places::worker(&worker.tenant, &worker.id)?;
                let edit = Edit::put(key, super::bytes(worker)?, Expect::Revision(*revision));
                Ok(vec![edit.until(Some(super::workers::remembered(now, worker)))])
            }
        }
    }
}
