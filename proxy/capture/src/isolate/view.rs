//! What the command sees of the file system: the host's, without the sidecar's state and the sockets of the host's
//! programs, and with the sidecar's authority among the roots that programs trust.

use std::fs;
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
/// What of `/run` programs need that holds no sockets: where distributions keep programs and libraries, and locks.
const RUN_KEPT: [&str; 7] =
    ["booted-system", "current-system", "lock", "opengl-driver", "opengl-driver-32", "shm", "wrappers"];
/// Other directories in which programs of the host open sockets at any time.
const SOCKET_PLACES: [&str; 2] = ["/var/run", "/tmp/.X11-unix"];
/// File systems through which root governs the host wherever they are mounted, capabilities or not.
const GOVERNING: [&str; 13] = [
    "bpf",
    "binfmt_misc",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devtmpfs",
    "efivarfs",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];
const RESOLVER: &str = "/etc/resolv.conf";
const RESOLVER_TEXT: &str = "# The sidecar answers, whatever address is asked.\nnameserver 127.0.0.1\n";
/// Devices that a root without capabilities may have: it owns the others too, disks among them.
const DEVICES: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"];
const DEVICE_DIRS: [&str; 3] = ["pts", "shm", "mqueue"];
/// A file for the terminal to stand on.
const CONSOLE: &str = "console";
/// Parts of /proc through which root governs the host, capabilities or not.
const PROC_READ_ONLY: [&str; 5] = ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

/// Arranges everything but `/proc`, which belongs to the PID namespace to come.
pub(super) fn arrange(plan: &Plan) -> Result<(), IsolateError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing("keep mounts to this namespace")?;
    for dir in &plan.hidden {
        empty(dir)?;
    }
    let scratch = plan.hidden.first().map_or(Path::new("/run"), PathBuf::as_path);
    own_run(scratch, plan.user.as_ref())?;
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
    for place in SOCKET_PLACES.iter().map(Path::new).filter(|place| place.is_dir() && !place.is_symlink()) {
        empty(place)?;
    }
    for path in BUNDLES {
        cover(&bundle, Path::new(path))?;
    }
    for path in plan.java_stores.iter().filter(|path| path.is_file()) {
        cover(&java, path)?;
    }
    resolve_here(&resolver)?;
    if is_root(plan.user.as_ref()) {
        few_devices(scratch)?;
        close_governing(&nothing)?;
    }
    own_terminals()?;
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

/// A `/run` of its own, with what programs need of the host's and an empty directory for the user's run-time files.
fn own_run(scratch: &Path, user: Option<&User>) -> Result<(), IsolateError> {
    let new = scratch.join("run");
    make_dir(&new)?;
    empty(&new)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |why| IsolateError::File { doing: "make", path, why }
    };
    for name in RUN_KEPT {
        let (old, path) = (Path::new("/run").join(name), new.join(name));
        if let Ok(target) = fs::read_link(&old) {
            symlink(target, &path).map_err(failed(&path))?;
        } else if old.is_dir() {
            make_dir(&path)?;
            mount_bind_recursive(&old, &path).doing("keep a part of /run")?;
        }
    }
    let (uid, gid) = user.map_or_else(
        || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        |user| (user.uid, user.gid),
    );
    make_dir(&new.join("user"))?;
    let own = new.join("user").join(uid.to_string());
    fs::DirBuilder::new().mode(0o700).create(&own).map_err(failed(&own))?;
    chown(&own, Some(uid), Some(gid)).map_err(failed(&own))?;
    mount_bind_recursive(&new, "/run").doing("change /run")
}

/// Terminals of its own: those of the user's other sessions are out of reach. The one that it is on stays, as `/dev/console`.
fn own_terminals() -> Result<(), IsolateError> {
    let terminals = Path::new("/dev/pts");
    if !terminals.is_dir() {
        return Ok(());
    }
    let console = Path::new("/dev/console");
    let tty = ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"]
        .iter()
        .filter_map(|link| fs::read_link(link).ok())
        .find(|path| path.starts_with(terminals));
    if let Some(tty) = tty
        && console.exists()
    {
        mount_bind(&tty, console).doing("keep the terminal")?;
    }
    mount(
        "devpts",
        terminals,
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"newinstance,ptmxmode=0666,mode=620"),
    )
    .doing("make terminals")?;
    cover(&terminals.join("ptmx"), Path::new("/dev/ptmx"))
}

/// Makes file systems read-only through which root governs the host, wherever they are mounted; devices are hidden.
fn close_governing(nothing: &Path) -> Result<(), IsolateError> {
    let table = fs::read_to_string("/proc/self/mountinfo").doing("read the mounts")?;
    for line in table.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (mount.split(' ').nth(4), kind.split(' ').next()) else { continue };
        // The one `/proc` that is used comes later; `/dev` is new already.
        if !GOVERNING.contains(&kind) || point == "/proc" || point.starts_with("/dev") {
            continue;
        }
        let point = unescaped(point);
        if kind == "devtmpfs" {
            if point.is_dir() {
                empty(&point)?;
            } else {
                cover(nothing, &point)?;
            }
            continue;
        }
        match mount_remount(&point, MountFlags::BIND | MountFlags::RDONLY | EMPTY, "") {
            // Mounted over by another one.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(why) => return Err(IsolateError::System { doing: "close a part of the system", why }),
        }
    }
    Ok(())
}

/// A path as the kernel's tables have it: blanks and the like in octal.
fn unescaped(text: &str) -> PathBuf {
    let mut path = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let (code, after) = after.split_at_checked(3).unwrap_or((after, ""));
        path.push(u8::from_str_radix(code, 8).map_or('?', char::from));
        rest = after;
    }
    path.push_str(rest);
    PathBuf::from(path)
}

/// The resolver's configuration names the sidecar, though its file may be a link into what is hidden now.
fn resolve_here(ours: &Path) -> Result<(), IsolateError> {
    let path = Path::new(RESOLVER);
    if path.exists() {
        return cover(ours, path);
    }
    let Ok(target) = fs::read_link(path) else { return Ok(()) };
    let target = plain(&Path::new("/etc").join(target));
    // Only `/run` is the command's own. Elsewhere programs have no configuration and ask 127.0.0.1.
    if !target.starts_with("/run") {
        return Ok(());
    }
    if let Some(dir) = target.parent() {
        make_dir(dir)?;
    }
    fs::copy(ours, &target).map(drop).map_err(|why| IsolateError::File { doing: "write", path: target, why })
}

/// A path without `..`, as it stands written.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        if part == std::path::Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
        plain
    })
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
    fs::write(new.join(CONSOLE), b"").map_err(failed(new.join(CONSOLE)))?;
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
