//! The record: one entry a phase of a call, chained by hash.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::call::{Point, Verb};
use crate::delegation::Correlation;
use crate::time::Timestamp;
use crate::units::MicroUsd;
use crate::usage::Usage;
use crate::verdict::{Decision, Mode};

/// Which part of a call's life an entry tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The call is about to leave. On disk before its first byte does.
    Intent,
    /// What came of a call that left.
    Outcome,
    /// A judgement after which nothing left: a refusal, a hidden tool, a stopped tool call.
    Decision,
    /// The sidecar's own doings: start, stop, policy change, breaker, checkpoint.
    Control,
}

/// Where a call goes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Host name, with the port where it is not the scheme's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// HTTP method.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Path as sent upstream; query names kept, their values hashed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Tool's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// What a call held of its budgets and what it took; tokens and dollars.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spend {
    /// Held before dispatch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Amounts>,
    /// Taken in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Amounts>,
}

/// Amounts in each unit that budgets limit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Money, as a decimal string of dollars.
    pub usd: MicroUsd,
}

/// One entry of the record. `seq`, `prev` and `hash` are filled in by the log that writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this form; 1.
    pub v: u8,
    /// When it was written.
    pub time: Timestamp,
    /// Which part of the call's life it tells.
    pub phase: Phase,
    /// Tenant.
    pub tenant: String,
    /// Agent.
    pub agent: String,
    /// Delegation chain, root first, the agent left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// By what it is known under which delegation the call is made; absent where it is made under none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Correlation>,
    /// Id of the link by which the call hands work on, or by which work has come in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Session that the agent named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// W3C trace id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The job that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Id of the call; empty for `control`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub call: String,
    /// Where it was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<Point>,
    /// Topic.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// Verb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<Verb>,
    /// Risk tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risk_tags: Vec<String>,
    /// Where it goes.
    #[serde(default)]
    pub target: Target,
    /// SHA-256 of the tool's arguments or of the request's body, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args_hash: Option<String>,
    /// What was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Stable code of the refusal, or the name of a control event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Rule that decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Digest of the policy set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy_digest: String,
    /// Mode of the document that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Budget held and taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Spend>,
    /// Tokens used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Cost, as a decimal string of dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<MicroUsd>,
    /// HTTP status that the caller got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Time from the request's arrival to the answer's end, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// Bytes sent to and received from a tunnel's far end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<[u64; 2]>,
    /// Id of the approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// Who approved it, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_by: Vec<String>,
}

impl Record {
    /// An entry of `phase` at `time` with everything else empty.
    #[must_use]
    pub fn new(phase: Phase, time: Timestamp) -> Self {
        Self {
            v: 1,
            time,
            phase,
            tenant: String::new(),
            agent: String::new(),
            chain: Vec::new(),
            correlation: None,
            link: None,
            session: None,
            trace_id: None,
            job: None,
            call: String::new(),
            point: None,
            topic: String::new(),
            verb: None,
            risk_tags: Vec::new(),
            target: Target::default(),
            args_hash: None,
            decision: None,
            code: None,
            rule: String::new(),
            reason: String::new(),
            policy_digest: String::new(),
            mode: None,
            budget: None,
            usage: None,
            cost_usd: None,
            status: None,
            latency_us: None,
            bytes: None,
            approval: None,
            approved_by: Vec::new(),
        }
    }
}
