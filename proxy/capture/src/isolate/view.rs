//! What the command sees of the file system: the host's, without the sidecar's state and the sockets of the host's
//! programs, and with the sidecar's authority among the roots that programs trust.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount,
};

use super::{Doing, IsolateError, PROC, Plan, User};

/// Where programs look for the system's roots (PEM), by distribution.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cert.pem",
];
/// Where Java looks for them.
const JAVA_STORES: [&str; 2] = ["/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts"];
/// Directories in which programs of the host open sockets at any time.
const SOCKET_PLACES: [&str; 10] = [
    "/run/containerd",
    "/run/crio",
    "/run/dbus",
    "/run/docker",
    "/run/nscd",
    "/run/podman",
    "/run/snapd",
    "/run/systemd",
    "/run/user",
    "/tmp/.X11-unix",
];
const RESOLVER: &str = "/etc/resolv.conf";
const RESOLVER_TEXT: &str = "# The sidecar answers, whatever address is asked.\nnameserver 127.0.0.1\n";
/// Devices that a root without capabilities may have: it owns the others too, disks among them.
const DEVICES: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"];
const DEVICE_DIRS: [&str; 3] = ["pts", "shm", "mqueue"];
/// Parts of /proc through which root governs the host, capabilities or not.
const PROC_READ_ONLY: [&str; 5] = ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

/// Arranges everything but `/proc`, which belongs to the PID namespace to come.
pub(super) fn arrange(plan: &Plan) -> Result<(), IsolateError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing("keep mounts to this namespace")?;
    for dir in &plan.hidden {
        empty(dir)?;
    }
    make_dir(&plan.trust)?;
    empty(&plan.trust)?;
    let put = |name: &str, bytes: &[u8]| {
        let path = plan.trust.join(name);
        write(&path, bytes).map(|()| path)
    };
    put("ca.crt", plan.authority.as_bytes())?;
    let bundle = put("bundle.pem", plan.bundle.as_bytes())?;
    let java = put("java.jks", &plan.java)?;
    let nothing = put("nothing", b"")?;
    let resolver = put("resolv.conf", RESOLVER_TEXT.as_bytes())?;
    // The path may be another file's here: the socket's own file system may be a container's.
    let is_socket =
        |path: &&PathBuf| fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    for path in plan.sockets.iter().filter(is_socket) {
        cover(&nothing, path)?;
    }
    for place in SOCKET_PLACES.iter().map(Path::new).filter(|place| place.is_dir()) {
        empty(place)?;
    }
    own_runtime_dir(plan.user.as_ref())?;
    for path in BUNDLES {
        cover(&bundle, Path::new(path))?;
    }
    for path in JAVA_STORES {
        cover(&java, Path::new(path))?;
    }
    resolve_here(&resolver)?;
    if is_root(plan.user.as_ref()) {
        few_devices(&plan.trust)?;
        read_only(Path::new("/sys"))?;
    }
    for dir in plan.hidden.iter().chain([&plan.trust]) {
        mount_remount(dir, MountFlags::BIND | MountFlags::RDONLY | EMPTY, "")
            .doing("close the sidecar's directory")?;
    }
    Ok(())
}

/// Mounts `/proc` for the PID namespace that this process is the first of.
pub(super) fn own_proc(user: Option<&User>) -> Result<(), IsolateError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).doing(PROC)?;
    if is_root(user) {
        for path in PROC_READ_ONLY.iter().map(Path::new).filter(|path| path.exists()) {
            read_only(path)?;
        }
    }
    Ok(())
}

/// Whether parts of `/proc` are covered, as containers have them: the kernel lets only the host's root mount it anew then.
pub(super) fn proc_is_masked() -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.any(|point| point.starts_with("/proc/") && point != "/proc/sys/fs/binfmt_misc")
}

/// Whether the command runs as the host's root.
fn is_root(user: Option<&User>) -> bool {
    user.map_or_else(|| rustix::process::geteuid().is_root(), |user| user.uid == 0)
}

