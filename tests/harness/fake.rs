//! A fake upstream: answers as the test says, and keeps what reached it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use rustls::ServerConfig;
use sideguard_runtime::tasks::{self, Owned};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// One request as it reached the upstream.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Version of HTTP.
    pub version: http::Version,
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Host or `:authority`.
    pub host: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Body of a reply.
pub type Body = BoxBody<Bytes, Infallible>;

/// A whole body.
#[must_use]
pub fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

/// A body whose parts the test sends one by one; it ends when the sender is dropped.
#[must_use]
pub fn parts() -> (mpsc::Sender<Bytes>, Body) {
    let (send, receive) = mpsc::channel::<Bytes>(64);
    let stream = futures_stream(receive);
    (send, BodyExt::boxed(StreamBody::new(stream)))
}

fn futures_stream(
    receive: mpsc::Receiver<Bytes>,
) -> impl futures_core::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    Receiver(receive)
}

struct Receiver(mpsc::Receiver<Bytes>);

impl futures_core::Stream for Receiver {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

/// How the fake answers.
pub type Answer = dyn Fn(&Seen) -> Response<Body> + Send + Sync;

/// A fake upstream.
pub struct Fake {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Connections>,
    _task: Owned,
}

/// Connections that reached a fake.
#[derive(Debug, Default)]
pub struct Connections {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl Connections {
    /// How many were accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }

    /// How many are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Counts one in, until what is returned is dropped.
    pub(crate) fn count(self: &Arc<Self>) -> Connected {
        self.accepted.fetch_add(1, Ordering::AcqRel);
        self.open.fetch_add(1, Ordering::AcqRel);
        Connected(Arc::clone(self))
    }
}

/// One connection that is open.
pub(crate) struct Connected(Arc<Connections>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Fake {
    /// Starts one on loopback, over TLS when a configuration is given; HTTP/1 and HTTP/2.
    pub async fn start(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::on(listener, tls, answer)
    }

    /// Starts one on a port of the test's own.
    pub fn on(
        listener: std::net::TcpListener,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        listener.set_nonblocking(true).expect("a mode");
        let listener = TcpListener::from_std(listener).expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Connections::default());
        let service = serve(listener, tls, Arc::clone(&seen), Arc::clone(&connections), Arc::new(answer));
        let task = tasks::spawn("fake", service);
        Self { address, seen, connections, _task: Owned::new(&task) }
    }

    /// A JSON reply to everything.
    pub async fn json(body: &'static str) -> Self {
        Self::start(None, move |_| reply("application/json", whole(body))).await
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL over plain HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The connections that reached it.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// What reached it so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

/// A reply with status 200.
#[must_use]
pub fn reply(content_type: &str, body: Body) -> Response<Body> {
    Response::builder().header("content-type", content_type).body(body).expect("a reply")
}

async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Connections>,
    answer: Arc<Answer>,
) {
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        let connected = connections.count();
        let (tls, seen, answer) = (tls.clone(), Arc::clone(&seen), Arc::clone(&answer));
        tasks::spawn("fake-connection", async move {
            // What the other side breaks off is its own affair.
            match tls {
                None => drop(connection(TokioIo::new(tcp), seen, answer).await),
                Some(config) => {
                    if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await {
                        drop(connection(TokioIo::new(stream), seen, answer).await);
                    }
                }
            }
            drop(connected);
        });
    }
}

async fn connection<I>(
    io: I,
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<Answer>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let host = head.uri.authority().map(ToString::to_string);
            let host = host.or_else(|| {
                head.headers.get("host").map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned())
            });
            let one = Seen {
                version: head.version,
                method: head.method.to_string(),
                target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
                host: host.unwrap_or_default(),
                headers: head.headers,
                body,
            };
            seen.lock().push(one.clone());
            Ok::<_, Infallible>(answer(&one))
        }
    });
    auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(io, service).await
}
