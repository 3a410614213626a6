//! The webhook's port: HTTPS, one review a request, bounded in number, size and time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::certificate::Certificate;
use crate::known::Facts;
use crate::metrics::Metrics;
use crate::review::{self, Webhook};
use crate::settings::Settings;

/// Largest review: an object of the API server's is at most 1.5 MB, and an update carries two.
const MOST: usize = 4 << 20;
/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 512;
/// Longest time for a greeting, and for the head of a request.
const HEAD: Duration = Duration::from_secs(30);
/// Longest time for a body: the API server waits for 5 s in all.
const BODY: Duration = Duration::from_secs(10);
/// Longest time that a client may take nothing in.
const STALLED: Duration = Duration::from_secs(30);
/// How long requests under way may take when the service stops.
const LAST: Duration = Duration::from_secs(2);
/// Pause after a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(50);

/// What reviews are answered by.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) facts: Facts,
    pub(crate) settings: Settings,
    pub(crate) certificate: Certificate,
    pub(crate) metrics: Metrics,
}

/// What the port says in TLS; the certificate is the one of the moment.
///
/// # Errors
/// When the versions of TLS are not those that the library has.
pub(crate) fn acceptor(certificate: &Certificate) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate.clone()));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stop` is true, then a moment longer.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    desk: Arc<Desk>,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = async {
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
                    Connection { address, tls: tls.clone(), desk: Arc::clone(&desk), stop: stop.clone() };
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
    // All places free: nobody is left. Those that are late are cut.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(LAST * 2, places.acquire_many(all)).await;
}

struct Connection {
    address: SocketAddr,
    tls: TlsAcceptor,
    desk: Arc<Desk>,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn run(self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        let Self { address, tls, desk, mut stop } = self;
        // Worth a try: without them answers come later, and a client that takes nothing in stays.
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(
            &stream,
            u32::try_from(STALLED.as_millis()).unwrap_or(u32::MAX),
        );
        let stream = match tokio::time::timeout(HEAD, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, peer = %address, "no TLS"),
            Err(_) => return tracing::debug!(peer = %address, "no TLS in time"),
        };
        let service = service_fn(move |request| respond(Arc::clone(&desk), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(LAST, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, peer = %address, "connection");
        }
    }
}

/// Waits until the service stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender lives as long as the service: without it, it has stopped.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn respond(desk: Arc<Desk>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match asked(&request) {
        Ok(webhook) => answer(&desk, webhook, request).await,
        Err((status, what)) => {
            desk.metrics.unreadable();
            plain(status, what)
        }
    })
}

/// Which webhook a request is for.
fn asked(request: &Request<Incoming>) -> Result<Webhook, (StatusCode, &'static str)> {
    let webhook = match request.uri().path() {
        "/mutate" => Webhook::Mutate,
        "/validate" => Webhook::Validate,
        _ => return Err((StatusCode::NOT_FOUND, "there are /mutate and /validate here")),
    };
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "reviews are posted"));
    }
    let media =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err((StatusCode::BAD_REQUEST, "the content type of a review is application/json"));
    }
    Ok(webhook)
}

async fn answer(desk: &Desk, webhook: Webhook, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let refuse = |status, what: &str| {
        desk.metrics.unreadable();
        plain(status, what)
    };
    let body = match tokio::time::timeout(BODY, Limited::new(request.into_body(), MOST).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "a review is at most 4 MiB");
        }
        Ok(Err(_)) => return refuse(StatusCode::BAD_REQUEST, "the body cannot be read"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
    };
    let watch = Stopwatch::start();
    match review::answer(webhook, &body, &desk.facts, &desk.settings) {
        Ok(answer) => {
            desk.metrics.answered(webhook, answer.outcome, watch.elapsed());
            if let Some(refusal) = &answer.refusal {
                tracing::info!(webhook = webhook.name(), code = answer.outcome, reason = %refusal.message, "pod refused");
            } else {
                tracing::debug!(webhook = webhook.name(), outcome = answer.outcome, "pod reviewed");
            }
            let mut response = Response::new(Full::new(Bytes::from(answer.review.to_string())));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn plain(status: StatusCode, what: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{what}\n"))));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
