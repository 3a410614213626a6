//! The path of a request as another server may read it.

use std::borrow::Cow;

/// Why a path cannot be judged: two servers would read it as different places, so that a rule about one of them
/// could be got round. `path` is without its query.
#[must_use]
pub fn doubtful(path: &str) -> Option<&'static str> {
    if path.contains('\\') || holds(path, b'\\') {
        return Some("the path holds a backslash");
    }
    if path.contains('#') {
        return Some("the path holds a fragment");
    }
    if path.bytes().any(|b| b.is_ascii_control() || b == b' ')
        || (0..0x20).chain([0x7f]).any(|b| holds(path, b))
    {
        return Some("the path holds a control character");
    }
    let read = plain(path);
    read.split('/').any(|segment| segment == "..").then_some("the path holds `..` as a segment")
}

/// How often a path may be escaped over itself and still be read.
const DEPTH: usize = 3;

/// The plainest way to read a path: escapes of letters, digits, `-._~` (RFC 3986, section 6.2.2.2), of `/` and of escapes
/// are undone, parameters of segments (`;…`), repeated slashes, a last slash and the segment `.` left out.
#[must_use]
pub fn plain(path: &str) -> Cow<'_, str> {
    if !path.contains(['%', ';'])
        && !path.contains("//")
        && !path.contains("/.")
        && (path.len() < 2 || !path.ends_with('/'))
    {
        return Cow::Borrowed(path);
    }
    let mut read = Cow::Borrowed(path);
    for _ in 0..DEPTH {
        let next = unescaped(&read);
        if next == read {
            break;
        }
        read = Cow::Owned(next);
    }
    let segments = read.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    let mut out = String::with_capacity(read.len());
    for segment in segments.filter(|segment| !matches!(*segment, "" | ".")) {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    Cow::Owned(out)
}

fn unescaped(path: &str) -> String {
    let mut read = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(next) = rest.chars().next() {
        let (next, length) = match escaped(rest) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~/;%".contains(&byte) => (char::from(byte), 3),
            _ => (next, next.len_utf8()),
        };
        read.push(next);
        rest = rest.get(length..).unwrap_or_default();
    }
    read
}

/// The byte that `text` begins with as an escape.
fn escaped(text: &str) -> Option<u8> {
    let [b'%', high, low, ..] = *text.as_bytes() else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn holds(path: &str, byte: u8) -> bool {
    path.match_indices('%').any(|(at, _)| path.get(at..).and_then(escaped) == Some(byte))
}

#[cfg(test)]
mod tests {
    use super::{doubtful, plain};

    #[test]
    fn paths_are_read_as_plainly_as_any_server_would() {
        for (path, read) in [
            ("/a/b", "/a/b"),
            ("/", "/"),
            ("/a/", "/a"),
            ("//a///b", "/a/b"),
            ("/%61dmin/%2e", "/admin"),
            ("/./a/./.b/.", "/a/.b"),
            ("/@types%2Fnode", "/@types/node"),
            ("/a;v=1/b;c", "/a/b"),
            ("/a%3bv/b", "/a/b"),
            ("/%2561dmin/%252e", "/admin"),
            ("/100%25", "/100%"),
            ("/a%20b/%zz/%", "/a%20b/%zz/%"),
            ("/ä%C3%A4", "/ä%C3%A4"),
        ] {
            assert_eq!(plain(path), read, "{path}");
        }
    }

    #[test]
    fn what_servers_resolve_in_different_ways_is_doubtful() {
        for path in [
            "/a/../b",
            "/..",
            "/%2e%2E/b",
            "/a/.%2e",
            "/a%2f..%2fb",
            "/a/%252e%252e/b",
            "/a/..;x=1/b",
            "/a\\b",
            "/a%5Cb",
            "/a%00",
            "/a%0d%0a",
            "/a#b",
        ] {
            assert!(doubtful(path).is_some(), "{path}");
        }
        for path in [
            "/",
            "/a//b",
            "/web/https://a.example/",
            "/@types%2fnode",
            "/a..b/.well-known/x",
            "/a%20b/~c",
            "*",
        ] {
            assert_eq!(doubtful(path), None, "{path}");
        }
    }
}
