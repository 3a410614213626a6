//! One sink's task: gets the lease, follows the record, delivers, and writes down how far it has come.

use std::pin::pin;
use std::time::Duration;

use sideguard_policy::Filter;
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_types::control::records::Entry;

use super::kept::{self, LEASE, Lease, State};
use super::outlet::{Outlet, Undelivered};
use super::shape::{Shaped, shape};
use super::{Sink, Works};
use crate::error::Failure;
use crate::records::follow::{self, Cursor, Follow};

/// How often another replica's lease is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often the lease is renewed while there is nothing to do, or the place takes nothing.
const RENEW: Duration = Duration::from_secs(3);
/// How long a position may go unwritten while entries flow; after a crash so much is passed on again.
const WRITE: Duration = Duration::from_millis(500);
/// First pause after a place took nothing; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Longest text of an error that is kept.
const LONGEST_ERROR: usize = 300;

/// Passes on to a sink whenever this replica has its lease, until dropped.
pub(super) async fn run(works: Works, sink: Sink) {
    loop {
        match kept::take(&works.store, clock::now(), &sink, &works.replica).await {
            Ok(Some(lease)) => {
                if let Err(error) = pass(&works, &sink, lease).await {
                    tracing::warn!(%error, sink = sink.name, "a sink has to be begun again");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, sink = sink.name, "a sink's lease cannot be had"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A sink being passed on to.
struct Passing<'a> {
    works: &'a Works,
    sink: &'a Sink,
    lease: Lease,
    state: State,
    /// Since when the state was not written.
    unwritten: Option<Stopwatch>,
}

async fn pass(works: &Works, sink: &Sink, lease: Lease) -> Result<(), Failure> {
    let known = kept::state(&works.store, clock::now(), sink).await?;
    let begins = known.is_none();
    let state = match known {
        Some(state) => state,
        None if sink.spec.from_start => State::default(),
        None => State { cursor: Cursor::now(&works.store).await?, ..State::default() },
    };
    let mut follow = follow::follow(&works.store, state.cursor.clone())?;
    let mut passing = Passing { works, sink, lease, state, unwritten: None };
    if begins {
        passing.write().await?;
    }
    let filter = Filter::new(&sink.spec.filter).map_err(Failure::Invalid)?;
    let mut outlet = passing.open().await?;
    loop {
        let (entries, cursor) = passing.next(&mut follow).await?;
        let all = entries.len() as u64;
        let wanted: Vec<Shaped> = entries.iter().filter_map(|entry| wanted(sink, &filter, entry)).collect();
        passing.state.filtered += all - wanted.len() as u64;
        passing.deliver(&mut outlet, wanted).await?;
        passing.state.cursor = cursor;
        passing.unwritten.get_or_insert_with(Stopwatch::start);
        if passing.unwritten.is_some_and(|since| since.elapsed() >= WRITE) {
            passing.write().await?;
        }
    }
}

/// An entry as the sink gets it, if it does. What cannot be read is not for a filter to judge: it goes along as it stands.
fn wanted(sink: &Sink, filter: &Filter, entry: &Entry) -> Option<Shaped> {
    if sink.tenant.as_ref().is_some_and(|tenant| *tenant != entry.tenant) {
        return None;
    }
    let shaped = shape(entry, sink.spec.format)?;
    filter.wants(&entry.tenant, &shaped.record).then_some(shaped)
}

impl Passing<'_> {
    /// Opens the way to the place, again and again until it can be.
    async fn open(&mut self) -> Result<Outlet, Failure> {
        loop {
            match Outlet::open(self.sink, &self.works.files).await {
                Ok(outlet) => return Ok(outlet),
                Err(error) => {
                    self.failed(&error).await?;
                    tokio::time::sleep(RENEW).await;
                }
            }
        }
    }

    /// The next entries. The lease is renewed meanwhile.
    async fn next(&mut self, follow: &mut Follow) -> Result<(Vec<Entry>, Cursor), Failure> {
        let mut next = pin!(follow.next());
        loop {
            // What flows is written down in one go; the last of it soon after.
            let within = if self.unwritten.is_some() { WRITE } else { RENEW };
            match tokio::time::timeout(within, next.as_mut()).await {
                Ok(next) => return next,
                Err(_) if self.unwritten.is_some() => self.write().await?,
                Err(_) => self.renew().await?,
            }
        }
    }

    /// Delivers in order, waiting for as long as the place takes nothing.
    async fn deliver(&mut self, outlet: &mut Outlet, all: Vec<Shaped>) -> Result<(), Failure> {
        let mut rest = all.as_slice();
        let mut pause = PAUSE;
        while !rest.is_empty() {
            let part = outlet.part(rest);
            let (now, later) = rest.split_at(part);
            let delivered = self.renewing(outlet.deliver(now)).await?;
            match delivered {
                Ok(()) => {
                    self.delivered(now.len() as u64);
                    (rest, pause) = (later, PAUSE);
                }
                Err(Undelivered::TooLarge(_)) if now.len() > 1 => outlet.smaller(now.len()),
                Err(Undelivered::TooLarge(why)) => {
                    tracing::error!(sink = self.sink.name, why, "an entry cannot be delivered: left out");
                    self.state.skipped += 1;
                    self.works.metrics.sink_skipped(&self.sink.name);
                    rest = later;
                }
                Err(Undelivered::NotNow(why)) => {
                    self.failed(&why).await?;
                    let waiting = tokio::time::sleep(pause);
                    self.renewing(waiting).await?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Ok(())
    }

    fn delivered(&mut self, entries: u64) {
        self.state.delivered += entries;
        self.state.last = Some(clock::now());
        self.works.metrics.sink_delivered(&self.sink.name, entries);
        if self.state.error.take().is_some() {
            tracing::info!(sink = self.sink.name, "the sink takes entries again");
        }
    }

    /// Puts down why the sink does not go on. The position stays where it was written last.
    async fn failed(&mut self, why: &str) -> Result<(), Failure> {
        let why: String = why.chars().take(LONGEST_ERROR).collect();
        self.works.metrics.sink_failed(&self.sink.name);
        if self.state.error.as_ref() != Some(&why) {
            tracing::warn!(sink = self.sink.name, why, "a sink takes nothing: it is tried again");
            self.state.error = Some(why);
            self.write().await?;
        }
        Ok(())
    }

    /// Does something that may take longer than the lease, and renews that meanwhile.
    async fn renewing<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let mut work = pin!(work);
        loop {
            match tokio::time::timeout(RENEW, work.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(_) => self.renew().await?,
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Failure> {
        self.lease.renew(&self.works.store, clock::now(), self.sink, None).await
    }

    async fn write(&mut self) -> Result<(), Failure> {
        self.lease.renew(&self.works.store, clock::now(), self.sink, Some(&self.state)).await?;
        self.unwritten = None;
        Ok(())
    }
}

const _: () = assert!(RENEW.as_millis() * 2 < LEASE.as_millis(), "one renewal may be lost");
