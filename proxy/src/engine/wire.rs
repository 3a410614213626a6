//! A TCP connection from an agent: bytes already read can be put back, and small writes leave together.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType, raw_connect::ProxyDigest,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// Bytes gathered before a write goes out without a flush.
const GATHER: usize = 16 << 10;

/// The connection.
#[derive(Debug)]
pub(super) struct Wire {
    tcp: TcpStream,
    put_back: BytesMut,
    gathered: BytesMut,
}

impl Wire {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, put_back: BytesMut::new(), gathered: BytesMut::new() }
    }

    /// Bytes at hand without reading.
    pub(super) fn at_hand(&self) -> &[u8] {
        &self.put_back
    }

    /// Takes the first `count` bytes at hand.
    pub(super) fn take(&mut self, count: usize) -> BytesMut {
        self.put_back.split_to(count.min(self.put_back.len()))
    }

    /// Reads more bytes to those at hand. Zero means that the agent has finished.
    pub(super) async fn fetch(&mut self) -> io::Result<usize> {
        self.put_back.reserve(1024);
        self.tcp.read_buf(&mut self.put_back).await
    }

    /// The plain connection and the bytes read from it but not used.
    pub(super) async fn into_parts(mut self) -> io::Result<(TcpStream, BytesMut)> {
        self.flush().await?;
        Ok((self.tcp, self.put_back))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        // An idle connection holds no buffer.
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.put_back.is_empty() {
            return Pin::new(&mut self.tcp).poll_read(cx, buf);
        }
        let count = self.put_back.len().min(buf.remaining());
        buf.put_slice(&self.put_back.split_to(count));
        if self.put_back.is_empty() {
            self.put_back = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() + bytes.len() > GATHER {
            ready!(self.poll_drain(cx))?;
            if bytes.len() > GATHER {
                return Pin::new(&mut self.tcp).poll_write(cx, bytes);
            }
        }
        self.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            tracing::debug!(%error, "connection was gone before it was shut down");
        }
    }
}

impl UniqueID for Wire {
    fn id(&self) -> UniqueIDType {
        self.tcp.as_raw_fd()
    }
}

impl Ssl for Wire {}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[async_trait]
impl Peek for Wire {}
