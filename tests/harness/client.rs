//! HTTP clients that see every byte: one request over one connection, by each of the ways through a sidecar.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use sideguard_runtime::tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Sidecar, tls};

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers.
    pub trailers: HeaderMap,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header's value, empty where it is absent.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        self.headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }
}

/// Which version of HTTP a client speaks inside a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
}

/// Sends bytes as they are and reads until the other side closes or is silent for half a second.
///
/// # Errors
/// When the connection fails.
pub async fn raw(to: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(bytes).await?;
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(count)) =
        tokio::time::timeout(Duration::from_millis(1_500), stream.read(&mut buffer)).await
    {
        if count == 0 {
            break;
        }
        out.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// One request over the given connection.
async fn exchange<I>(io: I, request: Request<Full<Bytes>>, version: Version) -> Response<Incoming>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    match version {
        Version::One => {
            let (mut send, connection) =
                hyper::client::conn::http1::Builder::new().handshake(io).await.expect("a handshake");
            tasks::spawn("client", connection.with_upgrades());
            send.send_request(request).await.expect("a reply")
        }
        Version::Two => {
            let (mut send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .handshake(io)
                .await
                .expect("a handshake");
            tasks::spawn("client", connection);
            send.send_request(request).await.expect("a reply")
        }
    }
}

/// A connection of HTTP/1.1 that is kept for several requests, one after the other.
pub struct Kept {
    send: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    host: String,
}

impl Kept {
    /// Opens one to a sidecar's outbound port.
    ///
    /// # Panics
    /// When there is no connection.
    pub async fn open(sidecar: &Sidecar) -> Self {
        let tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
        let mut builder = hyper::client::conn::http1::Builder::new();
        let (send, connection) =
            builder.preserve_header_case(true).handshake(TokioIo::new(tcp)).await.expect("a handshake");
        tasks::spawn("client", connection);
        Self { send, host: sidecar.outbound().to_string() }
    }

    /// Sends a request and reads its reply.
    ///
    /// # Panics
    /// When there is none.
    pub async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut all = vec![("host", self.host.as_str())];
        all.extend_from_slice(headers);
        let request = request(method, target, &all, body);
        self.send.ready().await.expect("a connection that was kept");
        collect(self.send.send_request(request).await.expect("a reply")).await
    }
}

/// A connection of HTTP/2 that carries several requests at once.
pub struct Many {
    send: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
}

impl Many {
    /// Begins HTTP/2 over a connection.
    ///
    /// # Panics
    /// When the other side does not.
    pub async fn over<I>(io: I) -> Self
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (send, connection) = builder.handshake(TokioIo::new(io)).await.expect("a handshake");
        tasks::spawn("client", connection);
        Self { send }
    }

    /// Sends a request. Its reply is read by whoever awaits what is returned.
    ///
    /// # Panics
    /// When there is none.
    pub fn send(&self, request: Request<Full<Bytes>>) -> impl Future<Output = Reply> + Send + 'static {
        let reply = self.send.clone().send_request(request);
        async move { collect(reply.await.expect("a reply")).await }
    }
}

/// Reads a reply whole.
pub async fn collect(response: Response<Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let (body, trailers) = match body.collect().await {
        Ok(whole) => {
            let trailers = whole.trailers().cloned().unwrap_or_default();
            (whole.to_bytes(), trailers)
        }
        Err(_) => (Bytes::new(), HeaderMap::new()),
    };
    Reply { status: head.status.as_u16(), headers: head.headers, body, trailers }
}

/// Builds a request.
///
/// # Panics
/// When a part is not valid.
#[must_use]
pub fn request(
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).expect("a request")
}

