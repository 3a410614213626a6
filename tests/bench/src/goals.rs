//! What Sideguard promises to cost, and whether this run shows it.

use std::fmt;

use serde_json::{Value, json};

use crate::model::Case;
use crate::run::Findings;
use crate::target::Kind;

/// One promise.
pub(crate) struct Goal {
    name: &'static str,
    bound: Bound,
    measured: Option<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// All promises, with what was measured of them.
pub(crate) fn goals(findings: &Findings) -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    let own = |case, name| figure(findings, case, Kind::Sideguard, name);
    let to = |other, name| {
        let theirs = figure(findings, Case::Chat1k, other, name)?;
        Some(own(Case::Chat1k, name)? / theirs)
    };
    let process = |name| findings.processes.get(&Kind::Sideguard)?.get(name).copied();
    let decision =
        findings.decisions.iter().find(|found| found.rules == 10_000).map(|found| found.nanoseconds);
    let goal = |name, bound, measured| Goal { name, bound, measured };
    vec![
        goal("cpu per request to envoy", AtMost(0.7), to(Kind::Envoy, "cpu_us_per_request")),
        goal("cpu per request to bare hyper", AtMost(2.5), to(Kind::Hyper, "cpu_us_per_request")),
        goal("requests/s to bare pingora", AtLeast(0.7), to(Kind::Pingora, "requests_per_second")),
        goal("added p50, us", AtMost(200.0), own(Case::Chat1k, "added_p50_us")),
        goal("added p99, us", AtMost(500.0), own(Case::Chat1k, "added_p99_us")),
        goal("first streamed chunk, added p50, us", AtMost(200.0), own(Case::Stream, "added_first_p50_us")),
        goal("decision at 10,000 rules, ns", AtMost(2_000.0), decision),
        goal("idle memory, KiB", AtMost(25.0 * 1024.0), process("idle_rss_kib")),
        goal("ready, ms", AtMost(50.0), process("ready_ms")),
    ]
}

fn figure(findings: &Findings, case: Case, kind: Kind, name: &str) -> Option<f64> {
    findings.cases.iter().find(|found| found.case == case)?.targets.get(&kind)?.get(name).copied()
}

impl Goal {
    /// Whether it was measured and found wanting.
    pub(crate) fn missed(&self) -> bool {
        self.measured.is_some_and(|measured| !self.bound.holds(measured))
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let (kind, bound) = match self.bound {
            Bound::AtMost(bound) => ("at_most", bound),
            Bound::AtLeast(bound) => ("at_least", bound),
        };
        let met = self.measured.map(|measured| self.bound.holds(measured));
        json!({"goal": self.name, kind: bound, "measured": self.measured, "met": met})
    }
}

impl Bound {
    fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtMost(bound) => measured <= bound,
            Self::AtLeast(bound) => measured >= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.measured {
            None => "?",
            Some(_) if self.missed() => "MISSED",
            Some(_) => "met",
        };
        let (sign, bound) = match self.bound {
            Bound::AtMost(bound) => ("<=", bound),
            Bound::AtLeast(bound) => (">=", bound),
        };
        write!(f, "{verdict:<7} {:<38} {sign} {bound:<8}", self.name)?;
        match self.measured {
            Some(measured) => write!(f, " {measured:.2}"),
            None => f.write_str(" not measured"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bound, Goal};

    #[test]
    fn a_goal_that_was_not_measured_is_neither_met_nor_missed() {
        let goal = |measured| Goal { name: "x", bound: Bound::AtMost(2.0), measured };
        assert!(!goal(None).missed() && goal(None).to_string().starts_with('?'));
        assert!(!goal(Some(2.0)).missed() && goal(Some(2.0)).to_string().starts_with("met"));
        assert!(goal(Some(2.1)).missed() && goal(Some(2.1)).to_string().starts_with("MISSED"));
    }

    #[test]
    fn bounds_hold_on_their_own_side() {
        assert!(Bound::AtLeast(0.7).holds(0.7) && !Bound::AtLeast(0.7).holds(0.6));
        assert!(Bound::AtMost(0.7).holds(0.6) && !Bound::AtMost(0.7).holds(0.8));
    }
}
