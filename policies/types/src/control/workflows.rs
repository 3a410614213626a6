//! Runs of workflows, as people ask for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::time::Timestamp;
use crate::workflow::{Run, RunState, StepState};

/// `POST /v1/runs`: starts a run of a workflow.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "RunStart")]
pub struct Start {
    /// Name of the workflow.
    pub workflow: String,
    /// Its tenant; the key's own when absent, or else `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What the run is given.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// A second start with the same key within 30 days gives the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// `POST /v1/runs/{id}/cancel`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RunCancel")]
pub struct Cancel {
    /// Whether what the run has done is undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compensate: bool,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /v1/runs/{id}/rerun`: starts a run that keeps what this one has done well, and does the rest.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rerun {
    /// A step that is done again, with all that needs it; when absent, only what has not succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// What a step `notify` sends to a webhook, signed as every message to one.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RunNotice")]
pub struct Notice {
    /// `workflow.notify`.
    pub event: String,
    /// The same for the same message, should it come twice.
    pub delivery: String,
    /// The run.
    pub run: String,
    /// Its workflow.
    pub workflow: String,
    /// Its tenant.
    pub tenant: String,
    /// What the step says.
    #[serde(default)]
    pub body: Value,
}

/// A run in a listing.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RunSummary")]
pub struct Summary {
    /// Its id.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// Name of the workflow.
    pub workflow: String,
    /// Who started it.
    pub by: String,
    /// When.
    pub created: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Where it stands.
    pub state: RunState,
    /// How many steps it has, and how many of them have ended.
    pub steps: usize,
    /// How many of them have ended.
    pub over: usize,
    /// Why it has failed, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<&Run> for Summary {
    fn from(run: &Run) -> Self {
        const LONGEST: usize = 300;
        Self {
            id: run.id.clone(),
            tenant: run.tenant.clone(),
            workflow: run.workflow.clone(),
            by: run.by.clone(),
            created: run.created,
            ended: run.ended,
            state: run.state,
            steps: run.steps.len(),
            over: run.steps.iter().filter(|step| StepState::is_over(step.state)).count(),
            error: run.error.as_ref().map(|error| error.chars().take(LONGEST).collect()),
        }
    }
}
