//! Bytes of a call as their receiver will read them: a detector that saw the escaped form alone could be got round.

use std::borrow::Cow;

/// How often text may be escaped over itself and still be read: JSON in a string of JSON, JSON in a form, and once more.
const DEPTH: usize = 3;

/// Whether `finds` is true of the bytes, or of what they are once escapes of JSON (`\u0041`) or of URLs and forms
/// (`%41`, `+`) are undone.
pub(crate) fn any(bytes: &[u8], mut finds: impl FnMut(&[u8]) -> bool) -> bool {
    let mut read = Cow::Borrowed(bytes);
    if finds(&read) {
        return true;
    }
    for _ in 0..DEPTH {
        let before = read.len();
        for (marks, undo) in
            [(&b"\\"[..], without_backslashes as fn(&[u8]) -> Vec<u8>), (b"%+", without_percents)]
        {
            if !read.iter().any(|b| marks.contains(b)) {
                continue;
            }
            let next = undo(&read);
            if next != *read && finds(&next) {
                return true;
            }
            read = Cow::Owned(next);
        }
        // Whatever undoes an escape makes the text shorter, but for `+`, which does not come back.
        if read.len() == before {
            break;
        }
    }
    false
}

/// JSON's escapes undone (RFC 8259, section 7).
fn without_backslashes(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut high: Option<u32> = None;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'\\' {
            high = None;
            out.push(first);
            continue;
        }
        let Some((&escape, tail)) = rest.split_first() else { break };
        rest = tail;
        let unit = rest.get(..4).filter(|_| escape == b'u').and_then(hex);
        let Some(unit) = unit else {
            high = None;
            out.push(match escape {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'b' => 8,
                b'f' => 12,
                other => other,
            });
            continue;
        };
        rest = rest.get(4..).unwrap_or_default();
        let low = (0xdc00..0xe000).contains(&unit).then(|| unit.wrapping_sub(0xdc00));
        let point = match (high.take(), low) {
            (Some(high), Some(low)) => 0x10000_u32.saturating_add(high << 10 | low),
            _ => unit,
        };
        if (0xd800..0xdc00).contains(&unit) {
            high = Some(unit.wrapping_sub(0xd800));
        } else if let Some(c) = char::from_u32(point) {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    out
}

/// Escapes of URLs and forms undone (RFC 3986, section 2.1; URL standard, `application/x-www-form-urlencoded`).
fn without_percents(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match tail.get(..2).filter(|_| first == b'%').and_then(hex) {
            Some(byte) => {
                out.push(u8::try_from(byte).unwrap_or(b'?'));
                rest = tail.get(2..).unwrap_or_default();
            }
            None => out.push(if first == b'+' { b' ' } else { first }),
        }
    }
    out
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::any;

    #[test]
    fn what_is_escaped_is_found() {
        for hidden in [
            r#"{"a":"\u0073ecret"}"#,
            r#"{"a":"{\"b\":\"\\u0073ecret\"}"}"#,
            r#"["se\/cret", "\u0073\u0065cret"]"#,
            "q=%73ecret",
            "q=%2573ecret",
            "payload=%7B%22a%22%3A%22%5Cu0073ecret%22%7D",
            r#"{"url":"?d=\u0025\u0037\u0033ecret"}"#,
            r#"{"url":"https://a.example/?d=%73ecret"}"#,
            r#"{"a":"\ud83d\ude00 \u0073ecret"}"#,
        ] {
            assert!(
                any(hidden.as_bytes(), |bytes| bytes.windows(6).any(|part| part == b"secret")),
                "{hidden}"
            );
        }
        let smile = "\u{1f600}".as_bytes();
        assert!(any(br"\ud83d\ude00", |bytes| bytes.windows(4).any(|part| part == smile)));
        for other in ["", "\\", "\\u", "\\u00", "%", "%7", "+", r"\ud83dx"] {
            assert!(
                !any(other.as_bytes(), |bytes| bytes.windows(6).any(|part| part == b"secret")),
                "{other}"
            );
        }
    }
}
