//! Splits a `text/event-stream` into its events (WHATWG HTML living standard, "Server-sent events") and keeps
//! the bytes of each, so that what is passed on is what came.
//!
//! The same bytes split into the same events whatever chunks they come in. So a blank line that ends with a CR
//! at the very end of a chunk waits for the next byte, which may be its LF; no server in use ends lines with
//! a CR alone.

use bytes::{Bytes, BytesMut};

/// UTF-8 byte order mark; one may open the stream.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Splits a stream, chunk by chunk.
///
/// ```
/// use sideguard_dialects::sse::Splitter;
///
/// let mut splitter = Splitter::new(1024);
/// splitter.push("data: a\n\nda".into());
/// let event = splitter.next()?.expect("a whole event came");
/// assert_eq!((&event.data[..], &event.raw[..]), (&b"a"[..], &b"data: a\n\n"[..]));
/// assert!(splitter.next()?.is_none());
/// # Ok::<(), sideguard_dialects::sse::TooLarge>(())
/// ```
#[derive(Debug)]
pub struct Splitter {
    /// What came and was not looked at yet.
    chunk: Bytes,
    /// The event that has begun and not ended.
    begun: BytesMut,
    /// Whether the line that has begun is empty so far.
    blank: bool,
    /// Whether the last line ended with a CR, so that an LF would still belong to its end.
    after_cr: bool,
    /// Whether that was the blank line, and the event is over but for that LF.
    over: bool,
    first: bool,
    max_event: usize,
    too_large: bool,
}

/// One event, or a run of comments and blank lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its exact bytes, its blank line included.
    pub raw: Bytes,
    /// Value of its last `event` field.
    pub name: Option<Bytes>,
    /// Its data: the `data` lines, joined by LF. Empty for comments and the like, which clients do not see.
    pub data: Bytes,
    /// Whether it has a line that is none of the standard's. Clients should ignore it, but one that trims lines
    /// may read ` data: ..` as data.
    pub odd: bool,
    /// Where its first line begins, behind a byte order mark.
    start: usize,
}

/// An event is larger than the splitter's limit. The splitter gives nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {max} bytes")]
pub struct TooLarge {
    /// The limit in bytes.
    pub max: usize,
}

impl Splitter {
    /// A splitter for events of at most `max_event` bytes.
    #[must_use]
    pub fn new(max_event: usize) -> Self {
        Self {
            chunk: Bytes::new(),
            begun: BytesMut::new(),
            blank: true,
            after_cr: false,
            over: false,
            first: true,
            max_event,
            too_large: false,
        }
    }

    /// Takes in the next bytes of the stream.
    pub fn push(&mut self, chunk: Bytes) {
        self.chunk = if self.chunk.is_empty() { chunk } else { [&self.chunk[..], &chunk].concat().into() };
    }

    /// The next event, where all of it has come. It shares its chunk's memory when it lies within one.
    ///
    /// # Errors
    /// When the event is too large, and ever after.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end: more may be pushed")]
    pub fn next(&mut self) -> Result<Option<Event>, TooLarge> {
        let end = self.end_of_event();
        let length = end.unwrap_or(self.chunk.len());
        self.too_large |= self.begun.len() + length > self.max_event;
        if self.too_large {
            return Err(TooLarge { max: self.max_event });
        }
        let part = self.chunk.split_to(length);
        if end.is_none() {
            self.begun.extend_from_slice(&part);
            return Ok(None);
        }
        Ok(Some(self.close(part)))
    }

    /// What is left at the end of the stream: an event without its blank line. The standard has clients drop
    /// it, but many read it all the same.
    #[must_use]
    pub fn rest(&mut self) -> Option<Event> {
        let part = std::mem::take(&mut self.chunk);
        let event = self.close(part);
        (!event.raw.is_empty()).then_some(event)
    }

    fn close(&mut self, part: Bytes) -> Event {
        let raw = if self.begun.is_empty() {
            part
        } else {
            self.begun.extend_from_slice(&part);
            self.begun.split().freeze()
        };
        let first = std::mem::take(&mut self.first);
        let start = if first && raw.starts_with(BOM) { BOM.len() } else { 0 };
        Event::read(raw, start)
    }

    /// Offset in the chunk just past the blank line that ends the event.
    fn end_of_event(&mut self) -> Option<usize> {
        let mut at = 0;
        while let Some(rest) = self.chunk.get(at..).filter(|rest| !rest.is_empty()) {
            if std::mem::take(&mut self.after_cr) {
                at += usize::from(rest.first() == Some(&b'\n'));
                if std::mem::take(&mut self.over) {
                    return Some(at);
                }
                continue;
            }
            let Some(length) = memchr::memchr2(b'\r', b'\n', rest) else {
                self.blank = false;
                return None;
            };
            let blank = self.blank && length == 0;
            self.blank = true;
            self.after_cr = rest.get(length) == Some(&b'\r');
            at += length + 1;
            self.over = blank && self.after_cr;
            if blank && !self.over {
                return Some(at);
            }
        }
        None
    }
}

impl Event {
    /// The event with other data, its remaining lines as they are.
    #[must_use]
    pub fn with_data(&self, data: &[u8]) -> Bytes {
        let mut raw = BytesMut::with_capacity(self.raw.len() + data.len());
        let mut written = false;
        for line in lines(&self.raw, self.start) {
            if field(line.text).0 != b"data" {
                raw.extend_from_slice(line.text);
            } else if !written {
                written = true;
                raw.extend_from_slice(b"data: ");
                // A line break in JSON stands between its tokens, never within one.
                raw.extend(data.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
            } else {
                continue;
            }
            raw.extend_from_slice(line.end);
        }
        raw.freeze()
    }

    fn read(raw: Bytes, start: usize) -> Self {
        let mut name = None;
        let mut data: Option<Bytes> = None;
        let mut odd = false;
        for line in lines(&raw, start) {
            match field(line.text) {
                (b"event", value) => name = Some(raw.slice_ref(value)),
                (b"data", value) => {
                    data = Some(match data {
                        None => raw.slice_ref(value),
                        Some(before) => [&before[..], value].join(&b'\n').into(),
                    });
                }
                (b"" | b"id" | b"retry", _) => {}
                _ => odd = true,
            }
        }
        Self { name, data: data.unwrap_or_default(), odd, start, raw }
    }
}

struct Line<'b> {
    text: &'b [u8],
    end: &'b [u8],
}

