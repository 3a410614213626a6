//! What is in a block of 256 lines, in short, so that a question can pass it over.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sideguard_record::read::glob;
use sideguard_types::audit::Phase;
use sideguard_types::call::Point;
use sideguard_types::time::Timestamp;
use sideguard_types::verdict::Decision;

use super::query::Filter;
use crate::signer::hex;

/// Most names of a kind that a mark lists; a block with more may hold any.
const NAMES: usize = 32;
/// Longest name that a mark lists, in bytes; a block with a longer one may hold any.
const NAME: usize = 200;
/// Bytes of the filter of calls: with some 200 calls in a block, two of a hundred others seem to be in it.
const CALLS: usize = 256;
/// Bits that each call sets there.
const BITS: usize = 4;

/// What questions are about, of one record.
#[derive(Debug, Deserialize)]
pub(super) struct Facts<'a> {
    pub(super) time: Timestamp,
    pub(super) phase: Phase,
    #[serde(borrow, default)]
    pub(super) tenant: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) agent: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) call: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) topic: Cow<'a, str>,
    #[serde(default)]
    pub(super) decision: Option<Decision>,
    #[serde(default)]
    pub(super) point: Option<Point>,
    #[serde(borrow, default)]
    pub(super) rule: Cow<'a, str>,
}

impl<'a> Facts<'a> {
    /// Reads them from a line.
    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Whether it tells of a call that left.
    pub(super) fn leaves(&self) -> bool {
        matches!(self.phase, Phase::Intent | Phase::Outcome)
    }
}

/// Names that occur; none when there are too many to list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Names(Option<Vec<String>>);

impl Default for Names {
    fn default() -> Self {
        Self(Some(Vec::new()))
    }
}

impl Names {
    fn add(&mut self, name: &str) {
        let Some(names) = &mut self.0 else { return };
        if names.iter().any(|known| known == name) {
            return;
        }
        if names.len() >= NAMES || name.len() > NAME {
            self.0 = None;
            return;
        }
        names.push(name.to_owned());
    }

    fn may(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.0.as_ref().is_none_or(|names| names.iter().any(|name| fits(name)))
    }
}

/// The mark of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    count: u64,
    /// Time of its first record, or of an earlier one if that is later.
    pub(super) first: Timestamp,
    /// The same of its last.
    pub(super) last: Timestamp,
    agents: Names,
    phases: Names,
    decisions: Names,
    rules: Names,
    topics: Names,
    /// A Bloom filter over the calls' ids.
    calls: Calls,
}

impl Block {
    /// Lines of a block.
    pub(crate) const SIZE: u64 = 256;

    /// Adds a record that counts as written at `time`.
    pub(super) fn add(&mut self, facts: &Facts<'_>, time: Timestamp) {
        if self.count == 0 {
            self.first = time;
        }
        self.last = time;
        self.count = self.count.saturating_add(1);
        self.agents.add(&facts.agent);
        self.phases.add(&word(facts.phase));
        self.decisions.add(&facts.decision.map(word).unwrap_or_default());
        self.rules.add(&facts.rule);
        self.topics.add(&facts.topic);
        if !facts.call.is_empty() {
            self.calls.add(&facts.call);
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.count >= Self::SIZE
    }

    /// As it is kept.
    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("names are strings").into()
    }

    /// Reads what was kept.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether a record of it may be asked for, as far as names go.
    pub(super) fn may_have(&self, filter: &Filter) -> bool {
        let wants = |names: &Names, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| names.may(|name| name == wanted))
        };
        let globs = |names: &Names, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| names.may(|name| glob(wanted, name)))
        };
        wants(&self.agents, &filter.agent)
            && wants(&self.phases, &filter.phase.map(word))
            && wants(&self.decisions, &filter.decision.map(word))
            && globs(&self.rules, &filter.rule)
            && globs(&self.topics, &filter.topic)
            && filter.call.as_ref().is_none_or(|call| self.calls.may_have(call))
    }
}

/// A value's name in the record.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

/// Bits that calls have set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Calls(Box<[u8; CALLS]>);

impl Default for Calls {
    fn default() -> Self {
        Self(Box::new([0; CALLS]))
    }
}

impl Calls {
    fn add(&mut self, call: &str) {
        for (byte, bit) in places(call) {
            if let Some(byte) = self.0.get_mut(byte) {
                *byte |= bit;
            }
        }
    }

    fn may_have(&self, call: &str) -> bool {
        places(call).all(|(byte, bit)| self.0.get(byte).is_some_and(|byte| byte & bit != 0))
    }
}

/// The bits of a call: the byte, and the bit in it.
fn places(call: &str) -> impl Iterator<Item = (usize, u8)> {
    let digest: [u8; 32] = Sha256::digest(call.as_bytes()).into();
    (0..BITS).map(move |at| {
        let pair = [digest.get(at * 2), digest.get(at * 2 + 1)].map(|byte| byte.copied().unwrap_or(0));
        let place = usize::from(u16::from_le_bytes(pair)) % (CALLS * 8);
        (place / 8, 1 << (place % 8))
    })
}

impl From<Calls> for String {
    fn from(calls: Calls) -> Self {
        hex(&calls.0[..])
    }
}

impl TryFrom<String> for Calls {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; CALLS];
        if text.len() != CALLS * 2 || !text.is_ascii() {
            return Err("not a filter of calls");
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = text.get(at * 2..at * 2 + 2).unwrap_or_default();
            *byte = u8::from_str_radix(pair, 16).map_err(|_| "not a filter of calls")?;
        }
        Ok(Self(Box::new(bytes)))
    }
}
