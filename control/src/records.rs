//! The record of every sidecar: taken in as it is shipped, checked line by line, kept in one journal each, found again.
//!
//! A sidecar's journal holds its log's lines as they stand there; what is known of it besides is its [`head`]. Each 256 lines
//! make a block, and a mark in a second journal says what is in it ([`block`]): a question ([`query`]) reads only blocks that
//! may hold an answer. Whoever passes the record on ([`follow`]) keeps a cursor of its own.

mod block;
pub(crate) mod follow;
mod head;
pub(crate) mod live;
pub(crate) mod prove;
pub(crate) mod query;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use sideguard_record::arriving::{self, Chain, Checker, Line};
use sideguard_record::verify::Flaw;
use sideguard_store::documents::Revision;
use sideguard_store::{Store, StoreError};
use sideguard_types::control::records::{Alarm, LARGEST_RECORD, Position, Trouble};
use sideguard_types::time::Timestamp;
use tokio::sync::Semaphore;

use crate::error::Failure;
use crate::keys::Principal;
use block::{Block, Facts};
pub(crate) use head::{Head, journals, standings};
use live::Live;

/// Most batches that are worked on at once; further ones wait before they are read.
const BATCHES: usize = 16;
/// Most bytes of a batch: what a sidecar sends at once, and one record more.
pub(crate) const LONGEST: usize = 768 << 10;

/// What is shared by those who ship and those who ask.
#[derive(Debug)]
pub(crate) struct Records {
    /// Places for batches.
    pub(crate) places: Semaphore,
    /// The record as it comes.
    pub(crate) live: Live,
    counts: Counts,
}

/// What was taken in since the start of this replica.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
    refused: [AtomicU64; 4],
}

