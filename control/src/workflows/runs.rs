//! Where runs are kept: each one whole, a line of it for listings, and a mark while it is open. All are written together, and
//! only when the whole is still the one that was read.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use sideguard_runtime::clock;
use sideguard_store::documents::{Edit, Expect, Revision};
use sideguard_store::key::{Key, Prefix, Scope};
use sideguard_store::{Store, StoreError};
use sideguard_types::control::Page;
use sideguard_types::control::workflows::Summary;
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Run, RunState};

use crate::error::Failure;
use crate::keys::{self, OWN, Principal, own_key};

/// How long a run is kept after its end, and an idempotency key after its start.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Marks of open runs lie below this.
const OPEN: &str = "runs-open";

/// Which run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    pub(super) tenant: String,
    pub(super) run: String,
}

impl Id {
    /// The run whose mark a key is.
    pub(super) fn of_mark(key: &Key) -> Option<Self> {
        let (tenant, run) = key.path().strip_prefix(OPEN)?.strip_prefix('/')?.split_once('/')?;
        Some(Self { tenant: tenant.to_owned(), run: run.to_owned() })
    }
}

/// Marks of open runs.
pub(super) fn open_scope() -> Result<Scope, Failure> {
    scope(OPEN)
}

pub(super) fn scope(path: &str) -> Result<Scope, Failure> {
    Ok(Prefix::new(OWN, path).map_err(|error| Failure::Invalid(error.to_string()))?.into())
}

fn whole_at(tenant: &str, id: &str) -> Result<Key, Failure> {
    turned(id)?;
    own_key(&format!("runs-whole/{tenant}/{id}"))
}

fn line_at(tenant: &str, id: &str) -> Result<Key, Failure> {
    own_key(&format!("runs/{tenant}/{}", turned(id)?))
}

fn mark_at(tenant: &str, id: &str) -> Result<Key, Failure> {
    own_key(&format!("{OPEN}/{tenant}/{id}"))
}

/// An id so that newer ones come first. Refuses what is no id.
fn turned(id: &str) -> Result<String, Failure> {
    let turn = |c: char| {
        c.to_digit(16).filter(|_| !c.is_ascii_uppercase()).and_then(|digit| char::from_digit(15 - digit, 16))
    };
    let turned: Option<String> = id.chars().map(turn).collect();
    turned.filter(|turned| turned.len() == 24).ok_or_else(|| missing(id))
}

pub(super) fn missing(id: &str) -> Failure {
    Failure::Missing(format!("run `{}`", id.chars().take(64).collect::<String>()))
}

fn bytes(value: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value).map(Into::into).map_err(|error| Failure::Invalid(error.to_string()))
}

/// Whose run an id is of, if the principal may know.
pub(super) async fn tenant_of(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    id: &str,
) -> Result<String, Failure> {
    turned(id)?;
    let found = store.documents.get(now, &own_key(&format!("runs-ids/{id}"))?).await?;
    let tenant = found.and_then(|document| String::from_utf8(document.value.to_vec()).ok());
    tenant.filter(|tenant| who.reaches(tenant)).ok_or_else(|| missing(id))
}

/// A run and the revision of its document.
pub(super) async fn read(
    store: &Store,
    now: Timestamp,
    tenant: &str,
    id: &str,
) -> Result<Option<(Run, Revision)>, Failure> {
    let key = whole_at(tenant, id)?;
    let Some(document) = store.documents.get(now, &key).await? else { return Ok(None) };
    let run: Run = serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(key.to_string()))?;
    // What drives a run goes by the numbers of steps.
    let same = |(step, spec): (&sideguard_types::workflow::Step, &sideguard_types::resource::StepSpec)| {
        step.id == spec.id
    };
    if run.steps.len() != run.spec.steps.len() || !run.steps.iter().zip(&run.spec.steps).all(same) {
        return Err(Failure::Broken(key.to_string()));
    }
    Ok(Some((run, document.revision)))
}

