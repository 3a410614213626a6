//! One POST to a URL of somebody else's: a connection of its own, the system's roots, no redirects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use sideguard_runtime::tasks;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest time from the connection's opening to the answer's head.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where notifications are posted.
#[derive(Clone)]
pub(super) struct Target {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

impl Target {
    /// Reads a URL; says what is wrong with it.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let bad = || format!("`{url}` is not the URL of a webhook: write `https://HOST/PATH`");
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(connector()?),
            _ => return Err(bad()),
        };
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        Ok(Self { uri, host, port, tls })
    }

    /// Posts JSON; done when the answer is a success.
    pub(super) async fn post(&self, headers: &[(HeaderName, String)], body: Bytes) -> Result<(), String> {
        let late = |_| format!("no answer within {} s", PATIENCE.as_secs());
        tokio::time::timeout(PATIENCE, self.exchange(headers, body)).await.map_err(late)?
    }

    async fn exchange(&self, headers: &[(HeaderName, String)], body: Bytes) -> Result<(), String> {
        let told = |error: &dyn std::error::Error| error.to_string();
        let authority = self.uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::post(self.uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("sideguard/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|error| told(&error))?;
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| told(&error))?;
        let status = match &self.tls {
            None => answer(TokioIo::new(tcp), request).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|error| told(&error))?;
                let stream = tls.connect(name, tcp).await.map_err(|error| told(&error))?;
                answer(TokioIo::new(stream), request).await
            }
        };
        let status = status.map_err(|error| told(&error))?;
        if status.is_success() { Ok(()) } else { Err(format!("it answers {status}")) }
    }
}

async fn answer<I>(io: I, request: Request<Full<Bytes>>) -> hyper::Result<http::StatusCode>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut send, connection) = http1::handshake(io).await?;
    // It ends with the connection, which ends when the answer is dropped.
    let task = tasks::Owned::new(&tasks::spawn("webhook", connection));
    let status = send.send_request(request).await.map(|response| response.status());
    drop(task);
    status
}

fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
