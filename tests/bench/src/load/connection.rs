//! One connection of an agent: plain, inside TLS, or inside TLS through `CONNECT`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::answer::Answer;
use crate::certificates::HOST;
use crate::clock;
use crate::model::Stamps;

/// How a target is reached.
#[derive(Clone)]
pub(crate) enum Door {
    /// Plain HTTP.
    Plain(SocketAddr),
    /// TLS to [`HOST`] at this address.
    Tls(SocketAddr, Arc<ClientConfig>),
    /// `CONNECT` to [`HOST`] through the proxy at this address, and TLS in the tunnel.
    Connect(SocketAddr, Arc<ClientConfig>),
}

/// A keep-alive connection.
pub(crate) struct Connection {
    io: Box<dyn Io>,
    answer: Answer,
    buffer: Box<[u8]>,
}

/// When what arrived, in nanoseconds of [`clock`].
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    /// The first event of a stream, or the first byte of an answer that is not one.
    pub(crate) first: u64,
    /// The whole answer.
    pub(crate) last: u64,
    /// Nanoseconds from the making of each event of the stream to its arrival.
    pub(crate) delays: Vec<u64>,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Connection {
    /// Opens a connection, up to where a request can be sent.
    pub(crate) async fn open(door: &Door) -> Result<Self> {
        let (Door::Plain(address) | Door::Tls(address, _) | Door::Connect(address, _)) = door;
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to `{address}`"))?;
        stream.set_nodelay(true)?;
        let (stream, tls) = match door {
            Door::Plain(_) => return Ok(Self::over(Box::new(stream))),
            Door::Tls(_, tls) => (stream, tls),
            Door::Connect(_, tls) => (tunnel(stream).await?, tls),
        };
        let tls = TlsConnector::from(Arc::clone(tls));
        let stream = tls.connect(ServerName::try_from(HOST)?, stream).await.context("TLS failed")?;
        Ok(Self::over(Box::new(stream)))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is not HTTP or has another status than 200. The connection
    /// is of no use then.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Arrival> {
        self.io.write_all(request).await?;
        self.io.flush().await?;
        self.answer.clear();
        let (mut arrival, mut stamps) = (Arrival::default(), Stamps::default());
        loop {
            let size = self.io.read(&mut self.buffer).await?;
            let bytes = self.buffer.get(..size).unwrap_or_default();
            if bytes.is_empty() {
                bail!("the connection was closed in the middle of an answer");
            }
            let done = self.answer.take(bytes)?;
            let now = clock::now();
            let made = stamps.new_ones(&self.answer.body);
            if arrival.first == 0 || (arrival.delays.is_empty() && !made.is_empty()) {
                arrival.first = now;
            }
            arrival.delays.extend(made.into_iter().map(|stamp| now.saturating_sub(stamp)));
            if done {
                arrival.last = now;
                break;
            }
        }
        if self.answer.status != 200 {
            let text = String::from_utf8_lossy(&self.answer.body);
            bail!("status {}: {}", self.answer.status, text.chars().take(300).collect::<String>());
        }
        Ok(arrival)
    }

    fn over(io: Box<dyn Io>) -> Self {
        Self { io, answer: Answer::default(), buffer: vec![0; 16 << 10].into() }
    }
}

async fn tunnel(mut stream: TcpStream) -> Result<TcpStream> {
    stream.write_all(format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n").as_bytes()).await?;
    let (mut answer, mut buffer) = (Answer::default(), [0; 1024]);
    loop {
        let size = stream.read(&mut buffer).await?;
        let bytes = buffer.get(..size).unwrap_or_default();
        if bytes.is_empty() {
            bail!("the proxy closed the connection instead of answering `CONNECT`");
        }
        if answer.take(bytes)? {
            break;
        }
    }
    if answer.status != 200 {
        bail!("the proxy refused `CONNECT` with status {}", answer.status);
    }
    Ok(stream)
}
