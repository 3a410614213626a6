//! A strict reader of JSON (RFC 8259) that keeps places instead of building a tree.
//!
//! [`read`] checks the whole document in one pass; a [`Value`] is then a place in it, and its members and
//! elements are found when asked for. What two parsers could understand differently is refused: duplicate
//! keys (after unescaping), lone surrogates, invalid UTF-8, numbers beyond a double, deep nesting.

mod scan;
mod walk;

use std::borrow::Cow;
use std::ops::Range;

pub use walk::{Elements, Leaf, Leaves, Member, Members, Strings, Text};

/// Deepest nesting of arrays and objects that is read.
pub const MAX_DEPTH: usize = 128;

/// Checks `body` and gives its one value.
///
/// # Errors
/// When it is not JSON, or JSON that parsers may disagree about; see [`JsonError`].
///
/// ```
/// let document = sideguard_dialects::json::read(br#"{"model": "m", "n": 2}"#)?;
/// let n = document.root.get("n");
/// assert_eq!(n.and_then(|n| n.as_count()), Some(2));
/// assert_eq!(n.map(|n| n.span()), Some(20..21));
/// # Ok::<(), sideguard_dialects::json::JsonError>(())
/// ```
pub fn read(body: &[u8]) -> Result<Document<'_>, JsonError> {
    document(body, None)
}

/// As [`read`], and notes on the way where each member called `key` stands whose value is a string.
///
/// # Errors
/// As [`read`].
pub fn read_noting<'b>(body: &'b [u8], key: &str) -> Result<Document<'b>, JsonError> {
    document(body, Some(key))
}

fn document<'b>(body: &'b [u8], note: Option<&str>) -> Result<Document<'b>, JsonError> {
    let text = std::str::from_utf8(body).map_err(|e| JsonError::NotUtf8 { at: e.valid_up_to() })?;
    let scanned = scan::document(text, note)?;
    Ok(Document {
        root: Value { document: text, start: scanned.span.start, end: scanned.span.end },
        decoded: text.len() - scanned.saved,
        scanned,
    })
}

/// A document that was checked.
#[derive(Debug, Clone)]
pub struct Document<'b> {
    /// Its one value.
    pub root: Value<'b>,
    /// Its length in bytes were each escape replaced by the character it stands for.
    pub decoded: usize,
    scanned: scan::Scanned,
}

impl<'b> Document<'b> {
    /// Members of its root, as [`Value::members`] of it but without another look at the bytes between.
    pub fn members(&self) -> impl Iterator<Item = Member<'b>> {
        self.outer(1, self.root)
    }

    /// Elements of the array that one of those members is, as [`Value::elements`] of it but without another look at
    /// the bytes between; none when it is not an array.
    pub fn elements(&self, member: &Member<'b>) -> impl Iterator<Item = Value<'b>> {
        let known = member.value.kind() == Kind::Array && !self.scanned.cut;
        let walked = self.scanned.cut.then(|| member.value.elements()).into_iter().flatten();
        self.outer(2, member.value).filter(move |_| known).map(|element| element.value).chain(walked)
    }

    /// Members of the object that one of those elements is, as [`Value::members`] of it but without another look at
    /// the bytes between; none when it is not an object.
    pub fn members_of(&self, element: Value<'b>) -> impl Iterator<Item = Member<'b>> {
        let known = element.kind() == Kind::Object && !self.scanned.cut;
        let walked = self.scanned.cut.then(|| element.members()).into_iter().flatten();
        self.outer(3, element).filter(move |_| known).chain(walked)
    }

    /// What the pass kept of one level, as far as it stands within `value`.
    fn outer(&self, level: usize, value: Value<'b>) -> impl Iterator<Item = Member<'b>> {
        let known = &self.scanned.outer;
        let first = known.partition_point(|outer| outer.value.0 <= value.start);
        let inside = known.iter().skip(first).take_while(move |outer| outer.value.0 < value.end);
        inside
            .filter(move |outer| outer.level == level)
            .map(move |outer| Member::new(value.document, outer.key, outer.value))
    }

    /// What [`read_noting`] noted, in order.
    pub fn noted(&self) -> impl Iterator<Item = Noted<'b>> {
        let document = self.root.document;
        self.scanned.noted.iter().map(move |note| Noted {
            parent: note.parent,
            value: Value { document, start: note.value.0, end: note.value.1 },
        })
    }
}

/// A string that was noted.
#[derive(Debug, Clone, Copy)]
pub struct Noted<'b> {
    parent: usize,
    /// The string.
    pub value: Value<'b>,
}

