//! Jobs: work that is routed to a worker by topic and capability, and what becomes of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::delegation::Chain;
use crate::time::{Span, Timestamp};

/// How deep the JSON of inputs, results and progress may be nested. They stand in documents that have to be read again, which is
/// done up to 127 levels.
pub const DEEPEST: usize = 64;

/// Whether JSON is nested deeper than [`DEEPEST`].
#[must_use]
pub fn too_deep(value: &Value) -> bool {
    fn deeper(value: &Value, most: usize) -> bool {
        match value {
            Value::Array(items) => most == 0 || items.iter().any(|item| deeper(item, most - 1)),
            Value::Object(entries) => most == 0 || entries.values().any(|entry| deeper(entry, most - 1)),
            _ => false,
        }
    }
    deeper(value, DEEPEST)
}

/// What is to be done, as whoever submits it says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JobSpec {
    /// What it is about: `job.<service>.<operation>`, lower case. Policy and pools know it by this.
    pub topic: String,
    /// Capabilities that its worker must have, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Labels that its worker must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub placement: BTreeMap<String, String>,
    /// Labels of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// From 0 to 9; higher ones go first within a tenant.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u8,
    /// Whether it may be done twice: only such a job goes to another worker once one has started it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
    /// How often a worker that says it failed may be followed by another try.
    #[serde(default, skip_serializing_if = "is_nought")]
    pub retries: u32,
    /// Not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Timestamp>,
    /// Time limits; what is absent is as the pool says.
    #[serde(default)]
    pub limits: JobLimits,
    /// What the worker gets, inline.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
}

const fn is_zero(number: &u8) -> bool {
    *number == 0
}

const fn is_nought(number: &u32) -> bool {
    *number == 0
}

/// How long a job may take.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobLimits {
    /// Until a worker has it, from when it may be given to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Span>,
    /// From there until the worker has started it; then another one is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispatch: Option<Span>,
    /// From its start to its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Span>,
    /// From its submission to its end, tries and pauses included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<Span>,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Taken; waits for a worker.
    Pending,
    /// Waits for people.
    ApprovalRequired,
    /// Waits for a moment: its own, or the end of a pause after a try.
    Scheduled,
    /// Given to a worker that has not started it.
    Dispatched,
    /// A worker is at it.
    Running,
    /// Done.
    Succeeded,
    /// Its worker says that it failed.
    Failed,
    /// Somebody took it back.
    Cancelled,
    /// It took too long.
    TimedOut,
    /// Policy or people said no.
    Denied,
    /// It was lost with its worker and may not be tried again: people decide.
    DeadLettered,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::ApprovalRequired,
        Self::Scheduled,
        Self::Dispatched,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Denied,
        Self::DeadLettered,
    ];

    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::ApprovalRequired => "approval_required",
            Self::Scheduled => "scheduled",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Denied => "denied",
            Self::DeadLettered => "dead_lettered",
        }
    }

    /// Whether nothing becomes of it any more by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(
            self,
            Self::Pending | Self::ApprovalRequired | Self::Scheduled | Self::Dispatched | Self::Running
        )
    }

    /// Whether a worker has it.
    #[must_use]
    pub const fn is_leased(self) -> bool {
        matches!(self, Self::Dispatched | Self::Running)
    }
}

/// Why a job is where it is: stable codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobReason {
    /// Policy said no at its submission.
    SubmitDenied,
    /// Policy said no before its dispatch.
    DispatchDenied,
    /// Policy said no to its result, which is not kept.
    ResultDenied,
    /// People said no, or nobody answered in time.
    ApprovalDenied,
    /// No worker had it in time.
    QueueTimeout,
    /// It ran too long.
    RunTimeout,
    /// It was there too long.
    TotalTimeout,
    /// Its worker did not start it in time.
    NotStarted,
    /// Its worker was not heard of any more.
    WorkerLost,
    /// Its worker gave it back unstarted.
    GivenBack,
    /// Its worker was lost, and it may not be done twice.
    NotIdempotent,
    /// It was tried as often as it may be.
    AttemptsExhausted,
    /// Its worker says that it failed.
    Failed,
    /// Somebody took it back.
    Cancelled,
}

impl JobReason {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SubmitDenied => "submit_denied",
            Self::DispatchDenied => "dispatch_denied",
            Self::ResultDenied => "result_denied",
            Self::ApprovalDenied => "approval_denied",
            Self::QueueTimeout => "queue_timeout",
            Self::RunTimeout => "run_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::NotStarted => "not_started",
            Self::WorkerLost => "worker_lost",
            Self::GivenBack => "given_back",
            Self::NotIdempotent => "not_idempotent",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Who submitted a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Submitter {
    /// Name of the agent, or of a person's key.
    pub name: String,
    /// Whether it is a person.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub person: bool,
    /// The agents above it, root first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// The job from within which it was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The sidecar that passed it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<String>,
}

/// A worker's hold on a job. A lease with another epoch than the job's is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// The worker: its sidecar's id.
    pub worker: String,
    /// Its agent.
    pub agent: String,
    /// The worker's session: one that was lost, or started anew, has another one, and none of its leases.
    pub session: u64,
    /// The pool by which it came there.
    pub pool: String,
    /// When it was given to the worker.
    pub dispatched: Timestamp,
    /// When the worker started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
}

/// A step of a job's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobEvent {
    /// When.
    pub time: Timestamp,
    /// Where it stood then.
    pub state: JobState,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<JobReason>,
    /// The worker that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Its lease's number.
    #[serde(default, skip_serializing_if = "is_none")]
    pub epoch: u64,
}

const fn is_none(number: &u64) -> bool {
    *number == 0
}

/// Where something large is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Large {
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its id.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// What is to be done. A large input is not here but at [`Job::large_input`].
    pub spec: JobSpec,
    /// Who submitted it.
    pub by: Submitter,
    /// Where it stands.
    pub state: JobState,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<JobReason>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was submitted.
    pub created: Timestamp,
    /// When its state last changed.
    pub changed: Timestamp,
    /// Scheduled: until when it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How often it was given to a worker, failures of dispatch included.
    #[serde(default)]
    pub attempts: u32,
    /// How often a worker said that it failed.
    #[serde(default, skip_serializing_if = "is_nought")]
    pub failures: u32,
    /// Number of its lease; each dispatch and each end of a lease has another one, and they only go up.
    #[serde(default)]
    pub epoch: u64,
    /// The lease, while it is [`JobState::is_leased`]; the last one afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// W3C trace id, 32 hex digits: calls that carry it are made for this job.
    pub trace_id: String,
    /// The approval that it waits for or was granted by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// Signed chain of delegation, root first, as its sidecar made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
    /// How far its worker says it is.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub progress: Value,
    /// What came of it, inline.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// The input, when it is too large to stand in `spec`: `GET /v1/jobs/{id}/input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_input: Option<Large>,
    /// The result, when it is too large to stand here: `GET /v1/jobs/{id}/result`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_result: Option<Large>,
    /// Its life, the oldest first; of a long one the first and the last steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<JobEvent>,
}
