//! Workflows, compiled: every expression of a spec parsed and checked, every step resolved to those that it needs. What can be
//! wrong with a workflow is told here, before a run of it begins; running it is the control service's.
//!
//! ```
//! use sideguard_policy::workflow::Workflow;
//! use sideguard_types::resource::{ConditionStep, StepSpec, WorkflowSpec};
//!
//! let gate = |id: &str, needs: &[&str]| StepSpec {
//!     id: id.to_owned(),
//!     needs: needs.iter().map(ToString::to_string).collect(),
//!     condition: Some(ConditionStep { expr: "1 < 2".to_owned() }),
//!     ..StepSpec::default()
//! };
//! let spec = WorkflowSpec { steps: vec![gate("a", &["b"]), gate("b", &["a"])], ..WorkflowSpec::default() };
//! let faults = Workflow::compile(&spec).expect_err("a cycle");
//! assert_eq!(faults[0].message, "the steps need one another: `a` → `b` → `a`");
//! ```

mod action;
mod check;
mod expression;
mod graph;
mod infer;
mod json;
mod template;

use sideguard_types::resource::{Backoff, InputSpec, OnFailure, RetrySpec, WorkflowSpec};
use std::collections::BTreeMap;
use std::time::Duration;

pub use action::{Action, Approval, Delay, Each, Job, Notify, Undo};
pub use expression::{Expression, Facts, Local, Outcome};
pub use template::{Shape, Template};

/// Most steps.
pub const MOST_STEPS: usize = 200;
/// Most items of a `forEach`.
pub const MOST_ITEMS: usize = 1_000;

/// A workflow that can be run.
#[derive(Debug)]
pub struct Workflow {
    /// The steps, in the order of the spec.
    pub steps: Vec<Step>,
    /// Longest time of a run.
    pub timeout: Option<Duration>,
    /// What happens when the run's time is over.
    pub on_failure: OnFailure,
    /// What a run comes to.
    pub output: Option<Shape>,
    inputs: BTreeMap<String, InputSpec>,
}

/// A step that can be run.
#[derive(Debug)]
pub struct Step {
    /// Its name.
    pub id: String,
    /// The steps that must have ended before, by number.
    pub needs: Vec<usize>,
    /// Whether it is done at all.
    pub when: Option<Expression>,
    /// What it does.
    pub action: Action,
    /// How often it is tried.
    pub retry: Retry,
    /// Longest time of one attempt; of a `forEach`, of all together.
    pub timeout: Option<Duration>,
    /// What happens when it has failed.
    pub on_failure: OnFailure,
    /// What undoes it.
    pub compensate: Option<Undo>,
}

/// How often something is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often in all.
    pub attempts: u32,
    backoff: Backoff,
}

impl Retry {
    fn of(spec: Option<&RetrySpec>) -> Self {
        spec.map_or(Self { attempts: 1, backoff: Backoff::default() }, |spec| Self {
            attempts: spec.attempts.max(1),
            backoff: spec.backoff,
        })
    }

    /// The pause after so many attempts.
    #[must_use]
    pub fn pause(&self, attempts: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.base.0.saturating_mul(doubled).min(self.backoff.max.0)
    }
}

/// One step of the way from `spec` to what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A key of a map.
    Key(String),
    /// An item of a list.
    Item(usize),
}

/// One thing that is wrong with a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, below `spec`.
    pub path: Vec<Place>,
    /// Line and column from 1 within the text there, when it is in an expression.
    pub within: Option<(usize, usize)>,
    /// Stable name of the kind of fault.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("spec")?;
        for place in &self.path {
            match place {
                Place::Key(key) => write!(f, ".{key}")?,
                Place::Item(at) => write!(f, "[{at}]")?,
            }
        }
        write!(f, ": {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl Workflow {
    /// Compiles a spec.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(spec: &WorkflowSpec) -> Result<Self, Vec<Fault>> {
        check::compile(spec)
    }

    /// What a run starts from: what was given, with defaults in place of what was not.
    ///
    /// # Errors
    /// Everything that is wrong with what was given.
    pub fn input(&self, given: &serde_json::Value) -> Result<serde_json::Value, Vec<String>> {
        let empty = serde_json::Map::new();
        let given = match given {
            serde_json::Value::Null => &empty,
            serde_json::Value::Object(given) => given,
            _ => return Err(vec!["the input is not a map of names and values".to_owned()]),
        };
        let mut faults = Vec::new();
        for name in given.keys().filter(|name| !self.inputs.contains_key(*name)) {
            let known: Vec<&str> = self.inputs.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            faults.push(format!("there is no input `{name}`; known inputs: {known}"));
        }
        let mut input = serde_json::Map::new();
        for (name, spec) in &self.inputs {
            let value = match given.get(name) {
                Some(value) if spec.kind.takes(value) => value.clone(),
                Some(serde_json::Value::Null) if !spec.required => spec.default.clone(),
                Some(_) => {
                    faults.push(format!("the input `{name}` is not of type {}", spec.kind.as_str()));
                    continue;
                }
                None if spec.required => {
                    faults.push(format!("the input `{name}` is missing"));
                    continue;
                }
                None => spec.default.clone(),
            };
            input.insert(name.clone(), value);
        }
        if faults.is_empty() { Ok(serde_json::Value::Object(input)) } else { Err(faults) }
    }
}

#[cfg(test)]
mod tests;
