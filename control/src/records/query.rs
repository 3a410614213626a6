//! Finding records: the newest first, across sidecars, page by page.
//!
//! Every sidecar's records lie in the order of their time, where the time of a record counts as no earlier than that of the one
//! before it, should a clock have been set back. So the newest of all is found by looking at the newest of each, and only as
//! far down in each journal as the answer needs. A page ends when it is full, or when enough was looked at: what a question
//! costs does not depend on how much there is, only on how often it has to be asked on.

mod walk;

use schemars::JsonSchema;
use serde::Deserialize;
use sideguard_record::read::glob;
use sideguard_store::Store;
use sideguard_types::audit::Phase;
use sideguard_types::call::Point;
use sideguard_types::control::Page;
use sideguard_types::control::records::Entry;
use sideguard_types::time::Timestamp;
use sideguard_types::verdict::Decision;

use super::block::Facts;
use super::head::Head;
use crate::error::Failure;
use crate::keys::Principal;
use walk::Walk;

/// Entries of a page when nothing else is asked for, and the most.
const USUAL: usize = 100;
const MOST: usize = 500;
/// Most blocks of which one question reads the lines.
const READ: u64 = 96;
/// Most blocks of which one question reads the marks.
const PASSED: u64 = 4_096;

/// Which records: fields AND together; `rule` and `topic` are globs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Not before this moment.
    pub(super) from: Option<Timestamp>,
    /// Before this moment.
    pub(super) to: Option<Timestamp>,
    /// Tenant.
    pub(super) tenant: Option<String>,
    /// Agent.
    pub(super) agent: Option<String>,
    /// Decision.
    pub(super) decision: Option<Decision>,
    /// Rule, as a glob.
    pub(super) rule: Option<String>,
    /// Topic, as a glob.
    pub(super) topic: Option<String>,
    /// Id of a call.
    pub(super) call: Option<String>,
    /// Id of a sidecar.
    pub(super) sidecar: Option<String>,
    /// Phase.
    pub(super) phase: Option<Phase>,
    /// Point.
    point: Option<Point>,
    /// Where the page begins: the `next` of the one before.
    after: Option<String>,
    /// Most entries of the page.
    limit: Option<usize>,
}

impl Filter {
    /// Whether a record is asked for, its time and its journal aside.
    pub(super) fn fits(&self, facts: &Facts<'_>) -> bool {
        self.agent.as_ref().is_none_or(|agent| *agent == facts.agent)
            && self.decision.is_none_or(|decision| facts.decision == Some(decision))
            && self.rule.as_ref().is_none_or(|rule| glob(rule, &facts.rule))
            && self.topic.as_ref().is_none_or(|topic| glob(topic, &facts.topic))
            && self.call.as_ref().is_none_or(|call| *call == facts.call)
            && self.phase.is_none_or(|phase| facts.phase == phase)
            && self.point.is_none_or(|point| facts.point == Some(point))
    }

    /// Whether records of a sidecar are asked for.
    pub(super) fn wants(&self, tenant: &str, sidecar: &str) -> bool {
        self.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
            && self.sidecar.as_ref().is_none_or(|wanted| wanted == sidecar)
    }
}

/// A record's place among all: later ones are greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    time: Timestamp,
    /// `sidecar/tenant`.
    journal: String,
    /// Number of the record.
    position: u64,
}

impl Rank {
    fn parse(text: &str) -> Option<Self> {
        let (time, rest) = text.split_once('/')?;
        let (journal, position) = rest.rsplit_once('/')?;
        let time = Timestamp(time.parse().ok()?);
        Some(Self { time, journal: journal.to_owned(), position: position.parse().ok()? })
    }
}

impl std::fmt::Display for Rank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.time.0, self.journal, self.position)
    }
}

/// What a question may still cost.
#[derive(Debug)]
struct Purse {
    read: u64,
    passed: u64,
}

/// A page of the records that a principal may see.
pub(crate) async fn query(
    store: &Store,
    now: Timestamp,
    who: &Principal,
    filter: &Filter,
) -> Result<Page<Entry>, Failure> {
    let below = filter.after.as_deref().map(|text| {
        Rank::parse(text).ok_or_else(|| Failure::Invalid(format!("`{text}` is not where a page ended")))
    });
    let below = below.transpose()?;
    let most = filter.limit.unwrap_or(USUAL).clamp(1, MOST);
    let heads = Head::list(store, now, who, filter.sidecar.as_deref()).await?;
    let wanted = heads.into_iter().filter(|head| filter.wants(&head.tenant, &head.sidecar));
    let mut walks: Vec<Walk> = wanted.map(|head| Walk::new(head, filter, below.as_ref())).collect();
    let mut purse = Purse { read: READ, passed: PASSED };
    let mut items = Vec::new();
    loop {
        let newest = walks.iter_mut().filter(|walk| walk.peek().is_some()).max_by_key(|walk| walk.peek());
        let Some(walk) = newest else { return Ok(Page { items, next: None }) };
        let at = walk.peek();
        match walk.pop() {
            Some(entry) => items.push(entry),
            None if purse.read == 0 || purse.passed == 0 => {
                return Ok(Page { items, next: at.map(|at| at.to_string()) });
            }
            None => walk.look(store, filter, below.as_ref(), &mut purse).await?,
        }
        if items.len() == most {
            return Ok(Page { items, next: at.map(|at| at.to_string()) });
        }
    }
}