impl Counts {
    /// Records and their bytes.
    pub(crate) fn taken(&self) -> (u64, u64) {
        (self.records.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Batches that were refused, by reason.
    pub(crate) fn refused(&self, trouble: Trouble) -> u64 {
        self.refused.get(trouble as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// A batch as it was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent<'a> {
    pub(crate) sidecar: &'a str,
    /// Public key of the sidecar's record, in hex.
    pub(crate) key: &'a str,
    /// Lines, each with its newline.
    pub(crate) lines: &'a [u8],
}

/// What a batch is refused for.
struct Refusal {
    trouble: Trouble,
    position: u64,
    detail: String,
}

/// A batch that was found good: what to write.
struct Checked {
    head: Head,
    /// Position in the journal of the first line.
    at: u64,
    lines: Vec<Bytes>,
    /// Blocks that it completes, and the number of the first of them.
    marks: (u64, Vec<Bytes>),
    fresh: u64,
}

impl Records {
    pub(crate) fn new() -> Self {
        Self { places: Semaphore::new(BATCHES), live: Live::new(), counts: Counts::default() }
    }

    /// What was taken in so far.
    pub(crate) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Takes in a batch, and tells where to go on. What is there already is compared and not kept again.
    pub(crate) async fn take(
        &self,
        store: &Store,
        now: Timestamp,
        from: &Principal,
        sent: Sent<'_>,
    ) -> Result<Position, Failure> {
        let tenant = from.tenant.as_deref().unwrap_or("default");
        if from.name != sent.sidecar {
            return Err(Failure::Missing("sidecar of that name with this key".to_owned()));
        }
        let key = arriving::public_key(sent.key)
            .ok_or_else(|| Failure::Invalid("`key` is not a public key: 64 hex digits".to_owned()))?;
        let known = Head::read(store, now, tenant, sent.sidecar).await?;
        if sent.lines.is_empty() {
            return Ok(known.map_or_else(|| position(&Chain::start()), |(head, _)| position(&head.chain)));
        }
        let (head, revision) = match known {
            Some((head, revision)) => (head, Some(revision)),
            None => (Head::new(tenant, sent.sidecar, sent.key), None),
        };
        match check(head.clone(), &key, sent) {
            Ok(checked) => self.keep(store, now, checked, revision).await,
            Err(Wrong::Form(text)) => Err(Failure::Invalid(text)),
            Err(Wrong::Record(refusal)) => Err(self.refuse(store, now, head, revision, refusal).await?),
        }
    }

    /// Writes a good batch: lines, then marks, then the head. A crash in between leaves what the same batch, sent again,
    /// finds equal.
    async fn keep(
        &self,
        store: &Store,
        now: Timestamp,
        checked: Checked,
        revision: Option<Revision>,
    ) -> Result<Position, Failure> {
        let Checked { head, at, lines, marks: (number, marks), fresh } = checked;
        let bytes: usize = lines.iter().map(Bytes::len).sum();
        match store.journal.append(&head.journal()?, at, lines).await {
            Ok(_) => {}
            Err(StoreError::Fork { position, .. }) => {
                let position = head.first.saturating_add(position);
                let detail = format!("record {position} is another one than the one that was shipped before");
                let refusal = Refusal { trouble: Trouble::Fork, position, detail };
                let (tenant, sidecar) = (head.tenant.clone(), head.sidecar.clone());
                let known = Head::read(store, now, &tenant, &sidecar).await?;
                let (head, revision) = known.map_or((head, None), |(head, at)| (head, Some(at)));
                return Err(self.refuse(store, now, head, revision, refusal).await?);
            }
            Err(error) => return Err(error.into()),
        }
        if !marks.is_empty() {
            store.journal.append(&head.marks()?, number, marks).await?;
        }
        if fresh == 0 {
            return Ok(position(&head.chain));
        }
        self.counts.records.fetch_add(fresh, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        match head.write(store, now, revision).await {
            Ok(()) => Ok(position(&head.chain)),
            // Another replica took the same lines: how far it came is what counts.
            Err(Failure::Store(StoreError::Conflict { .. })) => {
                let known = Head::read(store, now, &head.tenant, &head.sidecar).await?;
                Ok(known.map_or_else(|| position(&Chain::start()), |(head, _)| position(&head.chain)))
            }
            Err(error) => Err(error),
        }
    }

    /// Raises the alarm, and says what to answer.
    async fn refuse(
        &self,
        store: &Store,
        now: Timestamp,
        mut head: Head,
        revision: Option<Revision>,
        refusal: Refusal,
    ) -> Result<Failure, Failure> {
        let Refusal { trouble, position, detail } = refusal;
        let Head { tenant, sidecar, .. } = &head;
        tracing::error!(tenant, sidecar, position, code = trouble.code(), detail, "record refused");
        if let Some(count) = self.counts.refused.get(trouble as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if head.alarm.is_none() {
            head.alarm = Some(Alarm { trouble, position, detail: detail.clone(), time: now });
            match head.write(store, now, revision).await {
                // Somebody else changed it meanwhile; the sidecar tries again and the alarm comes then.
                Ok(()) | Err(Failure::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Failure::Record { trouble, detail })
    }
}

fn position(chain: &Chain) -> Position {
    Position { next: chain.next, prev: chain.prev.clone() }
}

/// What is wrong with a batch: how it was sent, or what it says.
enum Wrong {
    Form(String),
    Record(Refusal),
}

fn wrong(trouble: Trouble, position: u64, detail: impl Into<String>) -> Wrong {
    Wrong::Record(Refusal { trouble, position, detail: detail.into() })
}

/// Checks every line of a batch against what is known of the sidecar's record.
fn check(mut head: Head, key: &VerifyingKey, sent: Sent<'_>) -> Result<Checked, Wrong> {
    let expected = head.chain.next;
    if head.key != sent.key {
        return Err(wrong(Trouble::Broken, expected, "it is signed with another key than before"));
    }
    let text =
        sent.lines.strip_suffix(b"\n").ok_or_else(|| Wrong::Form("the last line has no end".to_owned()))?;
    let broken = |seq, flaw: &Flaw| wrong(Trouble::Broken, seq, format!("record {seq}: {flaw}"));
    let mut lines = Vec::new();
    let (mut at, mut due) = (0, expected);
    let mut fresh: Option<Checker> = None;
    // What is there already, as the batch tells it.
    let mut again: Option<Checker> = None;
    let (number, mut marks) = (head.blocks(), Vec::new());
    for bytes in text.split(|byte| *byte == b'\n') {
        if bytes.len() > LARGEST_RECORD {
            return Err(Wrong::Form(format!("a record is larger than {LARGEST_RECORD} bytes")));
        }
        let line = Line::read(bytes).map_err(|flaw| broken(due, &flaw))?;
        if lines.is_empty() {
            head.begin(&line)?;
            at = line.seq().saturating_sub(head.first);
        } else if line.seq() != due {
            return Err(unfit(&line, Flaw::Seq { expected: due, found: line.seq() }));
        }
        due = line.seq().saturating_add(1);
        if line.seq() < head.chain.next {
            let checker = again.get_or_insert_with(|| Checker::at(&line));
            checker.take(&line, key).map_err(|flaw| broken(line.seq(), &flaw))?;
        } else {
            let checker = match &mut fresh {
                Some(checker) => checker,
                None => {
                    fresh.insert(head.chain.resume().map_err(|flaw| Wrong::Form(format!("head: {flaw}")))?)
                }
            };
            checker.take(&line, key).map_err(|flaw| unfit(&line, flaw))?;
            head.add(bytes, &line)?;
            if head.block.is_full() {
                marks.push(std::mem::take(&mut head.block).encode());
            }
        }
        lines.push(Bytes::copy_from_slice(bytes));
    }
    if let Some(checker) = fresh {
        head.chain = checker.chain();
    }
    let fresh = head.chain.next.saturating_sub(expected.max(head.first));
    Ok(Checked { head, at, lines, marks: (number, marks), fresh })
}

/// What it means that a line does not follow what is kept.
fn unfit(line: &Line<'_>, flaw: Flaw) -> Wrong {
    let seq = line.seq();
    match flaw {
        Flaw::Prev => {
            let last = seq.saturating_sub(1);
            let detail = format!("record {last} is another one than the one that was shipped before");
            wrong(Trouble::Fork, last, detail)
        }
        Flaw::Seq { expected, found } if found > expected => {
            wrong(Trouble::Gap, expected, format!("record {expected} should come next, and {found} did"))
        }
        flaw => wrong(Trouble::Broken, seq, format!("record {seq}: {flaw}")),
    }
}

impl Head {
    /// Looks at the first line of a batch: it must not leave a gap, nor lie before what is kept.
    fn begin(&mut self, line: &Line<'_>) -> Result<(), Wrong> {
        let seq = line.seq();
        if self.chain == Chain::start() && seq > 1 {
            // What came before was removed before control knew of this sidecar.
            self.first = seq;
            self.chain = Chain::before(line);
        }
        if seq < self.first {
            return Err(Wrong::Form(format!(
                "record {seq} lies before the first that is kept, {}",
                self.first
            )));
        }
        if seq > self.chain.next {
            let detail = format!("record {} should come next, and {seq} did", self.chain.next);
            return Err(wrong(Trouble::Gap, self.chain.next, detail));
        }
        Ok(())
    }

    /// Adds a record to the block that is not complete yet.
    fn add(&mut self, bytes: &[u8], line: &Line<'_>) -> Result<(), Wrong> {
        let seq = line.seq();
        let facts = Facts::read(bytes)
            .ok_or_else(|| wrong(Trouble::Broken, seq, format!("record {seq}: {}", Flaw::Form)))?;
        if facts.leaves() && facts.tenant != self.tenant {
            let detail = format!("record {seq} is a call of tenant `{}`", facts.tenant);
            return Err(wrong(Trouble::Tenant, seq, detail));
        }
        self.latest = self.latest.max(facts.time);
        self.block.add(&facts, self.latest);
        Ok(())
    }

    /// Number of complete blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.chain.next.saturating_sub(self.first) / Block::SIZE
    }
}
