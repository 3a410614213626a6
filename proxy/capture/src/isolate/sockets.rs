//! Unix sockets that programs of the host listen on: a way out that no network rule sees.

use std::path::PathBuf;

/// The paths of all sockets that are listened on in this network namespace (`/proc/net/unix`). None where that cannot be
/// read.
#[must_use]
pub fn listening() -> Vec<PathBuf> {
    std::fs::read_to_string("/proc/net/unix").map(|table| listening_in(&table)).unwrap_or_default()
}

fn listening_in(table: &str) -> Vec<PathBuf> {
    // Bit 16 of the flags, __SO_ACCEPTCON, marks those that are listened on; type 2 are datagram sockets, which need not.
    let listens = |flags: &str, kind: &str| flags == "00010000" || kind == "0002";
    let mut paths: Vec<PathBuf> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [_, _, _, flags, kind, _, _, path] = *fields.as_slice() else { return None };
            (path.starts_with('/') && listens(flags, kind)).then(|| PathBuf::from(path))
        })
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
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
            0: 00000003 00000000 00000000 0001 03 6 /run/docker.sock\n\
            0: 00000003 00000000 00000000 0001 03 7 /run/connected.sock\n\
            0: 00000002 00000000 00000000 0002 01 8 /run/systemd/notify\n\
            0: 00000002 00000000 00010000 0001 01 9 @/tmp/.X11-unix/X0\n\
            0: 00000003 00000000 00000000 0001 03 10\n";
        let expected = ["/run/docker.sock", "/run/systemd/notify"].map(PathBuf::from);
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