impl<'b> Noted<'b> {
    /// The object whose member it is.
    #[must_use]
    pub fn parent(&self) -> Value<'b> {
        Value::at(self.value.document, self.parent)
    }
}

/// Why a body is not read as JSON; `at` is the offset in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8.
    #[error("not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Where.
        at: usize,
    },
    /// Not JSON.
    #[error("not JSON at byte {at}: {expected} expected")]
    Syntax {
        /// Where.
        at: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// A half of a surrogate pair: parsers disagree about what it means.
    #[error("half of a surrogate pair at byte {at}: write the whole character")]
    LoneSurrogate {
        /// Where.
        at: usize,
    },
    /// One object has a key twice: parsers disagree about which one counts.
    #[error("duplicate key `{key}` at byte {at}: give it once")]
    DuplicateKey {
        /// Where the second one stands.
        at: usize,
        /// The key, unescaped, at most 64 characters of it.
        key: String,
    },
    /// Nested too deep.
    #[error("nested deeper than {MAX_DEPTH} levels at byte {at}")]
    TooDeep {
        /// Where.
        at: usize,
    },
    /// A number that a double cannot hold.
    #[error("number out of range at byte {at}")]
    NumberOutOfRange {
        /// Where.
        at: usize,
    },
}

/// What sort of value stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{...}`
    Object,
    /// `[...]`
    Array,
    /// `"..."`
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// `null`
    Null,
}

/// A value of a checked document: a place, not a copy.
#[derive(Debug, Clone, Copy)]
pub struct Value<'b> {
    document: &'b str,
    start: usize,
    end: usize,
}

impl<'b> Value<'b> {
    /// Its place in the document, in bytes; an object's with its braces, a string's with its quotes.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Its text as it stands in the document.
    #[must_use]
    pub fn raw(&self) -> &'b str {
        self.document.get(self.start..self.end).unwrap_or_default()
    }

    /// What sort of value it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.raw().as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') | None => Kind::Null,
            Some(_) => Kind::Number,
        }
    }

    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.kind() == Kind::Null
    }

    /// Its members in order; none when it is not an object.
    #[must_use]
    pub fn members(&self) -> Members<'b> {
        Members::of(*self)
    }

    /// Its elements in order; none when it is not an array.
    #[must_use]
    pub fn elements(&self) -> Elements<'b> {
        Elements::of(*self)
    }

    /// Every string, number, bool and null in it, however deep, in order.
    #[must_use]
    pub fn leaves(&self) -> Leaves<'b> {
        Leaves::of(*self)
    }

    /// Every string in it, keys too, however deep, in order.
    #[must_use]
    pub fn strings(&self) -> Strings<'b> {
        Strings::of(*self)
    }

    /// The member called `key`, where it is an object that has one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Self> {
        self.members().find(|member| member.is(key)).map(|member| member.value)
    }

    /// The members of these names that are there and not `null`, found in one walk.
    #[must_use]
    pub fn named<const N: usize>(&self, names: [&str; N]) -> [Option<Self>; N] {
        let mut found = [None; N];
        for member in self.members().filter(|member| !member.value.is_null()) {
            let place = names.iter().zip(&mut found).find(|(name, _)| member.is(name));
            if let Some((_, place)) = place {
                *place = Some(member.value);
            }
        }
        found
    }

    /// Its characters, where it is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<Cow<'b, str>> {
        self.as_quoted().map(scan::unescape)
    }

    /// What stands between its quotes, escapes and all, where it is a string.
    #[must_use]
    pub fn as_quoted(&self) -> Option<&'b str> {
        self.raw().strip_prefix('"')?.strip_suffix('"')
    }

    /// Whether it is `true`, where it is a bool.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.raw() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// Its amount, where it is a whole number of digits only (not `1e2`, `1.0` or `-1`) within 64 bits.
    #[must_use]
    pub fn as_count(&self) -> Option<u64> {
        let digits = self.raw();
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    }

    fn at(document: &'b str, start: usize) -> Self {
        Self { document, start, end: scan::end_of_value(document.as_bytes(), start) }
    }
}
