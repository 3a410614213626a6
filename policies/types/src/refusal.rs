//! Why a call was not let through: the stable codes that replies, records, logs and metrics share.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Stable code of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Policy says no.
    PolicyDenied,
    /// A capability or delegation does not reach that far.
    ScopeDenied,
    /// A person has to say yes and has not.
    ApprovalRequired,
    /// A budget is used up and does not recover soon.
    BudgetExhausted,
    /// A rate or concurrency limit that recovers soon.
    RateLimited,
    /// A breaker holds calls back.
    BreakerTripped,
    /// A kill switch is on.
    Killed,
    /// It is made for a job that is no longer this worker's.
    Fenced,
    /// The call cannot be judged: undecodable, or an unknown path of a governed provider.
    Unjudgeable,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// Not valid HTTP.
    Malformed,
    /// There is no policy, or it is too old.
    PolicyUnavailable,
    /// The record cannot be written.
    RecordUnavailable,
    /// The upstream cannot be reached.
    UpstreamUnreachable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The agent is not known.
    Unauthenticated,
}

impl Code {
    /// The code as it stands in replies and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PolicyDenied => "policy_denied",
            Self::ScopeDenied => "scope_denied",
            Self::ApprovalRequired => "approval_required",
            Self::BudgetExhausted => "budget_exhausted",
            Self::RateLimited => "rate_limited",
            Self::BreakerTripped => "breaker_tripped",
            Self::Killed => "killed",
            Self::Fenced => "fenced",
            Self::Unjudgeable => "unjudgeable",
            Self::BodyTooLarge => "body_too_large",
            Self::Malformed => "malformed",
            Self::PolicyUnavailable => "policy_unavailable",
            Self::RecordUnavailable => "record_unavailable",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// HTTP status of the reply; `budget_exhausted` may be configured to another.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::PolicyDenied
            | Self::ScopeDenied
            | Self::ApprovalRequired
            | Self::Killed
            | Self::Fenced
            | Self::Unjudgeable => 403,
            Self::BudgetExhausted => 402,
            Self::RateLimited => 429,
            Self::BreakerTripped | Self::PolicyUnavailable | Self::RecordUnavailable => 503,
            Self::BodyTooLarge => 413,
            Self::Malformed => 400,
            Self::UpstreamUnreachable => 502,
            Self::UpstreamTimeout => 504,
            Self::Unauthenticated => 401,
        }
    }
}

/// One refusal, before it takes the form of the caller's dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code.
    pub code: Code,
    /// HTTP status of the reply.
    pub status: u16,
    /// Rule, budget or breaker that refused, by id.
    pub rule: Arc<str>,
    /// Why, in one sentence for the agent's developer.
    pub reason: String,
    /// What would help, where anything would.
    pub hint: Option<String>,
    /// Id of the call in the record.
    pub call: String,
    /// When a used-up budget has room again.
    pub reset_at: Option<Timestamp>,
    /// How long to wait before trying again; never above 60 s.
    pub retry_after: Option<Duration>,
    /// Id of the pending approval.
    pub approval: Option<String>,
    /// Where people see it.
    pub approval_url: Option<String>,
}

impl Refusal {
    /// A refusal with its code's own status and nothing optional.
    #[must_use]
    pub fn new(code: Code, rule: impl Into<Arc<str>>, reason: impl Into<String>) -> Self {
        Self {
            code,
            status: code.status(),
            rule: rule.into(),
            reason: reason.into(),
            hint: None,
            call: String::new(),
            reset_at: None,
            retry_after: None,
            approval: None,
            approval_url: None,
        }
    }

    /// The sentence that SDKs show: what was refused, by which rule, why, and what would help.
    #[must_use]
    pub fn message(&self) -> String {
        let mut message = format!("{} [{} by `{}`", self.reason, self.code.as_str(), self.rule);
        if !self.call.is_empty() {
            message.push_str(&format!(", call {}", self.call));
        }
        message.push(']');
        if let Some(reset) = self.reset_at {
            message.push_str(&format!("; room again at {reset}"));
        }
        if let Some(hint) = &self.hint {
            message.push_str(&format!("; {hint}"));
        }
        message
    }
}
