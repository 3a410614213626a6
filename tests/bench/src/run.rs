//! The whole measurement: every case over every target, in rounds that take turns.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::decisions::{self, Decision};
use crate::load::{Load, Seen};
use crate::model::Case;
use crate::process;
use crate::processes;
use crate::stats::{median, percentile};
use crate::target::{Kind, LOAD_CORE, Programs, Site, Target};

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Rounds, of which the median counts.
    pub(crate) rounds: usize,
    /// Time of one measurement.
    pub(crate) time: Duration,
    /// Requests a second, for latencies, when the machine carries them.
    pub(crate) rate: u64,
    /// Keep-alive connections to each target.
    pub(crate) connections: usize,
    /// Starts of each proxy, for the time until it is ready.
    pub(crate) starts: usize,
    /// Runs everything in the real-time class.
    pub(crate) realtime: bool,
    /// Keeps the cores from going to sleep.
    pub(crate) awake: bool,
    /// Directory for configurations, certificates and logs.
    pub(crate) directory: PathBuf,
}

/// One figure of each kind by name, in the unit that ends the name.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// By target: time until ready and memory.
    pub(crate) processes: BTreeMap<Kind, Figures>,
    /// The cases.
    pub(crate) cases: Vec<CaseFindings>,
    /// Speed of the policy engine by itself.
    pub(crate) decisions: Vec<Decision>,
    /// What could not be measured, and why.
    pub(crate) notes: Vec<String>,
}

/// What was found of one case.
#[derive(Debug)]
pub(crate) struct CaseFindings {
    /// The case.
    pub(crate) case: Case,
    /// Requests a second at which latencies were taken.
    pub(crate) rate: u64,
    /// By target: medians of the rounds.
    pub(crate) targets: BTreeMap<Kind, Figures>,
}

/// Figures by round and target.
type Rounds = Vec<BTreeMap<Kind, Figures>>;

/// Measures everything that can be started; what cannot is noted.
pub(crate) async fn run(plan: &Plan, programs: Programs) -> Result<Findings> {
    process::stay_on(LOAD_CORE)?;
    if plan.realtime {
        process::go_before_all_else()?;
    }
    let decide_speed = programs.decide_speed.clone();
    let site = Site::open(plan.directory.clone(), programs)?;
    let _spinning = if plan.awake { site.keep_awake()? } else { Vec::new() };
    let mut findings = Findings::default();
    let targets = start_all(&site, &mut findings.notes);
    tokio::time::sleep(Duration::from_millis(500)).await;
    findings.processes = processes::idle_memory(&targets)?;
    for case in Case::ALL {
        eprintln!("measuring {}", case.name());
        let found = measure(plan, case, &targets, &mut findings.notes).await?;
        findings.cases.push(found);
    }
    extend(&mut findings.processes, processes::loaded_memory(&targets)?);
    let ready = processes::ready_times(&site, plan.starts, targets, &mut findings.notes);
    extend(&mut findings.processes, ready);
    if let Some(program) = decide_speed {
        match decisions::measure(&program, &plan.directory).await {
            Ok(found) => findings.decisions = found,
            Err(error) => findings.notes.push(format!("decisions are not measured: {error:#}")),
        }
    }
    findings.notes.sort();
    findings.notes.dedup();
    Ok(findings)
}

fn start_all(site: &Site, notes: &mut Vec<String>) -> Vec<Target> {
    let mut targets = Vec::new();
    for kind in Kind::ALL {
        match site.start(kind) {
            Ok(target) => targets.push(target),
            Err(error) => notes.push(format!("{} is not measured: {error:#}", kind.name())),
        }
    }
    targets
}

/// One case over all targets.
async fn measure(
    plan: &Plan,
    case: Case,
    targets: &[Target],
    notes: &mut Vec<String>,
) -> Result<CaseFindings> {
    let mut loads = Vec::new();
    for target in targets {
        match Load::open(target.door(case), target.request(case), plan.connections).await {
            Ok(load) => loads.push((target, load)),
            Err(error) => {
                notes.push(format!("{} over {} is not measured: {error:#}", case.name(), target.kind.name()));
            }
        }
    }
    ensure!(loads.iter().any(|(target, _)| target.kind == Kind::Direct), "the model itself does not answer");
    let mut saturated = Rounds::new();
    for round in 0..plan.rounds {
        let mut figures = BTreeMap::new();
        for (target, load) in in_turn(&mut loads, round) {
            let found = saturate(target, load, plan.time, notes).await;
            keep(target.kind, found, &mut figures, notes);
        }
        saturated.push(figures);
    }
    let rate = carried_rate(plan.rate, case, &saturated);
    let mut paced = Rounds::new();
    for round in 0..plan.rounds {
        let mut figures = BTreeMap::new();
        for (target, load) in in_turn(&mut loads, round) {
            let found = pace(target, load, case, rate, plan.time, notes).await;
            keep(target.kind, found, &mut figures, notes);
        }
        add_differences(&mut figures);
        paced.push(figures);
    }
    let mut targets = medians(&saturated);
    note_shared_cores(case, &targets, notes);
    extend(&mut targets, medians(&paced));
    Ok(CaseFindings { case, rate, targets })
}

