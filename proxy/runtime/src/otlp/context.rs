//! Where a piece of work belongs: W3C Trace Context, `traceparent` and `tracestate`.

use std::fmt::Write;

use http::HeaderMap;
use rand::Rng;

/// Longest `tracestate` that is kept; a longer one is left out of spans, and passes on the wire as it is.
const MAX_STATE: usize = 512;

/// A span's place in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    /// Flags, as they are sent.
    pub flags: u8,
    /// What tracing systems say to each other.
    pub state: String,
}

impl Context {
    /// The first span of a new trace.
    #[must_use]
    pub fn root(sampled: bool) -> Self {
        // The second flag says that the trace's id is random (level 2, section 3.2.2.5.2).
        Self { trace: random(), span: random(), flags: u8::from(sampled) | 2, state: String::new() }
    }

    /// A span below this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: random(), ..self.clone() }
    }

    /// Whether the trace is taken.
    #[must_use]
    pub const fn sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// Reads the headers of a request. What is not as the recommendation says counts as absent.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all("traceparent").iter();
        let (first, second) = (all.next()?, all.next());
        if second.is_some() {
            return None;
        }
        let mut context = Self::parse(first.to_str().ok()?.trim())?;
        let state = headers.get_all("tracestate").iter().filter_map(|value| value.to_str().ok());
        let state = state.collect::<Vec<_>>().join(",");
        if state.len() <= MAX_STATE {
            context.state = state;
        }
        Some(context)
    }

    /// Reads a `traceparent` (section 3.2): of a version that is not known yet, the parts that are.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version: [u8; 1] = unhex(parts.next()?)?;
        let (trace, span) = (unhex(parts.next()?)?, unhex(parts.next()?)?);
        let [flags] = unhex(parts.next()?)?;
        let more = parts.next().is_some();
        let sound = version != [0xff] && !(version == [0] && more) && trace != [0; 16] && span != [0; 8];
        sound.then(|| Self { trace, span, flags: flags & 3, state: String::new() })
    }

    /// As a `traceparent`.
    #[must_use]
    pub fn header(&self) -> String {
        let mut text = String::with_capacity(55);
        // Writing to a String cannot fail.
        let _ = write!(text, "00-{}-{}-{:02x}", hex(&self.trace), hex(&self.span), self.flags);
        text
    }

    /// The trace's id in hex.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex(&self.trace)
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill(&mut bytes[..]);
    // All zero means none: as good as impossible, and then it is as random as any other.
    if bytes == [0; N] {
        bytes[0] = 1;
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; N];
    if text.len() != N * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = pair.iter().try_fold(0, |whole: u8, one| Some((whole << 4) | digit(one)?))?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::Context;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(GOOD));
        headers.insert("tracestate", HeaderValue::from_static("a=1"));
        let context = Context::of(&headers).expect("a context");
        assert_eq!((context.header().as_str(), context.state.as_str()), (GOOD, "a=1"));
        let child = context.child();
        assert!(child.trace == context.trace && child.span != context.span && child.sampled());
        headers.append("traceparent", HeaderValue::from_static(GOOD));
        assert!(Context::of(&headers).is_none(), "two are none");
    }

    #[test]
    fn what_is_not_a_traceparent_is_none() {
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é",
        ] {
            assert!(Context::parse(bad).is_none(), "{bad}");
        }
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes";
        assert!(Context::parse(later).is_some(), "a later version is read as far as it is known");
    }
}
