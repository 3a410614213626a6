//! Runs of workflows.

use sideguard_types::control::Page;
use sideguard_types::control::workflows::{Cancel, Rerun, Start, Summary};
use sideguard_types::workflow::{Run, RunState};

use crate::query::{escaped, with_query};
use crate::{Ask, Client, ClientError, Listing, json};

/// Which runs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Runs {
    /// Of this workflow; of all when absent.
    pub workflow: Option<String>,
    /// Of this tenant; of all that the key sees when absent.
    pub tenant: Option<String>,
    /// In this state; in any when absent.
    pub state: Option<RunState>,
}

impl Client {
    /// `POST /v1/runs`: starts a run of a workflow.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with findings when the input is not what the workflow takes.
    pub async fn start_run(&self, start: &Start) -> Result<Run, ClientError> {
        self.ask(Ask::post("/v1/runs", &json(start)?)).await
    }

    /// `GET /v1/runs`: a page of them, the newest of each tenant first.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn runs(&self, which: &Runs, part: &Listing) -> Result<Page<Summary>, ClientError> {
        let asked = [
            ("workflow", which.workflow.clone()),
            ("tenant", which.tenant.clone()),
            ("state", which.state.map(|state| state.as_str().to_owned())),
        ];
        let values: Vec<_> = asked.into_iter().chain(part.values()).collect();
        self.ask(Ask::get(&with_query("/v1/runs", &values))).await
    }

    /// `GET /v1/runs/{id}`: one, with its steps and its timeline.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn run(&self, id: &str) -> Result<Run, ClientError> {
        self.ask(Ask::get(&format!("/v1/runs/{}", escaped(id)))).await
    }

    /// `POST /v1/runs/{id}/cancel`: has one stop.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 409 when it is over.
    pub async fn cancel_run(&self, id: &str, how: &Cancel) -> Result<Run, ClientError> {
        self.ask(Ask::post(&format!("/v1/runs/{}/cancel", escaped(id)), &json(how)?)).await
    }

    /// `POST /v1/runs/{id}/rerun`: starts a run that does a part of another one again.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 409 when the other one is not over.
    pub async fn rerun(&self, id: &str, how: &Rerun) -> Result<Run, ClientError> {
        self.ask(Ask::post(&format!("/v1/runs/{}/rerun", escaped(id)), &json(how)?)).await
    }
}
