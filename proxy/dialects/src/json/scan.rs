//! The one pass over the bytes that decides whether they are a document.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use super::{JsonError, MAX_DEPTH};

/// What the pass found.
#[derive(Debug, Clone)]
pub(super) struct Scanned {
    /// The value, without the white space around it.
    pub(super) span: Range<usize>,
    /// Bytes by which escapes are longer than what they stand for.
    pub(super) saved: usize,
    /// What stands in the outermost object, down to [`LEVELS`], in order.
    pub(super) outer: SmallVec<[Outer; 16]>,
    /// Whether there was more than is kept, so that only its members are all there.
    pub(super) cut: bool,
    /// String values of the member that was to be noted.
    pub(super) noted: Vec<Note>,
}

/// Levels within the outermost object of which places are kept: its members, what is in those, and once more. There
/// requests have their tools, and the schemas that are long are below.
const LEVELS: usize = 3;
/// Most of these places that are kept, members of the outermost object aside: a body must not cost many times its size.
const KEPT: usize = 2_048;

/// Where a member or an element stands: what is between its key's quotes, and its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outer {
    /// 1 for members of the outermost object.
    pub(super) level: usize,
    pub(super) key: (usize, usize),
    pub(super) value: (usize, usize),
}

/// Where a string stands whose key was to be noted, and where its object starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note {
    pub(super) parent: usize,
    pub(super) value: (usize, usize),
}

/// Checks that `text` is one value with nothing but white space around it.
/// String values of members called `note` are noted on the way.
pub(super) fn document(text: &str, note: Option<&str>) -> Result<Scanned, JsonError> {
    let mut scan = Scan {
        text,
        bytes: text.as_bytes(),
        at: 0,
        note,
        pending: None,
        key: (0, 0),
        latest: [0; LEVELS],
        found: Scanned { span: 0..0, saved: 0, outer: SmallVec::new(), cut: false, noted: Vec::new() },
        open: SmallVec::new(),
        keys: SmallVec::new(),
    };
    scan.space();
    let start = scan.at;
    loop {
        if scan.value()? && !scan.after_value()? {
            break;
        }
    }
    let end = scan.at;
    scan.space();
    if scan.peek().is_some() {
        return Err(scan.expected("the end"));
    }
    scan.found.span = start..end;
    Ok(scan.found)
}

/// The characters of a checked string's inside.
pub(super) fn unescape(quoted: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', quoted.as_bytes()) else { return Cow::Borrowed(quoted) };
    let mut text = String::with_capacity(quoted.len());
    let (plain, mut rest) = quoted.split_at_checked(first).unwrap_or((quoted, ""));
    text.push_str(plain);
    while let Some(escape) = rest.strip_prefix('\\') {
        let (character, used) = escaped(escape.as_bytes()).unwrap_or((char::REPLACEMENT_CHARACTER, 1));
        text.push(character);
        let tail = escape.get(used..).unwrap_or_default();
        let plain = memchr::memchr(b'\\', tail.as_bytes()).unwrap_or(tail.len());
        let (plain, next) = tail.split_at_checked(plain).unwrap_or((tail, ""));
        text.push_str(plain);
        rest = next;
    }
    Cow::Owned(text)
}

/// Offset just past the value that starts at `start` of a checked document.
pub(super) fn end_of_value(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0_usize;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ if depth == 0 => return end_of_scalar(bytes, at),
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

/// Offset just past the string whose opening quote is at `start` of a checked document.
pub(super) fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        at = end_of_plain(bytes, at);
        match bytes.get(at) {
            Some(b'\\') => at += 2,
            Some(_) => return at + 1,
            None => return bytes.len(),
        }
    }
}

/// Offset just past the number or word that starts at `start`.
pub(super) fn end_of_scalar(bytes: &[u8], start: usize) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    let length = rest.iter().position(|b| matches!(b, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t'));
    start + length.unwrap_or(rest.len())
}

/// An object or array that is not closed yet.
#[derive(Clone, Copy)]
struct Open {
    object: bool,
    start: usize,
    /// Where its keys begin in `Scan::keys`.
    first_key: usize,
}

/// A key: what stands between its quotes.
#[derive(Clone, Copy)]
struct Key {
    start: usize,
    end: usize,
    escaped: bool,
}

struct Scan<'b> {
    text: &'b str,
    bytes: &'b [u8],
    at: usize,
    note: Option<&'b str>,
    /// Where the object starts whose noted member's value comes next.
    pending: Option<usize>,
    /// The key whose value comes next.
    key: (usize, usize),
    /// By level, the place in `found.outer` that was made last.
    latest: [usize; LEVELS],
    found: Scanned,
    open: SmallVec<[Open; 16]>,
    keys: SmallVec<[Key; 32]>,
}

