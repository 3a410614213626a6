//! What steps do, compiled.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Retry;
use super::expression::Expression;
use super::template::{Shape, Template};

/// What a step does.
#[derive(Debug)]
pub enum Action {
    /// A job for a worker.
    Job(Job),
    /// A question to people.
    Approval(Approval),
    /// A gate.
    Condition(Expression),
    /// A pause.
    Delay(Delay),
    /// A message to a webhook.
    Notify(Notify),
    /// The same for each item of a list.
    ForEach(Box<Each>),
}

/// A job for a worker.
#[derive(Debug)]
pub struct Job {
    /// Topic.
    pub topic: String,
    /// Capabilities that a worker must have.
    pub requires: Vec<String>,
    /// Labels that a worker must have.
    pub placement: BTreeMap<String, String>,
    /// Labels of its own.
    pub labels: BTreeMap<String, String>,
    /// From 0 to 9.
    pub priority: u8,
    /// What the worker is given.
    pub input: Shape,
    /// Whether it may be done twice.
    pub idempotent: bool,
}

/// A question to people.
#[derive(Debug)]
pub struct Approval {
    /// What they are asked.
    pub text: Template,
    /// What they are shown beside it.
    pub show: Shape,
    /// Who may answer.
    pub approvers: Vec<String>,
    /// Roles whose members may answer.
    pub roles: Vec<String>,
    /// Whether whoever started the run may not answer.
    pub separate: bool,
    /// How many people must say yes.
    pub quorum: u32,
    /// How long it may be answered.
    pub expires: Duration,
}

/// A pause.
#[derive(Debug)]
pub enum Delay {
    /// So long.
    For(Duration),
    /// Until a moment.
    Until(Expression),
}

/// A message to a webhook.
#[derive(Debug)]
pub struct Notify {
    /// Name of the webhook.
    pub webhook: String,
    /// What is sent.
    pub body: Shape,
}

/// The same for each item of a list.
#[derive(Debug)]
pub struct Each {
    /// The list.
    pub items: Expression,
    /// How many are at work at once.
    pub max_parallel: usize,
    /// What is done: a job, a question or a message.
    pub action: Action,
    /// How often each item is tried.
    pub retry: Retry,
    /// Longest time of one attempt.
    pub timeout: Option<Duration>,
    /// Whether an item that fails leaves the others alone.
    pub tolerate: bool,
    /// What undoes an item.
    pub compensate: Option<Undo>,
}

/// What undoes a step.
#[derive(Debug)]
pub struct Undo {
    /// A job for a worker.
    pub job: Job,
    /// How often it is tried.
    pub retry: Retry,
    /// Longest time of one attempt.
    pub timeout: Option<Duration>,
}
