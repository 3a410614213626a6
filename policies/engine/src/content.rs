//! Patterns over the bytes of a call.

use regex::bytes::{Regex, RegexBuilder};
use sideguard_types::resource::ContentMatch;

use crate::reading;
use crate::redact::Detectors;

/// Largest compiled pattern, in bytes.
const MAX_REGEX: usize = 1 << 20;
/// Longest pattern, in bytes.
const MAX_BYTES: usize = 4096;

/// A compiled `content` of a rule.
#[derive(Debug)]
pub(crate) struct Content {
    detectors: Detectors,
    patterns: Vec<Regex>,
}

impl Content {
    /// Compiles what can be; the caller has told of the rest.
    pub(crate) fn compile(spec: &ContentMatch) -> Option<Self> {
        let detectors = Detectors::compile(&spec.detectors).ok()?;
        let patterns = spec.patterns.iter().map(|text| pattern(text)).collect::<Result<_, _>>().ok()?;
        Some(Self { detectors, patterns })
    }

    /// Whether any detector or pattern finds something, escaped or not.
    pub(crate) fn finds(&self, bytes: &[u8]) -> bool {
        reading::any(bytes, |bytes| {
            self.patterns.iter().any(|pattern| pattern.is_match(bytes)) || self.detectors.finds_plainly(bytes)
        })
    }
}

/// Compiles one pattern.
///
/// # Errors
/// In words, when it is not a regular expression or too large.
pub(crate) fn pattern(text: &str) -> Result<Regex, String> {
    if text.is_empty() || text.len() > MAX_BYTES {
        return Err(format!("a pattern must have 1 to {MAX_BYTES} bytes"));
    }
    RegexBuilder::new(text).size_limit(MAX_REGEX).build().map_err(|error| describe(&error))
}

/// A regular expression's error in one line.
pub(crate) fn describe(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "the regular expression is too large when compiled".to_owned(),
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            format!("not a regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
        }
    }
}
