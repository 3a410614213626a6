//! What a proxy costs in hyper that does nothing but pass on: reads the whole request, sends it over a pooled
//! connection, streams the answer back. It opens `CONNECT` as well, with one certificate for everything.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::certificates::{self, Certificates, HOST};
use crate::server::{self, Answers, Body};
use crate::tasks::Tasks;

/// Passes plain requests on to `plain` and those that arrive through `CONNECT` to `tls`, for ever.
pub(crate) async fn serve(
    address: SocketAddr,
    plain: SocketAddr,
    tls: SocketAddr,
    certificates: &Certificates,
) -> Result<()> {
    let outward = TlsConnector::from(certificates::client(&[certificates.root()])?);
    let inner = Arc::new(Pass { upstream: Pool::new(tls, Some(outward)), tunnels: None });
    let tunnels = Tunnels { accept: certificates.server()?.into(), inner, running: Tasks::default() };
    server::listen(address, None, Arc::new(Pass { upstream: Pool::new(plain, None), tunnels: Some(tunnels) }))
        .await
}

struct Pass {
    upstream: Arc<Pool>,
    tunnels: Option<Tunnels>,
}

/// What is done with `CONNECT`.
struct Tunnels {
    accept: TlsAcceptor,
    inner: Arc<Pass>,
    running: Tasks,
}

impl Answers for Pass {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        match &self.tunnels {
            Some(tunnels) if request.method() == Method::CONNECT => tunnels.open(request),
            _ => self.upstream.pass(request).await.unwrap_or_else(|_| {
                let mut response = Response::new(nothing());
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            }),
        }
    }
}

impl Tunnels {
    fn open(&self, request: Request<Incoming>) -> Response<Body> {
        let (accept, inner) = (self.accept.clone(), Arc::clone(&self.inner));
        self.running.start(async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            if let Ok(stream) = accept.accept(TokioIo::new(upgraded)).await {
                server::serve(stream, inner).await;
            }
        });
        Response::new(nothing())
    }
}

/// Connections to one upstream.
struct Pool {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    idle: Mutex<Vec<Sender>>,
    running: Tasks,
}

type Sender = SendRequest<Full<Bytes>>;

impl Pool {
    fn new(address: SocketAddr, tls: Option<TlsConnector>) -> Arc<Self> {
        Arc::new(Self { address, tls, idle: Mutex::default(), running: Tasks::default() })
    }

    async fn pass(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut sender = self.sender().await?;
        let response = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
        let lent = Some((sender, Arc::clone(self)));
        Ok(response.map(|body| Answer { body, lent }.boxed()))
    }

    async fn sender(&self) -> Result<Sender> {
        loop {
            let Some(mut sender) = self.idle.lock().pop() else { return self.connect().await };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
    }

    async fn connect(&self) -> Result<Sender> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return self.speak(stream).await };
        self.speak(tls.connect(ServerName::try_from(HOST)?, stream).await?).await
    }

    async fn speak<I>(&self, io: I) -> Result<Sender>
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        self.running.start(async move {
            let _ended = connection.await;
        });
        Ok(sender)
    }
}

/// An answer's body, which gives the connection back at its end.
struct Answer {
    body: Incoming,
    lent: Option<(Sender, Arc<Pool>)>,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if (frame.is_none() || self.body.is_end_stream())
            && let Some((sender, pool)) = self.lent.take()
        {
            pool.idle.lock().push(sender);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}
