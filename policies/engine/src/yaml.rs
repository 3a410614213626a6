//! YAML text to a tree in which every node knows where it stands.
//!
//! Resources are read in two steps, text to tree and tree to types, so that a duplicate key is seen anywhere, also
//! inside maps of strings, and so that one mistake does not hide the next. Hostile text is refused here: size,
//! depth and the number of nodes (aliases counted as often as they are used) have limits.

mod build;
mod decode;

use std::ops::Range;

pub(crate) use build::parse;
pub(crate) use decode::{Fault, FaultKind, Pruned, decode};

/// Largest text, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting of lists and maps.
pub(crate) const MAX_DEPTH: usize = 64;
/// Most nodes of one text, each use of an alias counted in full.
pub(crate) const MAX_NODES: usize = 200_000;

/// A place in a text: line and column count from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// One node of the tree.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Mark,
    /// Where its text stands, in bytes; an alias has its anchor's.
    pub(crate) bytes: Range<usize>,
    pub(crate) value: Value,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Scalar(String, Style),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// How a scalar was written: only a plain one may be read as something else than text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Quoted,
    Block,
}

/// One key of a map with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Mark,
    pub(crate) value: Node,
}

/// Why a text has no tree, or what is wrong with a place in it.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) at: Mark,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Node {
    /// The value under `key`, where this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of `key`, where this is a map that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Value::List(_) | Value::Scalar(..) => None,
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text, _) => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Whether nothing stands here: `key:` with no value, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(text, Style::Plain) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(..) if self.is_null() => "nothing",
            Value::Scalar(..) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Whether both say the same, wherever they stand.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Scalar(a, style), Value::Scalar(b, other_style)) => {
                a == b && (*style == Style::Plain) == (*other_style == Style::Plain)
            }
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_as(b))
            }
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter().zip(b).all(|(a, b)| a.key == b.key && a.value.same_as(&b.value))
            }
            _ => false,
        }
    }
}