fn lines(raw: &[u8], start: usize) -> impl Iterator<Item = Line<'_>> {
    let mut rest = raw.get(start..).unwrap_or_default();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        let (text, after) = rest.split_at_checked(length)?;
        let end = if after.starts_with(b"\r\n") { 2 } else { after.len().min(1) };
        let (end, next) = after.split_at_checked(end)?;
        rest = next;
        Some(Line { text, end })
    })
}

/// Name and value of a line; a comment's name is empty.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    let (name, value) = line.split_at_checked(colon).unwrap_or((line, b""));
    let value = value.strip_prefix(b":").unwrap_or(value);
    (name, value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

    use super::{Event, Splitter, TooLarge};

    fn split(chunks: &[&[u8]]) -> Vec<Event> {
        let mut splitter = Splitter::new(1 << 20);
        let mut events = Vec::new();
        for chunk in chunks {
            splitter.push(Bytes::copy_from_slice(chunk));
            while let Ok(Some(event)) = splitter.next() {
                events.push(event);
            }
        }
        events.extend(splitter.rest());
        events
    }

    fn data(stream: &str) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        split(&[stream.as_bytes()])
            .iter()
            .filter(|event| !event.data.is_empty())
            .map(|event| (text(event.name.as_deref().unwrap_or_default()), text(&event.data)))
            .collect()
    }

    fn pair(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn the_examples_of_the_standard_read_as_it_says() {
        assert_eq!(data("data: YHOO\ndata: +2\ndata: 10\n\n"), [pair("", "YHOO\n+2\n10")]);
        assert_eq!(
            data(": test stream\n\ndata: first event\nid: 1\n\ndata:second\nid\n\ndata:  third"),
            [pair("", "first event"), pair("", "second"), pair("", " third")]
        );
        assert_eq!(data("data\n\ndata\ndata\n\ndata:"), [pair("", "\n")]);
        assert_eq!(
            data("event: add\ndata: 1\n\nevent: a\nevent: b\nretry: 3\ndata: 2\n\n"),
            [pair("add", "1"), pair("b", "2")]
        );
    }

    #[test]
    fn every_line_end_and_one_byte_order_mark_are_understood() {
        for end in ["\n", "\r", "\r\n"] {
            let stream = format!("\u{feff}data: a{end}{end}data: b{end}{end}\u{feff}data: c{end}{end}");
            assert_eq!(data(&stream), [pair("", "a"), pair("", "b")], "{end:?}");
        }
    }

    #[test]
    fn an_event_is_there_with_its_last_byte() {
        let mut splitter = Splitter::new(100);
        for (chunk, data) in [
            ("data: a\n\n", Some("a")),
            ("data: b\r\n\r\n", Some("b")),
            ("data: c\r\n\r", None),
            ("\n", Some("c")),
            ("data: d\r\r", None),
            ("data: e\n\n", Some("d")),
        ] {
            splitter.push(Bytes::from_static(chunk.as_bytes()));
            let event = splitter.next().unwrap();
            assert_eq!(event.map(|event| event.data), data.map(Bytes::from), "{chunk:?}");
        }
    }

    #[test]
    fn an_event_within_one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
        let events = split(&[&chunk]);
        assert_eq!(events.len(), 2);
        let mut splitter = Splitter::new(100);
        splitter.push(chunk.clone());
        let event = splitter.next().unwrap().unwrap();
        assert_eq!(event.raw.as_ptr(), chunk.as_ptr());
        assert_eq!(event.data.as_ptr(), chunk[6..].as_ptr());
    }

    #[test]
    fn too_large_an_event_stops_the_splitter_for_good() {
        let mut splitter = Splitter::new(10);
        splitter.push(Bytes::from_static(b"data: a\n\ndata: 2345"));
        assert!(splitter.next().unwrap().is_some());
        assert_eq!(splitter.next(), Ok(None));
        splitter.push(Bytes::from_static(b"6\n\ndata: b\n\n"));
        assert_eq!(splitter.next(), Err(TooLarge { max: 10 }));
        assert_eq!(splitter.next(), Err(TooLarge { max: 10 }));
    }

    #[test]
    fn other_data_leaves_the_other_lines_alone() {
        let events = split(&[b"\xEF\xBB\xBF: hi\r\nevent: x\r\ndata: a\r\ndata: b\r\nid: 7\r\n\r\n"]);
        let raw = events[0].with_data(b"{\n}");
        assert_eq!(raw, ": hi\r\nevent: x\r\ndata: { }\r\nid: 7\r\n\r\n");
    }

    fn streams() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: [&str; 11] =
            ["data", ":", " ", "\r", "\n", "\r\n", "\n\n", "event: e", "x", "\u{feff}", "id"];
        let piece = prop_oneof![
            prop::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
            any::<u8>().prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter_and_no_byte_is_lost(stream in streams(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let whole = split(&[&stream]);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(&split(&chunks), &whole);
            let bytes: Vec<u8> = whole.iter().flat_map(|event| event.raw.to_vec()).collect();
            prop_assert_eq!(bytes, stream);
        }
    }
}
