//! Kind `WorkerPool`: which workers do which jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::JobLimits;
use crate::time::Span;

/// Which workers do which jobs, and what happens when one is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkerPoolSpec {
    /// Topics of the jobs that it does (globs).
    pub topics: Vec<String>,
    /// Agents that may work in it (globs); any of the tenant when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Labels that its workers must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Most jobs of the pool at once, over all its workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// When a lost worker's jobs go to another one.
    #[serde(default)]
    pub reassign: Reassign,
    /// How often a job is given to a worker before it is dead-lettered.
    #[serde(default = "five")]
    pub max_attempts: u32,
    /// Pauses between tries.
    #[serde(default)]
    pub backoff: Backoff,
    /// When a worker counts as lost.
    #[serde(default)]
    pub heartbeat: Heartbeat,
    /// Time limits of its jobs, where they have none of their own.
    #[serde(default)]
    pub limits: JobLimits,
    /// Whether no jobs are given out; those under way go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

const fn five() -> u32 {
    5
}

/// When a lost worker's jobs go to another one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reassign {
    /// Those that are idempotent, and those that were not started.
    #[default]
    Idempotent,
    /// Only those that were not started.
    NotStarted,
    /// Never.
    Never,
}

/// Pauses that double from one try to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// The first pause.
    pub base: Span,
    /// The longest one.
    pub max: Span,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Span(Duration::from_secs(1)), max: Span(Duration::from_secs(60)) }
    }
}

/// When a worker that is silent counts as lost. Its sidecar stops its calls before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeat {
    /// After so long it gets no new jobs.
    pub stale: Span,
    /// After so long its jobs are no longer its own; 5 seconds at least.
    pub dead: Span,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { stale: Span(Duration::from_secs(6)), dead: Span(Duration::from_secs(15)) }
    }
}

/// Longest time in the queue, in dispatch, at work and in all, where neither job nor pool says.
pub const LIMITS: [Duration; 4] = [
    Duration::from_secs(24 * 3_600),
    Duration::from_secs(30),
    Duration::from_secs(3_600),
    Duration::from_secs(48 * 3_600),
];
