//! The first process of the PID namespace: gives up what it may do, for good, before it starts the command.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::process::{Gid, Signal, Uid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::outer::each_capability;
use super::{Doing, IsolateError, User, view};

/// Mounts the namespace's own `/proc` and gives up every privilege: capabilities, the ability to gain any, and system
/// calls that lead past the rules. What this process starts afterwards has none either. The caller must have no other
/// thread.
///
/// # Errors
/// What cannot be given up. The command must not be started then.
pub fn inner(user: Option<&User>) -> Result<(), IsolateError> {
    view::own_proc(user)?;
    clear_ambient_capability_set().doing("give up capabilities")?;
    for capability in each_capability() {
        match remove_capability_from_bounding_set(capability) {
            // The kernel does not know this one.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(why) => return Err(IsolateError::System { doing: "give up capabilities", why }),
        }
    }
    if let Some(user) = user {
        become_user(user).doing("change the user")?;
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .doing("give up capabilities")?;
    set_no_new_privs(true).doing("give up new privileges")?;
    // A change of user would have undone this.
    set_parent_process_death_signal(Some(Signal::KILL)).doing("end with the sidecar")?;
    let filter = filter().map_err(|error| IsolateError::Filter(error.to_string()))?;
    seccompiler::apply_filter(&filter).map_err(|error| IsolateError::Filter(error.to_string()))
}

fn become_user(user: &User) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// System calls that would lead past the rules: sockets of families that network namespaces do not hold (VSOCK reaches
/// the machine's host), the same through `io_uring`, the user's keyrings, which others share, and putting words into the
/// terminal.
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    /// Families that stay: UNIX, INET, INET6, NETLINK.
    const FAMILIES: [u64; 4] = [1, 2, 10, 16];
    const TIOCSTI: u64 = 0x5412;
    const TIOCLINUX: u64 = 0x541c;
    /// Marks calls by the x32 ABI, which have numbers of their own on x86-64.
    const X32: i64 = 0x4000_0000;
    let differs = |family: &u64| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *family);
    let is = |request: u64| SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request);
    let families = SeccompRule::new(FAMILIES.iter().map(differs).collect::<Result<_, _>>()?)?;
    let typing = vec![SeccompRule::new(vec![is(TIOCSTI)?])?, SeccompRule::new(vec![is(TIOCLINUX)?])?];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for abi in [0, X32] {
        rules.insert(libc::SYS_socket | abi, vec![families.clone()]);
        rules.insert(libc::SYS_socketpair | abi, vec![families.clone()]);
        for call in [libc::SYS_io_uring_setup, libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key] {
            rules.insert(call | abi, Vec::new());
        }
        rules.insert(libc::SYS_ioctl | abi, typing.clone());
    }
    // x32 has numbers of its own for a few calls, `ioctl` among them.
    rules.insert(514 | X32, typing);
    let refused = SeccompAction::Errno(Errno::PERM.raw_os_error().unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refused, std::env::consts::ARCH.try_into()?)?.try_into()
}
