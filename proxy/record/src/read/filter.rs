//! Which records are asked for.

use sideguard_types::audit::{Phase, Record};
use sideguard_types::call::Point;
use sideguard_types::time::Timestamp;
use sideguard_types::verdict::Decision;

/// Which records are asked for: given fields AND together. Globs: `*` stands for any run of characters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Not before this moment.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// The agent.
    pub agent: Option<String>,
    /// The decision.
    pub decision: Option<Decision>,
    /// The rule that decided (glob).
    pub rule: Option<String>,
    /// The topic (glob).
    pub topic: Option<String>,
    /// The call's id.
    pub call: Option<String>,
    /// The phase.
    pub phase: Option<Phase>,
    /// The point.
    pub point: Option<Point>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Only the last so many that fit.
    pub tail: Option<usize>,
}

impl Filter {
    /// Whether `record` is asked for, `limit` and `tail` aside.
    #[must_use]
    pub fn fits(&self, record: &Record) -> bool {
        self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && self.agent.as_ref().is_none_or(|agent| record.agent == *agent)
            && self.decision.is_none_or(|decision| record.decision == Some(decision))
            && self.rule.as_ref().is_none_or(|rule| glob(rule, &record.rule))
            && self.topic.as_ref().is_none_or(|topic| glob(topic, &record.topic))
            && self.call.as_ref().is_none_or(|call| record.call == *call)
            && self.phase.is_none_or(|phase| record.phase == phase)
            && self.point.is_none_or(|point| record.point == Some(point))
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any run of characters.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    // The earliest place for each piece leaves the most for those after it.
    for piece in middle.split('*') {
        match text.find(piece) {
            Some(at) => text = text.get(at + piece.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn a_star_is_any_run_dots_included() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("job.*.delete", "job.a.b.delete", true),
            ("job.*.delete", "job.delete", false),
            ("job.*", "job.x", true),
            ("*.delete", "job.x.delete", true),
            ("a*a", "a", false),
            ("a*b*a", "aba", true),
            ("a*b*a", "aa", false),
            ("**x**", "x", true),
            ("*ab*ab", "ab", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} on {text}");
        }
    }
}
