//! Ways through a checked document. Each step finds the next place; nothing is kept.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use super::Value;
use super::scan::{end_of_scalar, end_of_string, unescape};

/// One member of an object.
#[derive(Debug, Clone, Copy)]
pub struct Member<'b> {
    quoted: &'b str,
    start: usize,
    /// Its value.
    pub value: Value<'b>,
}

impl<'b> Member<'b> {
    /// A member whose key has its inside, and whose value stands, at these places.
    pub(super) fn new(document: &'b str, key: (usize, usize), value: (usize, usize)) -> Self {
        Self {
            quoted: document.get(key.0..key.1).unwrap_or_default(),
            start: key.0.saturating_sub(1),
            value: Value { document, start: value.0, end: value.1 },
        }
    }

    /// Its key, unescaped.
    #[must_use]
    pub fn key(&self) -> Cow<'b, str> {
        unescape(self.quoted)
    }

    /// Whether its key, unescaped, is `name`.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.quoted == name || self.quoted.contains('\\') && self.key() == name
    }

    /// From its key's opening quote to the end of its value.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.start..self.value.end
    }
}

/// Members of an object, in order.
#[derive(Debug, Clone)]
pub struct Members<'b> {
    document: &'b str,
    at: usize,
}

impl<'b> Members<'b> {
    pub(super) fn of(object: Value<'b>) -> Self {
        Self { document: object.document, at: inside(object, b'{') }
    }
}

impl<'b> Iterator for Members<'b> {
    type Item = Member<'b>;

    fn next(&mut self) -> Option<Member<'b>> {
        let bytes = self.document.as_bytes();
        let start = past(bytes, self.at, b" \n\r\t,");
        if bytes.get(start) != Some(&b'"') {
            return None;
        }
        let end = end_of_string(bytes, start);
        let value = Value::at(self.document, past(bytes, end, b" \n\r\t:"));
        self.at = value.end;
        let quoted = self.document.get(start + 1..end.saturating_sub(1)).unwrap_or_default();
        Some(Member { quoted, start, value })
    }
}

/// Elements of an array, in order.
#[derive(Debug, Clone)]
pub struct Elements<'b> {
    document: &'b str,
    at: usize,
}

impl<'b> Elements<'b> {
    pub(super) fn of(array: Value<'b>) -> Self {
        Self { document: array.document, at: inside(array, b'[') }
    }
}

impl<'b> Iterator for Elements<'b> {
    type Item = Value<'b>;

    fn next(&mut self) -> Option<Value<'b>> {
        let bytes = self.document.as_bytes();
        let start = past(bytes, self.at, b" \n\r\t,");
        if matches!(bytes.get(start), None | Some(b']')) {
            return None;
        }
        let value = Value::at(self.document, start);
        self.at = value.end;
        Some(value)
    }
}

/// A string, number, bool or null somewhere in a value.
#[derive(Debug, Clone, Copy)]
pub struct Leaf<'b> {
    key: Option<&'b str>,
    /// The leaf itself.
    pub value: Value<'b>,
}

impl<'b> Leaf<'b> {
    /// Whether it is the member `name` of an object.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.key.is_some_and(|key| key == name || key.contains('\\') && unescape(key) == name)
    }
}

/// Every leaf of a value in order, in one pass.
#[derive(Debug, Clone)]
pub struct Leaves<'b> {
    document: &'b str,
    at: usize,
    end: usize,
    /// Whether each that is open is an object.
    open: SmallVec<[bool; 16]>,
    key: Option<&'b str>,
}

impl<'b> Leaves<'b> {
    pub(super) fn of(value: Value<'b>) -> Self {
        Self { document: value.document, at: value.start, end: value.end, open: SmallVec::new(), key: None }
    }
}

impl<'b> Iterator for Leaves<'b> {
    type Item = Leaf<'b>;

    fn next(&mut self) -> Option<Leaf<'b>> {
        let bytes = self.document.as_bytes();
        while self.at < self.end {
            let start = self.at;
            match bytes.get(start)? {
                b' ' | b'\n' | b'\r' | b'\t' | b',' | b':' => self.at += 1,
                &opening @ (b'{' | b'[') => {
                    self.open.push(opening == b'{');
                    self.key = None;
                    self.at += 1;
                }
                b'}' | b']' => {
                    self.open.pop();
                    self.at += 1;
                }
                &first => {
                    let string = first == b'"';
                    self.at = if string { end_of_string(bytes, start) } else { end_of_scalar(bytes, start) };
                    let in_object = self.open.last() == Some(&true);
                    if string && in_object && self.key.is_none() {
                        self.key = self.document.get(start + 1..self.at.saturating_sub(1));
                        continue;
                    }
                    let value = Value { document: self.document, start, end: self.at };
                    return Some(Leaf { key: self.key.take(), value });
                }
            }
        }
        None
    }
}

/// A string somewhere in a value.
#[derive(Debug, Clone, Copy)]
pub struct Text<'b> {
    /// Whether it is the key of a member.
    pub is_key: bool,
    /// The string itself.
    pub value: Value<'b>,
}

/// Every string of a value in order, in one pass.
#[derive(Debug, Clone)]
pub struct Strings<'b> {
    document: &'b str,
    at: usize,
    end: usize,
}

impl<'b> Strings<'b> {
    pub(super) fn of(value: Value<'b>) -> Self {
        Self { document: value.document, at: value.start, end: value.end }
    }
}

impl<'b> Iterator for Strings<'b> {
    type Item = Text<'b>;

    fn next(&mut self) -> Option<Text<'b>> {
        let bytes = self.document.as_bytes();
        let start = self.at + memchr::memchr(b'"', bytes.get(self.at..self.end)?)?;
        self.at = end_of_string(bytes, start);
        let follows = past(bytes, self.at, b" \n\r\t");
        let is_key = follows < self.end && bytes.get(follows) == Some(&b':');
        Some(Text { is_key, value: Value { document: self.document, start, end: self.at } })
    }
}

/// Offset just inside a value that opens with `opening`; past everything for any other.
fn inside(value: Value<'_>, opening: u8) -> usize {
    if value.raw().as_bytes().first() == Some(&opening) { value.start + 1 } else { value.document.len() }
}

/// First offset from `at` on whose byte is none of `skipped`.
fn past(bytes: &[u8], at: usize, skipped: &[u8]) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|b| !skipped.contains(b)).unwrap_or(rest.len())
}