impl Scan<'_> {
    /// Reads a value, or the opening of one that has something in it. Whether a value is now complete.
    fn value(&mut self) -> Result<bool, JsonError> {
        self.space();
        let noted = self.pending.take();
        self.begin_outer();
        match self.peek() {
            Some(b'"') => {
                let string = self.string()?;
                if let Some(parent) = noted {
                    self.found.noted.push(Note { parent, value: (string.start - 1, self.at) });
                }
                Ok(true)
            }
            Some(b'{') => {
                self.enter(true)?;
                if self.closes(b'}') {
                    return Ok(true);
                }
                self.key().map(|()| false)
            }
            Some(b'[') => {
                self.enter(false)?;
                Ok(self.closes(b']'))
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| true),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.expected("a value")),
        }
    }

    /// Reads what follows a complete value. Whether another value must come.
    fn after_value(&mut self) -> Result<bool, JsonError> {
        while let Some(&open) = self.open.last() {
            self.end_outer();
            self.space();
            match (self.peek(), open.object) {
                (Some(b','), true) => {
                    self.at += 1;
                    self.space();
                    return self.key().map(|()| true);
                }
                (Some(b','), false) => {
                    self.at += 1;
                    return Ok(true);
                }
                (Some(b'}'), true) => {
                    self.at += 1;
                    self.leave_object(open)?;
                }
                (Some(b']'), false) => {
                    self.at += 1;
                    self.open.pop();
                }
                (_, true) => return Err(self.expected("`,` or `}`")),
                (_, false) => return Err(self.expected("`,` or `]`")),
            }
        }
        Ok(false)
    }

    /// Keeps the place of a value that begins, where its level is one of the outer ones.
    fn begin_outer(&mut self) {
        let level = self.open.len();
        if let Some(latest) = self.latest.get_mut(level.wrapping_sub(1))
            && self.open.first().is_some_and(|outermost| outermost.object)
        {
            *latest = self.found.outer.len();
            if level > 1 && *latest >= KEPT {
                self.found.cut = true;
                return;
            }
            self.found.outer.push(Outer { level, key: self.key, value: (self.at, self.at) });
        }
    }

    /// Notes where a value ends whose place is kept.
    fn end_outer(&mut self) {
        let latest = self.latest.get(self.open.len().wrapping_sub(1));
        if let Some(outer) = latest.and_then(|latest| self.found.outer.get_mut(*latest)) {
            outer.value.1 = self.at;
        }
    }

    fn enter(&mut self, object: bool) -> Result<(), JsonError> {
        if self.open.len() == MAX_DEPTH {
            return Err(JsonError::TooDeep { at: self.at });
        }
        self.open.push(Open { object, start: self.at, first_key: self.keys.len() });
        self.at += 1;
        Ok(())
    }

    /// Whether the object or array just entered is empty; leaves it then.
    fn closes(&mut self, end: u8) -> bool {
        self.space();
        let closes = self.peek() == Some(end);
        if closes {
            self.at += 1;
            self.open.pop();
        }
        closes
    }

    fn leave_object(&mut self, open: Open) -> Result<(), JsonError> {
        let keys = self.keys.get(open.first_key..).unwrap_or_default();
        if let Some(key) = duplicate(self.text, keys) {
            let raw = self.text.get(key.start..key.end).unwrap_or_default();
            let key_text = unescape(raw).chars().take(64).collect();
            return Err(JsonError::DuplicateKey { at: key.start, key: key_text });
        }
        self.keys.truncate(open.first_key);
        self.open.pop();
        Ok(())
    }

    /// Reads a key and its colon.
    fn key(&mut self) -> Result<(), JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a key"));
        }
        let key = self.string()?;
        self.keys.push(key);
        self.key = (key.start, key.end);
        if self.note.is_some_and(|note| self.is(key, note)) {
            self.pending = self.open.last().map(|object| object.start);
        }
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.expected("`:`"));
        }
        self.at += 1;
        Ok(())
    }

    fn is(&self, key: Key, name: &str) -> bool {
        let raw = self.text.get(key.start..key.end).unwrap_or_default();
        raw == name || key.escaped && unescape(raw) == name
    }

    /// Reads a string from its opening quote on.
    fn string(&mut self) -> Result<Key, JsonError> {
        let start = self.at + 1;
        self.at = start;
        let mut is_escaped = false;
        loop {
            self.at = end_of_plain(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    let end = self.at;
                    self.at += 1;
                    return Ok(Key { start, end, escaped: is_escaped });
                }
                Some(b'\\') => {
                    is_escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.expected("`\"`")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let rest = self.bytes.get(self.at + 1..).unwrap_or_default();
        // The short escapes are most of all: each is two bytes for one.
        if matches!(rest.first(), Some(b'n' | b'"' | b'\\' | b't' | b'/' | b'r' | b'b' | b'f')) {
            self.found.saved += 1;
            self.at += 2;
            return Ok(());
        }
        let (character, used) = escaped(rest).map_err(|bad| match bad {
            BadEscape::Unknown => JsonError::Syntax { at: self.at, expected: "an escape" },
            BadEscape::LoneSurrogate => JsonError::LoneSurrogate { at: self.at },
        })?;
        self.found.saved += 1 + used - character.len_utf8();
        self.at += 1 + used;
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if exponent {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        // The largest double has 309 digits: only these can be out of range.
        if exponent || self.at - start > 300 {
            let number = self.text.get(start..self.at).and_then(|number| number.parse::<f64>().ok());
            if !number.is_some_and(f64::is_finite) {
                return Err(JsonError::NumberOutOfRange { at: start });
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.expected("a digit")) } else { Ok(()) }
    }

    fn word(&mut self, word: &'static str) -> Result<bool, JsonError> {
        if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(true)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { at: self.at, expected }
    }
}

enum BadEscape {
    Unknown,
    LoneSurrogate,
}

/// The character that an escape stands for and how many bytes it takes; `rest` begins after the backslash.
fn escaped(rest: &[u8]) -> Result<(char, usize), BadEscape> {
    let short = |character| Ok((character, 1));
    match rest.first() {
        Some(b'"') => short('"'),
        Some(b'\\') => short('\\'),
        Some(b'/') => short('/'),
        Some(b'b') => short('\u{8}'),
        Some(b'f') => short('\u{c}'),
        Some(b'n') => short('\n'),
        Some(b'r') => short('\r'),
        Some(b't') => short('\t'),
        Some(b'u') => {
            let unit = hex(rest.get(1..5)).ok_or(BadEscape::Unknown)?;
            if let Some(character) = char::from_u32(unit) {
                return Ok((character, 5));
            }
            let low = match rest.get(5..7) {
                Some(b"\\u") if unit < 0xDC00 => hex(rest.get(7..11)).ok_or(BadEscape::Unknown)?,
                _ => return Err(BadEscape::LoneSurrogate),
            };
            if !(0xDC00..0xE000).contains(&low) {
                return Err(BadEscape::LoneSurrogate);
            }
            let pair = 0x1_0000 + ((unit & 0x3FF) << 10 | low & 0x3FF);
            char::from_u32(pair).map(|character| (character, 11)).ok_or(BadEscape::LoneSurrogate)
        }
        _ => Err(BadEscape::Unknown),
    }
}

fn hex(digits: Option<&[u8]>) -> Option<u32> {
    digits?.iter().try_fold(0, |number, &digit| Some(number << 4 | char::from(digit).to_digit(16)?))
}

/// Offset of the first byte from `at` on that ends a run of plain characters: a quote, a backslash or a
/// control character; the end when there is none.
#[inline]
fn end_of_plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    /// From here on it is worth while to try blocks.
    const LONG: usize = 32;
    let long = at + LONG;
    // Eight bytes at a time. In each term the lowest top bit that is set marks a true hit; borrows can
    // only spoil the bytes above it.
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5C);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let hits =
            (quote.wrapping_sub(ONES) & !quote | backslash.wrapping_sub(ONES) & !backslash | control) & TOPS;
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
        while at >= long
            && let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<32>)
            && !block.iter().fold(false, |ends, &byte| ends | ends_plain(byte))
        {
            at += 32;
        }
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| ends_plain(byte)).unwrap_or(rest.len())
}

