//! Unix sockets that programs of the host listen on: a way out that no network rule sees.

use std::collections::HashSet;
use std::path::PathBuf;

/// The paths of all sockets that are listened on: in this network namespace, and in those of other processes as far as
/// this one may look. The kernel keeps a list for each (`/proc/PID/net/unix`).
#[must_use]
pub fn listening() -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let mut paths = table("self").unwrap_or_default();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        let Ok(namespace) = std::fs::read_link(process.path().join("ns/net")) else { continue };
        if seen.insert(namespace) {
            paths.extend(table(pid).unwrap_or_default());
        }
    }
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn table(process: &str) -> std::io::Result<Vec<PathBuf>> {
    std::fs::read_to_string(format!("/proc/{process}/net/unix")).map(|table| listening_in(&table))
}

fn listening_in(table: &str) -> Vec<PathBuf> {
    // Bit 16 of the flags, __SO_ACCEPTCON, marks those that are listened on; type 2 are datagram sockets, which need not.
    let listens = |flags: &str, kind: &str| flags == "00010000" || kind == "0002";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            // Nothing before the path holds a slash; the path may hold spaces.
            let (fields, path) = line.split_at_checked(line.find(" /")?)?;
            let mut fields = fields.split_ascii_whitespace().skip(3);
            let (flags, kind) = (fields.next()?, fields.next()?);
            listens(flags, kind).then(|| PathBuf::from(path.trim_start()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::{listening, listening_in};

    #[test]
    fn sockets_with_a_path_are_found() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0: 00000002 00000000 00010000 0001 01 5 /run/docker.sock\n\
            0: 00000002 00000000 00010000 0001 01 5 /run/a b.sock\n\
            0: 00000003 00000000 00000000 0001 03 6 /run/docker.sock\n\
            0: 00000003 00000000 00000000 0001 03 7 /run/connected.sock\n\
            0: 00000002 00000000 00000000 0002 01 8 /run/systemd/notify\n\
            0: 00000002 00000000 00010000 0001 01 9 @/tmp/.X11-unix/X0\n\
            0: 00000003 00000000 00000000 0001 03 10\n";
        let expected = ["/run/docker.sock", "/run/a b.sock", "/run/systemd/notify"].map(PathBuf::from);
        assert_eq!(listening_in(table), expected);
    }

    #[test]
    fn ones_own_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("own.sock");
        let _listener = UnixListener::bind(&path).expect("a socket");
        assert!(listening().contains(&path));
    }
}
