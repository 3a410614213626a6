//! What a judgement is worth: nothing is forwarded without a [`Grant`].

use std::ops::Deref;

use sideguard_types::verdict::{Decision, Verdict};

/// The outcome of a judgement.
#[derive(Debug)]
#[must_use = "a call may go only when it was granted"]
pub enum Ruling {
    /// The call may go, within the constraints of the verdict.
    Granted(Grant),
    /// It may not, or not yet.
    Refused(Verdict),
}

/// Leave for one call. Only a judgement of a [`PolicySet`](super::PolicySet) makes one, and it cannot be copied.
#[derive(Debug)]
#[must_use = "dropping a grant forwards nothing"]
pub struct Grant(Verdict);

impl Ruling {
    /// The verdict, granted or not.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        match self {
            Self::Granted(grant) => grant,
            Self::Refused(verdict) => verdict,
        }
    }

    pub(super) fn new(verdict: Verdict) -> Self {
        match verdict.decision {
            Decision::Allow | Decision::AllowWithConstraints | Decision::Throttle => {
                Self::Granted(Grant(verdict))
            }
            Decision::RequireApproval | Decision::Deny => Self::Refused(verdict),
        }
    }

    /// As [`Ruling::new`], for a call that a person has approved.
    pub(super) fn approved(verdict: Verdict) -> Self {
        match verdict.decision {
            Decision::RequireApproval => Self::Granted(Grant(verdict)),
            _ => Self::new(verdict),
        }
    }
}

impl Deref for Grant {
    type Target = Verdict;

    fn deref(&self) -> &Verdict {
        &self.0
    }
}
