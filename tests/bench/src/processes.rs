//! What a proxy costs beside the calls: its memory, and the time until it is ready.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::process::Memory;
use crate::run::Figures;
use crate::stats::median;
use crate::target::{Kind, Site, Target};

/// Memory of targets that have not done anything yet.
pub(crate) fn idle_memory(targets: &[Target]) -> Result<BTreeMap<Kind, Figures>> {
    memory(targets, |memory| {
        Figures::from([
            ("idle_rss_kib", memory.resident as f64),
            ("idle_anonymous_kib", memory.anonymous as f64),
        ])
    })
}

/// Memory of targets that have been under load.
pub(crate) fn loaded_memory(targets: &[Target]) -> Result<BTreeMap<Kind, Figures>> {
    memory(targets, |memory| {
        Figures::from([("loaded_rss_kib", memory.resident as f64), ("peak_rss_kib", memory.peak as f64)])
    })
}

/// Milliseconds from the start of a proxy until it is ready: the median of so many starts. The targets are ended,
/// and started anew one at a time.
pub(crate) fn ready_times(
    site: &Site,
    starts: usize,
    targets: Vec<Target>,
    notes: &mut Vec<String>,
) -> BTreeMap<Kind, Figures> {
    let proxies = targets.into_iter().filter(|target| target.process.is_some());
    let kinds: Vec<Kind> = proxies.map(|target| target.kind).collect();
    let mut times: BTreeMap<Kind, Vec<f64>> = BTreeMap::new();
    for kind in (0..starts).flat_map(|_| &kinds) {
        match site.start(*kind) {
            Ok(target) => times.entry(*kind).or_default().push(target.ready_ms),
            Err(error) => notes.push(format!("{} did not start again: {error:#}", kind.name())),
        }
    }
    let figures = |times| Figures::from_iter(median(times).map(|time| ("ready_ms", time)));
    times.into_iter().map(|(kind, times)| (kind, figures(times))).collect()
}

fn memory(targets: &[Target], figures: impl Fn(Memory) -> Figures) -> Result<BTreeMap<Kind, Figures>> {
    let running = targets.iter().filter_map(|target| Some((target.kind, target.process.as_ref()?)));
    running.map(|(kind, process)| Ok((kind, figures(process.memory()?)))).collect()
}
