//! Globs: `*` is any run of characters (dots and slashes included, also none), `?` is one character. Compiled
//! once, matched without regular expressions.

/// Longest glob, in bytes.
const MAX_BYTES: usize = 1024;

/// Whether upper and lower case ASCII letters are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Exact,
    Folded,
}

/// A compiled glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    text: Box<str>,
    case: Case,
    shape: Shape,
}

/// What a glob comes down to; the common shapes need one comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Any,
    Exact,
    /// `text*`
    Prefix,
    /// `*text`
    Suffix,
    Mixed,
}

impl Glob {
    /// Reads a glob.
    ///
    /// # Errors
    /// When it is empty, too long, or has characters that mean something in other glob dialects.
    pub(crate) fn parse(text: &str, case: Case) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a glob must not be empty; write `*` for anything".to_owned());
        }
        if text.len() > MAX_BYTES {
            return Err(format!("a glob may have at most {MAX_BYTES} bytes"));
        }
        if let Some(bad) = text.chars().find(|c| matches!(c, '[' | ']' | '{' | '}' | '\\') || c.is_control())
        {
            return Err(format!(
                "`{}` has no meaning in a glob: only `*` and `?` do; write several items instead",
                bad.escape_default()
            ));
        }
        let text = match case {
            Case::Exact => text.to_owned(),
            Case::Folded => text.to_ascii_lowercase(),
        };
        let inner = |text: &str| !text.contains(['*', '?']);
        let shape = if text.chars().all(|c| c == '*') {
            Shape::Any
        } else if inner(&text) {
            Shape::Exact
        } else if text.strip_suffix('*').is_some_and(inner) {
            Shape::Prefix
        } else if text.strip_prefix('*').is_some_and(inner) {
            Shape::Suffix
        } else {
            Shape::Mixed
        };
        Ok(Self { text: text.into(), case, shape })
    }

    /// Whether `text` fits.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let equal = |a: &[u8], b: &[u8]| match self.case {
            Case::Exact => a == b,
            Case::Folded => a.eq_ignore_ascii_case(b),
        };
        let (glob, bytes) = (self.text.as_bytes(), text.as_bytes());
        match self.shape {
            Shape::Any => true,
            Shape::Exact => equal(glob, bytes),
            Shape::Prefix => {
                let literal = glob.strip_suffix(b"*").unwrap_or(glob);
                bytes.get(..literal.len()).is_some_and(|head| equal(literal, head))
            }
            Shape::Suffix => {
                let literal = glob.strip_prefix(b"*").unwrap_or(glob);
                let start = bytes.len().checked_sub(literal.len());
                start.and_then(|start| bytes.get(start..)).is_some_and(|tail| equal(literal, tail))
            }
            Shape::Mixed => mixed(glob, bytes, self.case),
        }
    }

    /// Whether everything that fits `other` fits this one too. May say no where the answer is yes.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.shape == Shape::Any
            || self.text == other.text
            // A wildcard of the other stands for itself here: what takes it as a letter takes what it stands for.
            || (!self.text.contains('?') || other.shape == Shape::Exact) && self.matches(&other.text)
    }

    /// The glob as it was written, in lower case where case does not matter.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it fits one text only.
    pub(crate) fn is_exact(&self) -> bool {
        self.shape == Shape::Exact
    }

    /// Whether it fits everything.
    pub(crate) fn is_any(&self) -> bool {
        self.shape == Shape::Any
    }

    /// The literal text before the first wildcard.
    pub(crate) fn head(&self) -> &str {
        self.text.split(['*', '?']).next().unwrap_or_default()
    }

    /// The literal text after the last wildcard.
    pub(crate) fn tail(&self) -> &str {
        self.text.rsplit(['*', '?']).next().unwrap_or_default()
    }
}

/// Matches greedily and goes back to the last `*` on a mismatch: no recursion, and at worst the product of both
/// lengths.
fn mixed(glob: &[u8], text: &[u8], case: Case) -> bool {
    let (mut g, mut t) = (0_usize, 0_usize);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, t));
                g = g.saturating_add(1);
            }
            Some(b'?') => {
                g = g.saturating_add(1);
                t = next_char(text, t);
            }
            Some(&wanted) if wanted == byte || case == Case::Folded && wanted.eq_ignore_ascii_case(&byte) => {
                g = g.saturating_add(1);
                t = t.saturating_add(1);
            }
            _ => {
                let Some((at, from)) = star else { return false };
                let from = next_char(text, from);
                star = Some((at, from));
                g = at.saturating_add(1);
                t = from;
            }
        }
    }
    glob.get(g..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// The start of the character after the one at `at`: UTF-8's continuation bytes are `10xxxxxx`.
fn next_char(text: &[u8], at: usize) -> usize {
    let mut next = at.saturating_add(1);
    while text.get(next).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000) {
        next = next.saturating_add(1);
    }
    next
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Case, Glob};

    fn glob(text: &str) -> Glob {
        Glob::parse(text, Case::Exact).expect("a valid glob")
    }

    #[test]
    fn a_star_takes_dots_and_nothing_but_not_the_missing_literal() {
        for (pattern, text, fits) in [
            ("job.*.delete", "job.a.delete", true),
            ("job.*.delete", "job.a.b.delete", true),
            ("job.*.delete", "job.delete", false),
            ("job.*", "job.", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxa", false),
        ] {
            assert_eq!(glob(pattern).matches(text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn case_matters_only_where_it_is_said_to() {
        let folded = Glob::parse("GPT-*-x", Case::Folded).expect("a valid glob");
        assert!(folded.matches("gpt-4-X"));
        assert!(!glob("GPT-*").matches("gpt-4"));
    }

    #[test]
    fn other_dialects_are_refused() {
        for text in ["", "[a-z]", "{a,b}", "a\\*", "a\nb"] {
            assert!(Glob::parse(text, Case::Exact).is_err(), "{text}");
        }
    }

    /// The definition, word for word; exponential, so for short texts only.
    fn naive(glob: &[char], text: &[char]) -> bool {
        match (glob, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => naive(rest, text) || matches!(text, [_, tail @ ..] if naive(glob, tail)),
            (['?', rest @ ..], [_, tail @ ..]) => naive(rest, tail),
            ([a, rest @ ..], [b, tail @ ..]) => a == b && naive(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matches_as_defined(pattern in "[ab.*?]{1,6}", text in "[abé.]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(glob(&pattern).matches(&text), naive(&chars(&pattern), &chars(&text)));
        }

        #[test]
        fn what_is_covered_is_matched(a in "[ab.*?]{1,5}", b in "[ab.*?]{1,5}", text in "[ab.]{0,6}") {
            let (a, b) = (glob(&a), glob(&b));
            prop_assert!(!(a.covers(&b) && b.matches(&text)) || a.matches(&text));
        }
    }
}
