//! A compiled set of resources, and the one way to a verdict: [`PolicySet::decide`].

mod constraints;
mod decide;
mod grant;
mod index;
mod matching;
mod reach;
mod rule;

use std::sync::Arc;

use sideguard_types::call::Point;
use sideguard_types::resource::{BudgetSpec, Metadata, UpstreamSpec};
use sideguard_types::verdict::Mode;

use crate::classify::Classifier;
use crate::identity::{Identities, Identity};
use crate::pool::Pool;

pub use grant::{Grant, Ruling};

pub(crate) use decide::Trial;
pub(crate) use index::Index;
pub(crate) use matching::{Delegation, Key, Match};
pub(crate) use rule::{Answer, Outcome, Rule, Velocity};

/// Everything that judges, compiled: cheap to share, never changed.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) digest: Arc<str>,
    pub(crate) documents: Vec<PolicyDocument>,
    /// The rules of all documents, one document after the other.
    pub(crate) rules: Vec<Rule>,
    pub(crate) index: Index,
    pub(crate) nothing: Arc<[String]>,
    pub(crate) budgets: Vec<(Metadata, BudgetSpec)>,
    pub(crate) upstreams: Vec<(Metadata, UpstreamSpec)>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) classifier: Classifier,
    pub(crate) identities: Identities,
}

/// One policy document.
#[derive(Debug)]
pub(crate) struct PolicyDocument {
    pub(crate) name: Arc<str>,
    /// The tenant whose calls it is about; all when absent.
    pub(crate) tenant: Option<String>,
    /// Its rules in [`PolicySet::rules`].
    pub(crate) rules: std::ops::Range<usize>,
    pub(crate) default: Option<Answer>,
    modes: [Mode; Point::ALL.len()],
}

impl PolicyDocument {
    pub(crate) fn new(
        name: Arc<str>,
        tenant: Option<String>,
        rules: std::ops::Range<usize>,
        default: Option<Answer>,
        mode: impl Fn(Point) -> Mode,
    ) -> Self {
        Self { name, tenant, rules, default, modes: Point::ALL.map(mode) }
    }

    /// How earnest it is at `point`.
    pub(crate) fn mode(&self, point: Point) -> Mode {
        // Enforced, should a point be added and forgotten in `ALL`.
        self.modes.get(point as usize).copied().unwrap_or(Mode::Enforce)
    }

    pub(crate) fn is_about(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }
}

impl PolicySet {
    /// Digest over the contents of all resources, `sha256:` and 64 hex digits. The order of files and of resources
    /// does not change it, the order of rules in a document does.
    #[must_use]
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// How many rules there are in all documents.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The budgets, by tenant and name.
    #[must_use]
    pub fn budgets(&self) -> &[(Metadata, BudgetSpec)] {
        &self.budgets
    }

    /// The upstreams, by tenant and name.
    #[must_use]
    pub fn upstreams(&self) -> &[(Metadata, UpstreamSpec)] {
        &self.upstreams
    }

    /// The pools of workers, by tenant and name.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// What works out topic, verb and risk tags of a call.
    #[must_use]
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// The agent that a key belongs to.
    #[must_use]
    pub fn identity_by_key(&self, key: &[u8]) -> Option<&Identity> {
        self.identities.by_key(key)
    }

    /// The agent of a name.
    #[must_use]
    pub fn identity_by_name(&self, tenant: &str, agent: &str) -> Option<&Identity> {
        self.identities.by_name(tenant, agent)
    }
}
