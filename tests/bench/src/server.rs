//! Accepting connections and serving HTTP/1 on them, on one thread: what the stand-in model and the bare hyper
//! pass-through share.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::tasks::Tasks;

/// A body of either side.
pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

/// Answers requests.
pub(crate) trait Answers: Send + Sync + 'static {
    /// The answer to one request.
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves for ever on `address`, inside TLS when settings for it are given.
pub(crate) async fn listen<A: Answers>(
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    answers: Arc<A>,
) -> Result<()> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on `{address}`"))?;
    let tls = tls.map(TlsAcceptor::from);
    let tasks = Tasks::default();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _best_effort = stream.set_nodelay(true);
        let (tls, answers) = (tls.clone(), Arc::clone(&answers));
        tasks.start(async move {
            match tls {
                None => serve(stream, answers).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, answers).await;
                    }
                }
            }
        });
    }
}

/// Serves one connection until it ends. How it ends is the peer's business.
pub(crate) async fn serve<A: Answers>(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answers: Arc<A>,
) {
    let service = service_fn(move |request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(request).await) }
    });
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(io), service).with_upgrades().await;
}
