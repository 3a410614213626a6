//! What budgets have to know of segments that may be removed: for each one, written before it may go, the sums of its calls.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sideguard_record::read;
use sideguard_runtime::clock;
use sideguard_types::audit::{Amounts, Phase, Record};
use sideguard_types::time::Timestamp;

/// Calls of so long a time count as one, at the end of it: no budget has a shorter window.
const GRAIN: i64 = 60_000_000;
/// Name of the directory, beside the record's.
const DIR: &str = "sums";

/// Whose call it was, as budgets see it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Who {
    pub(super) tenant: String,
    pub(super) agent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
}

/// A call that has left and of which nothing more was heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) who: Who,
    pub(super) time: Timestamp,
    pub(super) reserved: Amounts,
    /// Tool calls in it: a batch has several.
    pub(super) tools: u64,
}

/// What calls took in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Charge {
    pub(super) who: Who,
    /// When the last of them ended.
    pub(super) time: Timestamp,
    pub(super) used: Amounts,
    /// How many.
    pub(super) calls: u64,
}

/// The end of a call that began in an earlier segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    call: String,
    charge: Charge,
}

/// The sums of one segment.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Sums {
    /// Its last record.
    last: u64,
    charges: Vec<Charge>,
    open: BTreeMap<String, Open>,
    ended: Vec<Ended>,
}

/// Calls put together as records tell of them.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: HashMap<String, Open>,
}

/// What a record means for budgets.
enum Told {
    Nothing,
    /// A call ended whose beginning is known.
    Charge(Charge),
    /// A call ended whose beginning is not known here.
    Ended(Ended),
}

impl Who {
    fn of(record: &Record) -> Self {
        Self {
            tenant: record.tenant.clone(),
            agent: record.agent.clone(),
            session: record.session.clone(),
            model: record.target.model.clone(),
        }
    }
}

impl Calls {
    /// Takes a record; a charge when a call has ended by it.
    pub(super) fn take(&mut self, record: &Record) -> Option<Charge> {
        match self.told(record) {
            Told::Nothing => None,
            Told::Charge(charge) | Told::Ended(Ended { charge, .. }) => Some(charge),
        }
    }

    /// What is still open.
    pub(super) fn into_open(self) -> impl Iterator<Item = Open> {
        self.open.into_values()
    }

    fn told(&mut self, record: &Record) -> Told {
        match record.phase {
            Phase::Intent => {
                let tools = u64::from(record.target.tool.is_some());
                let reserved = record.budget.as_ref().and_then(|spend| spend.reserved).unwrap_or_default();
                let open = Open { who: Who::of(record), time: record.time, reserved, tools };
                self.open.entry(record.call.clone()).and_modify(|open| open.tools += tools).or_insert(open);
                Told::Nothing
            }
            Phase::Outcome => {
                let used = record.budget.as_ref().and_then(|spend| spend.settled).unwrap_or_default();
                match self.open.remove(&record.call) {
                    Some(Open { who, time, tools, .. }) => {
                        Told::Charge(Charge { who, time, used, calls: tools.max(1) })
                    }
                    None => {
                        let charge = Charge { who: Who::of(record), time: record.time, used, calls: 1 };
                        Told::Ended(Ended { call: record.call.clone(), charge })
                    }
                }
            }
            Phase::Decision | Phase::Control => Told::Nothing,
        }
    }

    /// Takes the sums of a segment; the charges that come of it.
    fn add(&mut self, sums: Sums) -> Vec<Charge> {
        let Sums { mut charges, open, ended, .. } = sums;
        for Ended { call, charge } in ended {
            let Charge { used, .. } = charge;
            charges.push(match self.open.remove(&call) {
                Some(Open { who, time, tools, .. }) => Charge { who, time, used, calls: tools.max(1) },
                None => charge,
            });
        }
        self.open.extend(open);
        charges
    }
}

/// The sums of a segment that the record in `spool` has.
fn sum(spool: &Path, first: u64, last: u64) -> io::Result<Sums> {
    let mut calls = Calls::default();
    let mut charges: BTreeMap<(Who, i64), Charge> = BTreeMap::new();
    let mut ended = Vec::new();
    for entry in read::segment(spool, first)? {
        match calls.told(&entry?.record) {
            Told::Nothing => {}
            Told::Ended(one) => ended.push(one),
            Told::Charge(one) => {
                let at = (one.who.clone(), one.time.0.div_euclid(GRAIN));
                match charges.get_mut(&at) {
                    Some(sum) => sum.add(&one),
                    None => drop(charges.insert(at, one)),
                }
            }
        }
    }
    let open = calls.open.into_iter().collect();
    Ok(Sums { last, charges: charges.into_values().collect(), open, ended })
}

impl Charge {
    fn add(&mut self, other: &Self) {
        self.time = self.time.max(other.time);
        self.calls = self.calls.saturating_add(other.calls);
        self.used = Amounts {
            input: self.used.input.saturating_add(other.used.input),
            output: self.used.output.saturating_add(other.used.output),
            usd: self.used.usd.plus(other.used.usd),
        };
    }
}