/// A target that breaks down is noted; the others are still measured.
fn keep(kind: Kind, found: Result<Figures>, figures: &mut BTreeMap<Kind, Figures>, notes: &mut Vec<String>) {
    match found {
        Ok(found) => drop(figures.insert(kind, found)),
        Err(error) => notes.push(format!("{} broke down: {error:#}", kind.name())),
    }
}

/// Each round starts with another target, so that none is always the first or after the same one.
fn in_turn<T>(items: &mut [T], round: usize) -> impl Iterator<Item = &mut T> {
    let first = round % items.len().max(1);
    let (before, after) = items.split_at_mut(first);
    after.iter_mut().chain(before)
}

/// As many requests as the proxy can take.
async fn saturate(
    target: &Target,
    load: &mut Load,
    time: Duration,
    notes: &mut Vec<String>,
) -> Result<Figures> {
    load.closed(time / 6).await?;
    let (seen, cpu) = with_cpu(target, load.closed(time)).await?;
    note_failures(target, &seen, notes);
    let requests = seen.latencies.len().max(1) as f64;
    let mut figures = Figures::from([("requests_per_second", requests / seen.span as f64 * 1e9)]);
    if let Some(cpu) = cpu {
        figures.insert("cpu_us_per_request", cpu / 1e3 / requests);
        figures.insert("core_busy_percent", cpu / seen.span as f64 * 100.0);
    }
    Ok(figures)
}

/// Requests at fixed moments.
async fn pace(
    target: &Target,
    load: &mut Load,
    case: Case,
    rate: u64,
    time: Duration,
    notes: &mut Vec<String>,
) -> Result<Figures> {
    let (mut seen, cpu) = with_cpu(target, load.paced(rate, time)).await?;
    note_failures(target, &seen, notes);
    let mut figures = Figures::new();
    let requests = seen.latencies.len().max(1) as f64;
    if let Some(cpu) = cpu {
        figures.insert("paced_cpu_us_per_request", cpu / 1e3 / requests);
    }
    let mut add = |name, values: &mut [u64], part| {
        if let Some(value) = percentile(values, part) {
            figures.insert(name, value as f64 / 1e3);
        }
    };
    if case == Case::Stream {
        add("first_p50_us", &mut seen.firsts, 0.5);
        add("first_p99_us", &mut seen.firsts, 0.99);
        add("chunk_p50_us", &mut seen.delays, 0.5);
        add("chunk_p99_us", &mut seen.delays, 0.99);
    } else {
        add("p50_us", &mut seen.latencies, 0.5);
        add("p99_us", &mut seen.latencies, 0.99);
    }
    Ok(figures)
}

/// What `work` gives, and the nanoseconds of CPU that the target's process used meanwhile.
async fn with_cpu(target: &Target, work: impl Future<Output = Result<Seen>>) -> Result<(Seen, Option<f64>)> {
    let cpu = || target.process.as_ref().map(process::Process::cpu).transpose();
    let before = cpu()?;
    let seen = work.await?;
    let used = cpu()?.zip(before).map(|(after, before)| after.since(before) as f64);
    Ok((seen, used))
}

fn note_failures(target: &Target, seen: &Seen, notes: &mut Vec<String>) {
    if let Some(failure) = &seen.failure {
        notes.push(format!("{}: {} requests failed ({failure})", target.kind.name(), seen.failures));
    }
}

/// Requests a second compare only when each proxy had its core to itself. Streams leave it idle anyway.
fn note_shared_cores(case: Case, targets: &BTreeMap<Kind, Figures>, notes: &mut Vec<String>) {
    // The kernel keeps a twentieth back from the real-time class.
    const MOSTLY: f64 = 90.0;
    for (kind, figures) in targets.iter().filter(|_| case != Case::Stream) {
        if let Some(busy) = figures.get("core_busy_percent").filter(|busy| **busy < MOSTLY) {
            let (case, name) = (case.name(), kind.name());
            notes.push(format!(
                "{case}: {name} ran for only {busy:.0} % of the time: its requests/s are too few"
            ));
        }
    }
}

