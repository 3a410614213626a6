//! The command in namespaces of its own. Three processes: this one starts `sideguard __outer`, which makes them; that one
//! starts `sideguard __inner`, the first process inside, which gives up its rights and starts the command.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;

use anyhow::Context;
use rustix::process::{Pid, WaitOptions, kill_process, wait};
use sideguard_capture::isolate::{self, Channel, Inside, IsolateError, Plan, Setup, User};
use sideguard_capture::java;
use sideguard_runtime::environment;
use tokio::process::{Child, Command};

use super::child::{self, Started, Variables};

/// What names this program's parts in its first argument.
pub(crate) const OUTER: &str = "__outer";
pub(crate) const INNER: &str = "__inner";
/// The program that runs, whatever its path leads to by now.
const SELF: &str = "/proc/self/exe";
/// The sidecar's ports inside.
const OUTBOUND: u16 = 4750;
/// Where the sidecar is for a command inside.
pub(crate) const AT: &str = "127.0.0.1:4750";
const DNS: u16 = 4753;
/// Where the sidecar's authority shows to the command, in a `/run` of its own.
pub(crate) const TRUST: &str = "/run/sideguard";
/// Where Java looks for roots, beside the JDKs in [`JDKS`].
const JAVA_STORES: [&str; 2] = ["/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts"];
/// Directories of JDKs.
const JDKS: &str = "/usr/lib/jvm";
const JDK_STORE: &str = "lib/security/cacerts";

/// Where a command's input comes from and what it writes goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// As for this program.
    Inherited,
    /// From and to this program, which alone sends it signals.
    Piped,
}

/// A namespace that waits for its command.
pub(crate) struct Space {
    channel: Channel,
    started: Started,
    user: Option<User>,
}

/// Makes the namespaces. `local` are ports of 127.0.0.1 that lead to the host's. The error says why there are none.
pub(crate) fn prepare(
    local: Vec<u16>,
    user: Option<User>,
    mut variables: Variables,
    ways: Ways,
) -> Result<(Space, Inside), String> {
    let (mut channel, end) = Channel::pair().map_err(|error| error.to_string())?;
    let mut command = Command::new(SELF);
    command.arg0("sideguard").args([OUTER, &end.as_raw_fd().to_string()]);
    if let Some(name) = user.as_ref().and_then(|user| name_of(user.uid)) {
        variables.extend([
            ("HOME".to_owned(), Some(name.home)),
            ("USER".to_owned(), Some(name.name.clone())),
            ("LOGNAME".to_owned(), Some(name.name)),
        ]);
    }
    child::set(&mut command, variables);
    if ways == Ways::Piped {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
    }
    let started = child::start(&mut command, "sideguard").map_err(|_| "it cannot start itself".to_owned())?;
    drop(end);
    let setup = Setup { outbound: OUTBOUND, dns: DNS, local };
    let inside = channel.set_up(&setup).map_err(|error| error.to_string())?;
    Ok((Space { channel, started, user }, inside))
}

impl Space {
    /// Runs the command to its end. Returns its exit status, and what the rules dropped meanwhile.
    pub(super) async fn run(
        mut self,
        command: &[String],
        state: &Path,
        authority: &str,
    ) -> anyhow::Result<(ExitCode, [u64; sideguard_capture::rules::DROPPED.len()])> {
        self.begin(command, state, authority)?;
        let code = self.started.wait().await;
        Ok((code, self.channel.dropped()))
    }

    /// Starts the command. Its namespace is there until the process that is returned has ended.
    pub(crate) fn start(
        mut self,
        command: &[String],
        state: &Path,
        authority: &str,
    ) -> anyhow::Result<(Child, Channel)> {
        self.begin(command, state, authority)?;
        Ok((self.started.into_child(), self.channel))
    }

    fn begin(&mut self, command: &[String], state: &Path, authority: &str) -> anyhow::Result<()> {
        let bundle = state.join("ca/bundle.pem");
        let bundle = std::fs::read_to_string(&bundle)
            .with_context(|| format!("cannot read `{}`", bundle.display()))?;
        let hidden = hidden(state).context("cannot hide the sidecar's state")?;
        let plan = Plan {
            command: command.to_vec(),
            user: self.user.clone(),
            hidden,
            trust: TRUST.into(),
            authority: authority.to_owned(),
            java: java::store(&bundle),
            java_stores: java_stores(),
            bundle,
            sockets: isolate::listening(),
        };
        Ok(self.channel.start(&plan)?)
    }
}

