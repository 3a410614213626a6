//! The middle process: makes the namespaces and keeps them.

use std::fs;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rustix::io::Errno;
use rustix::process::{Signal, getegid, geteuid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, UnshareFlags, capabilities, configure_capability_in_ambient_set, set_capabilities,
    unshare_unsafe,
};

use super::{Channel, ChannelError, Doing, IsolateError, NAMESPACES, PROC, Plan, network, view};
use crate::isolate::channel::Opened;
use crate::rules;

/// The middle process, once the namespaces are made.
pub struct Outer {
    channel: Channel,
    plan: Plan,
    /// Waits to be told to read the counters: the other thread can start no process once the command's are over.
    counters: (SyncSender<()>, JoinHandle<[u64; rules::DROPPED.len()]>),
}

/// Makes the namespaces that the sidecar asks for and hands its ports back, then waits for the plan and arranges what
/// the command will see. The next process that this thread starts is the first of a new PID namespace and runs
/// [`inner`](super::inner). The caller must have no other thread.
///
/// # Errors
/// What cannot be done here. Failures up to the handing over are told to the sidecar as well.
pub fn outer(mut channel: Channel) -> Result<Outer, IsolateError> {
    set_parent_process_death_signal(Some(Signal::KILL)).doing("end with the sidecar")?;
    let setup = channel.hear()?;
    let made = namespaces().and_then(|()| network::set_up(&setup));
    match made {
        Ok(inside) => channel.open(&inside)?,
        Err(error) => {
            let told = error.to_string();
            channel.say(&Opened::Failed(told.clone()))?;
            return Err(ChannelError::Told(told).into());
        }
    }
    let plan: Plan = channel.hear()?;
    let here = std::env::current_dir().doing("tell the working directory")?;
    view::arrange(&plan)?;
    // The old one may lie below what is hidden now: the way there is gone again from the top.
    std::env::set_current_dir(&here).map_err(|why| IsolateError::File {
        doing: "work in a directory that is hidden from the command:",
        path: here,
        why,
    })?;
    let (ask, asked) = sync_channel(1);
    let counting = std::thread::spawn(move || {
        // Also when nobody asks any more: then nobody hears either.
        let _ = asked.recv();
        rules::counters().unwrap_or_default()
    });
    unshare(UnshareFlags::NEWPID)?;
    Ok(Outer { channel, plan, counters: (ask, counting) })
}

impl Outer {
    /// What the command is.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Tells the sidecar what the rules have dropped. To be called when the command has ended.
    pub fn finish(mut self) {
        let (ask, counting) = self.counters;
        let dropped = ask.send(()).ok().and_then(|()| counting.join().ok()).unwrap_or_default();
        // The sidecar may have ended before.
        let _ = self.channel.say(&dropped);
    }
}

fn namespaces() -> Result<(), IsolateError> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        return unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWIPC);
    }
    if view::proc_is_masked() {
        return Err(IsolateError::System { doing: PROC, why: Errno::PERM });
    }
    unshare(UnshareFlags::NEWUSER)?;
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{0} {0} 1", uid.as_raw())),
        ("/proc/self/gid_map", format!("{0} {0} 1", gid.as_raw())),
    ] {
        fs::write(file, text).map_err(|why| IsolateError::File {
            doing: "map the user in",
            path: file.into(),
            why,
        })?;
    }
    unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWIPC)?;
    // The user is not root inside: what it executes has these capabilities only when they are ambient.
    let all = capabilities(None).doing("read capabilities")?;
    let mut sets = all;
    sets.inheritable = all.permitted;
    set_capabilities(None, sets).doing("hand on capabilities")?;
    for capability in all.permitted.iter() {
        configure_capability_in_ambient_set(capability, true).doing("hand on capabilities")?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "unsafe only with FILES, which no caller here passes")]
fn unshare(flags: UnshareFlags) -> Result<(), IsolateError> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: descriptors stay shared between threads.
    unsafe { unshare_unsafe(flags) }.doing(NAMESPACES)
}

/// Every capability that the kernel knows, one by one.
pub(super) fn each_capability() -> impl Iterator<Item = CapabilitySet> {
    (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit))
}
