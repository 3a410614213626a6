//! The front door: tells what arrives on the one outbound port (CONNECT, HTTP/1, HTTP/2 prior knowledge, TLS),
//! opens TLS where policy has it opened, and hands each exchange to the stages.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sideguard_capture::ca::Authority;
use sideguard_capture::origin;
use sideguard_runtime::secret::Secret;
use sideguard_types::refusal::{Code, Refusal};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::down::Down;
use super::redirected;
use super::wire::Wire;
use crate::app::Sidecar;
use crate::call::{Arrival, HostPort};
use crate::inbound::Inbound;
use crate::opening::H2_PREFACE;
use crate::ports::{Door, Whose};
use crate::{accept, flow, tunnel};

/// Longest time from a connection's start, or from the reply to CONNECT, to the first bytes that tell its kind;
/// longest time for a TLS handshake too.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Tls,
    Connect,
    Http1,
    Http2,
    Other,
}

/// Serves one connection from its first byte to its last; it came through `door` from `from`.
pub(crate) async fn accept(tcp: TcpStream, from: SocketAddr, door: &Door, sidecar: Arc<Sidecar>) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "connection was gone before it was served");
        return;
    }
    if let Some(inbound) = &door.inbound {
        return Box::pin(arrive(Wire::new(tcp), from, (door, Arc::clone(inbound)), sidecar)).await;
    }
    let origin = origin::destination(&tcp, door.at);
    let whose = sidecar.uids.whose(door.agent.as_ref(), from, origin.unwrap_or(door.at));
    let mut wire = Wire::new(tcp);
    let mut arrival = Arrival::new(from, door, origin, whose);
    if let Some(origin) = origin {
        return Box::pin(redirected::serve(wire, arrival, origin, sidecar)).await;
    }
    match kind(&mut wire).await {
        Kind::Http1 => serve(Box::new(wire), arrival, sidecar, false).await,
        Kind::Http2 => serve(Box::new(wire), arrival, sidecar, true).await,
        Kind::Connect => match connect_head(&mut wire, &sidecar).await {
            Ok(head) => {
                arrival.tunnel = Some(head.to);
                arrival.key = head.key;
                through(wire, arrival, sidecar).await;
            }
            Err(refusal) => {
                reply_raw(wire, &tunnel::malformed(&sidecar, &arrival, "CONNECT", *refusal)).await;
            }
        },
        // A TLS connection that was not asked for by CONNECT has no destination that could be judged.
        Kind::Tls => {
            sidecar.metrics.refused_connection("unknown_protocol");
            tracing::info!(%from, "connection refused: TLS where plain HTTP is spoken; is the proxy's URL `https://`?");
        }
        Kind::Other => {
            sidecar.metrics.refused_connection("unknown_protocol");
            tracing::debug!(%from, "connection refused: neither HTTP nor CONNECT");
            if !wire.at_hand().is_empty() {
                let refusal = Refusal::new(Code::Malformed, "http", "what was sent is not HTTP");
                reply_raw(wire, &tunnel::malformed(&sidecar, &arrival, "", refusal)).await;
            }
        }
    }
}

/// Serves a connection to the agent that stands behind an inbound port.
async fn arrive(
    mut wire: Wire,
    from: SocketAddr,
    (door, inbound): (&Door, Arc<Inbound>),
    sidecar: Arc<Sidecar>,
) {
    let mut arrival = Arrival::new(from, door, None, Whose::Open);
    arrival.inbound = Some(inbound);
    match kind(&mut wire).await {
        Kind::Http1 => serve(Box::new(wire), arrival, sidecar, false).await,
        Kind::Http2 => serve(Box::new(wire), arrival, sidecar, true).await,
        Kind::Tls | Kind::Connect | Kind::Other => {
            sidecar.metrics.refused_connection("unknown_protocol");
            tracing::info!(%from, "connection to an agent refused: it is not plain HTTP");
        }
    }
}

