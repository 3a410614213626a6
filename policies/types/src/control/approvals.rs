//! Approvals: what a sidecar holds and asks about, what people see of it, and how they answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::time::Timestamp;

/// `POST /v1/approvals`: a request that a sidecar holds, for people to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ask {
    /// The agent whose call it is.
    pub agent: String,
    /// Delegation chain, root first, the agent left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// Id of the call in the sidecar's record.
    pub call: String,
    /// The rule that asks.
    pub rule: String,
    /// Why, in the rule's words.
    pub reason: String,
    /// Where the call is judged.
    pub point: String,
    /// Topic.
    pub topic: String,
    /// Tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Digest of the policy set, catalogs included, that asks.
    pub policy_digest: String,
    /// SHA-256 over the canonical request, in hex.
    pub hash: String,
    /// How it may be approved.
    pub terms: Terms,
    /// The request itself.
    pub request: Held,
}

/// A held request: what goes out when it is approved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Held {
    /// HTTP method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host, with the port where it is not the scheme's own.
    pub host: String,
    /// Path and query as they would be sent.
    pub path: String,
    /// Headers that the approval is bound to; the values of credentials are `***`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The body's bytes, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// What they say: the tool's arguments or the body, as JSON where it is JSON, else as text.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub arguments: Value,
    /// What policy changes in it before it leaves.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub constraints: Value,
}

/// How a request may be approved; times in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Terms {
    /// How many people must say yes.
    pub quorum: u32,
    /// Roles whose members may answer; operators and approvers when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Who may answer: names of keys, or labels as `name=value`; anybody with the role when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// How long it may be answered.
    pub expires: u64,
    /// How long a grant is good.
    pub valid: u64,
    /// How long after a denial the same request is not asked about again.
    pub cooldown: u64,
}

/// Where an approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody, or not enough people, have answered.
    Pending,
    /// It is granted, and no call has used that yet.
    Approved,
    /// Somebody has said no.
    Denied,
    /// Nobody answered in time, the grant was not used in time, or the policy has changed.
    Expired,
    /// A call has used the grant.
    Consumed,
}

impl State {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Consumed => "consumed",
        }
    }
}

/// What a sidecar is told of an approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Id of the approval.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// Who has answered so far, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// Why it was denied, or is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Pending: when it expires. Approved: until when the grant is good. Denied: from when the same may be asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// An earlier approval of the same request that a change of policy has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// `POST /v1/approvals/{id}/grant`: uses a grant up for one call. The same call may ask again and gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Redeem {
    /// The agent whose call it is.
    pub agent: String,
    /// Id of the call.
    pub call: String,
    /// Hash of its canonical request.
    pub hash: String,
    /// Digest of the policy set that it was judged by.
    pub policy_digest: String,
}

/// What a person says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Yes.
    Approve,
    /// No.
    Deny,
}

impl Said {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
        }
    }
}

/// `POST /v1/approvals/{id}`: a person's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Yes or no.
    pub verdict: Said,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a webhook is told of: the body of a notification. It is signed as [`signed`] says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Notification {
    /// `approval.asked`.
    pub event: String,
    /// The approval, with the whole request.
    pub approval: Approval,
    /// What an answer must repeat.
    pub nonce: String,
    /// The path at control that takes the answer.
    pub answer: String,
}

/// `POST /v1/approvals/{id}/webhook`: a webhook's answer, signed as [`signed`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Callback {
    /// The notification's nonce.
    pub nonce: String,
    /// Yes or no.
    pub verdict: Said,
    /// Who said so, as the webhook's side knows them. All who answer by webhooks count as one person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An answer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vote {
    /// Who.
    pub by: String,
    /// Yes or no.
    pub verdict: Said,
    /// When.
    pub time: Timestamp,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The call that used a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Use {
    /// Its id in the sidecar's record.
    pub call: String,
    /// The sidecar.
    pub sidecar: String,
    /// When.
    pub time: Timestamp,
}

/// An approval as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// Id.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// The agent whose call it is.
    pub agent: String,
    /// Delegation chain, root first, the agent left out.
    pub chain: Vec<String>,
    /// Where it stands.
    pub state: State,
    /// The rule that asks.
    pub rule: String,
    /// Why, in the rule's words.
    pub reason: String,
    /// Where the call is judged.
    pub point: String,
    /// Topic.
    pub topic: String,
    /// Tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// HTTP method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host, with the port where it is not the scheme's own.
    pub host: String,
    /// Path and query as they would be sent.
    pub path: String,
    /// The tool's arguments or the body: JSON or text. In a listing long ones are cut.
    #[serde(default)]
    pub arguments: Value,
    /// Whether `arguments` are cut; `GET /v1/approvals/{id}` has them whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// What policy changes in it before it leaves.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub constraints: Value,
    /// Headers that it is bound to; only of one approval.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The body's bytes in base64; only of one approval.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// SHA-256 over the canonical request, in hex.
    pub hash: String,
    /// Digest of the policy set that asks.
    pub policy_digest: String,
    /// The sidecar that asked first.
    pub sidecar: String,
    /// The call that it asked for.
    pub call: String,
    /// When it was asked.
    pub created: Timestamp,
    /// Until when it may be answered; of a grant, until when it is good.
    pub expires: Timestamp,
    /// How many people must say yes.
    pub quorum: u32,
    /// How it may be approved.
    pub terms: Terms,
    /// Answers so far.
    pub votes: Vec<Vote>,
    /// When it was granted or denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Timestamp>,
    /// Which call used the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Use>,
    /// Why it is over, where that needs a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