/// Sends a request by the gateway path; the answer's body is not read yet.
///
/// # Panics
/// When there is no reply.
pub async fn gateway_open(
    sidecar: &Sidecar,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response<Incoming> {
    let tcp = TcpStream::connect(sidecar.outbound()).await.expect("the outbound port");
    let host = sidecar.outbound().to_string();
    let mut all = vec![("host", host.as_str())];
    all.extend_from_slice(headers);
    exchange(TokioIo::new(tcp), request(method, target, &all, body), Version::One).await
}

/// Sends a request by the gateway path.
pub async fn gateway(
    sidecar: &Sidecar,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    collect(gateway_open(sidecar, method, target, headers, body).await).await
}

/// Posts JSON by the gateway path.
pub async fn post(sidecar: &Sidecar, target: &str, body: impl Into<Bytes>) -> Reply {
    gateway(sidecar, "POST", target, &[("content-type", "application/json")], body).await
}

/// Sends a request as to an HTTP proxy, with an absolute target.
///
/// # Panics
/// When there is no reply.
pub async fn absolute(
    sidecar: &Sidecar,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    absolute_at(sidecar.outbound(), method, url, headers, body).await
}

/// The status of the reply to a request without a body, to a proxy at an address.
///
/// # Panics
/// When there is no reply.
pub async fn status_at(proxy: SocketAddr, method: &str, url: &str) -> u16 {
    absolute_at(proxy, method, url, &[], "").await.status
}

/// As [`absolute`], to a proxy at an address.
///
/// # Panics
/// When there is no reply.
pub async fn absolute_at(
    proxy: SocketAddr,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    let tcp = TcpStream::connect(proxy).await.expect("the outbound port");
    let uri: http::Uri = url.parse().expect("a URL");
    let host = uri.authority().expect("an authority").to_string();
    let mut all = vec![("host", host.as_str())];
    all.extend_from_slice(headers);
    let response = exchange(TokioIo::new(tcp), request(method, url, &all, body), Version::One).await;
    collect(response).await
}

/// Opens a tunnel by CONNECT. The error is the reply to it.
///
/// # Errors
/// The text of a reply that is not 200.
pub async fn connect(sidecar: &Sidecar, authority: &str, headers: &str) -> Result<TcpStream, String> {
    let mut tcp = TcpStream::connect(sidecar.outbound()).await.map_err(|error| error.to_string())?;
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n");
    tcp.write_all(head.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => reply.push(byte),
            Err(_) => break,
        }
    }
    let reply = String::from_utf8_lossy(&reply).into_owned();
    if reply.starts_with("HTTP/1.1 200") { Ok(tcp) } else { Err(reply) }
}

/// TLS over a connection, with the roots that an agent has.
///
/// # Errors
/// When the handshake fails.
pub async fn over_tls(
    tcp: TcpStream,
    roots: &str,
    name: &str,
    version: Version,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let protocol = if version == Version::Two { "h2" } else { "http/1.1" };
    let connector = tokio_rustls::TlsConnector::from(tls::client(roots, &[protocol]));
    connector.connect(ServerName::try_from(name.to_owned()).expect("a name"), tcp).await
}

/// Sends a request through CONNECT and TLS to `https://host/…`.
///
/// # Panics
/// When the tunnel, the handshake or the exchange fails.
pub async fn tunnelled(
    sidecar: &Sidecar,
    version: Version,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    let uri: http::Uri = url.parse().expect("a URL");
    let host = uri.host().expect("a host");
    let authority = format!("{host}:{}", uri.port_u16().unwrap_or(443));
    let tcp = connect(sidecar, &authority, "").await.expect("a tunnel");
    let stream = over_tls(tcp, &sidecar.trust(), host, version).await.expect("a handshake");
    let mut all = headers.to_vec();
    let target = match version {
        Version::Two => url.to_owned(),
        Version::One => {
            all.insert(0, ("host", host));
            uri.path_and_query().expect("a path").to_string()
        }
    };
    let response = exchange(TokioIo::new(stream), request(method, &target, &all, body), version).await;
    collect(response).await
}

/// Sends a request without a body over a connection that is there, with the given `Host` or `:authority`.
///
/// # Panics
/// When there is no reply.
pub async fn over<I>(io: I, version: Version, method: &str, host: &str, target: &str) -> Reply
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let request = match version {
        Version::One => request(method, target, &[("host", host)], ""),
        Version::Two => request(method, &format!("https://{host}{target}"), &[], ""),
    };
    collect(exchange(TokioIo::new(io), request, version).await).await
}

/// A GET on the admin port.
///
/// # Panics
/// When there is no reply.
pub async fn admin(sidecar: &Sidecar, path: &str) -> Reply {
    administer(sidecar, "GET", path, &[]).await
}

/// A request on the admin port.
///
/// # Panics
/// When there is no reply.
pub async fn administer(sidecar: &Sidecar, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let tcp = TcpStream::connect(sidecar.admin()).await.expect("the admin port");
    let host = sidecar.admin().to_string();
    let mut all = vec![("host", host.as_str())];
    all.extend_from_slice(headers);
    collect(exchange(TokioIo::new(tcp), request(method, path, &all, ""), Version::One).await).await
}

/// A request with a body to a server at `http://address:port`, over a connection of its own.
///
/// # Panics
/// When there is no reply.
pub async fn direct(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let host = url.trim_start_matches("http://");
    let tcp = TcpStream::connect(host).await.expect("a server");
    let mut all = headers.to_vec();
    if !headers.iter().any(|(name, _)| *name == "host") {
        all.push(("host", host));
    }
    let body = body.to_owned();
    collect(exchange(TokioIo::new(tcp), request(method, path, &all, body), Version::One).await).await
}
