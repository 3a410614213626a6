//! Kind `Policy`, and safety.yaml documents, which become one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::call::{Point, Verb};
use crate::time::Span;
use crate::verdict::{Approval, Constraints, Decision, Mode};

/// Rules of one document. The first that matches decides for this document; of several documents the most
/// restrictive verdict wins.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// Rules in the order in which they are tried.
    #[serde(default)]
    pub rules: Vec<RuleSpec>,
    /// What holds for calls that no rule matches. Absent: this document has no say about them, and a call that
    /// no document has a say about is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_decision: Option<Decision>,
    /// How earnest the document is: one mode, or one for each point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ModeSpec>,
}

/// `mode: warn`, or `mode: {default: enforce, points: {tool.result: shadow}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ModeSpec {
    /// One mode for all points.
    One(Mode),
    /// A mode for each point.
    ByPoint(ModeByPoint),
}

/// A mode for each point.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModeByPoint {
    /// For points that are not named.
    #[serde(default)]
    pub default: Mode,
    /// For the named points.
    #[serde(default)]
    pub points: BTreeMap<Point, Mode>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// Id, unique in its document.
    pub id: String,
    /// Which calls it is about; empty matches all.
    #[serde(default, rename = "match")]
    pub matches: MatchSpec,
    /// A CEL expression over the call that must be true as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What is to be done. Aliases: `block`, `reject` (deny); `permit`, `accept` (allow);
    /// `approval`, `human`, `ask` (require_approval); `constrain` (allow_with_constraints); `rate_limit` (throttle).
    pub decision: Decision,
    /// Why, for the agent's developer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Limits, for `allow_with_constraints` and `throttle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Constraints>,
    /// How it may be approved, for `require_approval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Applies only once calls come faster than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub velocity: Option<VelocitySpec>,
    /// What would change the verdict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remediations: Vec<String>,
}

/// Which calls a rule is about: keys AND together, items of a list OR, `requires` means all of its items.
/// Strings are globs, in which `*` matches any run of characters, dots included, and `?` one character.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MatchSpec {
    /// Tenants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// Agents' names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Labels that the agent must have, values as globs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Topics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Verbs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<Verb>,
    /// Risk tags, any of which.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub risk_tags: Vec<String>,
    /// Points.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Point>,
    /// Tools' names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Models' names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Host names: `api.example.com`, `*.example.com` (any depth below, not the name itself).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// HTTP methods, in any case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths as sent upstream, without query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Capabilities of the agent, any of which.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Risk tags, all of which.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// The delegation chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegation: Option<DelegationMatch>,
    /// What the bytes hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentMatch>,
}

/// Matches calls by their delegation chain: those that break any of the given limits.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DelegationMatch {
    /// Matches chains with more links than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
    /// Matches chains whose root is none of these (globs).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
    /// Matches every delegated call.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub forbid_delegated: bool,
}

/// Matches calls by what their bytes hold: any detector or pattern that finds something.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContentMatch {
    /// Names of shipped detectors (`aws-key`, `private-key`, `credit-card`, …).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detectors: Vec<String>,
    /// Regular expressions (RE2 syntax, no look-around).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
}

/// More than `max` calls in `window` that the rule's `match` and `when` fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VelocitySpec {
    /// Calls that may come before the rule applies.
    pub max: u64,
    /// Span of time in which they are counted.
    pub window: Span,
    /// What they are counted by; `agent` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<super::Per>,
}
