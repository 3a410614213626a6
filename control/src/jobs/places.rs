//! Where what belongs to jobs is kept. Open jobs and workers lie apart from what is over, so that all of them can be read
//! quickly.

use sideguard_store::key::Key;
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::own_key;

/// What the board follows lies below this.
pub(crate) const JOBS: &str = "jobs/now";

/// What the board follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Open,
    Worker,
}

impl Kind {
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Open => "jobs/now/open",
            Self::Worker => "jobs/now/workers",
        }
    }
}

/// What a key names: kind, tenant and id.
pub(crate) fn parse(key: &Key) -> Option<(Kind, &str, &str)> {
    let (kind, rest) = [Kind::Open, Kind::Worker]
        .into_iter()
        .find_map(|kind| Some((kind, key.path().strip_prefix(kind.path())?.strip_prefix('/')?)))?;
    let (tenant, id) = rest.split_once('/')?;
    Some((kind, tenant, id))
}

/// An open job.
pub(crate) fn open(tenant: &str, id: &str) -> Result<Key, Failure> {
    check(id)?;
    own_key(&format!("{}/{tenant}/{id}", Kind::Open.path()))
}

/// A job that is over.
pub(crate) fn over(tenant: &str, id: &str) -> Result<Key, Failure> {
    check(id)?;
    own_key(&format!("jobs/over/{tenant}/{}", turned(id)))
}

/// A dead-lettered one.
pub(crate) fn dead(tenant: &str, id: &str) -> Result<Key, Failure> {
    check(id)?;
    own_key(&format!("jobs/dead/{tenant}/{id}"))
}

/// The job of an idempotency key.
pub(crate) fn named(tenant: &str, hash: &str) -> Result<Key, Failure> {
    own_key(&format!("jobs/names/{tenant}/{hash}"))
}

/// A large input or result.
pub(crate) fn data(tenant: &str, id: &str, what: &str) -> Result<Key, Failure> {
    check(id)?;
    own_key(&format!("jobs/data/{tenant}/{id}/{what}"))
}

/// A worker.
pub(crate) fn worker(tenant: &str, id: &str) -> Result<Key, Failure> {
    own_key(&format!("{}/{tenant}/{id}", Kind::Worker.path()))
}

/// An id so that newer ones come first.
fn turned(id: &str) -> String {
    let digit = |c: char| c.to_digit(16).and_then(|digit| char::from_digit(15 - digit, 16)).unwrap_or(c);
    id.chars().map(digit).collect()
}

/// Refuses what is no id: it comes from whoever asks, and must not name something else.
fn check(id: &str) -> Result<(), Failure> {
    let digits = id.len() == 24 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits { Ok(()) } else { Err(missing(id)) }
}

pub(crate) fn missing(id: &str) -> Failure {
    Failure::Missing(format!("job `{}`", id.chars().take(64).collect::<String>()))
}

/// How long a job is kept after its end.
pub(crate) fn kept(now: Timestamp) -> Timestamp {
    const WEEK: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);
    now.plus(WEEK)
}
