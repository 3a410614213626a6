//! Jobs as they are read.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_runtime::clock;
use sideguard_store::key::{Key, Prefix, Scope};
use sideguard_types::control::Page;
use sideguard_types::job::{Job, JobState};
use sideguard_types::time::Timestamp;

use super::{Jobs, places};
use crate::error::Failure;
use crate::keys::{OWN, Principal, Role, own_key};

/// Most jobs of one page.
const PAGE: usize = 200;

/// Which jobs are asked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct Wanted {
    /// Only those in this state.
    state: Option<JobState>,
    /// Tenant; all that the key reaches when absent.
    tenant: Option<String>,
    /// A page's `next`.
    after: Option<String>,
    /// Most items of the page.
    limit: Option<usize>,
}

impl Jobs {
    /// A job, wherever it is kept.
    pub(crate) async fn read(&self, now: Timestamp, tenant: &str, id: &str) -> Result<Option<Job>, Failure> {
        // Looked for where it goes from first, and there once more: it may have gone on in between.
        let places = [
            places::open(tenant, id)?,
            places::dead(tenant, id)?,
            places::over(tenant, id)?,
            places::open(tenant, id)?,
        ];
        for key in places {
            if let Some(document) = self.store.documents.get(now, &key).await? {
                let job = serde_json::from_slice(&document.value);
                return job.map(Some).map_err(|_| Failure::Broken(key.to_string()));
            }
        }
        Ok(None)
    }

    /// A job, for whoever may see it: people of its tenant; the sidecar that passed it on or that has it.
    pub(crate) async fn one(&self, who: &Principal, tenant: Option<&str>, id: &str) -> Result<Job, Failure> {
        let now = clock::now();
        let tenant = match who.role {
            Role::Sidecar => who.sidecars_tenant(),
            _ => who.tenant.as_deref().or(tenant).unwrap_or("default"),
        };
        let job = self.read(now, tenant, id).await?.filter(|job| sees(who, job));
        job.ok_or_else(|| places::missing(id))
    }

    /// A job's input or result as JSON text.
    pub(crate) async fn data(&self, job: &Job, what: &'static str) -> Result<Bytes, Failure> {
        let (large, inline) = match what {
            "input" => (&job.large_input, &job.spec.input),
            _ => (&job.large_result, &job.result),
        };
        if large.is_none() {
            return super::bytes(inline);
        }
        let key = places::data(&job.tenant, &job.id, what)?;
        let document = self.store.documents.get(clock::now(), &key).await?;
        document
            .map(|document| document.value)
            .ok_or_else(|| Failure::Missing(format!("{what} of job `{}`", job.id)))
    }

    /// Jobs in the order of their places: open ones, dead-lettered ones, then those that are over, the newest first.
    pub(crate) async fn list(&self, who: &Principal, wanted: &Wanted) -> Result<Page<Job>, Failure> {
        let now = clock::now();
        let none = Page { items: Vec::new(), next: None };
        let tenant = match (who.tenant.as_deref(), wanted.tenant.as_deref()) {
            (Some(own), Some(asked)) if own != asked => return Ok(none),
            (own, asked) => own.or(asked),
        };
        let most = wanted.limit.unwrap_or(PAGE).clamp(1, PAGE);
        let parts: Vec<String> = ["jobs/now/open", "jobs/dead", "jobs/over"]
            .into_iter()
            .zip(0..)
            .filter(|(_, number)| wanted.state.is_none_or(|state| place(state) == *number))
            .map(|(part, _)| tenant.map_or_else(|| part.to_owned(), |tenant| format!("{part}/{tenant}")))
            .collect();
        let mut after: Option<Key> = wanted.after.as_deref().map(own_key).transpose()?;
        let mut items = Vec::new();
        for part in &parts {
            let invalid = |error: sideguard_store::key::KeyError| Failure::Invalid(error.to_string());
            let scope: Scope = Prefix::new(OWN, part).map_err(invalid)?.into();
            if after.as_ref().is_some_and(|after| !scope.holds(after)) {
                // It lies in a later part: this one is told already.
                continue;
            }
            loop {
                let page = self.store.documents.list(now, &scope, after.as_ref(), most).await?;
                for document in page.documents {
                    let job: Job = serde_json::from_slice(&document.value)
                        .map_err(|_| Failure::Broken(document.key.to_string()))?;
                    if wanted.state.is_none_or(|state| state == job.state) && who.reaches(&job.tenant) {
                        items.push(job);
                    }
                    if items.len() == most {
                        return Ok(Page { items, next: Some(document.key.path().to_owned()) });
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(Page { items, next: None })
    }
}

/// In which of the parts jobs of a state lie.
const fn place(state: JobState) -> u8 {
    match state {
        JobState::DeadLettered => 1,
        state if state.is_final() => 2,
        _ => 0,
    }
}

fn sees(who: &Principal, job: &Job) -> bool {
    if who.role != Role::Sidecar {
        return who.reaches(&job.tenant);
    }
    let own = |name: &String| *name == who.name;
    job.by.sidecar.as_ref().is_some_and(own) || job.hold.as_ref().map(|hold| &hold.worker).is_some_and(own)
}
