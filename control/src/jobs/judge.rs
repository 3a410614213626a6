//! Policy on jobs: whether one is taken, given out, and what comes of it kept. Judged by the set that the tenant's sidecars
//! have; without one, or when it cannot be had, the answer is no.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sideguard_policy::redact::Detectors;
use sideguard_policy::source::{self};
use sideguard_policy::{PolicySet, compile};
use sideguard_runtime::velocity::Counters;
use sideguard_store::Store;
use sideguard_types::call::{Call, Caller, Moment, Point};
use sideguard_types::job::{Job, JobSpec, Submitter};
use sideguard_types::time::Timestamp;
use sideguard_types::units::{MicroUsd, Tokens};
use sideguard_types::verdict::{Constraints, Decision, Verdict};

use crate::desired;
use crate::error::Failure;
use crate::feed::Waiting;

/// Most sets that are kept compiled.
const SETS: usize = 1_000;

/// A tenant's set: its generation, and nothing when that does not compile.
type Compiled = (u64, Option<Arc<PolicySet>>);

/// The compiled sets of tenants.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    sets: Mutex<HashMap<String, Compiled>>,
    velocity: Counters,
}

/// What policy says of a job.
#[derive(Debug)]
pub(crate) enum Judgement {
    /// Yes, with the detectors whose findings are blacked out and the most bytes that are kept.
    Yes { redact: Vec<String>, most: Option<u64> },
    /// People are to be asked.
    Ask(Box<Verdict>),
    /// No: the rule and why.
    No { rule: String, reason: String },
}

impl Judge {
    /// The set of a tenant in force.
    ///
    /// # Errors
    /// [`Failure::Broken`] when it does not compile for this tenant.
    pub(crate) async fn set(
        &self,
        store: &Store,
        waiting: &Waiting,
        now: Timestamp,
        tenant: &str,
    ) -> Result<Arc<PolicySet>, Failure> {
        let none =
            || Failure::Invalid("nothing is applied yet: there is no policy to judge a job by".to_owned());
        let (kept, _) = waiting.in_force().filter(|(kept, _)| kept.told.number > 0).ok_or_else(none)?;
        let number = kept.told.number;
        let broken = || Failure::Broken(format!("generation {number} for tenant `{tenant}`"));
        if let Some((_, set)) = self.sets.lock().get(tenant).filter(|(known, _)| *known == number) {
            return set.clone().ok_or_else(broken);
        }
        let sources = desired::sources(store, now, &kept, tenant).await?;
        // Thousands of rules take a while: not on a thread that serves others.
        let compiled = tokio::task::spawn_blocking(move || compile(&source::load(&sources))).await;
        let set = match compiled {
            Ok(Ok(set)) => Some(Arc::new(set)),
            Ok(Err(_)) | Err(_) => {
                tracing::error!(tenant, number, "what is applied does not compile: no job is given out");
                None
            }
        };
        let mut sets = self.sets.lock();
        if sets.len() >= SETS {
            sets.clear();
        }
        sets.insert(tenant.to_owned(), (number, set.clone()));
        set.ok_or_else(broken)
    }

    /// Whether a job is taken.
    pub(crate) fn submit(
        &self,
        set: &PolicySet,
        now: Timestamp,
        tenant: &str,
        by: &Submitter,
        spec: &JobSpec,
        input: &[u8],
    ) -> Judgement {
        let caller = caller(set, tenant, &by.name, by.chain.clone());
        self.judge(set, now, &caller, Point::JobSubmit, spec, input)
    }

    /// The same for a job that people have approved.
    pub(crate) fn approved(&self, set: &PolicySet, now: Timestamp, job: &Job, input: &[u8]) -> Judgement {
        match self.submit(set, now, &job.tenant, &job.by, &job.spec, input) {
            Judgement::Ask(_) => Judgement::Yes { redact: Vec::new(), most: None },
            said => said,
        }
    }

