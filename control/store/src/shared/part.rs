//! The form of a message in a journal's subject: some entries that follow each other.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A message takes no more entries when it would grow beyond this; NATS takes 1 MiB, and answers in base64.
const LARGEST_PART: usize = 512 << 10;

/// Some entries of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The number of its message in the stream.
    pub(super) sequence: u64,
    /// The position of its first entry.
    pub(super) from: u64,
    pub(super) entries: Vec<Bytes>,
}

impl Part {
    /// The position after its last entry.
    pub(super) fn next(&self) -> u64 {
        self.from + self.entries.len() as u64
    }

    /// Its entries from `position` on, with their positions.
    pub(super) fn since(&self, position: u64) -> impl Iterator<Item = (u64, &Bytes)> {
        (self.from..).zip(&self.entries).skip_while(move |(at, _)| *at < position)
    }

    /// Writes as many of `entries` as one message takes, and tells how many.
    pub(super) fn encode(from: u64, entries: &[Bytes]) -> (Bytes, usize) {
        let mut payload = BytesMut::new();
        payload.put_u64(from);
        let mut count = 0;
        for entry in entries {
            if count > 0 && payload.len() + 4 + entry.len() > LARGEST_PART {
                break;
            }
            // An entry is far smaller than 4 GiB.
            payload.put_u32(u32::try_from(entry.len()).unwrap_or(u32::MAX));
            payload.put_slice(entry);
            count += 1;
        }
        (payload.freeze(), count)
    }

    /// Reads a message; `None` when it has another form.
    pub(super) fn decode(sequence: u64, mut payload: Bytes) -> Option<Self> {
        let from = payload.try_get_u64().ok()?;
        let mut entries = Vec::new();
        while !payload.is_empty() {
            let length = usize::try_from(payload.try_get_u32().ok()?).ok()?;
            if length > payload.len() {
                return None;
            }
            entries.push(payload.split_to(length));
        }
        Some(Self { sequence, from, entries })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{LARGEST_PART, Part};

    #[test]
    fn a_part_reads_what_it_writes_and_refuses_what_is_cut_off() {
        let entries = vec![Bytes::from("a"), Bytes::new(), Bytes::from("long")];
        let (payload, count) = Part::encode(7, &entries);
        assert_eq!(count, 3);
        let part = Part::decode(9, payload.clone()).expect("a part");
        assert_eq!(part, Part { sequence: 9, from: 7, entries });
        assert_eq!((part.next(), part.since(9).count()), (10, 1));
        for cut in [0, 7, 9, payload.len() - 1] {
            assert_eq!(Part::decode(9, payload.slice(..cut)), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_part_stays_below_what_a_message_takes() {
        let entries = vec![Bytes::from(vec![0; LARGEST_PART / 3]); 5];
        assert_eq!(Part::encode(0, &entries).1, 2);
        let entries = vec![Bytes::from(vec![0; LARGEST_PART * 2]); 2];
        assert_eq!(Part::encode(0, &entries).1, 1);
    }
}
