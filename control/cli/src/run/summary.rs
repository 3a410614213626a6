//! What the user sees while the command runs, and the sums at its end.

use std::path::Path;

use parking_lot::Mutex;
use serde_json::json;
use sideguard_proxy::app::Watcher;
use sideguard_types::audit::{Phase, Record};
use sideguard_types::units::{MicroUsd, Tokens};
use sideguard_types::verdict::Decision;

/// Sums of one run.
#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    calls: u64,
    denied: u64,
    input: Tokens,
    output: Tokens,
    cost: MicroUsd,
    estimated: bool,
}

/// Watches the record and tells the user.
#[derive(Debug)]
pub(crate) struct Summary {
    verbose: bool,
    colour: bool,
    sums: Mutex<Sums>,
}

impl Summary {
    pub(crate) fn new(verbose: bool) -> Self {
        Self { verbose, colour: crate::colour(&std::io::stderr()), sums: Mutex::default() }
    }

    /// The sums, for people, on standard error.
    pub(crate) fn print(&self, state: &Path) {
        let sums = *self.sums.lock();
        let about = if sums.estimated { " (partly estimated)" } else { "" };
        eprintln!(
            "sideguard: {} calls, {} denied, {} tokens, ${}{about}; record: {}",
            sums.calls,
            sums.denied,
            sums.input.plus(sums.output),
            sums.cost,
            state.join("spool").display(),
        );
    }

    /// The sums as JSON.
    pub(crate) fn report(&self, state: &Path) -> serde_json::Value {
        let sums = *self.sums.lock();
        json!({
            "calls": sums.calls,
            "denied": sums.denied,
            "tokens": {"input": sums.input, "output": sums.output, "estimated": sums.estimated},
            "cost_usd": sums.cost,
            "record": state.join("spool"),
        })
    }

    fn line(&self, record: &Record, mark: &str, colour: &str) {
        let target =
            [record.target.tool.as_deref(), record.target.model.as_deref()].into_iter().flatten().next();
        let what = match target {
            Some(name) => name.to_owned(),
            None => format!("{} {}{}", record.target.method, record.target.host, record.target.path),
        };
        let point = record.point.map_or("call", |point| point.as_str());
        let why = if record.reason.is_empty() { String::new() } else { format!(": {}", record.reason) };
        let (on, off) = if self.colour { (colour, "\x1b[0m") } else { ("", "") };
        eprintln!("sideguard: {on}{mark:<5}{off} {point} {what} [{}]{why}", record.rule);
    }
}

impl Watcher for Summary {
    fn seen(&self, record: &Record) {
        let refused = record.decision.is_some_and(|decision| decision >= Decision::Throttle)
            && record.phase == Phase::Decision;
        {
            let mut sums = self.sums.lock();
            match record.phase {
                Phase::Intent => sums.calls += 1,
                Phase::Decision if refused => sums.denied += 1,
                Phase::Outcome => {
                    if let Some(usage) = &record.usage {
                        sums.input = sums.input.plus(usage.input.unwrap_or_default());
                        sums.output = sums.output.plus(usage.output.unwrap_or_default());
                        sums.estimated |= usage.estimated;
                    }
                    sums.cost = sums.cost.plus(record.cost_usd.unwrap_or_default());
                }
                Phase::Decision | Phase::Control => {}
            }
        }
        if refused {
            self.line(record, "deny", "\x1b[31m");
        } else if self.verbose && record.decision.is_some() && record.phase != Phase::Outcome {
            self.line(record, "allow", "\x1b[32m");
        } else if record.phase == Phase::Control
            && record
                .code
                .as_deref()
                .is_some_and(|code| code.starts_with("breaker") || code.ends_with("killed"))
        {
            self.line(record, record.code.as_deref().unwrap_or_default(), "\x1b[33m");
        }
    }
}