/// Goes on after CONNECT: a tunnel where policy leaves TLS closed, otherwise what is inside is served.
async fn through(mut wire: Wire, arrival: Arrival, sidecar: Arc<Sidecar>) {
    let plan = tunnel::plan(&sidecar, &arrival).await;
    match plan {
        tunnel::Plan::Refuse(reply) => return reply_raw(wire, &reply).await,
        tunnel::Plan::Pass(passage) => {
            if wire.write_all(ESTABLISHED).await.is_ok() && wire.flush().await.is_ok() {
                redirected::carry(wire, passage, &sidecar).await;
            }
            return;
        }
        tunnel::Plan::Open => {}
    }
    if wire.write_all(ESTABLISHED).await.is_err() || wire.flush().await.is_err() {
        return;
    }
    match kind(&mut wire).await {
        Kind::Tls => open_tls(wire, arrival, sidecar).await,
        Kind::Http1 => serve(Box::new(wire), arrival, sidecar, false).await,
        Kind::Http2 => serve(Box::new(wire), arrival, sidecar, true).await,
        Kind::Connect | Kind::Other => {
            let Some(to) = arrival.tunnel.clone() else { return };
            let why = "the tunnel holds neither TLS nor HTTP";
            tunnel::turned_away(&sidecar, tunnel::unjudgeable(&sidecar, &arrival, to, "CONNECT", why));
        }
    }
}

pub(super) async fn open_tls(wire: Wire, mut arrival: Arrival, sidecar: Arc<Sidecar>) {
    let Some(to) = &arrival.tunnel else { return };
    let names = Arc::new(Names {
        authority: Arc::clone(&sidecar.authority),
        fallback: to.host.clone(),
        seen: OnceLock::new(),
    });
    let mut config = (*sidecar.server_tls).clone();
    config.cert_resolver = Arc::clone(&names) as Arc<dyn ResolvesServerCert>;
    let acceptor = Acceptor::from_server_config(Arc::new(config));
    let stream = match tokio::time::timeout(PATIENCE, acceptor.tls_handshake(wire)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            sidecar.metrics.refused_connection("tls_handshake");
            tracing::info!(from = %arrival.from, host = %to.host, %error, "agent broke off the TLS handshake; does it trust the sidecar's CA?");
            return;
        }
        Err(_) => return,
    };
    arrival.tls = true;
    arrival.sni = names.seen.get().cloned();
    serve(Box::new(stream), arrival, sidecar, false).await;
}

pub(super) async fn serve(
    stream: pingora_core::protocols::Stream,
    arrival: Arrival,
    sidecar: Arc<Sidecar>,
    h2c: bool,
) {
    let mut options = HttpServerOptions::default();
    options.h2c = h2c;
    options.h2_idle_timeout = Some(sidecar.config.limits.idle_timeout.0);
    let draining = sidecar.drain.watch();
    let connection = Arc::new(Connection { sidecar, arrival, options });
    connection.process_new(stream, &draining).await;
}

/// One connection, as the engine serves its exchanges.
struct Connection {
    sidecar: Arc<Sidecar>,
    arrival: Arrival,
    options: HttpServerOptions,
}

