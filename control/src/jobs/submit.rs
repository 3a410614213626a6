//! New jobs: checked, judged, and then in the queue in one step with their idempotency key.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sideguard_runtime::{clock, id};
use sideguard_store::StoreError;
use sideguard_store::documents::{Edit, Expect};
use sideguard_store::key::Key;
use sideguard_types::call::Point;
use sideguard_types::control::approvals::{Ask, Held, Terms};
use sideguard_types::control::jobs::Submit;
use sideguard_types::job::{
    DEEPEST, Job, JobEvent, JobReason, JobSpec, JobState, Large, Submitter, too_deep,
};
use sideguard_types::time::{Span, Timestamp};
use sideguard_types::verdict::Verdict;

use super::{INLINE, Jobs, Judgement, LARGEST, TRIES, bytes, kept, places, state};
use crate::approvals::{self, Webhooks};
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::{Principal, Role};
use crate::signer::hex;

/// Most jobs of a tenant that are open at once.
const OPEN: usize = 50_000;
/// How long an idempotency key is remembered.
const REMEMBERED: Duration = Duration::from_secs(86_400);
/// Longest topic, name and key, and most of them.
const TEXT: usize = 200;
const SEVERAL: usize = 32;
/// The highest priority.
const HIGHEST: u8 = 9;
/// Most retries.
const RETRIES: u32 = 100;
/// How long people may take, a grant is good and a no holds, in seconds, where the rule does not say.
const TERMS: [u64; 3] = [3_600, 600, 300];

