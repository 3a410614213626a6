//! One turn with one run: what follows by itself, what is to be done outside, what came of it; again until nothing changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use sideguard_policy::workflow::Workflow;
use sideguard_runtime::clock;
use sideguard_store::documents::Revision;
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::Run;

use super::deeds::{self, Done};
use super::runs::{self, Id};
use super::{TRIES, compiled, jobs};
use crate::api::Control;
use crate::dag::{self, Deed, Event};
use crate::error::Failure;

/// Deeds of a run that are done at once.
const AT_ONCE: usize = 16;
/// Most rounds of one turn: the rest is another turn's.
const ROUNDS: usize = 1_000;
/// When a run is looked at again though nothing is known to have happened.
const LOOK: Duration = Duration::from_secs(30);
/// The same when something could not be done just now.
const AGAIN: Duration = Duration::from_secs(2);
/// The soonest that it is.
const SOONEST: Duration = Duration::from_millis(5);
/// Most compiled workflows that are known.
const KNOWN: usize = 256;

/// What a run is to be looked at for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hint {
    /// Everything.
    All,
    /// These jobs of it, and everything but jobs.
    Jobs(BTreeSet<String>),
}

impl Hint {
    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Jobs(mut jobs), Self::Jobs(more)) => {
                jobs.extend(more);
                Self::Jobs(jobs)
            }
            _ => Self::All,
        }
    }
}

/// How a turn has left a run.
#[derive(Debug)]
pub(super) struct Attended {
    /// When it is to be looked at again; never when it is over.
    pub(super) next: Option<Timestamp>,
    /// The revision at which it was written.
    pub(super) revision: Option<Revision>,
    /// Jobs and approvals that it waits for.
    pub(super) awaits: BTreeSet<String>,
}

/// Workflows by the digests of their specs.
#[derive(Debug, Default)]
pub(super) struct Compiled(Mutex<HashMap<String, Arc<Workflow>>>);

impl Compiled {
    fn of(&self, run: &Run) -> Result<Arc<Workflow>, Failure> {
        if let Some(known) = self.0.lock().get(&run.digest) {
            return Ok(Arc::clone(known));
        }
        let workflow = Arc::new(compiled(&run.spec)?);
        let mut known = self.0.lock();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(run.digest.clone(), Arc::clone(&workflow));
        Ok(workflow)
    }
}

/// Has a turn with a run.
pub(super) async fn attend(
    control: &Control,
    known: &Compiled,
    id: &Id,
    hint: &Hint,
) -> Result<Attended, Failure> {
    for _ in 0..TRIES {
        if let Some(attended) = turn(control, known, id, hint).await? {
            return Ok(attended);
        }
    }
    Ok(Attended { next: Some(clock::now().plus(AGAIN)), revision: None, awaits: BTreeSet::new() })
}

/// `None` when somebody else has changed the run meanwhile.
async fn turn(
    control: &Control,
    known: &Compiled,
    id: &Id,
    hint: &Hint,
) -> Result<Option<Attended>, Failure> {
    let store = &control.store;
    let found = runs::read(store, clock::now(), &id.tenant, &id.run).await?;
    let Some((mut run, mut revision)) = found.filter(|(run, _)| !run.state.is_over()) else {
        return Ok(Some(Attended { next: None, revision: None, awaits: BTreeSet::new() }));
    };
    let workflow = known.of(&run)?;
    let (mut changed, mut hint, mut delayed) = (false, Some(hint.clone()), false);
    let mut recalled = BTreeSet::new();
    for _ in 0..ROUNDS {
        let now = clock::now();
        changed |= dag::advance(&workflow, &mut run, now);
        if changed {
            // Written before it is done: whoever goes on after a crash finds what may be under way.
            let Some(written) = runs::write(store, now, &run, revision).await? else { return Ok(None) };
            revision = written;
        }
        let deeds = wanted(&workflow, &run, hint.take(), &mut recalled);
        if run.state.is_over() || deeds.is_empty() {
            break;
        }
        let doing: Vec<_> = deeds.iter().map(|deed| deeds::perform(control, &run, deed)).collect();
        let done: Vec<Done> = stream::iter(doing).buffer_unordered(AT_ONCE).collect().await;
        let now = clock::now();
        changed = false;
        for done in done {
            delayed |= done.delayed;
            for event in &done.events {
                if dag::fold(&workflow, &mut run, event, now) {
                    changed = true;
                } else {
                    stray(control, &run, event).await;
                }
            }
        }
        if !changed {
            break;
        }
    }
    let over = run.state.is_over();
    let now = clock::now();
    let latest = now.plus(if delayed { AGAIN } else { LOOK });
    let wake = dag::wake(&workflow, &run).map_or(latest, |wake| wake.clamp(now.plus(SOONEST), latest));
    let next = (!over).then_some(wake);
    let awaits = if over { BTreeSet::new() } else { awaits(&run) };
    Ok(Some(Attended { next, revision: Some(revision), awaits }))
}

/// What is to be done now. Jobs and people are looked at in the first round only, and only those jobs that there is something to
/// see of. A job is taken back once in a turn.
fn wanted(workflow: &Workflow, run: &Run, hint: Option<Hint>, recalled: &mut BTreeSet<String>) -> Vec<Deed> {
    let mut deeds = dag::wanted(workflow, run);
    deeds.retain(|deed| match (deed, &hint) {
        (Deed::Look { job, recall: true, .. }, _) => recalled.insert(job.clone()),
        (Deed::Look { job, .. }, Some(Hint::Jobs(jobs))) => jobs.contains(job),
        (Deed::Look { .. }, None) => false,
        (Deed::Ask(question), None) => question.new,
        _ => true,
    });
    deeds
}

/// A job that was submitted for an attempt that is over: another replica has ended the run meanwhile.
async fn stray(control: &Control, run: &Run, event: &Event) {
    let Event::Submitted { job, .. } = event else { return };
    let works = run.steps.iter().flat_map(|step| &step.works).chain(run.undo.iter().map(|undo| &undo.work));
    if works.filter_map(|work| work.job.as_ref()).any(|own| own == job) {
        return;
    }
    tracing::warn!(run = run.id, job, "a job of a run that goes on without it is taken back");
    if let Err(error) = jobs::cancel(control, &run.tenant, job).await {
        tracing::warn!(%error, run = run.id, job, "it could not be taken back");
    }
}

/// The jobs and approvals that a run waits for.
fn awaits(run: &Run) -> BTreeSet<String> {
    let works = run.steps.iter().flat_map(|step| &step.works).chain(run.undo.iter().map(|undo| &undo.work));
    let open = works.filter(|work| work.state.is_open());
    open.flat_map(|work| work.job.iter().chain(&work.approval)).cloned().collect()
}
