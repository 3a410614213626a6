//! Jobs and workers as control, sidecars and people speak of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::delegation::Chain;
use crate::job::{Job, JobSpec};
use crate::time::Timestamp;

/// `POST /v1/jobs`: a new job. The answer is the [`Job`]; of a key that was used before, that job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Submit {
    /// What is to be done.
    pub spec: JobSpec,
    /// Tenant; the key's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// A second submission with the same key by the same submitter, within a day, gives the same job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// From a sidecar: the agent that submits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// From a sidecar: the agents above that one, root first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub above: Vec<String>,
    /// From a sidecar: the job from within which it is submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// From a sidecar: the signed chain of delegation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
}

/// What a worker can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Skills {
    /// The agent that works.
    pub agent: String,
    /// Pools that it wants to work in; each pool says whom it takes.
    pub pools: Vec<String>,
    /// What it can do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Labels, for placement.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How many jobs it takes at once.
    pub max_parallel: u32,
}

/// A lease by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The job.
    pub job: String,
    /// The lease's number.
    pub epoch: u64,
}

/// `POST /v1/work`: a worker's sign of life, which renews all its leases, and its question for jobs. Answered at once when
/// there is something to tell, or else after a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Work {
    /// What it can do.
    pub skills: Skills,
    /// What its process is known by: another one has lost the leases of the one before.
    pub process: String,
    /// Leases that it has, as it knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<Lease>,
    /// Whether it takes no new jobs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// A job given to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The lease's number.
    pub epoch: u64,
    /// The moment when the job must be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The job.
    pub job: Job,
}

/// The answer to a sign of life.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Jobs that are the worker's and that it does not name among its leases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<Assignment>,
    /// Leases that it named and that are over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<Lease>,
    /// How long every other lease holds, in milliseconds from when the question was sent. Without another answer within
    /// that time the worker must do nothing more in the name of its jobs.
    pub lease_ms: u64,
    /// Pools that it wants to work in and that do not take it, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
}

/// `POST /v1/jobs/{id}/start`: a worker is about to hand the job over. After the answer it counts as started. The same
/// lease may ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The lease's number.
    pub epoch: u64,
}

/// `POST /v1/jobs/{id}/progress`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The lease's number.
    pub epoch: u64,
    /// How far it is, in the agent's words; 4 KiB at most.
    pub progress: Value,
}

/// `POST /v1/jobs/{id}/result`: how a job ended. The same lease may tell the same again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The lease's number.
    pub epoch: u64,
    /// How.
    pub outcome: Outcome,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Outcome {
    /// With a result.
    Succeeded(Value),
    /// With an error.
    Failed {
        /// What went wrong.
        message: String,
        /// Whether another try may help.
        #[serde(default)]
        retry: bool,
    },
    /// Not at all: the agent never had it, and somebody else may.
    GivenBack,
}

/// A worker, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// Its sidecar's id.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// How it is.
    pub health: Health,
    /// When it was heard of last.
    pub seen: Timestamp,
    /// Whether it takes no new jobs, by its own word or an operator's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Jobs that it has.
    pub jobs: Vec<Lease>,
    /// What it can do.
    pub skills: Skills,
}

/// Whether a worker is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It is.
    Live,
    /// Not of late: it gets no new jobs.
    Stale,
    /// Not for so long that its jobs are no longer its own.
    Dead,
}

impl Health {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Dead => "dead",
        }
    }
}
