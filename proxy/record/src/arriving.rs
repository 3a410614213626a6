//! Checking a log line by line as it comes from somewhere else, without its directory.

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};
use sideguard_types::time::Timestamp;

use crate::chain::{Flaw, Link, Tip, hex, unhex};
use crate::tree::Tree;
use crate::verify::CHECKPOINT_RECORDS;

/// How far a chain has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Number of the record that comes next.
    pub next: u64,
    /// Hash of the one before it, in hex.
    pub prev: String,
    /// Records since the last checkpoint.
    pub unsigned: u32,
    /// Roots of the complete subtrees of the tree over these, the largest first, in hex.
    pub peaks: Vec<String>,
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
        Self {
            next: 1,
            prev: String::from_utf8_lossy(&Tip::START.prev).into_owned(),
            unsigned: 0,
            peaks: Vec::new(),
        }
    }

    /// The chain just before `line`, if that is believed.
    #[must_use]
    pub fn before(line: &Line<'_>) -> Self {
        Self { next: line.link.seq, prev: line.link.prev.clone(), unsigned: 0, peaks: Vec::new() }
    }

    /// Goes on from where the chain stands.
    ///
    /// # Errors
    /// When it is not one that [`Checker::chain`] gave.
    pub fn resume(&self) -> Result<Checker, Flaw> {
        let peaks: Option<Vec<_>> = self.peaks.iter().map(|peak| unhex(peak)).collect();
        let tree = peaks.and_then(|peaks| Tree::from_peaks(self.unsigned, &peaks)).ok_or(Flaw::Root)?;
        let prev = self.prev.as_bytes().try_into().map_err(|_| Flaw::Prev)?;
        Ok(Checker { tip: Tip { next_seq: self.next, prev }, tree, whole: true })
    }
}

/// A check under way.
#[derive(Debug, Clone)]
pub struct Checker {
    tip: Tip,
    tree: Tree,
    /// Whether the tree has all records since the last checkpoint.
    whole: bool,
}

impl Checker {
    /// Begins at `line`, whatever came before it.
    #[must_use]
    pub fn at(line: &Line<'_>) -> Self {
        let prev = line.link.prev.as_bytes().try_into().unwrap_or(Tip::START.prev);
        Self { tip: Tip { next_seq: line.link.seq, prev }, tree: Tree::EMPTY, whole: false }
    }

    /// Number of the record that comes next.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.tip.next_seq
    }

    /// Takes the next line: it must follow, and where it is a checkpoint be signed with `key` and have the right root.
    ///
    /// # Errors
    /// What is wrong with it; the check cannot go on then.
    pub fn take(&mut self, line: &Line<'_>, key: &VerifyingKey) -> Result<(), Flaw> {
        line.link.follow(&mut self.tip)?;
        line.link.check_signature(line.bytes, std::slice::from_ref(key))?;
        let fits = line.link.grow(&mut self.tree);
        if self.whole {
            fits?;
        }
        self.whole |= line.link.is_checkpoint();
        let unsigned = u64::from(self.tree.count());
        if unsigned > CHECKPOINT_RECORDS { Err(Flaw::Unsigned(CHECKPOINT_RECORDS)) } else { Ok(()) }
    }

    /// Where the chain stands.
    #[must_use]
    pub fn chain(&self) -> Chain {
        Chain {
            next: self.tip.next_seq,
            prev: String::from_utf8_lossy(&self.tip.prev).into_owned(),
            unsigned: self.tree.count(),
            peaks: self.tree.peaks().iter().map(|peak| hex(peak)).collect(),
        }
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

    /// The first record that a checkpoint's root is about.
    #[must_use]
    pub const fn since(&self) -> Option<u64> {
        self.link.since
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
