//! The judgement: first match inside a document, the most restrictive across documents.

use std::cmp::Reverse;
use std::sync::Arc;

use sideguard_types::call::{Call, Moment, Point, RAW_TCP};
use sideguard_types::verdict::{Constraints, Decision, Mode, Verdict, Would};
use smallvec::SmallVec;

use super::{Answer, Outcome, PolicyDocument, PolicySet, Ruling, constraints};
use crate::when::Facts;

impl PolicySet {
    /// Judges a call. In each document the first rule that matches speaks, or else the document's default, or else
    /// the document has no say. The most restrictive verdict wins; constraints of all are merged to the tightest.
    /// What cannot be evaluated is denied, and so is a call that no document has a say about.
    ///
    /// Documents in `warn` or `shadow` never restrict what enforced ones let through and never relax what those
    /// deny; where nothing is enforced at the call's point, calls that they have a say about pass.
    pub fn decide(&self, call: &Call<'_>, moment: Moment<'_>) -> Ruling {
        Ruling::new(self.judge(call, moment))
    }

    /// Judges a call that a person has approved: as [`PolicySet::decide`], but `require_approval` is met. A denial
    /// stays a denial.
    pub fn decide_approved(&self, call: &Call<'_>, moment: Moment<'_>) -> Ruling {
        Ruling::approved(self.judge(call, moment))
    }

    fn judge(&self, call: &Call<'_>, moment: Moment<'_>) -> Verdict {
        let facts = Facts::new(call, moment.now);
        let mut trial = Trial::new(self, call);
        let mut candidates = self.index.candidates(call);
        let (mut next, mut defaulted) = (0_usize, 0_usize);
        while let Some(number) = candidates.next_from(next) {
            let Some((rule, document)) = self.rule(number) else { break };
            if !document.is_about(&call.caller.tenant) {
                next = document.rules.end;
                continue;
            }
            next = match rule.apply(call, &facts, moment) {
                Outcome::Apart => number.saturating_add(1),
                outcome => {
                    trial.defaults(defaulted, rule.document);
                    defaulted = rule.document.saturating_add(1);
                    trial.hear(document, &rule.answer, outcome);
                    document.rules.end
                }
            };
        }
        trial.defaults(defaulted, self.documents.len());
        trial.verdict()
    }

    pub(crate) fn rule(&self, number: usize) -> Option<(&super::Rule, &PolicyDocument)> {
        let rule = self.rules.get(number)?;
        Some((rule, self.documents.get(rule.document)?))
    }
}

/// What one document says about a call.
struct Say<'s> {
    answer: &'s Answer,
    decision: Decision,
    mode: Mode,
    fault: Option<String>,
}

impl Say<'_> {
    fn reason(&self) -> Arc<str> {
        self.fault.as_deref().map_or_else(|| Arc::clone(&self.answer.reason), Arc::from)
    }
}

/// A judgement under way: documents are heard in order, then the verdict is made.
pub(crate) struct Trial<'s, 'c> {
    set: &'s PolicySet,
    call: &'c Call<'c>,
    enforced: Option<Say<'s>>,
    lenient: Option<Say<'s>>,
    /// Nobody can judge what the call holds.
    raw: bool,
    /// Constraints of all enforced documents that have any, with the rule that they come from.
    constraints: SmallVec<[(&'s Arc<str>, &'s Arc<Constraints>); 4]>,
}

impl<'s, 'c> Trial<'s, 'c> {
    pub(crate) fn new(set: &'s PolicySet, call: &'c Call<'c>) -> Self {
        let raw = call.point == Point::NetConnect && call.class.risk_tags.iter().any(|tag| tag == RAW_TCP);
        Self { set, call, enforced: None, lenient: None, raw, constraints: SmallVec::new() }
    }

    /// Hears the defaults of the documents from `from` to before `to`, in which no rule matched.
    pub(crate) fn defaults(&mut self, from: usize, to: usize) {
        let set = self.set;
        for document in set.documents.get(from..to).unwrap_or_default() {
            if let Some(answer) =
                document.default.as_ref().filter(|_| document.is_about(&self.call.caller.tenant))
            {
                self.hear(document, answer, Outcome::Applies);
            }
        }
    }

