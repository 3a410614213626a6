//! Calls of our own to places that people name: collectors of telemetry, webhooks, control. HTTP/1.1, over TLS for `https`.
//!
//! A [`Place`] keeps connections and nothing else. It follows no redirect, and reads no more of an answer than it takes to tell
//! what went wrong.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::rt::{Executor, ReadBufCursor};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::tasks;

/// Longest time for a connection to come about.
const TO_CONNECT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Most of an answer that is read.
const MAX_ANSWER: usize = 64 << 10;

/// What a place answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// How long it asks to be left alone (`retry-after`, in seconds).
    pub retry_after: Option<Duration>,
    /// The beginning of its body.
    pub body: Bytes,
}

/// A place on the network that takes what is posted. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Place {
    http: Client<Connector, Full<Bytes>>,
    url: Uri,
}

impl Place {
    /// The place at `url`. `roots` are certificates in PEM that its own must come from; the system's when absent. Opens no
    /// connection yet.
    ///
    /// # Errors
    /// When the address is not `http://` or `https://` and a host, or there is no usable root.
    pub fn new(url: &str, roots: Option<&[u8]>) -> Result<Self, String> {
        let bad = || format!("`{url}` is no address: write it as `https://HOST[:PORT][/PATH]`");
        let uri: Uri = url.parse().map_err(|_| bad())?;
        // Credentials belong into a header, where they are not logged.
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(bad());
        }
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(trusting(roots)?.with_no_client_auth()),
            _ => return Err(bad()),
        };
        let http = Client::builder(Tasks)
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(2)
            .build(Connector::new(tls, TO_CONNECT));
        Ok(Self { http, url: uri })
    }

    /// Where it is.
    #[must_use]
    pub const fn url(&self) -> &Uri {
        &self.url
    }

    /// Posts a body and reads the answer.
    ///
    /// # Errors
    /// Why there is no answer, in words; none within `within` is one.
    pub async fn post(&self, headers: HeaderMap, body: Bytes, within: Duration) -> Result<Answer, String> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers;
        let name = HeaderValue::from_static(concat!("sideguard/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(header::USER_AGENT).or_insert(name);
        let answered = async {
            let response = self.http.request(request).await.map_err(|error| reason(&error))?;
            let status = response.status();
            let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = wait.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Ok(Answer { status, retry_after, body })
        };
        let late = |_| format!("no answer within {} s", within.as_secs_f64());
        tokio::time::timeout(within, answered).await.map_err(late)?
    }
}

/// An error with what it comes from.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The beginning of a TLS client's configuration that trusts `roots`, certificates in PEM; the system's when absent.
///
/// # Errors
/// When there is no usable root.
pub fn trusting(roots: Option<&[u8]>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate =
                    certificate.map_err(|error| format!("roots: not a certificate in PEM: {error}"))?;
                store.add(certificate).map_err(|error| format!("roots: {error}"))?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err("there is no root certificate to check a server's by".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(|error| error.to_string())?.with_root_certificates(store))
}

/// Runs the connections of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Tasks;

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        tasks::spawn("https", future);
    }
}

/// Opens connections.
#[derive(Clone)]
pub struct Connector {
    tls: Option<TlsConnector>,
    within: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("tls", &self.tls.is_some()).finish()
    }
}

impl Connector {
    /// One that takes no longer than `within` for a connection. Without a configuration of TLS it opens none to `https`.
    #[must_use]
    pub fn new(tls: Option<ClientConfig>, within: Duration) -> Self {
        Self { tls: tls.map(|config| TlsConnector::from(Arc::new(config))), within }
    }

    async fn open(self, to: Uri) -> io::Result<Stream> {
        let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = to.scheme_str() == Some("https");
        let port = to.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        tcp.set_nodelay(true)?;
        if !secure {
            return Ok(Stream::Plain(TokioIo::new(tcp)));
        }
        let tls = self.tls.ok_or_else(|| io::Error::other("TLS is not set up"))?;
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        Ok(Stream::Tls(TokioIo::new(Box::new(tls.connect(name, tcp).await?))))
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let within = connector.within;
            let late = |_| {
                let what = format!("no connection within {} s", within.as_secs_f64());
                io::Error::new(io::ErrorKind::TimedOut, what)
            };
            tokio::time::timeout(within, connector.open(to)).await.map_err(late)?
        })
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TokioIo<TcpStream>),
    /// Under TLS.
    Tls(TokioIo<Box<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn an_address_is_a_scheme_and_a_host() {
        for url in ["http://h:1/x?y", "http://[::1]/", "http://h"] {
            assert!(Place::new(url, None).is_ok(), "{url}");
        }
        for url in ["", "h/x", "ftp://h/", "http://u:p@h/"] {
            assert!(Place::new(url, None).is_err(), "{url}");
        }
    }
}
