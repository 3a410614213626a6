//! Speed of the policy engine by itself: its own example `decide_speed` measures it, pinned as the proxies are.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::clock::{self, SECOND};
use crate::process::Process;
use crate::target::PROXY_CORE;

/// Sizes of policy that are asked for.
const SIZES: [usize; 3] = [10, 1_000, 10_000];

/// How long one decision takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decision {
    /// Rules in the policy.
    pub(crate) rules: usize,
    /// Nanoseconds of one decision.
    pub(crate) nanoseconds: f64,
}

/// Runs the example and reads what it prints: a line for each size, with the number of rules and the time with
/// its unit (`10000 rules: 812 ns`).
pub(crate) async fn measure(program: &Path, directory: &Path) -> Result<Vec<Decision>> {
    let log = directory.join("decide_speed.log");
    let mut process = Process::start(Command::new(program), PROXY_CORE, &log)?;
    let end = clock::now() + 60 * SECOND;
    while process.runs() {
        ensure!(clock::now() < end, "`{}` did not end within 60 s", program.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let text = std::fs::read_to_string(&log).with_context(|| format!("cannot read `{}`", log.display()))?;
    let found: Vec<_> = text.lines().filter_map(read).collect();
    ensure!(!found.is_empty(), "`{}` told no times: see `{}`", program.display(), log.display());
    Ok(found)
}

fn read(line: &str) -> Option<Decision> {
    let line = line.replace([',', '_'], "");
    let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '.').collect();
    let rules = words.iter().filter_map(|word| word.parse().ok()).find(|rules| SIZES.contains(rules))?;
    let units = words.iter().skip(1).chain([&""]);
    let nanoseconds = words
        .iter()
        .zip(units)
        .find_map(|(word, next)| time(word).or_else(|| time(&format!("{word}{next}"))))?;
    Some(Decision { rules, nanoseconds })
}

/// A number and its unit, such as `812ns`.
fn time(text: &str) -> Option<f64> {
    let (number, factor) = [("ns", 1.0), ("us", 1e3), ("µs", 1e3)]
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::{Decision, read};

    #[test]
    fn a_line_tells_rules_and_time() {
        let expected = Some(Decision { rules: 10_000, nanoseconds: 1_250.0 });
        for line in ["10000 rules: 1250 ns", "rules=10,000 time=1250ns/decision", "10_000  1.25 µs  800000/s"]
        {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn other_lines_tell_nothing() {
        for line in ["", "compiled 10000 rules", "7 rules: 5 ns", "took 80 ns"] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