/// The wanted rate, or what leaves the slowest target two fifths of its time. Streams are few: each lasts long.
fn carried_rate(wanted: u64, case: Case, saturated: &Rounds) -> u64 {
    let wanted = if case == Case::Stream { wanted / 20 } else { wanted };
    let slowest = medians(saturated)
        .values()
        .filter_map(|figures| figures.get("requests_per_second").copied())
        .fold(f64::INFINITY, f64::min);
    let carried = (slowest * 0.6) as u64 / 50 * 50;
    wanted.min(carried).max(10)
}

/// Adds to each target's figures of a round what it has over those of the model itself.
fn add_differences(round: &mut BTreeMap<Kind, Figures>) {
    const DIFFERENCES: [(&str, &str); 6] = [
        ("p50_us", "added_p50_us"),
        ("p99_us", "added_p99_us"),
        ("first_p50_us", "added_first_p50_us"),
        ("first_p99_us", "added_first_p99_us"),
        ("chunk_p50_us", "added_chunk_p50_us"),
        ("chunk_p99_us", "added_chunk_p99_us"),
    ];
    let direct = round.get(&Kind::Direct).cloned().unwrap_or_default();
    for (_, figures) in round.iter_mut().filter(|(kind, _)| **kind != Kind::Direct) {
        for (name, added) in DIFFERENCES {
            if let (Some(with), Some(without)) = (figures.get(name), direct.get(name)) {
                figures.insert(added, with - without);
            }
        }
    }
}

fn extend(all: &mut BTreeMap<Kind, Figures>, further: BTreeMap<Kind, Figures>) {
    for (kind, figures) in further {
        all.entry(kind).or_default().extend(figures);
    }
}

fn medians(rounds: &Rounds) -> BTreeMap<Kind, Figures> {
    let mut values: BTreeMap<Kind, BTreeMap<&'static str, Vec<f64>>> = BTreeMap::new();
    for (kind, figures) in rounds.iter().flatten() {
        for (name, value) in figures {
            values.entry(*kind).or_default().entry(name).or_default().push(*value);
        }
    }
    let middle = |figures: BTreeMap<_, _>| {
        figures.into_iter().filter_map(|(name, values)| Some((name, median(values)?))).collect()
    };
    values.into_iter().map(|(kind, figures)| (kind, middle(figures))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Case, Figures, Kind, add_differences, carried_rate, in_turn, medians};

    fn round(direct: f64, hyper: f64) -> BTreeMap<Kind, Figures> {
        BTreeMap::from([
            (Kind::Direct, Figures::from([("p50_us", direct)])),
            (Kind::Hyper, Figures::from([("p50_us", hyper)])),
        ])
    }

    #[test]
    fn what_is_added_is_told_from_the_same_round() {
        let mut rounds = vec![round(100.0, 150.0), round(900.0, 940.0), round(100.0, 160.0)];
        rounds.iter_mut().for_each(add_differences);
        assert_eq!(medians(&rounds)[&Kind::Hyper]["added_p50_us"], 50.0);
        assert_eq!(medians(&rounds)[&Kind::Direct].get("added_p50_us"), None);
    }

    #[test]
    fn a_slow_target_lowers_the_rate_for_all() {
        let rounds = |slowest| {
            let figures = |rps| Figures::from([("requests_per_second", rps)]);
            vec![BTreeMap::from([(Kind::Direct, figures(9_000.0)), (Kind::Envoy, figures(slowest))])]
        };
        assert_eq!(carried_rate(2_000, Case::Chat1k, &rounds(8_000.0)), 2_000);
        assert_eq!(carried_rate(2_000, Case::Chat1k, &rounds(1_000.0)), 600);
        assert_eq!(carried_rate(2_000, Case::Stream, &rounds(8_000.0)), 100);
    }

    #[test]
    fn every_target_is_first_once() {
        let firsts: Vec<_> = (0..3).map(|round| *in_turn(&mut [1, 2, 3], round).next().unwrap()).collect();
        assert_eq!(firsts, [1, 2, 3]);
        assert_eq!(in_turn(&mut [1, 2, 3], 2).map(|item| *item).collect::<Vec<_>>(), [3, 1, 2]);
    }
}