/// Writes the sums of every complete segment of `spool` up to record `upto` that has none yet, and removes those that are
/// older than any budget looks back.
///
/// # Errors
/// When a segment cannot be read, or its sums cannot be written; then it must not be removed.
pub(crate) fn write(state: &Path, upto: u64, look_back: Duration) -> io::Result<()> {
    let (spool, dir) = (state.join("spool"), state.join(DIR));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    for range in read::complete(&spool)? {
        let (first, last) = range.into_inner();
        let file = path(&dir, first);
        if last <= upto && !file.try_exists()? {
            let sums = sum(&spool, first, last)?;
            durable(&dir, &file, &serde_json::to_vec(&sums).map_err(io::Error::other)?)?;
        }
    }
    let (now, oldest) = (clock::now(), read::oldest(&spool)?.unwrap_or(0));
    for (first, file) in files(&dir)? {
        let since = fs::metadata(&file)?.modified()?.duration_since(std::time::UNIX_EPOCH);
        let written = i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX);
        if first < oldest && now.since(Timestamp(written)) > look_back {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

/// What the removed segments told: the charges, and in `calls` what was open at their end.
///
/// # Errors
/// When a file cannot be read, or is not what [`write`] makes.
pub(super) fn read(state: &Path, calls: &mut Calls) -> io::Result<Vec<Charge>> {
    let dir = state.join(DIR);
    if !dir.try_exists()? {
        return Ok(Vec::new());
    }
    // Segments that are still there tell for themselves.
    let oldest = read::oldest(&state.join("spool"))?.unwrap_or(u64::MAX);
    let mut charges = Vec::new();
    for (first, file) in files(&dir)? {
        if first < oldest {
            let sums = serde_json::from_slice(&fs::read(&file)?)
                .map_err(|error| io::Error::other(format!("`{}`: {error}", file.display())))?;
            charges.extend(calls.add(sums));
        }
    }
    Ok(charges)
}

fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.json"))
}

/// The files with sums, the oldest first.
fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
        if let Some(first) = name.and_then(|name| name.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Places a file whole, on disk before it returns: the segment that it stands for may go then.
fn durable(dir: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = file.with_extension("new");
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&draft, file)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::Duration;

    use ed25519_dalek::SigningKey;
    use sideguard_record::read::{self, Filter};
    use sideguard_record::{Log, Settings};
    use sideguard_types::audit::{Amounts, Phase, Record, Spend};
    use sideguard_types::resource::Sync;
    use sideguard_types::time::Timestamp;
    use sideguard_types::units::MicroUsd;

    use super::{Calls, Charge, Who};

    const NOW: Timestamp = Timestamp(1_795_000_000_000_000);

    fn record(phase: Phase, call: u64, amounts: u64) -> Record {
        let time = Timestamp(NOW.0 + i64::try_from(call).expect("small") * 1_000_000);
        let amounts = Amounts { input: amounts, output: 1, usd: MicroUsd(amounts) };
        let spend = match phase {
            Phase::Intent => Spend { reserved: Some(amounts), settled: None },
            _ => Spend { reserved: None, settled: Some(amounts) },
        };
        Record {
            call: call.to_string(),
            tenant: "acme".to_owned(),
            agent: format!("agent-{}", call % 3),
            session: call.is_multiple_of(2).then(|| "s".to_owned()),
            budget: Some(spend),
            ..Record::new(phase, time)
        }
    }

    /// Sums by who, of charges and of what stays open.
    fn totals(charges: &[Charge], calls: Calls) -> BTreeMap<Who, (u64, u64, u64)> {
        let mut totals: BTreeMap<Who, (u64, u64, u64)> = BTreeMap::new();
        let mut add = |who: &Who, used: &Amounts, count: u64| {
            let sum = totals.entry(who.clone()).or_default();
            *sum = (sum.0 + used.input, sum.1 + used.usd.0, sum.2 + count);
        };
        charges.iter().for_each(|charge| add(&charge.who, &charge.used, charge.calls));
        calls.into_open().for_each(|open| add(&open.who, &open.reserved, open.tools.max(1)));
        totals
    }

    fn all(state: &Path) -> BTreeMap<Who, (u64, u64, u64)> {
        let mut calls = Calls::default();
        let mut charges = super::read(state, &mut calls).expect("sums");
        for entry in read::query(&state.join("spool"), &Filter::default()).expect("a log") {
            charges.extend(calls.take(&entry.expect("a record").record));
        }
        totals(&charges, calls)
    }

    #[test]
    fn sums_stand_for_the_segments_that_are_gone() {
        let state = tempfile::tempdir().expect("a directory");
        let settings = Settings {
            dir: state.path().join("spool"),
            sidecar: "one".to_owned(),
            sync: Sync::Batch,
            segment_bytes: 16 << 10,
            max_bytes: None,
        };
        let (log, _) = Log::open(settings, SigningKey::from_bytes(&[1; 32]), NOW).expect("a log");
        // Calls end late, some in another segment, some never.
        for call in 0..400_u64 {
            log.later(&record(Phase::Intent, call, 100));
            if let Some(ended) = call.checked_sub(call % 40).filter(|ended| call % 40 < 20 && *ended > 0) {
                log.later(&record(Phase::Outcome, ended - 1 - call % 40, 7));
            }
        }
        log.flush().expect("written");
        let expected = all(state.path());
        let segments = read::complete(&state.path().join("spool")).expect("segments");
        assert!(segments.len() > 5, "{segments:?}");
        for (gone, range) in segments.iter().enumerate() {
            super::write(state.path(), *range.end(), Duration::from_secs(1)).expect("sums");
            // Not removed yet: nothing counts twice.
            assert_eq!(all(state.path()), expected, "before {gone}");
            let file = state.path().join("spool").join(format!("{:020}.ndjson", range.start()));
            std::fs::remove_file(file).expect("a segment");
            assert_eq!(all(state.path()), expected, "after {gone}");
        }
        log.close();
    }
}
