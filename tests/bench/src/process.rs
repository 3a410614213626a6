//! A process under measurement: started on one core, looked at through `/proc`, ended by its id.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Nanoseconds of one tick in which `/proc/PID/stat` counts: Linux fixes it at 1/100 s for user space.
const TICK: u64 = 10_000_000;

/// A running process.
pub(crate) struct Process(Child);

/// CPU time that a process has used, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// Sum over the threads that live now: exact.
    threads: u64,
    /// Of all threads that ever lived: whole ticks.
    whole: u64,
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident: u64,
    /// Of that, not backed by a file.
    pub(crate) anonymous: u64,
    /// Most that was ever resident.
    pub(crate) peak: u64,
}

impl Process {
    /// Starts `command` on `core`, its output in the file `log`.
    pub(crate) fn start(mut command: Command, core: usize, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot write `{}`", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A child has the affinity of the thread that starts it, so all of its threads have it from the first
        // moment on.
        let own = sched_getaffinity(None)?;
        stay_on(core)?;
        let child = command.spawn();
        sched_setaffinity(None, &own)?;
        child.map(Self).with_context(|| format!("cannot start `{}`", command.get_program().display()))
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let mut threads = 0;
        for thread in fs::read_dir(self.file("task"))? {
            // A thread may end while the list is read.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            threads += number(text.split_ascii_whitespace().next());
        }
        let stat = fs::read_to_string(self.file("stat"))?;
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let mut fields = after_name.split_ascii_whitespace().skip(11);
        let ticks = number(fields.next()) + number(fields.next());
        Ok(Cpu { threads, whole: ticks * TICK })
    }

    /// Memory in use.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(self.file("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            number(line.and_then(|line| line.split_ascii_whitespace().next()))
        };
        Ok(Memory { resident: field("VmRSS"), anonymous: field("RssAnon"), peak: field("VmHWM") })
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0.id())
    }
}

impl Drop for Process {
    /// Ends the process at once: no stand-in may outlive a run that failed.
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Cpu {
    /// CPU time from `earlier` to this: exact, unless threads have ended meanwhile and taken more with them than
    /// the ticks are unsure of.
    pub(crate) fn since(self, earlier: Self) -> u64 {
        let threads = self.threads.saturating_sub(earlier.threads);
        let whole = self.whole.saturating_sub(earlier.whole);
        if whole > threads + 2 * TICK { whole } else { threads }
    }
}

/// Keeps the calling thread, and what it starts from now on, on one core.
pub(crate) fn stay_on(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on core `{core}`"))
}

/// Puts the calling process, and what it starts from now on, in the real-time class.
pub(crate) fn go_before_all_else() -> Result<()> {
    let own = std::process::id().to_string();
    let status = Command::new("chrt").args(["--fifo", "--pid", "10", &own]).status();
    let allowed = status.context("cannot start `chrt`")?.success();
    ensure!(allowed, "the real-time class is not permitted: leave `--realtime` out, or run as root");
    Ok(())
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Cpu, TICK};

    #[test]
    fn cpu_time_is_exact_while_threads_live() {
        let earlier = Cpu { threads: 100, whole: 0 };
        assert_eq!(Cpu { threads: 5_000_100, whole: TICK }.since(earlier), 5_000_000);
    }

    #[test]
    fn the_time_of_ended_threads_is_not_lost() {
        let earlier = Cpu { threads: 9 * TICK, whole: 9 * TICK };
        assert_eq!(Cpu { threads: 2 * TICK, whole: 20 * TICK }.since(earlier), 11 * TICK);
    }
}
