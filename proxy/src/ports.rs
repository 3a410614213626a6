//! The ports by which agents come in, and what is known of whoever comes by one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use sideguard_capture::isolate::Inside;
use sideguard_capture::origin;
use sideguard_types::call::Caller;
use sideguard_types::resource::ProxySpec;
use tokio::net::{TcpListener, UdpSocket};

use crate::config;
use crate::inbound::Inbound;
use crate::work::Held;

/// Where the outbound port and the name server are.
#[derive(Debug)]
pub enum Ports {
    /// Where the configuration says, in the sidecar's own network namespace.
    Configured,
    /// In the namespace of an isolated command.
    Inside(Inside),
}

/// An outbound port, as its connections know it.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) at: SocketAddr,
    /// The agent that it belongs to.
    pub(crate) agent: Option<Arc<Caller>>,
    /// What stands behind it, where it leads in.
    pub(crate) inbound: Option<Arc<Inbound>>,
    /// The one job that whoever comes in by it does.
    pub(crate) job: Option<Arc<Held>>,
}

/// All ports but the admin port, opened.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    pub(crate) doors: Vec<(TcpListener, Door)>,
    pub(crate) dns_tcp: Vec<TcpListener>,
    pub(crate) dns_udp: Vec<UdpSocket>,
}

/// A port cannot be opened: its address and why.
pub(crate) type Shut = (String, std::io::Error);

/// Opens the ports.
pub(crate) async fn open(spec: &ProxySpec, ports: Ports) -> Result<Opened, Shut> {
    match ports {
        Ports::Configured => configured(spec).await,
        Ports::Inside(inside) => {
            handed_over(inside).map_err(|error| ("the command's namespace".to_owned(), error))
        }
    }
}

async fn configured(spec: &ProxySpec) -> Result<Opened, Shut> {
    let mut opened = Opened::default();
    let own = spec.agents.iter().filter_map(|bound| Some((bound.listen.as_ref()?, Some(&bound.agent))));
    for (address, agent) in [(&spec.listen.outbound, None)].into_iter().chain(own) {
        let listener = listen(address).await?;
        let at = listener.local_addr().map_err(|error| (address.clone(), error))?;
        opened
            .doors
            .push((listener, Door { at, agent: agent.map(config::caller), inbound: None, job: None }));
        // Redirected IPv6 connections arrive at ::1.
        if spec.listen.dns.is_some() && at.ip() == std::net::Ipv4Addr::LOCALHOST {
            let sixth = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, at.port()));
            if let Ok(listener) = TcpListener::bind(sixth).await {
                opened.doors.push((
                    listener,
                    Door { at: sixth, agent: agent.map(config::caller), inbound: None, job: None },
                ));
            }
        }
    }
    for spec in config::inbound(spec) {
        let (address, inbound) = spec?;
        let listener = listen(&address).await?;
        let at = listener.local_addr().map_err(|error| (address.clone(), error))?;
        opened.doors.push((listener, Door { at, agent: None, inbound: Some(Arc::new(inbound)), job: None }));
    }
    if let Some(address) = &spec.listen.dns {
        let tcp = listen(address).await?;
        let at = tcp.local_addr().map_err(|error| (address.clone(), error))?;
        opened.dns_udp.push(UdpSocket::bind(at).await.map_err(|error| (address.clone(), error))?);
        opened.dns_tcp.push(tcp);
        let sixth = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, at.port()));
        if at.ip() == std::net::Ipv4Addr::LOCALHOST
            && let (Ok(tcp), Ok(udp)) = (TcpListener::bind(sixth).await, UdpSocket::bind(sixth).await)
        {
            opened.dns_tcp.push(tcp);
            opened.dns_udp.push(udp);
        }
    }
    Ok(opened)
}

/// Opens a port. `[::]` is every address of either family, also where there is no IPv6.
pub(crate) async fn listen(address: &str) -> Result<TcpListener, Shut> {
    let shut = |error| (address.to_owned(), error);
    match TcpListener::bind(address).await {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
            let port = address.strip_prefix("[::]:").ok_or_else(|| shut(error))?;
            TcpListener::bind(format!("0.0.0.0:{port}")).await.map_err(shut)
        }
        opened => opened.map_err(shut),
    }
}

/// The ports inside a namespace.
pub(crate) fn handed_over(inside: Inside) -> std::io::Result<Opened> {
    let tcp = |listener: std::net::TcpListener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let udp = |socket: std::net::UdpSocket| {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    let door = |listener: std::net::TcpListener| {
        let at = listener.local_addr()?;
        Ok((tcp(listener)?, Door { at, agent: None, inbound: None, job: None }))
    };
    Ok(Opened {
        doors: inside.outbound.into_iter().map(door).collect::<std::io::Result<_>>()?,
        dns_tcp: inside.dns_tcp.into_iter().map(tcp).collect::<std::io::Result<_>>()?,
        dns_udp: inside.dns_udp.into_iter().map(udp).collect::<std::io::Result<_>>()?,
    })
}

/// Agents by the uid of their sockets.
#[derive(Debug, Default)]
pub(crate) struct Uids(HashMap<u32, Arc<Caller>>);

/// Whose connection one is, as far as the kernel tells.
#[derive(Debug, Clone)]
pub(crate) enum Whose {
    /// This agent's.
    Agents(Arc<Caller>),
    /// Nobody's that is known, where agents are known by uid.
    Stranger,
    /// Not for the kernel to tell: a key may, or the configuration.
    Open,
}

impl Uids {
    pub(crate) fn new(spec: &ProxySpec) -> Self {
        let known =
            |bound: &sideguard_types::resource::BoundAgent| Some((bound.uid?, config::caller(&bound.agent)));
        Self(spec.agents.iter().filter_map(known).collect())
    }

    /// All agents that are known by uid.
    pub(crate) fn agents(&self) -> impl Iterator<Item = &Caller> {
        self.0.values().map(Arc::as_ref)
    }

    /// Whose a connection is that came through `door` from `from` and was made to `to`.
    pub(crate) fn whose(&self, door: Option<&Arc<Caller>>, from: SocketAddr, to: SocketAddr) -> Whose {
        if let Some(agent) = door {
            return Whose::Agents(Arc::clone(agent));
        }
        if self.0.is_empty() {
            return Whose::Open;
        }
        let uid = match origin::owner(from, to) {
            Ok(uid) => uid,
            Err(error) => {
                tracing::warn!(%error, "the owner of a connection cannot be told");
                None
            }
        };
        uid.and_then(|uid| self.0.get(&uid)).map_or(Whose::Stranger, |agent| Whose::Agents(Arc::clone(agent)))
    }
}
