//! `up` in the background, and its end. Whoever runs holds a lock on the file with its process id: a number that is left
//! behind by a crash means nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, setsid};
use sideguard_runtime::environment;

/// Name of the file in the state directory.
const FILE: &str = "up.pid";
/// Name of the log of one that runs in the background.
pub(super) const LOG: &str = "up.log";
/// Flag of the process in the background.
pub(super) const DETACHED: &str = "--in-background";
/// Lines that say where it is.
pub(super) const LINES: usize = 2;
/// Longest time that an end may take.
const END: Duration = Duration::from_secs(20);

/// The claim of a process on its state directory.
pub(super) struct Running(#[expect(dead_code, reason = "the lock is held as long as the file is open")] File);

/// Claims a state directory.
pub(super) fn claim(state: &Path) -> anyhow::Result<Running> {
    std::fs::create_dir_all(state).with_context(|| format!("cannot make `{}`", state.display()))?;
    let path = state.join(FILE);
    let failed = || format!("cannot use `{}`", path.display());
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("it is up already in `{}`: `sideguard down` ends it", state.display())
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
    }
    file.set_len(0).and_then(|()| file.rewind()).with_context(failed)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).with_context(failed)?;
    Ok(Running(file))
}

/// Becomes the leader of a session of its own: the terminal's end is not its end.
pub(super) fn detach() -> anyhow::Result<()> {
    setsid().map(drop).context("cannot leave the terminal")
}

/// Starts `up` in the background and waits until it is ready; prints where it is.
pub(super) fn start(state: &Path) -> anyhow::Result<ExitCode> {
    // Told here, and not only in the log, when one runs already.
    drop(claim(state)?);
    let log = state.join(LOG);
    let file = File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
    let own = environment::own_arguments().filter(|word| word != "--detach" && word != "-d");
    let mut child = Command::new(std::env::current_exe().context("own program")?)
        .args(own)
        .arg(DETACHED)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .context("cannot start")?;
    let out = child.stdout.take().context("its output")?;
    let lines: Vec<String> = BufReader::new(out).lines().take(LINES).collect::<Result<_, _>>()?;
    if lines.len() < LINES {
        let status = child.wait().context("its end")?;
        let mut why = String::new();
        // Whatever can be read of it.
        let _ = File::open(&log).map(|mut file| file.read_to_string(&mut why));
        eprint!("{why}");
        return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(125)));
    }
    for line in lines {
        println!("{line}");
    }
    println!("sideguard: log {}", log.display());
    Ok(ExitCode::SUCCESS)
}

/// Ends what is up in a state directory and waits for that.
pub(super) fn end(state: &Path) -> anyhow::Result<ExitCode> {
    let path = state.join(FILE);
    let nothing = || {
        eprintln!("sideguard: nothing is up in `{}`", state.display());
        Ok(ExitCode::from(1))
    };
    let Ok(mut file) = File::open(&path) else { return nothing() };
    if file.try_lock().is_ok() {
        return nothing();
    }
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("cannot read `{}`", path.display()))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("`{}` holds no process id", path.display()))?;
    kill_process(pid, Signal::TERM).context("cannot end it")?;
    const LOOK: Duration = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while file.try_lock().is_err() {
        if waited >= END {
            bail!("process {} does not end: look at `{}`", text.trim(), state.join(LOG).display());
        }
        std::thread::sleep(LOOK);
        waited = waited.saturating_add(LOOK);
    }
    println!("sideguard: down");
    Ok(ExitCode::SUCCESS)
}
