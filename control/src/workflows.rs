//! Runs of workflows: started, driven to their end, looked at, taken back, done again.
//!
//! What becomes of a run is [`crate::dag`]'s to say, which is pure. Here runs are kept ([`runs`]), one replica at a time drives
//! them ([`drive`], by the lease of [`lease`]), turn by turn ([`attend`]), and what they want done outside is done ([`deeds`]).
//! Every change of a run is by compare-and-set, and everything outside has a name that follows from the run: replicas that
//! drive the same run at once, or one that is killed anywhere, do nothing twice.

mod ask;
mod attend;
mod deeds;
mod drive;
mod jobs;
mod lease;
mod runs;
#[cfg(test)]
mod tests;

use sideguard_policy::source::{self, Source};
use sideguard_policy::workflow::Workflow;
use sideguard_runtime::{clock, id};
use sideguard_store::Store;
use sideguard_types::control::workflows::{Cancel, Rerun, Start};
use sideguard_types::job::{DEEPEST, too_deep};
use sideguard_types::resource::{Spec, WorkflowSpec};
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Run, RunState};

use crate::dag;
use crate::desired::{self, Entry};
use crate::error::Failure;
use crate::keys::Principal;

pub(crate) use drive::drive;
pub(crate) use lease::release;
pub(crate) use runs::{Wanted, list};

/// Name of the kind.
pub(crate) const KIND: &str = "Workflow";
/// Largest input of a run, in bytes of JSON.
const LARGEST_INPUT: usize = 256 << 10;
/// Longest idempotency key and reason.
const TEXT: usize = 200;
/// How often a document is tried again that others change at the same time.
const TRIES: usize = 64;

/// Starts a run.
pub(crate) async fn start(store: &Store, who: &Principal, start: Start) -> Result<Run, Failure> {
    let tenant = start.tenant.as_deref().or(who.tenant.as_deref()).unwrap_or("default").to_owned();
    crate::keys::tenant(&tenant)?;
    if !who.reaches(&tenant) {
        return Err(Failure::Missing(format!("tenant `{tenant}`")));
    }
    if start.idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > TEXT) {
        return Err(Failure::Invalid(format!("an idempotency key has between 1 and {TEXT} bytes")));
    }
    if start.input.to_string().len() > LARGEST_INPUT {
        return Err(Failure::TooLarge);
    }
    if too_deep(&start.input) {
        return Err(Failure::Invalid(format!("the input is nested deeper than {DEEPEST}")));
    }
    let now = clock::now();
    let spec = applied(store, now, &tenant, &start.workflow).await?;
    let workflow = compiled(&spec)?;
    let input = workflow.input(&start.input).map_err(Failure::Findings)?;
    let run = Run { workflow: start.workflow, ..named(dag::new(spec, input), &tenant, who, now) };
    runs::create(store, now, run, start.idempotency_key.as_deref()).await
}

/// A run that has a name and an owner.
fn named(run: Run, tenant: &str, who: &Principal, now: Timestamp) -> Run {
    Run { id: id::new(now), tenant: tenant.to_owned(), by: who.name.clone(), created: now, ..run }
}

fn compiled(spec: &WorkflowSpec) -> Result<Workflow, Failure> {
    Workflow::compile(spec)
        .map_err(|faults| Failure::Findings(faults.iter().map(ToString::to_string).collect()))
}

/// A workflow as it was applied: the tenant's own, or else the one for all tenants.
async fn applied(store: &Store, now: Timestamp, tenant: &str, name: &str) -> Result<WorkflowSpec, Failure> {
    let head = desired::head(store, now).await?.kept;
    let named = |entry: &&Entry| entry.name.kind == KIND && entry.name.name == name;
    let own = head.entries.iter().filter(named).find(|entry| !entry.shared && entry.name.tenant == tenant);
    let entry = own.or_else(|| head.entries.iter().filter(named).find(|entry| entry.shared));
    let entry = entry.ok_or_else(|| Failure::Missing(format!("workflow `{name}` in tenant `{tenant}`")))?;
    let text = desired::texts(store, now, std::slice::from_ref(entry)).await?.pop().unwrap_or_default();
    let loaded = source::load(&[Source::new(name, text)]);
    match loaded.documents.into_iter().next().map(|document| document.resource.spec) {
        Some(Spec::Workflow(spec)) => Ok(spec),
        _ => Err(Failure::Broken(format!("{tenant}/{name}"))),
    }
}

/// One run, for whoever may see its tenant.
pub(crate) async fn one(store: &Store, who: &Principal, id: &str) -> Result<Run, Failure> {
    let now = clock::now();
    let tenant = runs::tenant_of(store, now, who, id).await?;
    let found = runs::read(store, now, &tenant, id).await?;
    found.map(|(run, _)| run).ok_or_else(|| runs::missing(id))
}

/// Has a run stop.
pub(crate) async fn cancel(store: &Store, who: &Principal, id: &str, how: &Cancel) -> Result<Run, Failure> {
    let tenant = runs::tenant_of(store, clock::now(), who, id).await?;
    for _ in 0..TRIES {
        let now = clock::now();
        let (mut run, revision) =
            runs::read(store, now, &tenant, id).await?.ok_or_else(|| runs::missing(id))?;
        let why = how.reason.as_deref().unwrap_or_default();
        let by: String = match why {
            "" => who.name.clone(),
            why => format!("{}: {}", who.name, why.chars().take(TEXT).collect::<String>()),
        };
        dag::cancel(&mut run, now, &by, how.compensate)
            .map_err(|why| Failure::Conflict(format!("run `{id}` {why}")))?;
        if runs::write(store, now, &run, revision).await?.is_some() {
            return Ok(run);
        }
    }
    Err(Failure::Conflict(format!("too much happens in run `{id}` at once: try again")))
}

/// Starts a run that does a part of another one again.
pub(crate) async fn rerun(store: &Store, who: &Principal, id: &str, how: &Rerun) -> Result<Run, Failure> {
    let old = one(store, who, id).await?;
    let workflow = compiled(&old.spec)?;
    let now = clock::now();
    let run = dag::rerun(&workflow, &old, how.from.as_deref()).map_err(Failure::Conflict)?;
    let run = named(run, &old.tenant, who, now);
    let run = Run { workflow: old.workflow, rerun_of: Some(old.id), state: RunState::Pending, ..run };
    runs::create(store, now, run, None).await
}