impl Jobs {
    /// Takes a job, or refuses it. What is refused by policy is kept as well.
    pub(crate) async fn submit(
        &self,
        waiting: &Waiting,
        webhooks: &Webhooks,
        who: &Principal,
        submit: Submit,
    ) -> Result<Job, Failure> {
        check(&submit)?;
        let (tenant, by) = submitter(who, &submit)?;
        let name = submit.idempotency_key.as_ref().map(|key| named(&tenant, &by, key)).transpose()?;
        for _ in 0..TRIES {
            if let Some(key) = &name
                && let Some(known) = self.store.documents.get(clock::now(), key).await?
            {
                let id = String::from_utf8_lossy(&known.value).into_owned();
                return self.read(clock::now(), &tenant, &id).await?.ok_or_else(|| places::missing(&id));
            }
            if self.board.open(&tenant) >= OPEN {
                return Err(Failure::Busy(format!("{OPEN} jobs of tenant `{tenant}` are open already")));
            }
            let now = clock::now();
            let (mut job, large) = new(now, &tenant, by.clone(), &submit)?;
            let text = large.clone().unwrap_or_else(|| job.spec.input.to_string().into());
            let set = self.judge.set(&self.store, waiting, now, &tenant).await?;
            match self.judge.submit(&set, now, &tenant, &job.by, &submit.spec, &text) {
                Judgement::Yes { .. } => {}
                Judgement::No { rule, reason } => {
                    let message = format!("{rule}: {reason}");
                    state::end(&mut job, now, JobState::Denied, JobReason::SubmitDenied, &message);
                }
                Judgement::Ask(verdict) => {
                    let asked = ask(&job, &verdict, submit.spec.input.clone());
                    let asker = Principal::new("control", Role::Sidecar, Some(tenant.clone()));
                    let standing = approvals::ask(&self.store, webhooks, now, &asker, asked).await?;
                    job.approval = Some(standing.id);
                    job.message = format!("{}: {}", verdict.rule, verdict.reason);
                    state::step(&mut job, now, JobState::ApprovalRequired, None);
                }
            }
            let mut edits = kept(&job, now, Expect::Any)?;
            if let Some(data) = large.filter(|_| job.state != JobState::Denied) {
                let key = places::data(&tenant, &job.id, "input")?;
                edits.push(Edit::put(key, data, Expect::Absent).until(Some(ends(&job))));
            }
            if let Some(key) = &name {
                let id = job.id.clone().into_bytes().into();
                edits.push(Edit::put(key.clone(), id, Expect::Absent).until(Some(now.plus(REMEMBERED))));
            }
            match self.store.documents.put_all(now, edits).await {
                Ok(revision) => {
                    self.board.put_job(&tenant, &job.id, Some(job.clone()), revision);
                    return Ok(job);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::Conflict("too many submit with the same key at once: try again".to_owned()))
    }
}

impl Jobs {
    /// The job that a person has submitted with a key, if there is one.
    pub(crate) async fn named(
        &self,
        tenant: &str,
        who: &Principal,
        key: &str,
    ) -> Result<Option<String>, Failure> {
        let by = Submitter { name: who.name.clone(), person: true, ..Submitter::default() };
        let known = self.store.documents.get(clock::now(), &named(tenant, &by, key)?).await?;
        Ok(known.map(|known| String::from_utf8_lossy(&known.value).into_owned()))
    }
}

/// Where the job of a submitter's idempotency key is named.
fn named(tenant: &str, by: &Submitter, key: &str) -> Result<Key, Failure> {
    let parts = [by.name.as_str(), if by.person { "person" } else { "agent" }, key];
    places::named(tenant, &hex(&Sha256::digest(parts.join("\n"))))
}

/// When the data of a job may be forgotten: after all its times together.
pub(super) fn ends(job: &Job) -> Timestamp {
    let [.., total] = crate::scheduler::limits(job.spec.limits, None);
    places::kept(job.spec.after.unwrap_or(job.created).plus(total))
}

/// Whose job it is. A sidecar speaks for its agents; a person for himself.
fn submitter(who: &Principal, submit: &Submit) -> Result<(String, Submitter), Failure> {
    if who.role == Role::Sidecar {
        let agent = submit.agent.clone().ok_or_else(|| Failure::Invalid("`agent` is missing".to_owned()))?;
        who.speaks_for(&agent)?;
        let signed = submit.chain.as_ref().and_then(|chain| chain.links.last());
        let genuine = signed.is_some_and(|link| {
            link.issuer.sidecar == who.name && link.to == format!("topic/{}", submit.spec.topic)
        });
        if !genuine {
            return Err(Failure::Forbidden("submit an agent's job without its own chain of delegation"));
        }
        let by = Submitter {
            name: agent,
            person: false,
            chain: submit.above.clone(),
            job: submit.job.clone(),
            sidecar: Some(who.name.clone()),
        };
        return Ok((who.sidecars_tenant().to_owned(), by));
    }
    let tenant = submit.tenant.as_deref().or(who.tenant.as_deref()).unwrap_or("default").to_owned();
    crate::keys::tenant(&tenant)?;
    if !who.reaches(&tenant) {
        return Err(Failure::Missing("tenant of that name".to_owned()));
    }
    // What an agent hands on it hands on by a chain that its sidecar has signed.
    if submit.agent.is_some() || submit.job.is_some() || submit.chain.is_some() || !submit.above.is_empty() {
        return Err(Failure::Forbidden("say that an agent submits a job: only sidecars do"));
    }
    Ok((tenant, Submitter { name: who.name.clone(), person: true, ..Submitter::default() }))
}

fn check(submit: &Submit) -> Result<(), Failure> {
    let invalid = |what: String| Err(Failure::Invalid(what));
    let JobSpec { topic, requires, placement, labels, priority, retries, limits, .. } = &submit.spec;
    let word = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    let parts: Vec<&str> = topic.split('.').collect();
    if topic.len() > TEXT
        || parts.len() < 3
        || parts.first() != Some(&"job")
        || !parts.iter().all(|part| word(part))
    {
        return invalid(format!(
            "`{}` is not a topic: write `job.<service>.<operation>` in lower case",
            topic.chars().take(TEXT).collect::<String>()
        ));
    }
    let pairs = placement.iter().chain(labels).flat_map(|(name, value)| [name, value]);
    let named = submit.idempotency_key.iter().chain(&submit.agent).chain(&submit.above).chain(&submit.job);
    if requires.iter().chain(pairs).chain(named).any(|text| text.is_empty() || text.len() > TEXT) {
        return invalid(format!("names, labels and keys have between 1 and {TEXT} bytes"));
    }
    let lists = [requires.len(), placement.len(), labels.len(), submit.above.len()];
    if lists.iter().any(|length| *length > SEVERAL) {
        return invalid(format!("more than {SEVERAL} capabilities, labels or agents"));
    }
    if too_deep(&submit.spec.input) {
        return invalid(format!("`input` is nested deeper than {DEEPEST}"));
    }
    if *priority > HIGHEST || *retries > RETRIES {
        return invalid(format!("`priority` is {HIGHEST} at most, `retries` {RETRIES}"));
    }
    let spans = [limits.queue, limits.dispatch, limits.run, limits.total];
    const YEAR: Duration = Duration::from_secs(366 * 86_400);
    if spans.into_iter().flatten().any(|Span(span)| span.is_zero() || span > YEAR) {
        return invalid("a time limit is more than nothing and at most a year".to_owned());
    }
    if let Some(chain) = &submit.chain {
        if bytes(chain)?.len() > INLINE {
            return invalid("the chain of delegation is too long".to_owned());
        }
        let last = chain.links.last().map(|link| &link.from);
        if last != submit.agent.as_ref() {
            return invalid("the chain of delegation is another agent's".to_owned());
        }
    }
    Ok(())
}

/// A new job, and its input if that is too large to stand in it.
fn new(
    now: Timestamp,
    tenant: &str,
    by: Submitter,
    submit: &Submit,
) -> Result<(Job, Option<Bytes>), Failure> {
    let mut spec = submit.spec.clone();
    let text = bytes(&spec.input)?;
    if text.len() > LARGEST {
        return Err(Failure::TooLarge);
    }
    let large = (text.len() > INLINE)
        .then(|| Large { bytes: text.len() as u64, sha256: hex(&Sha256::digest(&text)) });
    if large.is_some() {
        spec.input = Value::Null;
    }
    let later = spec.after.filter(|after| *after > now);
    let state = if later.is_some() { JobState::Scheduled } else { JobState::Pending };
    let data = large.is_some().then_some(text);
    let job = Job {
        id: id::new(now),
        tenant: tenant.to_owned(),
        spec,
        by,
        state,
        reason: None,
        message: String::new(),
        created: now,
        changed: now,
        until: later,
        attempts: 0,
        failures: 0,
        epoch: 0,
        hold: None,
        trace_id: id::token(16),
        approval: None,
        chain: submit.chain.clone(),
        progress: Value::Null,
        result: Value::Null,
        large_input: large,
        large_result: None,
        events: vec![JobEvent { time: now, state, reason: None, worker: None, epoch: 0 }],
    };
    Ok((job, data))
}

/// What people are asked about a job. The hash names this one job: an approval is good for no other.
fn ask(job: &Job, verdict: &Verdict, input: Value) -> Ask {
    let approval = verdict.approval.as_deref().cloned().unwrap_or_default();
    let [expires, valid, cooldown] = TERMS;
    let seconds = |span: Option<Span>, usual| span.map_or(usual, |span| span.0.as_secs().max(1));
    Ask {
        agent: job.by.name.clone(),
        chain: job.by.chain.clone(),
        call: job.id.clone(),
        rule: verdict.rule.to_string(),
        reason: verdict.reason.to_string(),
        point: Point::JobSubmit.as_str().to_owned(),
        topic: job.spec.topic.clone(),
        tool: None,
        model: None,
        policy_digest: verdict.policy_digest.to_string(),
        hash: hex(&Sha256::digest(&job.id)),
        terms: Terms {
            quorum: approval.quorum.unwrap_or(1),
            roles: approval.roles,
            approvers: approval.approvers,
            expires: seconds(approval.expires, expires),
            valid: seconds(approval.valid, valid),
            cooldown: seconds(approval.cooldown, cooldown),
        },
        request: Held {
            method: "JOB".to_owned(),
            scheme: "job".to_owned(),
            host: job.spec.topic.clone(),
            path: format!("/{}", job.id),
            headers: Vec::new(),
            body: String::new(),
            arguments: input,
            constraints: Value::Null,
        },
    }
}
