//! Runs of workflows: where each one stands, and what has happened in it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::resource::WorkflowSpec;
use crate::time::Timestamp;

/// Where a run stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It has not begun.
    #[default]
    Pending,
    /// Something of it is at work.
    Running,
    /// It waits for people or for a moment, and for nothing else.
    Waiting,
    /// It does not start anything more, and waits for what is at work to end.
    Stopping,
    /// What it has done is being undone.
    Compensating,
    /// Every step has ended well, or was skipped, or its failure was not to matter.
    Succeeded,
    /// A step has failed, or its time was over, or it could not be undone.
    Failed,
    /// Somebody has taken it back.
    Cancelled,
    /// It has failed or was taken back, and everything that it has done is undone.
    Compensated,
}

impl RunState {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Stopping => "stopping",
            Self::Compensating => "compensating",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Compensated => "compensated",
        }
    }

    /// Whether nothing becomes of it any more.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Compensated)
    }
}

/// Where a step stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// What it needs has not ended.
    #[default]
    Pending,
    /// It is at work.
    Running,
    /// It waits for people, or for a moment.
    Waiting,
    /// It has done what it should.
    Succeeded,
    /// It has not.
    Failed,
    /// It was not to be done.
    Skipped,
    /// The run ended before it did.
    Cancelled,
}

impl StepState {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing becomes of it any more.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled)
    }

    /// Whether it is at work or waits.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Running | Self::Waiting)
    }
}

/// One thing that is done: a step, an item of a `forEach`, or the undoing of one of these.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RunWork")]
pub struct Work {
    /// Where it stands.
    pub state: StepState,
    /// The attempt that is under way or was the last one, from 1; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// When this attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Waiting: until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// The job of this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The approval of this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// Whether its job or approval is to be taken back. It is at work until that has ended, one way or the other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recall: bool,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The how manieth of the run's works it was to succeed, from 1: what is undone is undone from the highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
}

/// A step of a run.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RunStep")]
pub struct Step {
    /// Its name.
    pub id: String,
    /// Where it stands.
    pub state: StepState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// What it came to: of a `forEach`, the list of its items' results.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A condition was false: what needs this is skipped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// The items of a `forEach`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Value>,
    /// What is done: one work, or one for each item.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub works: Vec<Work>,
    /// When the time of a `forEach` is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
}

/// The undoing of a step or of an item.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RunUndo")]
pub struct Undo {
    /// The step.
    pub step: String,
    /// The item, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<usize>,
    /// How it goes.
    pub work: Work,
}

/// Why a run stops before all of it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RunStop")]
pub struct Stop {
    /// Whether somebody has taken it back; else something has failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    /// Whether what it has done is to be undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compensate: bool,
    /// In words.
    pub reason: String,
}

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RunMoment")]
pub struct Moment {
    /// When.
    pub time: Timestamp,
    /// In which step; absent of the run as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// For which item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<usize>,
    /// What: `started`, `submitted`, `asked`, `retrying`, `succeeded`, `failed`, `skipped`, `cancelled`, `undoing`, `undone`
    /// and the like.
    pub what: String,
    /// More: an id, an error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A run of a workflow.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// Name of the workflow.
    pub workflow: String,
    /// SHA-256 of the spec that it runs, in hex.
    pub digest: String,
    /// That spec: later versions of the workflow do not change a run.
    pub spec: WorkflowSpec,
    /// Who started it.
    pub by: String,
    /// The run that it does a part of again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<String>,
    /// When it was started.
    pub created: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Where it stands.
    pub state: RunState,
    /// Why it stops, or has stopped, before all of it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// What it was given.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// What it came to.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub output: Value,
    /// Why it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its steps, in the order of the spec.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What is undone, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<Undo>,
    /// How many works have succeeded.
    #[serde(default)]
    pub succeeded: u64,
    /// Bytes of the results and items that it keeps.
    #[serde(default)]
    pub bytes: u64,
    /// What has happened, the oldest first; of a long run the first and the last moments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Moment>,
    /// How many moments between these are left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}