/// Everything that is written of a run.
fn edits(run: &Run, expect: Expect) -> Result<Vec<Edit>, Failure> {
    let Run { tenant, id, .. } = run;
    let until = run.ended.map(|ended| ended.plus(KEPT));
    let mark = mark_at(tenant, id)?;
    let whose = own_key(&format!("runs-ids/{id}"))?;
    Ok(vec![
        Edit::put(whole_at(tenant, id)?, bytes(run)?, expect).until(until),
        Edit::put(line_at(tenant, id)?, bytes(&Summary::from(run))?, Expect::Any).until(until),
        Edit::put(whose, tenant.clone().into_bytes().into(), Expect::Any).until(until),
        match run.state.is_over() {
            true => Edit::delete(mark, Expect::Any),
            false => Edit::put(mark, Bytes::new(), Expect::Any),
        },
    ])
}

/// Writes a new run; with a name that was used before, gives the run of that name.
pub(super) async fn create(
    store: &Store,
    now: Timestamp,
    run: Run,
    name: Option<&str>,
) -> Result<Run, Failure> {
    let mut edits = edits(&run, Expect::Absent)?;
    let named = match name {
        None => None,
        Some(name) => {
            let hash = keys::hash(&format!("{}\n{name}", run.workflow));
            Some(own_key(&format!("runs-names/{}/{hash}", run.tenant))?)
        }
    };
    if let Some(key) = &named {
        let id = run.id.clone().into_bytes().into();
        edits.push(Edit::put(key.clone(), id, Expect::Absent).until(Some(now.plus(KEPT))));
    }
    match (store.documents.put_all(now, edits).await, named) {
        (Ok(_), _) => Ok(run),
        (Err(StoreError::Conflict { .. }), Some(key)) => {
            let known = store.documents.get(clock::now(), &key).await?;
            let id =
                known.map(|known| String::from_utf8_lossy(&known.value).into_owned()).unwrap_or_default();
            let found = read(store, clock::now(), &run.tenant, &id).await?;
            found.map(|(run, _)| run).ok_or_else(|| missing(&id))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Writes a run that was read at a revision; `None` when somebody else was faster.
pub(super) async fn write(
    store: &Store,
    now: Timestamp,
    run: &Run,
    read: Revision,
) -> Result<Option<Revision>, Failure> {
    match store.documents.put_all(now, edits(run, Expect::Revision(read))?).await {
        Ok(revision) => Ok(Some(revision)),
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Which runs are asked for.
#[derive(Debug, Default, Clone)]
pub(crate) struct Wanted {
    pub(crate) workflow: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) state: Option<RunState>,
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
}

/// The runs that a principal may see, the newest of each tenant first.
pub(crate) async fn list(store: &Store, who: &Principal, wanted: &Wanted) -> Result<Page<Summary>, Failure> {
    let now = clock::now();
    let tenant = match (who.tenant.as_deref(), wanted.tenant.as_deref()) {
        (Some(own), Some(asked)) if own != asked => return Ok(Page { items: Vec::new(), next: None }),
        (own, asked) => own.or(asked),
    };
    let path = tenant.map_or_else(|| "runs".to_owned(), |tenant| format!("runs/{tenant}"));
    let scope = scope(&path)?;
    let mut after = match wanted.after.as_deref().map(|after| after.rsplit_once('/')) {
        None => None,
        Some(Some((tenant, id))) if who.reaches(tenant) => Some(line_at(tenant, id)?),
        Some(_) => return Err(Failure::Invalid("`after` is not where a page ended".to_owned())),
    };
    let mut items: Vec<Summary> = Vec::new();
    loop {
        let page = store.documents.list(now, &scope, after.as_ref(), wanted.limit).await?;
        for document in page.documents {
            let line: Summary = serde_json::from_slice(&document.value)
                .map_err(|_| Failure::Broken(document.key.to_string()))?;
            let fits = wanted.workflow.as_ref().is_none_or(|name| *name == line.workflow)
                && wanted.state.is_none_or(|state| state == line.state);
            items.extend(fits.then_some(line));
            if items.len() >= wanted.limit {
                let next = items.last().map(|last| format!("{}/{}", last.tenant, last.id));
                return Ok(Page { items, next });
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(Page { items, next: None });
        }
    }
}