/// The directories that are hidden: with its own state those of other sidecars, which hold their keys. No link leads around
/// what is hidden, since the paths are the real ones.
fn hidden(state: &Path) -> std::io::Result<Vec<PathBuf>> {
    let common = environment::state_directory();
    let runs = common.join("runs");
    // What does not exist cannot be hidden from a command that waits for it. Where this user cannot make it, no sidecar of
    // this user's will.
    let _ = std::fs::create_dir_all(&runs);
    let mut hidden: Vec<PathBuf> = Vec::new();
    for dir in [&common, &runs, state] {
        let dir = match std::fs::canonicalize(dir) {
            Ok(dir) => dir,
            Err(_) if dir != state => continue,
            Err(error) => return Err(error),
        };
        if !hidden.iter().any(|known| dir.starts_with(known)) {
            hidden.retain(|known| !known.starts_with(&dir));
            hidden.push(dir);
        }
    }
    Ok(hidden)
}

fn java_stores() -> Vec<PathBuf> {
    let home = environment::variable("JAVA_HOME").map(|home| PathBuf::from(home).join(JDK_STORE));
    let own = environment::variable("HOME").map(|home| PathBuf::from(home).join(".sdkman/candidates/java"));
    let jdks = [Some(PathBuf::from(JDKS)), own].into_iter().flatten();
    let within = jdks.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let within = within.map(|jdk| jdk.path().join(JDK_STORE));
    JAVA_STORES.iter().map(PathBuf::from).chain(home).chain(within).collect()
}

/// `sideguard __outer`: makes the namespaces and waits for the command.
pub(crate) fn outer(end: &str) -> ExitCode {
    let Ok(end) = end.parse() else { return ExitCode::from(2) };
    if let Err(error) = close_inherited(end) {
        return crate::report(&error, 125);
    }
    let left = adopt(end).and_then(|channel| Ok(isolate::outer(channel)?));
    let outer = match left {
        Ok(outer) => outer,
        // The sidecar tells it, or is gone.
        Err(error) => {
            return match error.downcast_ref::<IsolateError>() {
                Some(IsolateError::Channel(_)) => ExitCode::from(125),
                _ => crate::report(&error, 125),
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return crate::report(&error.into(), 125),
    };
    let plan = outer.plan();
    let user = serde_json::to_string(&plan.user).unwrap_or_default();
    let code = runtime.block_on(async {
        let mut command = Command::new(SELF);
        command.arg0("sideguard").args([INNER, &user]).args(&plan.command);
        match child::start(&mut command, "sideguard") {
            Ok(started) => started.wait().await,
            Err(code) => code,
        }
    });
    outer.finish();
    code
}

/// Closes what was inherited that leads out or beneath what is hidden: sockets, directories, devices and whatever else is
/// neither file, pipe nor terminal. `end` and the three standard ones stay.
fn close_inherited(end: i32) -> anyhow::Result<()> {
    let listed = std::fs::read_dir("/proc/self/fd")?;
    let numbers = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.collect::<Vec<i32>>() {
        let link = format!("/proc/self/fd/{number}");
        let Ok(file) = std::fs::metadata(&link) else { continue };
        let kind = file.file_type();
        // From a directory that is open, `..` leads to all that is hidden.
        anyhow::ensure!(number > 2 || !kind.is_dir(), "descriptor {number} is a directory");
        let terminal = kind.is_char_device()
            && std::fs::read_link(&link)
                .is_ok_and(|path| path.starts_with("/dev/pts") || path.ends_with("null"));
        if number > 2 && number != end && !kind.is_file() && !kind.is_fifo() && !terminal {
            close(number);
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "a descriptor that was inherited can only be closed by its number")]
fn close(number: i32) {
    // SAFETY: nothing in this process has opened or uses it: it was inherited.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
}

#[expect(unsafe_code, reason = "a descriptor that was inherited can only be adopted by its number")]
fn adopt(end: i32) -> anyhow::Result<Channel> {
    // SAFETY: `prepare` hands this descriptor on to this process and to nothing else in it.
    let end = unsafe { OwnedFd::from_raw_fd(end) };
    Ok(Channel::inherited(end)?)
}

/// `sideguard __inner`: the first process of the PID namespace. It starts the command and takes in whatever is left
/// without a parent.
pub(crate) fn inner(user: &str, command: &[String]) -> ExitCode {
    let given_up = serde_json::from_str::<Option<User>>(user)
        .map_err(anyhow::Error::from)
        .and_then(|user| Ok(isolate::inner(user.as_ref())?));
    if let Err(error) = given_up {
        return crate::report(&error, 125);
    }
    let Some((program, arguments)) = command.split_first() else { return ExitCode::from(125) };
    let (ready, listens) = mpsc::sync_channel(1);
    let (send, receive) = mpsc::sync_channel(1);
    std::thread::spawn(move || forward(&ready, &receive));
    if listens.recv().is_err() {
        return ExitCode::from(125);
    }
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    // Signals to its own group then stay its own. On a terminal the shell's job control needs the group as it is.
    if std::fs::File::open("/dev/tty").is_err() {
        command.process_group(0);
    }
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return child::not_started(program, &error),
    };
    let own = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(own) = own {
        // The thread lives as long as this process.
        let _ = send.send(own);
    }
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == own => {
                let code =
                    status.exit_status().or_else(|| Some(status.terminating_signal()?.saturating_add(128)));
                return ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return ExitCode::from(125),
        }
    }
}

/// Passes signals on to the command.
fn forward(ready: &mpsc::SyncSender<()>, command: &mpsc::Receiver<Pid>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    runtime.block_on(async {
        let (_listeners, mut signals) = child::listen();
        // Until it is told the command, signals wait in the listeners.
        if ready.send(()).is_err() {
            return;
        }
        let Ok(command) = command.recv() else { return };
        while let Some(number) = signals.recv().await {
            // It may have ended in the meantime.
            let _ = kill_process(command, number);
        }
    });
}

/// What `/etc/passwd` says of a user.
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

fn accounts() -> Vec<Account> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let account = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, _] = *fields.as_slice() else { return None };
        Some(Account {
            name: name.to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: home.to_owned(),
        })
    };
    text.lines().filter_map(account).collect()
}

