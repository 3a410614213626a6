//! What policy answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

/// What is to be done with a call; ordered, later ones restrict more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may go.
    Allow,
    /// It may go within constraints.
    AllowWithConstraints,
    /// It may go at a limited rate.
    Throttle,
    /// A person must say yes first.
    RequireApproval,
    /// It may not go.
    Deny,
}

impl Decision {
    /// The name used in rules, records, headers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::AllowWithConstraints => "allow_with_constraints",
            Self::Throttle => "throttle",
            Self::RequireApproval => "require_approval",
            Self::Deny => "deny",
        }
    }
}

/// How earnest a document is.
#[derive(
    Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Its verdicts are carried out.
    #[default]
    Enforce,
    /// Calls pass; the caller and the record are told what would have happened.
    Warn,
    /// Calls pass; only the record tells.
    Shadow,
}

impl Mode {
    /// The name used in documents and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Warn => "warn",
            Self::Shadow => "shadow",
        }
    }
}

/// Limits within which a call may go. Of several rules' constraints each takes the tightest.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constraints {
    /// Largest output cap; a larger one in the request is lowered, a missing one is put in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// Model to send instead of the one asked for (`models` is the same).
    #[serde(default, alias = "models", skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Most bytes of answer that are let through; a longer answer is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u64>,
    /// Detectors whose findings are blacked out before the bytes leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
    /// Tool arguments to set (top-level keys).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set_args: BTreeMap<String, serde_json::Value>,
    /// Tool arguments to take out (top-level keys).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_args: Vec<String>,
    /// Longest time from dispatch to the end of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Rate that all calls under the rule share, for each agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl Constraints {
    /// Whether nothing is constrained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// So many calls in a span of time, with a burst.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Calls let through in each `per`.
    pub calls: u32,
    /// The span of time.
    pub per: Span,
    /// Calls that may come at once; `calls` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// How a call that needs approval is approved.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// How many seconds a call waits for an answer before it is refused with the approval's id; 30 when absent, at most
    /// 300. The same call passes once when the answer comes later.
    #[serde(
        default,
        rename = "holdSeconds",
        alias = "hold_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub hold_seconds: Option<u32>,
    /// Roles whose members may approve: `operator`, `approver`, or the value of a key's label `role`; the first two when
    /// empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Who may approve: names of keys, or labels that they have as `name=value`; everybody with the role when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// How many must say yes; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// How long a request stays open; an hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Span>,
    /// How long a grant is good once it is given; 10 minutes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Span>,
    /// How long the same call is refused without asking after a denial; 5 minutes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Span>,
}

/// The judgement of one call by a whole policy set.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What is to be done.
    pub decision: Decision,
    /// Id of the rule that decided: `document/rule`, or `default` where no rule matched.
    pub rule: Arc<str>,
    /// Why, in the words of the policy.
    pub reason: Arc<str>,
    /// Mode of the document that decided.
    pub mode: Mode,
    /// What a document in `warn` or `shadow` would have done, where it would have restricted more.
    pub would: Option<Would>,
    /// Limits within which the call may go.
    pub constraints: Option<Arc<Constraints>>,
    /// How it may be approved.
    pub approval: Option<Arc<Approval>>,
    /// What would change the verdict, in the policy's words.
    pub remediations: Arc<[String]>,
    /// Digest of the policy set that judged (`sha256:` and 64 hex digits).
    pub policy_digest: Arc<str>,
}

/// What would have happened under a document that is not enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Would {
    /// Its decision.
    pub decision: Decision,
    /// Its rule.
    pub rule: Arc<str>,
    /// Its reason.
    pub reason: Arc<str>,
    /// `warn` or `shadow`.
    pub mode: Mode,
}
