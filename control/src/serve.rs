//! The port: connections in number and time bounded, plain or TLS, each request told where it comes from.

mod patience;
pub(crate) mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sideguard_runtime::tasks;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use patience::{Patient, Timely};

/// Longest time that a client may take for its greeting, and for the head of each request; also how long a connection may
/// be idle.
const HEAD: Duration = Duration::from_secs(30);
/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 64 << 10;
/// How long requests under way may take when the service stops. Questions of sidecars are held for longer: they ask again.
const LAST: Duration = Duration::from_millis(500);
/// Pause after a connection could not be taken: the process may be out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Whether it came over TLS.
    pub(crate) tls: bool,
    /// Whether it brought a certificate that was asked for and is good.
    pub(crate) certified: bool,
}

/// Serves until `stop` is true, then a moment longer.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    most: u32,
    mut stop: watch::Receiver<bool>,
) {
    let most = usize::try_from(most).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(most));
    loop {
        let accepted = async {
            // Those for whom there is no place wait in the kernel.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stopped(&mut stop) => break,
        };
        match (place, accepted) {
            (Ok(place), Ok((stream, address))) => {
                let connection =
                    Connection { address, tls: tls.clone(), router: router.clone(), stop: stop.clone() };
                tasks::spawn_plain(connection.run(stream, place));
            }
            (Err(_), _) => break,
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection cannot be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    // All places free: nobody is left.
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    // Those that are late are cut.
    let _ = tokio::time::timeout(LAST * 2, places.acquire_many(all)).await;
}

struct Connection {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn run(self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        // Worth a try: without it answers come later, and that is all.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            let peer = Peer { address: self.address, tls: false, certified: false };
            return self.speak(stream, peer).await;
        };
        match tokio::time::timeout(HEAD, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let certified = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
                let peer = Peer { address: self.address, tls: true, certified };
                self.speak(stream, peer).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, peer = %self.address, "no TLS"),
            Err(_) => tracing::debug!(peer = %self.address, "no TLS in time"),
        }
    }

    async fn speak(self, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer) {
        let Self { router, mut stop, .. } = self;
        let service = service_fn(move |request| answer(router.clone(), peer, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(Patient::new(stream)), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(LAST, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, peer = %peer.address, "connection");
        }
    }
}

/// Waits until the service stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender lives as long as the service: without it, it has stopped.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn answer(
    mut router: Router,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(|body| Body::new(Timely::new(body)));
    request.extensions_mut().insert(peer);
    router.call(request).await
}
