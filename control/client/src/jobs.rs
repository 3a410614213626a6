//! Jobs and workers: what agents and people submit, and what a worker's sidecar asks and tells.

use std::time::Duration;

use serde_json::Value;
use sideguard_types::control::jobs::{Ended, Progress, Start, Submit, Told, Work};
use sideguard_types::job::Job;

use crate::query::escaped;
use crate::{Ask, Client, ClientError, json};

impl Client {
    /// `POST /v1/work`: a worker's sign of life and its question for jobs, which the service holds for 2 s at most. Gives
    /// up after `within`: it may then have been heard or not.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn work(&self, work: &Work, within: Duration) -> Result<Told, ClientError> {
        let body = json(work)?;
        self.ask(Ask::post("/v1/work", &body).within(within)).await
    }

    /// `POST /v1/jobs/{id}/start`: tells that a job is about to be handed over. The same may be told again.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 409 when the lease is over.
    pub async fn start_job(&self, id: &str, start: Start, within: Duration) -> Result<(), ClientError> {
        self.of_job(id, "start", &json(&start)?, within).await
    }

    /// `POST /v1/jobs/{id}/progress`: tells how far a job is.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 409 when the lease is over.
    pub async fn progress_job(
        &self,
        id: &str,
        progress: &Progress,
        within: Duration,
    ) -> Result<(), ClientError> {
        self.of_job(id, "progress", &json(progress)?, within).await
    }

    /// `POST /v1/jobs/{id}/result`: tells how a job ended. The same may be told again.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 409 when the lease is over: the result does not count.
    pub async fn end_job(&self, id: &str, ended: &Ended, within: Duration) -> Result<(), ClientError> {
        self.of_job(id, "result", &json(ended)?, within).await
    }

    /// `POST /v1/jobs`: a new job; of an idempotency key that was used before, that job.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn submit_job(&self, submit: &Submit) -> Result<Job, ClientError> {
        self.ask(Ask::post("/v1/jobs", &json(submit)?)).await
    }

    /// `GET /v1/jobs/{id}`: how a job stands.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn job(&self, id: &str) -> Result<Job, ClientError> {
        self.ask(Ask::get(&place(id, ""))).await
    }

    /// `DELETE /v1/jobs/{id}`: takes a job back.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn cancel_job(&self, id: &str) -> Result<Job, ClientError> {
        self.ask(Ask::delete(&place(id, ""))).await
    }

    /// `GET /v1/jobs/{id}/input`: an input that is too large to stand in its job.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn job_input(&self, id: &str) -> Result<Value, ClientError> {
        self.ask(Ask::get(&place(id, "/input"))).await
    }

    /// `GET /v1/jobs/{id}/result`: a result that is too large to stand in its job.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn job_result(&self, id: &str) -> Result<Value, ClientError> {
        self.ask(Ask::get(&place(id, "/result"))).await
    }

    async fn of_job(&self, id: &str, what: &str, body: &[u8], within: Duration) -> Result<(), ClientError> {
        self.send(Ask::post(&place(id, &format!("/{what}")), body).within(within)).await.map(drop)
    }
}

fn place(id: &str, what: &str) -> String {
    format!("/v1/jobs/{}{what}", escaped(id))
}
