//! Connections to the control service: TCP, and TLS over it for `https`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Executor, ReadBufCursor};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use sideguard_runtime::secret::Secret;
use sideguard_runtime::tasks;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::{ClientError, TO_CONNECT, TO_CONNECT_HASTILY};

/// A client's own certificate, for a service that asks for one.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate and those above it, in PEM.
    pub certificate: Vec<u8>,
    /// Its private key, in PEM.
    pub key: Secret<Vec<u8>>,
}

impl Identity {
    fn shown(
        &self,
        config: ConfigBuilder<ClientConfig, WantsClientCert>,
    ) -> Result<ClientConfig, ClientError> {
        let bad = |what: &str, error: &dyn std::fmt::Display| {
            ClientError::Setup(format!("{what} of this client: {error}"))
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(|error| bad("certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.expose()).map_err(|error| bad("key", &error))?;
        config.with_client_auth_cert(chain, key).map_err(|error| bad("certificate", &error))
    }
}

/// Runs the connections of the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tasks;

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        tasks::spawn("control client", future);
    }
}

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: Option<TlsConnector>,
    within: Duration,
}

impl Connector {
    /// One for `http`.
    pub(crate) const fn plain() -> Self {
        Self { tls: None, within: TO_CONNECT }
    }

    /// The same, not waiting long, as there is another replica to ask.
    pub(crate) fn hasty(self) -> Self {
        Self { within: TO_CONNECT_HASTILY, ..self }
    }

    /// One for `https`, which trusts the given roots, or the system's when there are none, and shows its own certificate to
    /// a service that asks for one.
    pub(crate) fn tls(roots: Option<&[u8]>, own: Option<&Identity>) -> Result<Self, ClientError> {
        let bad = |what: String| ClientError::Setup(what);
        let mut store = RootCertStore::empty();
        match roots {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate
                        .map_err(|error| bad(format!("roots: not a certificate in PEM: {error}")))?;
                    store.add(certificate).map_err(|error| bad(format!("roots: {error}")))?;
                }
            }
            None => {
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if store.is_empty() {
            return Err(bad("there is no root certificate to check the control service's by".to_owned()));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(error.to_string()))?
            .with_root_certificates(store);
        let config = match own {
            Some(own) => own.shown(config)?,
            None => config.with_no_client_auth(),
        };
        Ok(Self { tls: Some(TlsConnector::from(Arc::new(config))), within: TO_CONNECT })
    }

    async fn open(self, to: Uri) -> io::Result<Stream> {
        let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = self.tls.filter(|_| to.scheme_str() == Some("https"));
        let port = to.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = tls else { return Ok(Stream::Plain(TokioIo::new(tcp))) };
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
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {} s", within.as_secs()),
                )
            };
            tokio::time::timeout(within, connector.open(to)).await.map_err(late)?
        })
    }
}

/// A connection.
pub(crate) enum Stream {
    Plain(TokioIo<TcpStream>),
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
