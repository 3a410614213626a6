//! Checking a log line by line as it comes from somewhere else, without its directory.

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};
use sideguard_types::time::Timestamp;

use crate::chain::{Flaw, Link, Tip, unhex};
use crate::verify::CHECKPOINT_RECORDS;

/// How far a chain has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Number of the record that comes next.
    pub next: u64,
    /// Hash of the one before it, in hex.
    pub prev: String,
    /// Records since the last checkpoint.
    pub unsigned: u64,
}

/// A line whose hash fits its bytes.
#[derive(Debug)]
pub struct Line<'a> {
    link: Link,
    bytes: &'a [u8],
}

impl Chain {
    /// Before record `first`; only 1 has a known record before it, which is none.
    #[must_use]
    pub fn start() -> Self {
        Self { next: 1, prev: String::from_utf8_lossy(&Tip::START.prev).into_owned(), unsigned: 0 }
    }

    /// The chain just before `line`, if that is believed.
    #[must_use]
    pub fn before(line: &Line<'_>) -> Self {
        Self { next: line.link.seq, prev: line.link.prev.clone(), unsigned: 0 }
    }

    /// Takes the next line: it must follow, and where it is a checkpoint be signed with `key`.
    ///
    /// # Errors
    /// What is wrong with it; the chain stays as it was then.
    pub fn take(&mut self, line: &Line<'_>, key: &VerifyingKey) -> Result<(), Flaw> {
        if line.link.seq != self.next {
            return Err(Flaw::Seq { expected: self.next, found: line.link.seq });
        }
        if line.link.prev != self.prev {
            return Err(Flaw::Prev);
        }
        line.link.check_signature(line.bytes, std::slice::from_ref(key))?;
        let unsigned = if line.link.is_checkpoint() { 0 } else { self.unsigned.saturating_add(1) };
        if unsigned > CHECKPOINT_RECORDS {
            return Err(Flaw::Unsigned(CHECKPOINT_RECORDS));
        }
        let tip = line.link.tip();
        *self = Self { next: tip.next_seq, prev: String::from_utf8_lossy(&tip.prev).into_owned(), unsigned };
        Ok(())
    }
}

impl<'a> Line<'a> {
    /// Reads a line, without its newline, and checks its hash.
    ///
    /// # Errors
    /// When it is not a record, or was changed.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Flaw> {
        Link::read(bytes).map(|link| Self { link, bytes })
    }

    /// Its number.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.link.seq
    }

    /// When it was written.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.link.time
    }

    /// Whether it is a checkpoint, signed by whatever key.
    #[must_use]
    pub fn is_checkpoint(&self) -> bool {
        self.link.is_checkpoint()
    }
}

/// Reads a public key in lower-case hex.
#[must_use]
pub fn public_key(hex: &str) -> Option<VerifyingKey> {
    let plain = hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    unhex::<32>(hex).filter(|_| plain).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
}