const EMPTY: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// An empty directory in place of one.
fn empty(dir: &Path) -> Result<(), IsolateError> {
    if !dir.exists() {
        return Ok(());
    }
    mount("tmpfs", dir, "tmpfs", EMPTY, Some(c"size=8m,mode=0755")).doing("hide a directory")
}

/// A file in place of another, where there is one.
fn cover(with: &Path, path: &Path) -> Result<(), IsolateError> {
    match mount_bind(with, path) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(()),
        Err(why) => Err(IsolateError::File { doing: "cover", path: path.to_owned(), why: why.into() }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), IsolateError> {
    let failed = |why| IsolateError::File { doing: "write", path: path.to_owned(), why };
    fs::write(path, bytes).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).map_err(failed)
}

fn make_dir(dir: &Path) -> Result<(), IsolateError> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(|why| IsolateError::File {
        doing: "make",
        path: dir.to_owned(),
        why,
    })
}

/// The user's directory for run-time files exists, and is empty.
fn own_runtime_dir(user: Option<&User>) -> Result<(), IsolateError> {
    let parent = Path::new("/run/user");
    if !parent.is_dir() {
        return Ok(());
    }
    let (uid, gid) = user.map_or_else(
        || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        |user| (user.uid, user.gid),
    );
    let dir = parent.join(uid.to_string());
    let failed = |why| IsolateError::File { doing: "make", path: dir.clone(), why };
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
    chown(&dir, Some(uid), Some(gid)).map_err(failed)
}

/// The resolver's configuration names the sidecar, though its file may be a link into what is hidden now.
fn resolve_here(ours: &Path) -> Result<(), IsolateError> {
    let path = Path::new(RESOLVER);
    if path.exists() {
        return cover(ours, path);
    }
    let Ok(target) = fs::read_link(path) else { return Ok(()) };
    let target = Path::new("/etc").join(target);
    if let Some(dir) = target.parent() {
        make_dir(dir)?;
    }
    match fs::copy(ours, &target) {
        Ok(_) => Ok(()),
        // It lies outside of what is ours: programs ask 127.0.0.1 when they have no configuration.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            Ok(())
        }
        Err(why) => Err(IsolateError::File { doing: "write", path: target, why }),
    }
}

/// A `/dev` without the devices that root owns.
fn few_devices(scratch: &Path) -> Result<(), IsolateError> {
    let new = scratch.join("dev");
    make_dir(&new)?;
    mount("tmpfs", &new, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, Some(c"size=1m,mode=0755"))
        .doing("make a directory for devices")?;
    let old = Path::new("/dev");
    let failed = |path: PathBuf| move |why| IsolateError::File { doing: "make", path, why };
    for name in DEVICES.iter().filter(|name| old.join(name).exists()) {
        let path = new.join(name);
        if fs::symlink_metadata(old.join(name)).is_ok_and(|kind| kind.is_symlink()) {
            let target = fs::read_link(old.join(name)).map_err(failed(path.clone()))?;
            symlink(target, &path).map_err(failed(path))?;
            continue;
        }
        fs::write(&path, b"").map_err(failed(path.clone()))?;
        mount_bind(old.join(name), &path).doing("keep a device")?;
    }
    for name in DEVICE_DIRS.iter().filter(|name| old.join(name).is_dir()) {
        let path = new.join(name);
        make_dir(&path)?;
        mount_bind_recursive(old.join(name), &path).doing("keep devices")?;
    }
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        symlink(target, new.join(name)).map_err(failed(new.join(name)))?;
    }
    mount_bind_recursive(&new, old).doing("change devices")
}

/// Makes a directory or file, and whatever is mounted below it, read-only.
fn read_only(path: &Path) -> Result<(), IsolateError> {
    mount_bind_recursive(path, path).doing("close a part of the system")?;
    let table = fs::read_to_string("/proc/self/mountinfo").doing("read the mounts")?;
    let below = |line: &&str| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(path));
    for point in table.lines().filter(below).filter_map(|line| line.split(' ').nth(4)) {
        match mount_remount(point, MountFlags::BIND | MountFlags::RDONLY | EMPTY, "") {
            // Mounted over by another one.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(why) => return Err(IsolateError::System { doing: "close a part of the system", why }),
        }
    }
    Ok(())
}
