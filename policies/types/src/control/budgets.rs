//! Budgets of a fleet: the leases that sidecars draw on, and how the accounts stand.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::Unit;
use crate::time::Timestamp;

/// Most lines of a lease.
pub const MOST_LINES: usize = 64;
/// Most turns of one request.
pub const MOST_TURNS: usize = 256;

/// Who calls and what, as budgets look at it. The tenant is that of the sidecar's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Agent.
    pub agent: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// What a lease is to hold of one limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Name of the limit, which must cover the subject.
    pub limit: String,
    /// What the sidecar cannot do without, in the limit's unit (micro-dollars for `usd`).
    pub least: u64,
    /// What it would like.
    pub want: u64,
}

/// `POST /v1/leases`: asks for a lease of all lines, or of none. Asked again under the same name, it is the same lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Its name, the sidecar's choice.
    pub lease: String,
    /// For whose calls.
    pub subject: Subject,
    /// What it is to hold.
    pub lines: Vec<Line>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The lease holds this much.
    Held {
        /// Line by line.
        granted: Vec<u64>,
        /// What the limits have left beside it, line by line.
        free: Vec<u64>,
        /// Milliseconds for which it may be drawn on, from the moment at which the request was made.
        millis: u64,
    },
    /// A limit has too little left, and nothing is held.
    Short {
        /// Its name.
        limit: String,
        /// What it has left.
        free: u64,
        /// Whether it is only what leases hold that is in the way.
        soon: bool,
        /// When there is room again if nobody else comes.
        #[serde(default, rename = "resetAt", skip_serializing_if = "Option::is_none")]
        reset_at: Option<Timestamp>,
    },
}

/// What a sidecar tells of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Name of the lease.
    pub lease: String,
    /// Counts the turns of the lease from 1 on: a turn that is told twice counts once.
    pub number: u64,
    /// What was spent since the last turn, line by line.
    pub spent: Vec<u64>,
    /// What it goes on holding, line by line; the rest is given back. All zero ends it.
    pub keep: Vec<u64>,
}

/// `POST /v1/leases/turns`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// The turns, each of another lease.
    pub turns: Vec<Turn>,
}

/// How a lease stands after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseStanding {
    /// It goes on, holding what was to be kept.
    Open,
    /// It is gone: ended, or charged in full because it was not heard of in time.
    Gone,
    /// The turn speaks of more than the lease holds; nothing was changed.
    Beyond,
}

/// The answer to turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Turned {
    /// In the order of the turns.
    pub standings: Vec<LeaseStanding>,
    /// Milliseconds for which those that go on may be drawn on, from the moment at which the request was made.
    pub millis: u64,
}

/// `GET /v1/budgets`: one account. Amounts are in the unit, dollars as decimals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Tenant of the budget; `*` for a budget of all tenants.
    pub tenant: String,
    /// Budget.
    pub budget: String,
    /// What is counted.
    pub unit: Unit,
    /// Whose account, such as `tenant/agent`; empty for the whole scope.
    pub key: String,
    /// The limit.
    pub limit: String,
    /// Spent in the window.
    pub spent: String,
    /// Held by leases of sidecars.
    pub held: String,
    /// What is left.
    pub left: String,
    /// The window, as the budget says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// When all that is spent now will be free again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_at: Option<Timestamp>,
    /// The highest share at which an alert was raised and which is still spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<f64>,
    /// Alerts that were raised so far.
    #[serde(default)]
    pub alerts: u64,
}

/// A moment in the history of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// When.
    pub time: Timestamp,
    /// What was spent in the window that ended then.
    pub spent: String,
    /// The limit of today.
    pub limit: String,
}

/// `GET /v1/budgets/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// The oldest first.
    pub points: Vec<Point>,
}

/// What stands in the journal `budgets/events` of a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What happened: `alert`.
    pub event: String,
    /// Budget.
    pub budget: String,
    /// What is counted.
    pub unit: Unit,
    /// Whose account.
    pub key: String,
    /// The share that was reached.
    pub share: f64,
    /// What is spent.
    pub spent: String,
    /// The limit.
    pub limit: String,
}
