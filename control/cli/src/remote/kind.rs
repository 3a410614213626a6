//! Kinds of things that can be asked for, as people write them.

use std::str::FromStr;

/// A kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Policy,
    Budget,
    ToolCatalog,
    Agent,
    Upstream,
    Sink,
    WorkerPool,
    Workflow,
    Worker,
    Sidecar,
    Generation,
    Kill,
    Delegation,
}

/// Kinds with their names: as in YAML, one of them, several.
const NAMES: [(Kind, &str, &str); 13] = [
    (Kind::Policy, "Policy", "policies"),
    (Kind::Budget, "Budget", "budgets"),
    (Kind::ToolCatalog, "ToolCatalog", "toolcatalogs"),
    (Kind::Agent, "Agent", "agents"),
    (Kind::Upstream, "Upstream", "upstreams"),
    (Kind::Sink, "Sink", "sinks"),
    (Kind::WorkerPool, "WorkerPool", "workerpools"),
    (Kind::Workflow, "Workflow", "workflows"),
    (Kind::Worker, "Worker", "workers"),
    (Kind::Sidecar, "Sidecar", "sidecars"),
    (Kind::Generation, "Generation", "generations"),
    (Kind::Kill, "Kill", "kills"),
    (Kind::Delegation, "Delegation", "delegations"),
];

impl Kind {
    /// The name in YAML.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "Policy",
            Self::Budget => "Budget",
            Self::ToolCatalog => "ToolCatalog",
            Self::Agent => "Agent",
            Self::Upstream => "Upstream",
            Self::Sink => "Sink",
            Self::WorkerPool => "WorkerPool",
            Self::Workflow => "Workflow",
            Self::Worker => "Worker",
            Self::Sidecar => "Sidecar",
            Self::Generation => "Generation",
            Self::Kill => "Kill",
            Self::Delegation => "Delegation",
        }
    }

    /// Whether things of the kind are applied, rather than made by the system.
    pub(crate) const fn is_applied(self) -> bool {
        matches!(
            self,
            Self::Policy
                | Self::Budget
                | Self::ToolCatalog
                | Self::Agent
                | Self::Upstream
                | Self::Sink
                | Self::WorkerPool
                | Self::Workflow
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let named = |(kind, one, several): &(Self, &str, &str)| {
            (one.eq_ignore_ascii_case(&text) || *several == text).then_some(*kind)
        };
        NAMES.iter().find_map(named)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(_, _, several)| *several).collect();
            format!("no such kind; there are {}", known.join(", "))
        })
    }
}

/// A kind that is applied.
pub(crate) fn applied(text: &str) -> Result<Kind, String> {
    match Kind::parse(text) {
        Some(kind) if kind.is_applied() => Ok(kind),
        _ => {
            let known: Vec<&str> =
                NAMES.iter().filter(|(kind, ..)| kind.is_applied()).map(|(_, _, several)| *several).collect();
            Err(format!("no such kind; there are {}", known.join(", ")))
        }
    }
}

/// A label, as `KEY=VALUE`; several with commas.
pub(crate) fn labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |text: &str| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not a label; write it as KEY=VALUE")),
    };
    text.split(',').map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::{Kind, NAMES, applied, labels};

    #[test]
    fn a_kind_is_read_in_any_case_and_number() {
        for (kind, one, several) in NAMES {
            assert_eq!(kind.as_str(), one);
            for text in [one, several, &one.to_lowercase(), &several.to_uppercase()] {
                assert_eq!(text.parse(), Ok(kind), "{text}");
            }
        }
        assert!("nonsense".parse::<Kind>().expect_err("no kind").contains("policies"));
        assert!(applied("kills").is_err() && applied("agents").is_ok());
    }

    #[test]
    fn labels_are_pairs() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(labels("a=b,c="), Ok(vec![pair("a", "b"), pair("c", "")]));
        assert!(labels("a").is_err() && labels("=b").is_err());
    }
}
