//! Which entries of the record a sink is given.

use sideguard_types::audit::Record;
use sideguard_types::resource::SinkFilter;

use crate::glob::{Case, Glob};

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Filter {
    spec: SinkFilter,
    agents: Vec<Glob>,
}

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// When a glob is none; a set that compiled holds no such.
    pub fn new(spec: &SinkFilter) -> Result<Self, String> {
        let agents =
            spec.agents.iter().map(|glob| Glob::parse(glob, Case::Exact)).collect::<Result<_, _>>()?;
        Ok(Self { spec: spec.clone(), agents })
    }

    /// Whether an entry of a sidecar of `tenant` is wanted.
    #[must_use]
    pub fn wants(&self, tenant: &str, record: &Record) -> bool {
        let SinkFilter { tenants, decisions, phases, .. } = &self.spec;
        (tenants.is_empty() || tenants.iter().any(|one| one == tenant))
            && (self.agents.is_empty() || self.agents.iter().any(|glob| glob.matches(&record.agent)))
            && (phases.is_empty() || phases.contains(&record.phase))
            && (decisions.is_empty() || record.decision.is_some_and(|decision| decisions.contains(&decision)))
    }
}

#[cfg(test)]
mod tests {
    use sideguard_types::audit::{Phase, Record};
    use sideguard_types::resource::SinkFilter;
    use sideguard_types::time::Timestamp;
    use sideguard_types::verdict::Decision;

    use super::Filter;

    #[test]
    fn every_field_that_is_given_must_fit() {
        let mut record = Record::new(Phase::Decision, Timestamp(0));
        record.agent = "research-1".to_owned();
        record.decision = Some(Decision::Deny);
        let wants =
            |spec: SinkFilter, tenant: &str| Filter::new(&spec).expect("a filter").wants(tenant, &record);
        assert!(wants(SinkFilter::default(), "acme"));
        let of = |agents: &str, decision| SinkFilter {
            tenants: vec!["acme".to_owned()],
            agents: vec![agents.to_owned()],
            decisions: vec![decision],
            phases: vec![Phase::Decision],
        };
        assert!(wants(of("research-*", Decision::Deny), "acme"));
        assert!(!wants(of("research-*", Decision::Deny), "other"));
        assert!(!wants(of("sales-*", Decision::Deny), "acme"));
        assert!(!wants(of("research-*", Decision::Allow), "acme"));
        let outcomes = SinkFilter { phases: vec![Phase::Outcome], ..SinkFilter::default() };
        assert!(!wants(outcomes, "acme"));
    }
}
