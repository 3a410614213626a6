//! Pools of workers, compiled: which jobs and which workers are a pool's.

use std::collections::BTreeMap;

use sideguard_types::resource::WorkerPoolSpec;

use crate::glob::{Case, Glob};

/// A pool of workers.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The tenant whose jobs it does; every one's when absent.
    pub tenant: Option<String>,
    /// As it was applied.
    pub spec: WorkerPoolSpec,
    topics: Vec<Glob>,
    agents: Vec<Glob>,
}

impl Pool {
    /// Compiles a pool. A glob that is none matches nothing: what is applied was checked before.
    #[must_use]
    pub fn new(name: &str, tenant: Option<&str>, spec: WorkerPoolSpec) -> Self {
        let globs = |texts: &[String]| {
            texts.iter().filter_map(|text| Glob::parse(text, Case::Exact).ok()).collect::<Vec<_>>()
        };
        let (topics, agents) = (globs(&spec.topics), globs(&spec.agents));
        Self { name: name.to_owned(), tenant: tenant.map(str::to_owned), spec, topics, agents }
    }

    /// Whether it does jobs of a tenant about a topic.
    #[must_use]
    pub fn takes(&self, tenant: &str, topic: &str) -> bool {
        self.is_for(tenant) && self.topics.iter().any(|glob| glob.matches(topic))
    }

    /// Whether an agent of a tenant with these labels may work in it.
    #[must_use]
    pub fn admits(&self, tenant: &str, agent: &str, labels: &BTreeMap<String, String>) -> bool {
        let named = self.spec.agents.is_empty() || self.agents.iter().any(|glob| glob.matches(agent));
        self.is_for(tenant) && named && has_all(labels, &self.spec.labels)
    }

    /// Whether it does jobs of a tenant at all.
    #[must_use]
    pub fn is_for(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }
}

/// Whether `labels` has all that are `wanted`.
#[must_use]
pub fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}