    /// Hears what a document says.
    pub(crate) fn hear(&mut self, document: &PolicyDocument, answer: &'s Answer, outcome: Outcome) {
        let (decision, fault) = match outcome {
            Outcome::Apart => return,
            Outcome::Applies => (answer.decision, None),
            Outcome::Fault(why) => (Decision::Deny, Some(why)),
        };
        if self.raw && !answer.connects && decision < Decision::RequireApproval {
            return;
        }
        let mode = document.mode(self.call.point);
        if mode == Mode::Enforce && fault.is_none() {
            self.constraints
                .extend(answer.constraints.as_ref().map(|constraints| (&answer.rule, constraints)));
        }
        let strongest = if mode == Mode::Enforce { &mut self.enforced } else { &mut self.lenient };
        let weight = |decision, mode, answer: &Answer| (decision, Reverse(mode), !answer.fallback);
        let stronger = |before: &Say<'_>| {
            weight(decision, mode, answer) > weight(before.decision, before.mode, before.answer)
        };
        if strongest.as_ref().is_none_or(stronger) {
            *strongest = Some(Say { answer, decision, mode, fault });
        }
    }

    /// Makes the verdict.
    pub(crate) fn verdict(self) -> Verdict {
        let lenient_alone = self.enforced.is_none() && !self.anything_enforced();
        let mut verdict = match (&self.enforced, &self.lenient) {
            (Some(say), _) => self.enforced_verdict(say),
            (None, Some(say)) if lenient_alone => self.passed(say),
            (None, _) => self.unmatched(),
        };
        if let Some(say) = self.lenient.as_ref().filter(|say| say.decision > verdict.decision) {
            verdict.would = Some(Would {
                decision: say.decision,
                rule: Arc::clone(&say.answer.rule),
                reason: say.reason(),
                mode: say.mode,
            });
        }
        verdict
    }

    fn anything_enforced(&self) -> bool {
        let Call { caller, point, .. } = self.call;
        self.set
            .documents
            .iter()
            .any(|document| document.mode(*point) == Mode::Enforce && document.is_about(&caller.tenant))
    }

    fn enforced_verdict(&self, say: &Say<'_>) -> Verdict {
        let answer = say.answer;
        let mut verdict = Verdict {
            decision: say.decision,
            rule: Arc::clone(&answer.rule),
            reason: say.reason(),
            mode: say.mode,
            would: None,
            constraints: None,
            approval: if say.decision == Decision::RequireApproval { answer.approval.clone() } else { None },
            remediations: Arc::clone(&answer.remediations),
            policy_digest: Arc::clone(&self.set.digest),
        };
        if verdict.decision == Decision::Deny {
            return verdict;
        }
        match self.constraints.as_slice() {
            [] => {}
            [(_, only)] => verdict.constraints = Some(Arc::clone(only)),
            several => match constraints::tightest(several) {
                Ok(merged) => verdict.constraints = Some(Arc::new(merged)),
                Err(conflict) => {
                    verdict.decision = Decision::Deny;
                    verdict.approval = None;
                    verdict.rule = conflict.rule;
                    verdict.reason = conflict.reason.into();
                }
            },
        }
        verdict
    }

    /// Nothing is enforced here: the call passes whatever `say` says.
    fn passed(&self, say: &Say<'_>) -> Verdict {
        Verdict {
            decision: Decision::Allow,
            rule: Arc::clone(&say.answer.rule),
            reason: say.reason(),
            mode: say.mode,
            would: None,
            constraints: None,
            approval: None,
            remediations: Arc::clone(&self.set.nothing),
            policy_digest: Arc::clone(&self.set.digest),
        }
    }

    fn unmatched(&self) -> Verdict {
        let Call { class, point, .. } = self.call;
        let topic: String = class.topic.chars().take(200).collect();
        let reason = format!(
            "no rule matched; to let such calls through, write a rule with `decision: allow` that matches topic \
             `{topic}` at point `{point}`, or give a document a `default_decision`"
        );
        Verdict {
            decision: Decision::Deny,
            rule: "default".into(),
            reason: reason.into(),
            mode: Mode::Enforce,
            would: None,
            constraints: None,
            approval: None,
            remediations: Arc::clone(&self.set.nothing),
            policy_digest: Arc::clone(&self.set.digest),
        }
    }
}
