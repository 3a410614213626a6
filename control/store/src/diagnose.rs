//! Whether the servers of a shared store are as they should be, and what to do where they are not.

use crate::shared;

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What was looked at, such as `redis memory`.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// What is wrong with that, if anything.
    pub trouble: Option<Trouble>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// Whether the store cannot do its work so; otherwise it can, with a risk.
    pub fatal: bool,
    /// What to do.
    pub mend: &'static str,
}

impl Diagnosis {
    pub(crate) fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, found: found.into(), trouble: None }
    }

    pub(crate) fn risky(what: &'static str, found: impl Into<String>, mend: &'static str) -> Self {
        Self { what, found: found.into(), trouble: Some(Trouble { fatal: false, mend }) }
    }

    pub(crate) fn bad(what: &'static str, found: impl Into<String>, mend: &'static str) -> Self {
        Self { what, found: found.into(), trouble: Some(Trouble { fatal: true, mend }) }
    }
}

/// Looks at Redis: there, its version, a single server, its append-only file, what it does when memory is short.
pub async fn redis(url: &str) -> Vec<Diagnosis> {
    shared::diagnose::redis(url).await
}

/// Looks at NATS: there, its version, JetStream.
pub async fn nats(url: &str) -> Vec<Diagnosis> {
    shared::diagnose::nats(url).await
}
