//! The inside of a network namespace: one interface, loopback, over which every address seems to be reachable, so that
//! the rules can redirect what is sent there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

use super::{Doing, Inside, IsolateError, Setup};
use crate::rules::{Loopback, Rules, apply};

/// Loopback is the first interface of every network namespace.
const LOOPBACK: u32 = 1;
/// What the command's connections come from: nobody's (RFC 5737), and a unique local one (RFC 4193).
const OWN_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd53, 0x6964, 0x6567, 1, 0, 0, 0, 2);

/// Sets up the namespace that this process is in, and opens the sidecar's ports.
pub(super) fn set_up(setup: &Setup) -> Result<Inside, IsolateError> {
    let mut netlink = Netlink::open().doing("speak to the kernel's network")?;
    netlink.loopback_up().doing("bring up loopback")?;
    netlink.everything_via_loopback(IpAddr::V4(OWN_V4)).doing("route IPv4 to loopback")?;
    // Where IPv6 is off, nothing of it can leave either.
    let v6 = netlink.everything_via_loopback(IpAddr::V6(OWN_V6)).is_ok();
    let rules = Rules {
        outbound: setup.outbound,
        dns: setup.dns,
        loopback: Loopback::Any,
        captured_ports: setup.local.clone(),
        ..Rules::default()
    };
    apply(&rules)?;
    let mut inside = Inside::default();
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        if address.is_ipv6() && !v6 {
            continue;
        }
        let (outbound, dns) = (SocketAddr::new(address, setup.outbound), SocketAddr::new(address, setup.dns));
        inside.outbound.push(TcpListener::bind(outbound).doing("open the outbound port")?);
        inside.dns_tcp.push(TcpListener::bind(dns).doing("open the name server's port")?);
        inside.dns_udp.push(UdpSocket::bind(dns).doing("open the name server's port")?);
    }
    Ok(inside)
}

struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    fn open() -> std::io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn loopback_up(&mut self) -> std::io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = LOOPBACK;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives loopback an address and routes everything there.
    fn everything_via_loopback(&mut self, own: IpAddr) -> std::io::Result<()> {
        let (family, bits, route) = match own {
            IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
        };
        let mut address = AddressMessage::default();
        address.header.family = family;
        address.header.prefix_len = bits;
        address.header.index = LOOPBACK;
        address.header.flags = AddressHeaderFlags::Nodad;
        address.attributes = vec![AddressAttribute::Local(own), AddressAttribute::Address(own)];
        self.ask(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE)?;
        let mut all = RouteMessage::default();
        all.header.address_family = family;
        all.header.table = RouteHeader::RT_TABLE_MAIN;
        all.header.protocol = RouteProtocol::Static;
        all.header.scope = RouteScope::Universe;
        all.header.kind = RouteType::Unicast;
        all.attributes = vec![RouteAttribute::Oif(LOOPBACK), RouteAttribute::PrefSource(route)];
        self.ask(RouteNetlinkMessage::NewRoute(all), NLM_F_CREATE)
    }

    /// Sends one request and waits for the kernel's word on it.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> std::io::Result<()> {
        self.sequence = self.sequence.saturating_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(()),
        }
    }
}
