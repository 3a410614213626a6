//! What a worker has: each lease and how far it is with it. Nothing here asks anybody or reads a clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sideguard_types::control::jobs::{Lease, Told};
use sideguard_types::resource::JOB_LIMITS;

use super::tie::{Held, Term};

/// Most ended jobs of which it is known how they ended, for those who ask again.
const REMEMBERED: usize = 64;

/// How far a worker is with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has asked for it yet.
    Waiting,
    /// Control is told that it starts.
    Starting,
    /// The agent has it.
    Open,
    /// Control is told how it ended; the agent had it.
    Ending,
    /// Control is told that it is given back; the agent never had it.
    Returning,
}

#[derive(Debug)]
struct Entry {
    held: Arc<Held>,
    stage: Stage,
    /// When it came.
    told: Duration,
}

/// The jobs of one worker.
#[derive(Debug)]
pub(super) struct Book {
    most: usize,
    term: Arc<Term>,
    entries: Vec<Entry>,
    /// Jobs that ended, and whether their end counts.
    ended: VecDeque<(String, bool)>,
}

impl Book {
    pub(super) fn new(most: usize, term: Arc<Term>) -> Self {
        Self { most, term, entries: Vec::new(), ended: VecDeque::new() }
    }

    /// Takes in control's answer to a question that was sent at `sent` and arrived at `now`. What is over is fenced before
    /// the others are renewed.
    pub(super) fn take(&mut self, told: Told, sent: Duration, now: Duration) {
        for lease in &told.over {
            self.held(lease).into_iter().for_each(|held| held.end());
        }
        let unopened = |stage| matches!(stage, Stage::Waiting | Stage::Returning);
        self.entries.retain(|entry| !(entry.held.is_over() && unopened(entry.stage)));
        self.term.set(sent, Duration::from_millis(told.lease_ms));
        for given in told.jobs {
            let lease = Lease { job: given.job.id.clone(), epoch: given.epoch };
            if self.held(&lease).is_none() {
                let held = Arc::new(Held::new(given, &self.term));
                self.entries.push(Entry { held, stage: Stage::Waiting, told: now });
            }
        }
    }

    fn held(&self, lease: &Lease) -> Option<&Arc<Held>> {
        self.entries.iter().map(|entry| &entry.held).find(|held| held.lease == *lease)
    }

    /// Leases that are not known to be over.
    pub(super) fn leases(&self) -> Vec<Lease> {
        let own = self.entries.iter().filter(|entry| !entry.held.is_over());
        own.map(|entry| entry.held.lease.clone()).collect()
    }

    /// Jobs that the agent is at, fenced ones included.
    pub(super) fn open(&self) -> Vec<Arc<Held>> {
        let open = self.entries.iter().filter(|entry| matches!(entry.stage, Stage::Open | Stage::Ending));
        open.map(|entry| Arc::clone(&entry.held)).collect()
    }

    /// Whether the agent has nothing, and nothing is on its way to it or from it.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the agent can have another job.
    pub(super) fn has_room(&self) -> bool {
        let taken = |entry: &&Entry| matches!(entry.stage, Stage::Starting | Stage::Open | Stage::Ending);
        self.entries.iter().filter(taken).count() < self.most
    }

    /// The next job for the agent, which starts now. Not one that the agent still has by an earlier lease.
    pub(super) fn start(&mut self, now: Duration) -> Option<Arc<Held>> {
        if !self.has_room() {
            return None;
        }
        let of_job = |job: &str| self.entries.iter().filter(|entry| entry.held.lease.job == job).count();
        let fits = |entry: &Entry| {
            entry.stage == Stage::Waiting && !entry.held.is_fenced(now) && of_job(&entry.held.lease.job) == 1
        };
        let at = self.entries.iter().position(fits)?;
        let entry = self.entries.get_mut(at)?;
        entry.stage = Stage::Starting;
        Some(Arc::clone(&entry.held))
    }

    /// The agent was not given a job that started.
    pub(super) fn put_back(&mut self, held: &Held) {
        self.advance(held, Stage::Starting, Stage::Waiting);
        self.entries.retain(|entry| !(entry.stage == Stage::Waiting && entry.held.is_over()));
    }

    /// The agent gets a job that started, if it is still this worker's.
    pub(super) fn hand_over(&mut self, held: &Held, now: Duration) -> bool {
        !held.is_fenced(now) && self.advance(held, Stage::Starting, Stage::Open)
    }

    /// Control is to be told that a job ended before the agent had it.
    pub(super) fn decline(&mut self, held: &Held) {
        self.advance(held, Stage::Starting, Stage::Ending);
    }

    /// Control is to be told how a job ended that the agent had. False where it is being told already.
    pub(super) fn end(&mut self, held: &Held) -> bool {
        self.advance(held, Stage::Open, Stage::Ending)
    }

    /// Control does not take the end as it was told: the agent may tell another one.
    pub(super) fn reopen(&mut self, held: &Held) {
        self.advance(held, Stage::Ending, Stage::Open);
    }

    fn advance(&mut self, held: &Held, from: Stage, to: Stage) -> bool {
        let entry = self.entries.iter_mut().find(|entry| entry.held.lease == held.lease);
        let entry = entry.filter(|entry| entry.stage == from);
        entry.map(|entry| entry.stage = to).is_some()
    }

    /// Nothing more is to be done with a job. `counts` is whether its end counts, where it had one.
    pub(super) fn close(&mut self, held: &Held, counts: Option<bool>) {
        self.entries.retain(|entry| entry.held.lease != held.lease);
        if let Some(counts) = counts {
            self.ended.retain(|(job, _)| *job != held.lease.job);
            self.ended.push_back((held.lease.job.clone(), counts));
            if self.ended.len() > REMEMBERED {
                self.ended.pop_front();
            }
        }
    }

    /// Whether the end of a job that the agent had counts.
    pub(super) fn ended(&self, job: &str) -> Option<bool> {
        self.ended.iter().find(|(ended, _)| ended == job).map(|(_, counts)| *counts)
    }

    /// Jobs to give back: those that nobody asked for in time, or all that nobody asked for yet.
    pub(super) fn give_back(&mut self, now: Duration, all: bool) -> Vec<Arc<Held>> {
        let [_, usual, ..] = JOB_LIMITS;
        let late = |entry: &Entry| {
            let limit = entry.held.job.spec.limits.dispatch.map_or(usual, |span| span.0);
            all || now.saturating_sub(entry.told) >= limit
        };
        let waiting = self.entries.iter_mut().filter(|entry| entry.stage == Stage::Waiting && late(entry));
        let back = waiting.map(|entry| {
            entry.stage = Stage::Returning;
            Arc::clone(&entry.held)
        });
        back.collect()
    }

    /// An agent that does one job at a time and asks for another has let go of the one that it had. Takes away what is over;
    /// gives what is fenced for want of an answer, whose end control has to be told.
    pub(super) fn asked(&mut self, now: Duration) -> Option<Arc<Held>> {
        if self.most > 1 {
            return None;
        }
        self.entries.retain(|entry| !(entry.stage == Stage::Open && entry.held.is_over()));
        let lapsed =
            self.entries.iter_mut().find(|entry| entry.stage == Stage::Open && entry.held.is_fenced(now))?;
        lapsed.stage = Stage::Ending;
        Some(Arc::clone(&lapsed.held))
    }
}
