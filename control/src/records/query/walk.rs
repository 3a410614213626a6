//! The way down one sidecar's journal, block by block from its end.

use sideguard_store::Store;
use sideguard_types::control::records::Entry;
use sideguard_types::time::Timestamp;

use super::{Filter, Purse, Rank};
use crate::error::Failure;
use crate::records::block::{Block, Facts};
use crate::records::follow::entry;
use crate::records::head::Head;

/// Marks that are read at once.
const MARKS: u64 = 32;

/// One sidecar's records, from the newest on.
#[derive(Debug)]
pub(super) struct Walk {
    head: Head,
    name: String,
    /// Entries that were found and not handed out, the newest last.
    ready: Vec<(Rank, Entry)>,
    /// Positions of the journal from here on have been looked at.
    below: u64,
    /// No record below counts as written later.
    bound: Timestamp,
    /// Marks of some blocks that follow each other, and the number of the first.
    marks: (u64, Vec<Block>),
    /// Whether the end from which to look has been found.
    placed: bool,
}

impl Walk {
    pub(super) fn new(head: Head, filter: &Filter, below: Option<&Rank>) -> Self {
        let last = Timestamp(i64::MAX);
        let until = below.map_or(last, |rank| rank.time).min(filter.to.unwrap_or(last));
        Self {
            name: format!("{}/{}", head.sidecar, head.tenant),
            ready: Vec::new(),
            below: head.total(),
            bound: head.latest.min(until),
            marks: (0, Vec::new()),
            placed: head.latest <= until,
            head,
        }
    }

    /// What comes next ranks no higher than this; nothing comes any more when there is none.
    pub(super) fn peek(&self) -> Option<Rank> {
        if let Some((rank, _)) = self.ready.last() {
            return Some(rank.clone());
        }
        let position = self.head.first.saturating_add(self.below);
        (self.below > 0).then(|| Rank { time: self.bound, journal: self.name.clone(), position })
    }

    /// The next entry, when it is known.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.ready.pop().map(|(_, entry)| entry)
    }

    /// Looks at the next block down.
    pub(super) async fn look(
        &mut self,
        store: &Store,
        filter: &Filter,
        cursor: Option<&Rank>,
        purse: &mut Purse,
    ) -> Result<(), Failure> {
        if !self.placed {
            self.placed = true;
            return self.place(store, purse).await;
        }
        let Some(last) = self.below.checked_sub(1) else { return Ok(()) };
        let number = last / Block::SIZE;
        purse.passed = purse.passed.saturating_sub(1);
        let Some(block) = self.mark(store, number).await? else {
            return Err(Failure::Broken(self.head.marks()?.to_string()));
        };
        let start = number.saturating_mul(Block::SIZE);
        if filter.from.is_some_and(|from| block.last < from) {
            self.below = 0;
        } else {
            if block.first <= self.bound && block.may_have(filter) {
                purse.read = purse.read.saturating_sub(1);
                self.read(store, start, block.first, filter, cursor).await?;
            }
            self.below = start;
            self.bound = self.bound.min(block.first);
        }
        Ok(())
    }

    /// Goes to the last block that begins no later than the bound, by bisection.
    async fn place(&mut self, store: &Store, purse: &mut Purse) -> Result<(), Failure> {
        let (mut low, mut high) = (0, self.head.blocks());
        // Blocks before `low` begin early enough, those from `high` on too late, or are not complete.
        while low < high {
            let middle = low + (high - low) / 2;
            purse.passed = purse.passed.saturating_sub(1);
            let read = store.journal.read(&self.head.marks()?, middle, 1).await?;
            let block = read.first().and_then(|(_, bytes)| Block::decode(bytes));
            let block = block.ok_or_else(|| Failure::Broken(self.head.name()))?;
            if block.first <= self.bound { low = middle + 1 } else { high = middle }
        }
        let complete = self.head.blocks();
        if low < complete || self.head.block.first > self.bound {
            self.below = low.saturating_mul(Block::SIZE).min(self.below);
        }
        Ok(())
    }

    /// The mark of a block.
    async fn mark(&mut self, store: &Store, number: u64) -> Result<Option<Block>, Failure> {
        if number >= self.head.blocks() {
            return Ok(Some(self.head.block.clone()));
        }
        let known = |marks: &(u64, Vec<Block>)| {
            number.checked_sub(marks.0).and_then(|at| marks.1.get(usize::try_from(at).ok()?).cloned())
        };
        if let Some(block) = known(&self.marks) {
            return Ok(Some(block));
        }
        let from = number.saturating_sub(MARKS - 1);
        let wanted = usize::try_from(number - from + 1).unwrap_or(1);
        let read = store.journal.read(&self.head.marks()?, from, wanted).await?;
        self.marks = (from, read.iter().filter_map(|(_, bytes)| Block::decode(bytes)).collect());
        Ok(known(&self.marks))
    }

    /// Reads the block that starts at a position, whose first record counts as written at `time`.
    async fn read(
        &mut self,
        store: &Store,
        start: u64,
        mut time: Timestamp,
        filter: &Filter,
        cursor: Option<&Rank>,
    ) -> Result<(), Failure> {
        let journal = self.head.journal()?;
        let mut at = start;
        while at < self.below {
            let wanted = usize::try_from(self.below - at).unwrap_or(usize::MAX);
            let lines = store.journal.read(&journal, at, wanted).await?;
            if lines.is_empty() {
                return Err(Failure::Broken(journal.to_string()));
            }
            for (position, line) in lines {
                at = position.saturating_add(1);
                let facts = Facts::read(&line).ok_or_else(|| Failure::Broken(journal.to_string()))?;
                time = time.max(facts.time);
                let rank = Rank {
                    time,
                    journal: self.name.clone(),
                    position: self.head.first.saturating_add(position),
                };
                let timely = filter.from.is_none_or(|from| time >= from)
                    && filter.to.is_none_or(|to| time < to)
                    && cursor.is_none_or(|cursor| rank < *cursor);
                if timely && filter.fits(&facts) {
                    self.ready.push((rank, entry(&self.head, position, &line)?));
                }
            }
        }
        Ok(())
    }
}
