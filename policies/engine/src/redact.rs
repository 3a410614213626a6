//! Detectors of secrets and personal data in bytes: what `content.detectors` looks for and `constraints.redact`
//! blacks out.
//!
//! A detector is a pattern with a fixed prefix where the format has one, and a check of its own (check digits,
//! allowed ranges) where the pattern alone would find too much.

mod checks;

use std::ops::Range;
use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};

use crate::reading;

/// Detectors chosen by name.
#[derive(Debug, Clone, Default)]
pub struct Detectors {
    chosen: Vec<&'static Detector>,
}

/// Something that a detector found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where, in bytes.
    pub range: Range<usize>,
    /// Name of the detector.
    pub detector: &'static str,
}

/// There is no such detector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no detector `{name}`; known: {}", names().join(", "))]
pub struct UnknownDetector {
    /// The name that is not known.
    pub name: String,
}

/// Names of all detectors, sorted.
#[must_use]
pub fn names() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| DETECTORS.iter().map(|detector| detector.name).collect())
}

impl Detectors {
    /// Chooses detectors by name; a name that comes twice counts once.
    ///
    /// # Errors
    /// When a name is not known.
    pub fn compile(names: &[String]) -> Result<Self, UnknownDetector> {
        let mut chosen: Vec<&'static Detector> = Vec::new();
        for name in names {
            let known = DETECTORS.iter().find(|detector| detector.name == name);
            let detector = known.ok_or_else(|| UnknownDetector { name: name.clone() })?;
            if !chosen.iter().any(|other| other.name == detector.name) {
                chosen.push(detector);
            }
        }
        Ok(Self { chosen })
    }

    /// Whether none was chosen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Whether any finds something, in the bytes or in what they are once their escapes are undone.
    #[must_use]
    pub fn finds(&self, bytes: &[u8]) -> bool {
        reading::any(bytes, |bytes| self.finds_plainly(bytes))
    }

    pub(crate) fn finds_plainly(&self, bytes: &[u8]) -> bool {
        self.chosen.iter().any(|detector| detector.all(bytes).next().is_some())
    }

    /// All that they find, by place; of several that overlap the one that begins first, then the longest.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Vec<Found> {
        let mut found: Vec<Found> = self
            .chosen
            .iter()
            .flat_map(|detector| detector.all(bytes).map(|range| Found { range, detector: detector.name }))
            .collect();
        found.sort_by_key(|found| (found.range.start, usize::MAX.saturating_sub(found.range.end)));
        let mut end = 0;
        found.retain(|found| {
            let apart = found.range.start >= end;
            if apart {
                end = found.range.end;
            }
            apart
        });
        found
    }
}

/// One detector. Where the pattern has a group, the group is what was found.
#[derive(Debug)]
struct Detector {
    name: &'static str,
    pattern: &'static str,
    check: fn(&[u8]) -> bool,
    regex: OnceLock<Option<Regex>>,
}

impl Detector {
    const fn new(name: &'static str, pattern: &'static str) -> Self {
        Self::checked(name, pattern, |_| true)
    }

    const fn checked(name: &'static str, pattern: &'static str, check: fn(&[u8]) -> bool) -> Self {
        Self { name, pattern, check, regex: OnceLock::new() }
    }

    fn regex(&self) -> Option<&Regex> {
        // A test compiles every pattern.
        self.regex.get_or_init(|| RegexBuilder::new(self.pattern).unicode(false).build().ok()).as_ref()
    }

    fn all<'b>(&'static self, bytes: &'b [u8]) -> impl Iterator<Item = Range<usize>> + 'b {
        let regex = self.regex();
        regex.into_iter().flat_map(move |regex| regex.captures_iter(bytes)).filter_map(move |captures| {
            let found = captures.get(1).or_else(|| captures.get(0))?;
            (self.check)(found.as_bytes()).then(|| found.range())
        })
    }
}

/// Digits in one run, in fours, or as American Express writes them.
const CARD: &str = concat!(
    r"\b(?:[2-6][0-9]{12,18}|[2-6][0-9]{3}(?:[ -][0-9]{4}){3}(?:[ -][0-9]{1,3})?",
    r"|3[0-9]{3}[ -][0-9]{6}[ -][0-9]{4,5})\b"
);

/// Formats as their issuers document them (pages read 2026-11).
static DETECTORS: [Detector; 22] = [
    Detector::new("anthropic-key", r"\bsk-ant-[a-z0-9]{2,8}-[A-Za-z0-9_-]{20,200}"),
    // AWS, "IAM identifiers": AKIA long-term and ASIA temporary key ids.
    Detector::new("aws-key", r"\b((?:AKIA|ASIA)[A-Z2-7]{16})\b"),
    Detector::new(
        "aws-secret",
        r#"(?i)aws.{0,24}?(?:secret|sk).{0,24}?["'=:\s]([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)"#,
    ),
    Detector::new("azure-storage-key", r"AccountKey=([A-Za-z0-9+/]{86}==)"),
    Detector::checked("credit-card", CARD, checks::card),
    Detector::new("email", r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
    // GitHub, "Token formats": ghp_, gho_, ghu_, ghs_, ghr_ and github_pat_.
    Detector::new("github-token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})\b"),
    Detector::new("gitlab-token", r"\bgl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas)-[A-Za-z0-9_-]{20,128}"),
    Detector::new("google-api-key", r"\bAIza[A-Za-z0-9_-]{35}"),
    Detector::new("google-oauth", r"\b(?:ya29\.[A-Za-z0-9_-]{20,512}|GOCSPX-[A-Za-z0-9_-]{28})"),
    Detector::new("huggingface-token", r"\bhf_[A-Za-z0-9]{30,64}\b"),
    Detector::checked(
        "iban",
        r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
        checks::iban,
    ),
    Detector::new("jwt", r"\beyJ[A-Za-z0-9_-]{10,4096}\.eyJ[A-Za-z0-9_-]{10,8192}\.[A-Za-z0-9_-]{16,2048}"),
    Detector::new("npm-token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    Detector::new(
        "openai-key",
        r"\bsk-(?:proj-|svcacct-|admin-|None-)?[A-Za-z0-9_-]{0,100}T3BlbkFJ[A-Za-z0-9_-]{20,200}",
    ),
    Detector::new("password-in-url", r#"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@"']{1,128}:([^\s/@"']{3,256})@"#),
    // RFC 7468 and the older OpenSSH, PGP and PuTTY forms; also with line breaks escaped, as in JSON.
    Detector::new(
        "private-key",
        r"(?s)-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----.{0,16384}?(?:-----END (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----|$)|PuTTY-User-Key-File-[23]:",
    ),
    Detector::new("sendgrid-key", r"\bSG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}"),
    Detector::new(
        "slack-token",
        r"\b(?:xox[abeprs]-[A-Za-z0-9-]{10,255}|xapp-[0-9]-[A-Za-z0-9-]{10,255})|https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,80}",
    ),
    Detector::new("stripe-key", r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}\b"),
    Detector::checked("us-ssn", r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b", checks::ssn),
    Detector::new("vault-token", r"\bhv[sbr]\.[A-Za-z0-9_-]{24,255}"),
];

#[cfg(test)]
mod tests;