    /// Whether a job is given to an agent: it acts for whoever submitted the job.
    pub(crate) fn dispatch(
        &self,
        set: &PolicySet,
        now: Timestamp,
        job: &Job,
        agent: &str,
        input: &[u8],
    ) -> Judgement {
        let caller = caller(set, &job.tenant, agent, chain(job));
        self.judge(set, now, &caller, Point::JobDispatch, &job.spec, input)
    }

    /// Whether a job's result is kept.
    pub(crate) fn result(
        &self,
        set: &PolicySet,
        now: Timestamp,
        job: &Job,
        agent: &str,
        result: &[u8],
    ) -> Judgement {
        let caller = caller(set, &job.tenant, agent, chain(job));
        self.judge(set, now, &caller, Point::JobResult, &job.spec, result)
    }

    fn judge(
        &self,
        set: &PolicySet,
        now: Timestamp,
        caller: &Caller,
        point: Point,
        spec: &JobSpec,
        content: &[u8],
    ) -> Judgement {
        let args = content.starts_with(b"{").then_some(content);
        let call = Call {
            caller,
            point,
            class: set.classifier().job(&spec.topic, Some(content)),
            tool: None,
            args,
            model: None,
            host: "",
            method: "",
            path: "",
            query: "",
            tokens: Tokens::default(),
            cost: MicroUsd::default(),
            session: None,
            content,
        };
        let identity = set.identity_by_name(&caller.tenant, &caller.agent);
        if let Some(Err(reason)) = identity.map(|identity| identity.scope(&call)) {
            return Judgement::No { rule: format!("agent/{}", caller.agent), reason };
        }
        let ruling = set.decide(&call, Moment { now, velocity: &self.velocity });
        let verdict = ruling.verdict();
        match verdict.decision {
            Decision::RequireApproval => Judgement::Ask(Box::new(verdict.clone())),
            Decision::Deny => {
                Judgement::No { rule: verdict.rule.to_string(), reason: verdict.reason.to_string() }
            }
            Decision::Allow | Decision::AllowWithConstraints | Decision::Throttle => {
                let within = verdict.constraints.as_deref();
                let kept = within.cloned().unwrap_or_default();
                let result = point == Point::JobResult;
                let fits = Constraints {
                    redact: if result { kept.redact.clone() } else { Vec::new() },
                    max_output_bytes: if result { kept.max_output_bytes } else { None },
                    ..Constraints::default()
                };
                if fits != kept || verdict.decision == Decision::Throttle {
                    let reason = format!("its constraints do not fit a job at `{point}`");
                    return Judgement::No { rule: verdict.rule.to_string(), reason };
                }
                Judgement::Yes {
                    redact: within.map(|within| within.redact.clone()).unwrap_or_default(),
                    most: within.and_then(|within| within.max_output_bytes),
                }
            }
        }
    }
}

/// The agents above a job's worker, root first.
fn chain(job: &Job) -> Vec<String> {
    let by = if job.by.person { None } else { Some(job.by.name.clone()) };
    job.by.chain.iter().cloned().chain(by).collect()
}

fn caller(set: &PolicySet, tenant: &str, agent: &str, chain: Vec<String>) -> Caller {
    let known = set.identity_by_name(tenant, agent).map(|identity| identity.caller.clone());
    let unknown = || Caller { tenant: tenant.to_owned(), agent: agent.to_owned(), ..Caller::default() };
    Caller { chain, ..known.unwrap_or_else(unknown) }
}

/// Blacks out what detectors find in a JSON text; nothing when that leaves no JSON.
pub(crate) fn redacted(text: &[u8], names: &[String]) -> Option<Vec<u8>> {
    let detectors = Detectors::compile(names).ok()?;
    let mut text = text.to_vec();
    for found in detectors.find(&text.clone()) {
        text.get_mut(found.range)?.fill(b'*');
    }
    if detectors.finds(&text) || serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_err() {
        return None;
    }
    Some(text)
}