fn name_of(uid: u32) -> Option<Account> {
    accounts().into_iter().find(|account| account.uid == uid)
}

/// The user that the command runs as when root runs this: the named one, else whoever called `sudo`. `None` is root itself,
/// or nobody else where no root runs this.
///
/// # Errors
/// When there is no such user, or nobody but root could become one.
pub(crate) fn user(named: Option<&str>) -> Result<Option<User>, String> {
    let root = rustix::process::geteuid().is_root();
    let Some(named) = named else {
        let number = |name| environment::variable(name).and_then(|value| value.parse().ok());
        let (uid, gid) = (number("SUDO_UID"), number("SUDO_GID"));
        return Ok(match (root, uid, gid) {
            (true, Some(uid), Some(gid)) if uid != 0 => Some(User { uid, gid, groups: groups_of(uid) }),
            _ => None,
        });
    };
    if !root {
        return Err("--user: only root can run the command as somebody else".to_owned());
    }
    let (uid, gid) = match named.split_once(':') {
        Some((uid, gid)) => (uid.parse().ok(), gid.parse().ok()),
        None => {
            let account = match named.parse() {
                Ok(uid) => name_of(uid),
                Err(_) => accounts().into_iter().find(|account| account.name == named),
            };
            let account =
                account.ok_or_else(|| format!("--user: there is no user `{named}` in /etc/passwd"))?;
            (Some(account.uid), Some(account.gid))
        }
    };
    let (Some(uid), Some(gid)) = (uid, gid) else {
        return Err(format!("--user: `{named}` is neither NAME, UID nor UID:GID"));
    };
    Ok(Some(User { uid, gid, groups: groups_of(uid) }))
}

/// The groups of a user, as `/etc/group` has them.
fn groups_of(uid: u32) -> Vec<u32> {
    let Some(account) = name_of(uid) else { return Vec::new() };
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = *fields.as_slice() else { return None };
        members.split(',').any(|member| member == account.name).then(|| gid.parse().ok())?
    };
    text.lines().filter_map(group).collect()
}
