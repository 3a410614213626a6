//! How the sidecar and [`outer`](super::outer) speak: one JSON object a line over a socket, and the ports as descriptors.

use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Plan, Setup};

/// Most ports that are handed over: outbound, and DNS over TCP and UDP, for both families.
const PORTS: usize = 6;

/// The other side is not there, or does not say what it should.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The channel itself failed.
    #[error("the other process is gone: {0}")]
    Gone(#[from] io::Error),
    /// The other side says why it cannot go on.
    #[error("{0}")]
    Told(String),
}

/// The sidecar's ports inside the namespace.
#[derive(Debug, Default)]
pub struct Inside {
    /// The outbound port, one socket a family.
    pub outbound: Vec<TcpListener>,
    /// The name server over TCP.
    pub dns_tcp: Vec<TcpListener>,
    /// The name server over UDP.
    pub dns_udp: Vec<UdpSocket>,
}

/// What comes with the descriptors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Opened {
    /// How many of the descriptors are which.
    Ports { outbound: usize, dns_tcp: usize, dns_udp: usize },
    /// Why there are none.
    Failed(String),
}

/// One end of the channel.
#[derive(Debug)]
pub struct Channel {
    stream: BufReader<UnixStream>,
}

impl Channel {
    /// Both ends; the second is for the other process, which inherits it.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (near, far) = UnixStream::pair()?;
        let far = OwnedFd::from(far);
        fcntl_setfd(&far, FdFlags::empty())?;
        Ok((Self::new(near), far))
    }

    /// The end that this process has inherited. It is not handed on to others.
    ///
    /// # Errors
    /// When there is none.
    pub fn inherited(end: OwnedFd) -> io::Result<Self> {
        fcntl_setfd(&end, FdFlags::CLOEXEC)?;
        Ok(Self::new(UnixStream::from(end)))
    }

    fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Tells the other process what network to make, and takes the ports that it opens there.
    ///
    /// # Errors
    /// Why there is no such network.
    pub fn set_up(&mut self, setup: &Setup) -> Result<Inside, ChannelError> {
        self.say(setup)?;
        let (line, mut descriptors) = self.receive()?;
        match serde_json::from_slice(&line).map_err(io::Error::from)? {
            Opened::Failed(why) => Err(ChannelError::Told(why)),
            Opened::Ports { outbound, dns_tcp, dns_udp } => {
                if descriptors.len() != outbound.saturating_add(dns_tcp).saturating_add(dns_udp) {
                    return Err(ChannelError::Told("the ports were not handed over".to_owned()));
                }
                let rest = descriptors.split_off(outbound);
                let (tcp, udp): (Vec<_>, Vec<_>) =
                    rest.into_iter().enumerate().partition(|(place, _)| *place < dns_tcp);
                Ok(Inside {
                    outbound: descriptors.into_iter().map(TcpListener::from).collect(),
                    dns_tcp: tcp.into_iter().map(|(_, fd)| TcpListener::from(fd)).collect(),
                    dns_udp: udp.into_iter().map(|(_, fd)| UdpSocket::from(fd)).collect(),
                })
            }
        }
    }

    /// Has the other process start the command.
    ///
    /// # Errors
    /// When it is gone.
    pub fn start(&mut self, plan: &Plan) -> Result<(), ChannelError> {
        self.say(plan)
    }

    /// What the other process says last: packets that were dropped, by kind. Zero where it could not tell.
    #[must_use]
    pub fn dropped(mut self) -> [u64; crate::rules::DROPPED.len()] {
        self.hear().unwrap_or_default()
    }

    pub(super) fn say(&mut self, what: &impl Serialize) -> Result<(), ChannelError> {
        let mut line = serde_json::to_vec(what).map_err(io::Error::from)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        Ok(())
    }

    pub(super) fn hear<T: DeserializeOwned>(&mut self) -> Result<T, ChannelError> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_slice(&line).map_err(io::Error::from)?)
    }

    pub(super) fn open(&mut self, inside: &Inside) -> Result<(), ChannelError> {
        let opened = Opened::Ports {
            outbound: inside.outbound.len(),
            dns_tcp: inside.dns_tcp.len(),
            dns_udp: inside.dns_udp.len(),
        };
        let line = serde_json::to_vec(&opened).map_err(io::Error::from)?;
        let tcp = inside.outbound.iter().chain(&inside.dns_tcp).map(AsFd::as_fd);
        let descriptors: Vec<BorrowedFd<'_>> = tcp.chain(inside.dns_udp.iter().map(AsFd::as_fd)).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(ChannelError::Told("too many ports".to_owned()));
        }
        sendmsg(self.stream.get_ref(), &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)
            .map_err(io::Error::from)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(Vec<u8>, Vec<OwnedFd>), ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = vec![0; 16 << 10];
        let got = recvmsg(
            self.stream.get_ref(),
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(io::Error::from)?;
        if got.bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        buffer.truncate(got.bytes);
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        Ok((buffer, rights.flatten().collect()))
    }
}