#[async_trait]
impl HttpServerApp for Connection {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        session.set_pipelining_enabled(true);
        session.set_write_timeout(Some(self.sidecar.config.limits.idle_timeout.0));
        // A head that comes byte by byte would hold the connection for ever; the time between two requests counts too.
        let idle = self.sidecar.config.limits.idle_timeout.0;
        match tokio::time::timeout(idle.saturating_add(PATIENCE), session.read_request()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return None,
            Ok(Err(error)) => {
                tracing::debug!(%error, "malformed request");
                self.sidecar.metrics.refused_connection("malformed");
                flow::malformed(&self.sidecar, &self.arrival, &mut Down::new(session)).await;
                return None;
            }
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        } else if session.get_keepalive().is_some() {
            // The engine would let a connection rest for ever.
            session.set_keepalive(Some(self.sidecar.config.limits.idle_timeout.0.as_secs().max(1)));
        }
        let busy = self.sidecar.drain.busy();
        let down = flow::serve(&self.sidecar, &self.arrival, Down::new(session)).await;
        drop(busy);
        down?.finish().await
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        let headers = u32::try_from(self.sidecar.config.limits.max_headers.0).unwrap_or(u32::MAX);
        options.max_header_list_size(headers).max_concurrent_streams(256);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Tells what arrives, reading as little as that takes.
async fn kind(wire: &mut Wire) -> Kind {
    let tell = async {
        loop {
            if let Some(kind) = kind_of(wire.at_hand()) {
                return kind;
            }
            match wire.fetch().await {
                Ok(0) | Err(_) => return Kind::Other,
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, tell).await.unwrap_or(Kind::Other)
}

fn kind_of(bytes: &[u8]) -> Option<Kind> {
    const CONNECT: &[u8] = b"CONNECT ";
    let first = *bytes.first()?;
    if first == 0x16 {
        return Some(Kind::Tls);
    }
    if !first.is_ascii_alphabetic() {
        return Some(Kind::Other);
    }
    let prefix_of =
        |whole: &[u8]| whole.starts_with(bytes.get(..whole.len().min(bytes.len())).unwrap_or(bytes));
    if prefix_of(CONNECT) {
        return (bytes.len() >= CONNECT.len()).then_some(Kind::Connect);
    }
    if prefix_of(H2_PREFACE) {
        return (bytes.len() >= H2_PREFACE.len()).then_some(Kind::Http2);
    }
    Some(Kind::Http1)
}

struct ConnectHead {
    to: HostPort,
    key: Option<Secret<String>>,
}

/// Reads the head of a CONNECT request.
async fn connect_head(wire: &mut Wire, sidecar: &Sidecar) -> Result<ConnectHead, Box<Refusal>> {
    let limit = sidecar.config.limits.max_headers.0;
    let max = usize::try_from(limit).unwrap_or(usize::MAX);
    let malformed = |what: &str| Box::new(Refusal::new(Code::Malformed, "http", what));
    let read = async {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 96];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(wire.at_hand()) {
                Ok(httparse::Status::Complete(length)) => {
                    let to = request.path.and_then(HostPort::parse_with_port);
                    let to =
                        to.ok_or_else(|| malformed("CONNECT must name a host and a port: `host:443`"))?;
                    let key = request
                        .headers
                        .iter()
                        .find(|header| header.name.eq_ignore_ascii_case("proxy-authorization"))
                        .and_then(|header| crate::identify::basic_password(header.value));
                    return Ok::<_, Box<Refusal>>((ConnectHead { to, key }, length));
                }
                Ok(httparse::Status::Partial) if wire.at_hand().len() >= max => {
                    return Err(Box::new(accept::long_head(limit)));
                }
                Ok(httparse::Status::Partial) => {}
                Err(_) => return Err(malformed("the CONNECT request is not valid HTTP")),
            }
            match wire.fetch().await {
                Ok(0) | Err(_) => return Err(malformed("the CONNECT request ended before its head did")),
                Ok(_) => {}
            }
        }
    };
    let read = tokio::time::timeout(PATIENCE, read).await;
    let (head, length) =
        read.map_err(|_| malformed("the head of the CONNECT request did not come in time"))??;
    drop(wire.take(length));
    Ok(head)
}

async fn reply_raw(mut wire: Wire, reply: &Bytes) {
    if wire.write_all(reply).await.is_ok() && wire.flush().await.is_ok() {
        // The peer may still be sending: closing at once could reset the connection before the reply is read.
        let linger = async {
            while !matches!(wire.fetch().await, Ok(0) | Err(_)) {
                drop(wire.take(usize::MAX));
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), linger).await;
    }
}

/// Makes the leaf certificate for the name that the agent asks for, and remembers the name.
#[derive(Debug)]
struct Names {
    authority: Arc<Authority>,
    fallback: String,
    seen: OnceLock<String>,
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            // Set once: one handshake, one hello.
            let _ = self.seen.set(name.to_ascii_lowercase());
        }
        let name = self.seen.get().unwrap_or(&self.fallback);
        match self.authority.leaf(name) {
            Ok(leaf) => Some(leaf),
            Err(error) => {
                tracing::info!(%name, %error, "no certificate can be made for this name");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, kind_of};

    #[test]
    fn the_first_bytes_tell_the_kind() {
        for (bytes, kind) in [
            (&b""[..], None),
            (b"C", None),
            (b"CONNEC", None),
            (b"CONNECT a:1", Some(Kind::Connect)),
            (b"COPY /x", Some(Kind::Http1)),
            (b"GET /", Some(Kind::Http1)),
            (b"PRI * HTTP/2.0", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM", Some(Kind::Http2)),
            (b"PROPFIND /", Some(Kind::Http1)),
            (&[0x16, 3, 1], Some(Kind::Tls)),
            (b"\0\0", Some(Kind::Other)),
            (b"\x05\x01\x00", Some(Kind::Other)),
        ] {
            assert_eq!(kind_of(bytes), kind, "{bytes:?}");
        }
    }
}
