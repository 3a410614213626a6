//! Jobs and workers, as people look after them.

use serde_json::Value;
use sideguard_types::control::Page;
use sideguard_types::control::jobs::Worker;
use sideguard_types::job::{Job, JobState};

use crate::query::{escaped, with_query};
use crate::{Ask, Client, ClientError, Listing, json};

impl Client {
    /// `GET /v1/jobs`: jobs in a state, or all: open ones, then dead-lettered ones, then those that are over, the newest
    /// first.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn jobs(
        &self,
        tenant: Option<&str>,
        state: Option<JobState>,
        part: &Listing,
    ) -> Result<Page<Job>, ClientError> {
        let query = [
            ("tenant", tenant.map(str::to_owned)),
            ("state", state.map(|state| state.as_str().to_owned())),
            ("after", part.after.clone()),
            ("limit", part.limit.map(|limit| limit.to_string())),
        ];
        self.ask(Ask::get(&with_query("/v1/jobs", &query))).await
    }

    /// `GET /v1/jobs/{id}`: a job of a tenant.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn job_of(&self, tenant: Option<&str>, id: &str) -> Result<Job, ClientError> {
        self.ask(Ask::get(&place(tenant, id, ""))).await
    }

    /// `GET /v1/jobs/{id}/input` or `/result`: that part of a tenant's job, however large.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn job_part(&self, tenant: Option<&str>, id: &str, part: &str) -> Result<Value, ClientError> {
        self.ask(Ask::get(&place(tenant, id, &format!("/{part}")))).await
    }

    /// `DELETE /v1/jobs/{id}`: takes a tenant's job back; drops a dead-lettered one.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn cancel_job_of(&self, tenant: Option<&str>, id: &str) -> Result<Job, ClientError> {
        self.ask(Ask::delete(&place(tenant, id, ""))).await
    }

    /// `POST /v1/jobs/{id}/retry`: puts a tenant's dead-lettered job into the queue again.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 409 when it is not dead-lettered.
    pub async fn retry_job_of(&self, tenant: Option<&str>, id: &str) -> Result<Job, ClientError> {
        self.ask(Ask::post(&place(tenant, id, "/retry"), b"")).await
    }

    /// `GET /v1/workers`: the workers that are remembered.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn workers(&self, tenant: Option<&str>) -> Result<Vec<Worker>, ClientError> {
        self.all("/v1/workers", vec![("tenant", tenant.map(str::to_owned))]).await
    }

    /// `POST /v1/workers/{tenant}/{id}`: lets a worker have no more jobs, or have some again.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn drain_worker(&self, tenant: &str, id: &str, drain: bool) -> Result<Worker, ClientError> {
        let path = format!("/v1/workers/{}/{}", escaped(tenant), escaped(id));
        self.ask(Ask::post(&path, &json(&serde_json::json!({ "drain": drain }))?)).await
    }
}

fn place(tenant: Option<&str>, id: &str, what: &str) -> String {
    let path = format!("/v1/jobs/{}{what}", escaped(id));
    with_query(&path, &[("tenant", tenant.map(str::to_owned))])
}
