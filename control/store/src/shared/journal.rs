//! Journals in JetStream.
//!
//! All journals are in one stream, each with a subject of its own; a message holds some entries and the position of
//! the first. Why this is right: a message is stored only if the last message of its subject has the number that the
//! writer saw (`Nats-Expected-Last-Subject-Sequence`), which JetStream checks and stores as one step, in the order of
//! the stream. So the messages of a subject are a chain in which each begins where the one before it ends: there is
//! no hole, and no position twice. A message of which nobody knows whether it was stored is either in the chain, and
//! then a repeated append finds its entries equal, or can never come into it once another one has. The last message
//! of a subject is never removed, so the end is always known. Reads go to the leader of the stream and see what was
//! acknowledged.
//!
//! JetStream rather than Redis, since journals are large and belong on disk, not in memory. Its price: a position is
//! found by bisection over the stream, some twenty requests for a million messages. Readers that go on where they
//! stopped need none, since each journal's last place is remembered.

use async_trait::async_trait;
use bytes::Bytes;

use super::Shared;
use super::nats_server::{NatsServer, NotStored};
use super::part::Part;
use crate::error::StoreError;
use crate::journal::{HEAVIEST_READ, Journal, LONGEST_READ, check};
use crate::key::{Key, Scope};

#[async_trait]
impl Journal for Shared {
    async fn append(&self, key: &Key, from: u64, entries: Vec<Bytes>) -> Result<u64, StoreError> {
        check(key, from, &entries)?;
        let nats = self.nats()?;
        let subject = nats.journal(key);
        let end = from + entries.len() as u64;
        // Entries before `at` are known to be in the journal.
        let mut at = from;
        loop {
            let last = nats.last(&subject).await?;
            let expected = last.as_ref().map_or(0, Part::next);
            if at > expected {
                return Err(StoreError::Gap { key: key.clone(), expected });
            }
            if at < expected.min(end) {
                let known = since(&entries, at - from, expected.min(end) - at);
                self.compare(nats, &subject, key, at, known).await?;
                at = expected.min(end);
            }
            let mut sequence = last.map_or(0, |part| part.sequence);
            loop {
                if at == end {
                    return Ok(end);
                }
                let (payload, count) = Part::encode(at, since(&entries, at - from, u64::MAX));
                match nats.store(&subject, sequence, payload).await {
                    Ok(stored) => (sequence, at) = (stored, at + count as u64),
                    Err(NotStored::Overtaken) => break,
                    Err(NotStored::Failed(error)) => return Err(error),
                }
            }
        }
    }

    async fn read(&self, key: &Key, from: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let nats = self.nats()?;
        let subject = nats.journal(key);
        let limit = limit.clamp(1, LONGEST_READ);
        let mut entries = Vec::new();
        let mut weight = 0;
        let mut part = self.find(nats, &subject, from).await?;
        while let Some(found) = part {
            for (position, entry) in found.since(from) {
                if entries.len() == limit || weight > HEAVIEST_READ {
                    return Ok(entries);
                }
                weight += entry.len();
                entries.push((position, entry.clone()));
            }
            if entries.len() == limit || weight > HEAVIEST_READ {
                return Ok(entries);
            }
            part = nats.next(&subject, found.sequence + 1).await?;
            if let Some(part) = &part {
                self.places.remember(&subject, part);
            }
        }
        Ok(entries)
    }

    async fn end(&self, key: &Key) -> Result<u64, StoreError> {
        let nats = self.nats()?;
        Ok(nats.last(&nats.journal(key)).await?.map_or(0, |part| part.next()))
    }

    async fn streams(
        &self,
        scope: &Scope,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        let nats = self.nats()?;
        let mut keys = nats.keys(&nats.journals(scope.start())).await?;
        keys.retain(|key| after.is_none_or(|after| key > after));
        keys.sort_unstable();
        keys.truncate(limit);
        Ok(keys)
    }

    async fn truncate_before(&self, key: &Key, position: u64) -> Result<(), StoreError> {
        let nats = self.nats()?;
        let subject = nats.journal(key);
        let keep = match self.find(nats, &subject, position).await? {
            Some(part) => Some(part),
            None => nats.last(&subject).await?,
        };
        match keep {
            Some(part) => nats.purge(&subject, part.sequence).await,
            None => Ok(()),
        }
    }
}

/// `count` entries from the one with the index `first` on.
fn since(entries: &[Bytes], first: u64, count: u64) -> &[Bytes] {
    let first = usize::try_from(first).unwrap_or(usize::MAX).min(entries.len());
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(entries.len() - first);
    entries.get(first..first + count).unwrap_or_default()
}

impl Shared {
    /// Whether the journal has `known` from position `at` on, as far as it was not truncated.
    async fn compare(
        &self,
        nats: &NatsServer,
        subject: &str,
        key: &Key,
        at: u64,
        known: &[Bytes],
    ) -> Result<(), StoreError> {
        let end = at + known.len() as u64;
        let mut part = self.find(nats, subject, at).await?;
        while let Some(found) = part.filter(|part| part.from < end) {
            for (position, entry) in found.since(at).take_while(|(position, _)| *position < end) {
                if since(known, position - at, 1).first() != Some(entry) {
                    return Err(StoreError::Fork { key: key.clone(), position });
                }
            }
            part = nats.next(subject, found.sequence + 1).await?;
        }
        Ok(())
    }

    /// The part with `position`, or the first that is left when that was truncated; `None` at the end.
    async fn find(
        &self,
        nats: &NatsServer,
        subject: &str,
        position: u64,
    ) -> Result<Option<Part>, StoreError> {
        let mut low = 0;
        if let Some(sequence) = self.places.before(subject, position) {
            // Most reads go on from here: in this part or the next.
            for first in [sequence, sequence + 1] {
                match nats.next(subject, first.max(low + 1)).await? {
                    Some(part) if part.next() <= position => low = part.sequence,
                    Some(part) if part.from <= position => {
                        self.places.remember(subject, &part);
                        return Ok(Some(part));
                    }
                    _ => break,
                }
            }
        }
        if low == 0 {
            match nats.next(subject, 1).await? {
                Some(first) if first.next() <= position => low = first.sequence,
                first => return Ok(first),
            }
        }
        // All parts up to `low` end before the position, and `best` is the first known one that does not.
        let Some(mut best) = nats.last(subject).await?.filter(|last| last.next() > position) else {
            return Ok(None);
        };
        let mut high = best.sequence;
        while best.from > position && high > low + 1 {
            let middle = low + (high - low) / 2;
            match nats.next(subject, middle).await? {
                Some(part) if part.next() <= position => low = part.sequence,
                Some(part) => (best, high) = (part, middle),
                // It was removed meanwhile; the rest is above.
                None => low = middle,
            }
        }
        self.places.remember(subject, &best);
        Ok(Some(best))
    }
}
