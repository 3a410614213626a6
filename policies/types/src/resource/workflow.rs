//! Kind `Workflow`: steps that depend on one another.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Backoff;
use crate::time::Span;

/// Steps that depend on one another. `sideguard workflow run NAME` starts a run, which keeps a copy of this and is not changed
/// by later versions. Expressions are CEL; they may name `input`, `steps.ID.result`, `steps.ID.state` and `steps.ID.error` of
/// steps that come before by `needs`, and `run.id`, `run.workflow`, `run.tenant`; within `forEach` also `item` and `index`.
/// In texts and inputs `${{ EXPRESSION }}` stands for its value.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkflowSpec {
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What a run is given, by name; nothing else is taken.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub input: BTreeMap<String, InputSpec>,
    /// The steps, at most 200.
    pub steps: Vec<StepSpec>,
    /// Longest time of a run; what is running then fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// What happens when a step fails that does not say so itself, and when the run's time is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// What a run comes to, with expressions; nothing when absent.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub output: Value,
}

/// One thing that a run is given.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Its type.
    #[serde(default, rename = "type")]
    pub kind: InputType,
    /// Whether a run cannot do without; otherwise it is null when not given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// What it is when not given.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub default: Value,
    /// What it means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Type of an input.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputType {
    /// Text.
    String,
    /// Whole number.
    Int,
    /// Number.
    Double,
    /// True or false.
    Bool,
    /// List.
    List,
    /// Names and values.
    Map,
    /// Whatever JSON can say.
    #[default]
    Any,
}

impl InputType {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
            Self::Double => "double",
            Self::Bool => "bool",
            Self::List => "list",
            Self::Map => "map",
            Self::Any => "any",
        }
    }

    /// Whether a value is of this type. Null is of none but `any`.
    #[must_use]
    pub fn takes(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Int => value.is_i64(),
            Self::Double => value.is_number(),
            Self::Bool => value.is_boolean(),
            Self::List => value.is_array(),
            Self::Map => value.is_object(),
            Self::Any => true,
        }
    }
}

/// One step. Exactly one of `job`, `approval`, `condition`, `delay`, `notify` and `forEach` says what it does.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StepSpec {
    /// Its name: lower case letters, digits and `_`, a letter first, at most 40.
    pub id: String,
    /// Steps that must have ended before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// An expression; when it is false, the step is skipped, and what needs it goes on.
    #[serde(default, rename = "if", skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// A job for a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobStep>,
    /// A question to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalStep>,
    /// A gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<ConditionStep>,
    /// A pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<DelayStep>,
    /// A message to a webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<NotifyStep>,
    /// The same for each item of a list; the result is the list of the results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEachStep>,
    /// How often it is tried; once when absent. Of a `forEach`, write it at its `step`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// Of a job, the longest time of one attempt, the wait for a worker included; of a `forEach`, of all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// What happens when it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// What undoes it, once it has succeeded. Its expressions may also name `result`, what the step came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<CompensateSpec>,
}

/// A job for a worker. Its result is the step's.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JobStep {
    /// Topic of the job, such as `job.orders.fetch`.
    pub topic: String,
    /// Capabilities that a worker must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Labels that a worker must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub placement: BTreeMap<String, String>,
    /// Labels of the job's own; those that begin with `sideguard.dev/` are control's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// From 0 to 9; higher ones go first within a tenant.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u8,
    /// What the worker is given, with expressions.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// Whether it may be done twice: when a worker is lost, another one gets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
}

/// A question to people, as `sideguard approvals` shows it. A no, and no answer in time, make the step fail.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ApprovalStep {
    /// What people are asked, with expressions.
    pub text: String,
    /// What they are shown beside it, with expressions.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub show: Value,
    /// Who may answer: names of keys, or labels as `name=value`; anybody with the role when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Roles whose members may answer; operators and approvers when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Whether whoever started the run may not answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub separate: bool,
    /// How many people must say yes.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub quorum: u32,
    /// How long it may be answered; a day when absent, a week at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Span>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u8) -> bool {
    *number == 0
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_one(number: &u32) -> bool {
    *number == 1
}

/// A gate: when it is false, everything that needs it, directly or through others, is skipped.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConditionStep {
    /// An expression that is true or false.
    pub expr: String,
}

/// A pause; one of the two.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DelayStep {
    /// How long.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// An expression that comes to a moment: a timestamp, or RFC 3339 as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// A message to a webhook that control's configuration names; signed as all webhooks, at least once.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyStep {
    /// Name of the webhook.
    pub webhook: String,
    /// What is sent as `body`, with expressions.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub body: Value,
}

/// The same for each item of a list.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ForEachStep {
    /// An expression that comes to a list of at most 1000 items.
    pub items: String,
    /// How many are at work at once; 10 when absent.
    #[serde(default = "ten")]
    pub max_parallel: u32,
    /// What is done for each.
    pub step: ItemStep,
}

const fn ten() -> u32 {
    10
}

/// What is done for each item. Exactly one of `job`, `approval` and `notify`.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ItemStep {
    /// A job for a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobStep>,
    /// A question to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalStep>,
    /// A message to a webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<NotifyStep>,
    /// How often each item is tried; once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// Longest time of one attempt of a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Whether an item that fails leaves the others alone: its result is null then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tolerate: bool,
    /// What undoes an item that has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<CompensateSpec>,
}

/// How often something is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrySpec {
    /// How often in all, 1 to 20.
    pub attempts: u32,
    /// Pauses between attempts.
    #[serde(default)]
    pub backoff: Backoff,
}

/// What happens when a step has failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// No further step starts; the run has failed when those that are running have ended.
    #[default]
    Fail,
    /// The run goes on; what needs the step can look at its `state` and `error`.
    Continue,
    /// As `fail`; then every step that has succeeded and has a `compensate` is undone, the last one first.
    Compensate,
}

/// What undoes a step.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompensateSpec {
    /// A job for a worker.
    pub job: JobStep,
    /// How often it is tried; once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// Longest time of one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}
