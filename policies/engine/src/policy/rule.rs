//! One rule, compiled.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sideguard_types::call::{Call, Moment};
use sideguard_types::resource::Per;
use sideguard_types::verdict::{Approval, Constraints, Decision};

use super::Match;
use crate::path;
use crate::when::{Facts, When};

/// What a rule or a default answers; made once, shared by every verdict.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// `document/rule`.
    pub(crate) rule: Arc<str>,
    /// It is a document's default: at equal strictness a rule goes before it, because its reason says more.
    pub(crate) fallback: bool,
    /// It names the point `net.connect`: only then does it let raw connections pass.
    pub(crate) connects: bool,
    pub(crate) decision: Decision,
    pub(crate) reason: Arc<str>,
    pub(crate) constraints: Option<Arc<Constraints>>,
    pub(crate) approval: Option<Arc<Approval>>,
    pub(crate) remediations: Arc<[String]>,
}

/// A compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Which document it stands in, in [`PolicySet::documents`](super::PolicySet).
    pub(crate) document: usize,
    pub(crate) answer: Answer,
    pub(crate) matches: Match,
    pub(crate) when: Option<When>,
    pub(crate) velocity: Option<Velocity>,
}

/// A rule applies only when calls come faster than this.
#[derive(Debug)]
pub(crate) struct Velocity {
    pub(crate) max: u64,
    pub(crate) window: Duration,
    pub(crate) per: Per,
}

/// What became of a rule for a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Another call's rule.
    Apart,
    /// It applies.
    Applies,
    /// It cannot be known whether it applies; the reason.
    Fault(String),
}

impl Rule {
    /// Whether it restricts: only then does it see a topic's alias.
    pub(crate) fn restricts(&self) -> bool {
        self.answer.decision != Decision::Allow
    }

    /// Tries the rule on a call.
    pub(crate) fn apply(&self, call: &Call<'_>, facts: &Facts<'_>, moment: Moment<'_>) -> Outcome {
        if !self.matches.fits(call, self.restricts()) {
            return Outcome::Apart;
        }
        match self.when.as_ref().map(|when| when.holds(facts)) {
            Some(Err(why)) => return Outcome::Fault(why),
            Some(Ok(false)) => match self.otherwise(call, moment) {
                Outcome::Applies => {}
                other => return other,
            },
            Some(Ok(true)) | None => {}
        }
        match &self.velocity {
            Some(velocity) if !velocity.exceeded(&self.answer.rule, call, moment) => Outcome::Apart,
            _ => Outcome::Applies,
        }
    }
}

impl Rule {
    /// Whether `when` of a rule that restricts holds for the path as another server may read it.
    fn otherwise(&self, call: &Call<'_>, moment: Moment<'_>) -> Outcome {
        let plain = path::plain(call.path);
        let Some(when) = self.when.as_ref().filter(|_| self.restricts() && plain != call.path) else {
            return Outcome::Apart;
        };
        let call = Call { path: &plain, ..call.clone() };
        match when.holds(&Facts::new(&call, moment.now)) {
            Ok(true) => Outcome::Applies,
            Ok(false) => Outcome::Apart,
            Err(why) => Outcome::Fault(why),
        }
    }
}

impl Velocity {
    fn exceeded(&self, rule: &str, call: &Call<'_>, moment: Moment<'_>) -> bool {
        let count = moment.velocity.count(self.key(rule, call), self.window, moment.now);
        count > self.max
    }

    /// The account of this call. A cryptographic hash, so that an agent cannot choose a session's name to get into
    /// another agent's account.
    fn key(&self, rule: &str, call: &Call<'_>) -> u64 {
        let caller = call.caller;
        let agent = [caller.tenant.as_str(), caller.agent.as_str()];
        let parts: [&str; 3] = match self.per {
            Per::Tenant => [&caller.tenant, "", ""],
            Per::Agent => [agent[0], agent[1], ""],
            Per::Session => [agent[0], agent[1], call.session.unwrap_or_default()],
            Per::Model => [agent[0], call.model.unwrap_or_default(), ""],
        };
        let mut hash = Sha256::new();
        for part in [rule].into_iter().chain(parts) {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        digest.first_chunk().map_or(0, |head| u64::from_le_bytes(*head))
    }
}