/// Without a branch, so that the compiler looks at many bytes at once.
const fn ends_plain(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

/// The second of two equal keys.
fn duplicate<'k>(text: &str, keys: &'k [Key]) -> Option<&'k Key> {
    /// Objects of so few keys are compared pair by pair, which beats sorting.
    const FEW: usize = 8;
    let raw = |key: &Key| text.get(key.start..key.end).unwrap_or_default();
    if keys.iter().any(|key| key.escaped) {
        return twice(keys.iter().map(|key| (unescape(raw(key)), key)).collect());
    }
    if keys.len() > FEW {
        return twice(keys.iter().map(|key| (raw(key), key)).collect());
    }
    // Most keys differ in length already.
    let same = |a: &Key, b: &Key| a.end - a.start == b.end - b.start && raw(a) == raw(b);
    keys.iter()
        .enumerate()
        .find(|(i, key)| keys.iter().take(*i).any(|other| same(other, key)))
        .map(|(_, key)| key)
}

fn twice<T: Ord>(mut keys: Vec<(T, &Key)>) -> Option<&Key> {
    keys.sort_unstable_by(|(a, at), (b, bt)| a.cmp(b).then(at.start.cmp(&bt.start)));
    keys.windows(2).find_map(|pair| match pair {
        [(a, _), (b, key)] if a == b => Some(*key),
        _ => None,
    })
}
