//! Where a redirected connection wanted to go, and whose socket it came from. Both come from the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};

/// The address that a connection was going to before the namespace's rules sent it here: `SO_ORIGINAL_DST` or
/// `IP6T_SO_ORIGINAL_DST`. `None` when it was made to `local`, the listener's own address.
#[must_use]
pub fn destination(socket: &impl AsFd, local: SocketAddr) -> Option<SocketAddr> {
    let found = match local {
        SocketAddr::V4(_) => ip_original_dst(socket).ok().map(SocketAddr::V4),
        SocketAddr::V6(_) => ipv6_original_dst(socket).ok().map(SocketAddr::V6),
    }?;
    let same = found.port() == local.port() && found.ip().to_canonical() == local.ip().to_canonical();
    (!same).then_some(found)
}

/// The uid of the socket at the other end of a connection made on this host, in this network namespace: of the socket
/// that is bound to `from` and connected to `to`.
///
/// # Errors
/// When the kernel's table cannot be read.
pub fn owner(from: SocketAddr, to: SocketAddr) -> std::io::Result<Option<u32>> {
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = match std::fs::read_to_string(table) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if let Some(uid) = owner_in(&text, from, to) {
            return Ok(Some(uid));
        }
    }
    Ok(None)
}

/// Finds the uid in a table as `/proc/net/tcp` has it (proc_pid_net(5)). A socket that its owner has closed stays for a
/// while, with uid 0 and inode 0: it is nobody's.
fn owner_in(table: &str, from: SocketAddr, to: SocketAddr) -> Option<u32> {
    let same = |text: &str, address: SocketAddr| {
        socket(text).is_some_and(|(ip, port)| {
            port == address.port() && ip.to_canonical() == address.ip().to_canonical()
        })
    };
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (fields.next()?, fields.next()?);
        (same(local, from) && same(remote, to)).then_some(())?;
        let (uid, inode) = (fields.nth(4)?, fields.nth(1)?);
        if inode == "0" { None } else { uid.parse().ok() }
    })
}

/// Reads an address as the table has it: words of 32 bits in the host's byte order, in hex.
fn socket(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| -> Option<[u8; 4]> {
        u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = if address.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(0)?))
    } else {
        let mut bytes = [0; 16];
        for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
            part.copy_from_slice(&word(at)?);
        }
        IpAddr::V6(Ipv6Addr::from(bytes))
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    use super::{destination, owner, owner_in};

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:128E 00000000:0000 0A 00000000:00000000 00:00000000 00000000 14102        0 1 1 0 100 0 0 10 0\n   \
        1: 020200C0:A000 2A643 01 0 0 0 1 0 0\n   \
        2: 020200C0:A1B2 0A6433C6:01BB 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 20 4 30 10 -1\n   \
        3: 020200C0:A1B2 0B6433C6:01BB 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_socket_is_found_by_both_its_ends() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(owner_in(TABLE, at("192.0.2.2:41394"), at("198.51.100.10:443")), Some(1000));
        assert_eq!(owner_in(TABLE, at("192.0.2.2:41394"), at("198.51.100.11:443")), None, "it is over");
        assert_eq!(owner_in(TABLE, at("192.0.2.2:41394"), at("198.51.100.12:443")), None);
    }

    #[test]
    fn a_connection_of_ones_own_is_ones_own_and_was_not_redirected() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let local = listener.local_addr().expect("an address");
        let near = TcpStream::connect(local).expect("a connection");
        let (far, from) = listener.accept().expect("a connection");
        assert_eq!(near.local_addr().expect("an address"), from);
        assert_eq!(destination(&far, local), None);
        let uid = owner(from, local).expect("the table");
        assert_eq!(uid, Some(rustix::process::geteuid().as_raw()));
    }
}
