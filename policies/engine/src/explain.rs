//! Why a verdict came out as it did: for each document the rule that matched, and the ones that nearly did.

use std::fmt;

use serde::{Serialize, Serializer};
use sideguard_types::call::{Call, Moment};
use sideguard_types::verdict::{Decision, Mode, Verdict};

use crate::policy::{Outcome, PolicyDocument, PolicySet, Rule, Trial};
use crate::when::Facts;

/// Most near misses that are told for one document.
const MAX_MISSES: usize = 5;

/// The story of one judgement. Displayed for people, serialised for programs.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// What the call was taken for.
    pub topic: String,
    /// The topic's alias, which only restricting rules see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The right that it needs.
    pub verb: &'static str,
    /// Its risk tags.
    pub risk_tags: Vec<String>,
    /// Where it is judged.
    pub point: &'static str,
    /// What each document says, in the order in which they are heard.
    pub documents: Vec<DocumentStory>,
    /// The verdict.
    #[serde(serialize_with = "show_verdict")]
    pub verdict: Verdict,
}

/// What one document says.
#[derive(Debug, Clone, Serialize)]
pub struct DocumentStory {
    /// Its name.
    pub document: String,
    /// Its mode at this point.
    pub mode: &'static str,
    /// The rule that speaks for it and its decision; absent when it has no say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub says: Option<Saying>,
    /// Rules before that one that came nearest to matching.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub near_misses: Vec<NearMiss>,
}

/// What speaks for a document.
#[derive(Debug, Clone, Serialize)]
pub struct Saying {
    /// `document/rule`, or `document/default`.
    pub rule: String,
    /// The decision.
    pub decision: Decision,
    /// The reason; of an expression that cannot be evaluated, why not.
    pub reason: String,
}

/// A rule that did not match, and why not.
#[derive(Debug, Clone, Serialize)]
pub struct NearMiss {
    /// `document/rule`.
    pub rule: String,
    /// The keys of `match` that did not fit; `when` or `velocity` when all of them did.
    pub failed: Vec<&'static str>,
}

impl PolicySet {
    /// Judges a call and tells how. Velocity counters are asked as in [`PolicySet::decide`]: give a `Velocity` of
    /// your own where a look must not count.
    pub fn explain(&self, call: &Call<'_>, moment: Moment<'_>) -> Explanation {
        let facts = Facts::new(call, moment.now);
        let mut trial = Trial::new(self, call);
        let mut documents = Vec::new();
        for document in self.documents.iter().filter(|document| document.is_about(&call.caller.tenant)) {
            documents.push(self.hear(document, call, &facts, moment, &mut trial));
        }
        Explanation {
            topic: call.class.topic.to_string(),
            alias: call.class.alias.as_ref().map(ToString::to_string),
            verb: call.class.verb.as_str(),
            risk_tags: call.class.risk_tags.iter().map(ToString::to_string).collect(),
            point: call.point.as_str(),
            documents,
            verdict: trial.verdict(),
        }
    }

    fn hear<'s>(
        &'s self,
        document: &'s PolicyDocument,
        call: &Call<'_>,
        facts: &Facts<'_>,
        moment: Moment<'_>,
        trial: &mut Trial<'s, '_>,
    ) -> DocumentStory {
        let mut misses: Vec<NearMiss> = Vec::new();
        let mut said = None;
        for rule in self.rules.get(document.rules.clone()).unwrap_or_default() {
            let outcome = rule.apply(call, facts, moment);
            if matches!(outcome, Outcome::Apart) {
                misses.push(miss(rule, call, facts));
            } else {
                said = Some((&rule.answer, outcome));
                break;
            }
        }
        let said = said.or_else(|| document.default.as_ref().map(|answer| (answer, Outcome::Applies)));
        misses.sort_by_key(|miss| miss.failed.len());
        let nearest = misses.first().map_or(0, |miss| miss.failed.len());
        misses.retain(|miss| miss.failed.len() == nearest);
        misses.truncate(MAX_MISSES);
        let says = said.map(|(answer, outcome)| {
            let (decision, reason) = match &outcome {
                Outcome::Fault(why) => (Decision::Deny, why.clone()),
                Outcome::Apart | Outcome::Applies => (answer.decision, answer.reason.to_string()),
            };
            trial.hear(document, answer, outcome);
            Saying { rule: answer.rule.to_string(), decision, reason }
        });
        let mode = document.mode(call.point).as_str();
        DocumentStory { document: document.name.to_string(), mode, says, near_misses: misses }
    }
}

fn miss(rule: &Rule, call: &Call<'_>, facts: &Facts<'_>) -> NearMiss {
    let failed = |key: &&crate::policy::Key| !rule.matches.key_fits(**key, call, rule.restricts());
    let mut failed: Vec<&'static str> =
        rule.matches.given().iter().filter(failed).map(|key| key.as_str()).collect();
    if failed.is_empty() {
        let untrue = rule.when.as_ref().is_some_and(|when| when.holds(facts) == Ok(false));
        failed.push(if untrue { "when" } else { "velocity" });
    }
    NearMiss { rule: rule.answer.rule.to_string(), failed }
}

#[derive(Serialize)]
struct ShownVerdict<'v> {
    decision: Decision,
    rule: &'v str,
    reason: &'v str,
    mode: Mode,
    #[serde(skip_serializing_if = "Option::is_none")]
    would: Option<Saying>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<&'v sideguard_types::verdict::Constraints>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    remediations: &'v [String],
    policy_digest: &'v str,
}

fn show_verdict<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    let would = verdict.would.as_ref().map(|would| Saying {
        rule: would.rule.to_string(),
        decision: would.decision,
        reason: would.reason.to_string(),
    });
    ShownVerdict {
        decision: verdict.decision,
        rule: &verdict.rule,
        reason: &verdict.reason,
        mode: verdict.mode,
        would,
        constraints: verdict.constraints.as_deref(),
        remediations: &verdict.remediations,
        policy_digest: &verdict.policy_digest,
    }
    .serialize(serializer)
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { decision, rule, reason, would, remediations, .. } = &self.verdict;
        writeln!(f, "{} by `{rule}`: {reason}", decision.as_str())?;
        if let Some(would) = would {
            let (mode, decision) = (would.mode.as_str(), would.decision.as_str());
            writeln!(f, "  {mode} only: `{}` would {decision}: {}", would.rule, would.reason)?;
        }
        for remediation in remediations.iter() {
            writeln!(f, "  what would help: {remediation}")?;
        }
        write!(f, "call: {} at {}, verb {}", self.topic, self.point, self.verb)?;
        if let Some(alias) = &self.alias {
            write!(f, ", also {alias}")?;
        }
        let tags = if self.risk_tags.is_empty() { "none".to_owned() } else { self.risk_tags.join(", ") };
        writeln!(f, ", risk tags: {tags}")?;
        for story in &self.documents {
            write!(f, "{story}")?;
        }
        Ok(())
    }
}

impl fmt::Display for DocumentStory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document `{}` ({}): ", self.document, self.mode)?;
        match &self.says {
            Some(says) => writeln!(f, "{} by `{}`", says.decision.as_str(), says.rule)?,
            None => writeln!(f, "has no say, no rule matched and it has no default")?,
        }
        for miss in &self.near_misses {
            writeln!(f, "  `{}` did not match: {}", miss.rule, miss.failed.join(", "))?;
        }
        Ok(())
    }
}
