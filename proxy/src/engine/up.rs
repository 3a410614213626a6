//! The upstream's side of one exchange, and the pool of connections behind it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response};
use parking_lot::Mutex;
use pingora_core::connectors::{ConnectorOptions, http::Connector as Pool};
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1::client::HttpSession as Http1;
use pingora_core::protocols::l4::ext::TcpKeepalive;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, RetryType};
use pingora_http::RequestHeader;
use sideguard_runtime::clock::Stopwatch;

use super::cork::{Corked, Hold, is_silent};
use super::down::{Down, Reply, at_hand};
use super::fault;
use crate::waits::Waits;

/// Idle upstream connections kept, over all destinations.
const POOL: usize = 256;
/// Longest time that one is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Longest wait for the answer of an upstream that no longer takes in the request.
const EARLY: Duration = Duration::from_secs(1);

/// Where a call goes: the address that was resolved and checked, and the name that it was judged by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    /// The address to dial.
    pub(crate) address: SocketAddr,
    /// Host name or address, lower case: certificate and `Host` are checked and set by it.
    pub(crate) host: String,
    /// `Host` header or `:authority`: the host, with its port where it is not the scheme's own.
    pub(crate) authority: String,
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
}

/// What went wrong with the upstream.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Whether it was a time-out.
    pub(crate) timeout: bool,
    /// Whether nothing of the request can have been taken in.
    pub(crate) untouched: bool,
    /// For the agent's developer.
    pub(crate) what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Fault {
    fn of(error: &Error, untouched: bool) -> Self {
        let timeout = matches!(
            error.etype(),
            ErrorType::ConnectTimedout
                | ErrorType::ReadTimedout
                | ErrorType::WriteTimedout
                | ErrorType::TLSHandshakeTimedout
        );
        tracing::debug!(%error, "upstream failed");
        Self { timeout, untouched, what: fault::words(error).to_owned() }
    }
}

/// How long to wait for an upstream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trust {
    /// TCP and TLS together.
    pub(crate) connect: Duration,
    /// Longest silence.
    pub(crate) silence: Duration,
    /// Whether TLS 1.2 is too old.
    pub(crate) tls13_only: bool,
}

/// The pool of upstream connections. HTTP/1 ones lie here: taking one and putting it back is a matter of a lock, where
/// pingora's own pool keeps a task for each. HTTP/2 ones are shared there.
pub(crate) struct Connector {
    pool: Pool,
    idle: Mutex<Idle>,
    trust: Trust,
}

/// Idle HTTP/1 connections by destination, the last used at the end.
#[derive(Default)]
struct Idle {
    by_destination: HashMap<Destination, Vec<Resting>, ahash::RandomState>,
    count: usize,
}

struct Resting {
    stream: Stream,
    hold: Hold,
    since: Stopwatch,
}

impl Idle {
    fn take(&mut self, to: &Destination) -> Option<Resting> {
        let resting = self.by_destination.get_mut(to)?;
        while let Some(mut one) = resting.pop() {
            self.count -= 1;
            if one.since.elapsed() < IDLE && is_silent(&mut one.stream) {
                return Some(one);
            }
        }
        None
    }

    fn put(&mut self, to: Destination, one: Resting) {
        if self.count >= POOL {
            self.by_destination
                .values_mut()
                .for_each(|resting| resting.retain(|one| one.since.elapsed() < IDLE));
            self.by_destination.retain(|_, resting| !resting.is_empty());
            self.count = self.by_destination.values().map(Vec::len).sum();
        }
        if self.count < POOL {
            self.count += 1;
            self.by_destination.entry(to).or_default().push(one);
        }
    }
}

impl Connector {
    /// A pool that trusts the roots in the PEM file `roots`, which must exist and hold at least one.
    pub(crate) fn new(roots: &Path, trust: Trust) -> Self {
        let mut options = ConnectorOptions::new(POOL);
        options.ca_file = Some(roots.to_string_lossy().into_owned());
        Self { pool: Pool::new(Some(options)), idle: Mutex::default(), trust }
    }

    /// Connects, or takes a connection from the pool.
    pub(crate) async fn open(&self, to: &Destination) -> Result<Up<'_>, Fault> {
        match self.resting(to) {
            Some(up) => Ok(up),
            // Connecting is rare and its future is large: not a part of every call's own.
            None => Box::pin(self.connect(to)).await,
        }
    }

    fn resting(&self, to: &Destination) -> Option<Up<'_>> {
        let Resting { stream, hold, .. } = self.idle.lock().take(to)?;
        let mut session = HttpSession::H1(Http1::new(stream));
        session.set_read_timeout(Some(self.trust.silence));
        session.set_write_timeout(Some(self.trust.silence));
        Some(Up {
            session,
            hold,
            to: to.clone(),
            connector: self,
            reused: true,
            no_body: false,
            upgrade: false,
            spent: false,
            waits: Waits::default(),
        })
    }

    async fn connect(&self, to: &Destination) -> Result<Up<'_>, Fault> {
        let peer = self.peer(to);
        let (mut session, reused) =
            self.pool.get_http_session(&peer).await.map_err(|error| Fault::of(&error, true))?;
        if self.trust.tls13_only
            && to.tls
            && session
                .digest()
                .and_then(|digest| digest.ssl_digest.as_ref())
                .is_none_or(|tls| tls.version != "TLSv1.3")
        {
            session.shutdown().await;
            let what = "the upstream speaks only TLS 1.2, and `tls.minVersion` is 1.3".to_owned();
            return Err(Fault { timeout: false, untouched: true, what });
        }
        let hold = Hold::default();
        let mut session = match session {
            HttpSession::H1(fresh) => {
                HttpSession::H1(Http1::new(Box::new(Corked::new(fresh.into_inner(), hold.clone()))))
            }
            other => other,
        };
        session.set_read_timeout(Some(self.trust.silence));
        session.set_write_timeout(Some(self.trust.silence));
        Ok(Up {
            session,
            hold,
            to: to.clone(),
            connector: self,
            reused,
            no_body: false,
            upgrade: false,
            spent: false,
            waits: Waits::default(),
        })
    }

    fn peer(&self, to: &Destination) -> HttpPeer {
        let mut peer =
            HttpPeer::new(to.address, to.tls, if to.tls { to.host.clone() } else { String::new() });
        let options = &mut peer.options;
        options.connection_timeout = Some(self.trust.connect);
        options.total_connection_timeout = Some(self.trust.connect);
        options.read_timeout = Some(self.trust.silence);
        options.write_timeout = Some(self.trust.silence);
        options.idle_timeout = Some(Duration::from_secs(60));
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(10),
            count: 3,
            user_timeout: Duration::ZERO,
        });
        if to.tls {
            options.alpn = ALPN::H2H1;
            options.max_h2_streams = 100;
            options.h2_ping_interval = Some(Duration::from_secs(30));
        }
        let mut key = DefaultHasher::new();
        to.authority.hash(&mut key);
        peer.group_key = key.finish();
        peer
    }
}

/// A request as it is sent: the agent's own head with changes.
pub(crate) struct Outgoing {
    /// Path and query to send.
    pub(crate) target: String,
    /// Headers to take away.
    pub(crate) remove: Vec<HeaderName>,
    /// Headers to set.
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub(crate) body: Bytes,
    /// Whether the connection is to be upgraded (WebSocket): its headers go along.
    pub(crate) upgrade: bool,
    /// Whether it may go out only once, whatever becomes of it.
    pub(crate) once: bool,
}

/// The upstream's side of one exchange.
pub(crate) struct Up<'a> {
    session: HttpSession,
    hold: Hold,
    to: Destination,
    connector: &'a Connector,
    reused: bool,
    no_body: bool,
    upgrade: bool,
    /// Whether the request did not leave whole, so that nothing can follow it.
    spent: bool,
    /// Counts how long the answer is waited for.
    waits: Waits,
}

impl Up<'_> {
    /// Counts from now on how long the answer is waited for.
    pub(crate) fn count(&mut self, waits: &Waits) {
        self.waits = waits.clone();
    }

    /// Whether the connection came from the pool.
    pub(crate) const fn reused(&self) -> bool {
        self.reused
    }

    /// Sends the whole request.
    pub(crate) async fn send(&mut self, down: &Down, to: &Destination, out: &Outgoing) -> Result<(), Fault> {
        let head = request_head(down, to, out).map_err(|error| {
            tracing::debug!(%error, "request cannot be written");
            let what = "the request cannot be written as HTTP".to_owned();
            Fault { timeout: false, untouched: true, what }
        })?;
        self.no_body = head.method == Method::HEAD;
        self.upgrade = out.upgrade;
        let reused = self.reused;
        self.hold.set(!out.body.is_empty());
        let sent: pingora_error::Result<()> = async {
            self.session.write_request_header(Box::new(head)).await?;
            if out.upgrade {
                return Ok(());
            }
            if !out.body.is_empty() {
                self.session.write_request_body(out.body.clone(), true).await?;
                self.hold.set(false);
            }
            self.session.finish_request_body().await
        }
        .await;
        // A pooled connection that its server had closed already: nothing was taken in.
        sent.map_err(|error| Fault::of(&error, reused))
    }

    /// The answer of an upstream that gave it without taking in the whole request.
    pub(crate) async fn early_head(&mut self) -> Option<Head> {
        self.spent = true;
        tokio::time::timeout(EARLY, self.head()).await.ok()?.ok()
    }

    /// Reads the answer's head, past interim ones, except 101.
    pub(crate) async fn head(&mut self) -> Result<Head, Fault> {
        loop {
            self.session.read_response_header().await.map_err(|error| {
                // Only where the upstream itself says that it took nothing in: one that merely closed may have worked on
                // the request, and doing it twice may cost twice. (`Error::retry` panics where nothing is decided.)
                let untaken = *error.esource() == ErrorSource::Unset
                    && error.retry == RetryType::Decided(true)
                    // An answer that is no HTTP/2 comes after the request was taken in.
                    && error.etype() != &ErrorType::InvalidH2;
                Fault::of(&error, untaken)
            })?;
            let Some(head) = self.session.response_header() else {
                return Err(Fault { timeout: false, untouched: false, what: "no answer".to_owned() });
            };
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                if !self.upgrade {
                    let what = "the upstream switched protocols unasked".to_owned();
                    return Err(Fault { timeout: false, untouched: false, what });
                }
            } else if head.status.is_informational() {
                continue;
            }
            let no_body = self.no_body || matches!(head.status.as_u16(), 204 | 304);
            return Ok(Head { reply: head.clone(), no_body });
        }
    }

    /// The next part of the answer's body; `None` at its end.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, Fault> {
        let part = self.waits.during(pin!(self.session.read_response_body())).await;
        part.map_err(|error| Fault::of(&error, false))
    }

    /// Whether the whole answer has been read.
    pub(crate) fn finished(&mut self) -> bool {
        self.session.response_done()
    }

    /// Whether trailers may follow the body's last part.
    pub(crate) const fn may_have_trailers(&self) -> bool {
        matches!(self.session, HttpSession::H2(_))
    }

    /// The answer's trailers, over HTTP/2.
    pub(crate) async fn trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.session {
            HttpSession::H2(session) => session.read_trailers().await.ok().flatten(),
            HttpSession::H1(_) | HttpSession::Custom(()) => None,
        }
    }

    /// Leaves HTTP behind after 101: what the upstream has sent since, as far as it is here, and the connection.
    pub(crate) async fn leave_http(self) -> Option<(Bytes, Stream)> {
        match self.session {
            HttpSession::H1(mut session) if session.was_upgraded() => {
                let early = at_hand(session.read_body_bytes()).await;
                Some((early, session.into_inner()))
            }
            HttpSession::H1(_) | HttpSession::H2(_) | HttpSession::Custom(()) => None,
        }
    }

    /// Puts the connection back into the pool, its answer read to the end.
    pub(crate) async fn release(self) {
        let Self { session, hold, to, connector, spent, .. } = self;
        match session {
            mut session if spent => session.shutdown().await,
            HttpSession::H1(mut session) => {
                session.respect_keepalive();
                if let Some(stream) = session.reuse().await {
                    let since = Stopwatch::start();
                    connector.idle.lock().put(to, Resting { stream, hold, since });
                }
            }
            // Boxed: large, and HTTP/2 alone needs it.
            other => {
                let peer = connector.peer(&to);
                Box::pin(connector.pool.release_http_session(other, &peer, Some(IDLE))).await;
            }
        }
    }

    /// Closes the connection (HTTP/1) or the stream (HTTP/2): the rest of the answer is not wanted.
    pub(crate) async fn drop_rest(mut self) {
        self.session.shutdown().await;
    }
}

/// The head of an upstream's answer.
pub(crate) struct Head {
    reply: pingora_http::ResponseHeader,
    /// Whether the answer can have no body.
    pub(crate) no_body: bool,
}

impl Head {
    /// Status, version and headers.
    pub(crate) fn parts(&self) -> &response::Parts {
        &self.reply
    }

    /// The same head for the agent, its connection headers left out.
    pub(crate) fn into_reply(self, upgrade: bool) -> Reply {
        let mut head = self.reply;
        if head.version != http::Version::HTTP_2 {
            // Trailers of HTTP/1 are not passed on: none are announced.
            head.remove_header(&header::TRAILER);
        }
        if !upgrade {
            for name in nominated(&head.headers) {
                head.remove_header(name.as_str());
            }
            for name in [header::CONNECTION, header::UPGRADE, KEEP_ALIVE, PROXY_CONNECTION] {
                head.remove_header(&name);
            }
        }
        Reply::of(head)
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The agent's head, as the upstream gets it: connection headers out (RFC 9110, section 7.6.1), `Host` and length set.
fn request_head(down: &Down, to: &Destination, out: &Outgoing) -> pingora_error::Result<RequestHeader> {
    let mut head = down.header().clone();
    let uri: http::Uri = out
        .target
        .parse()
        .map_err(|_| Error::explain(ErrorType::InvalidHTTPHeader, "target is not a valid path"))?;
    head.set_uri(uri);
    head.set_version(http::Version::HTTP_11);
    if !out.upgrade {
        for name in nominated(&down.head().headers) {
            head.remove_header(name.as_str());
        }
        head.remove_header(&header::UPGRADE);
        head.remove_header(&header::CONNECTION);
    }
    for name in [
        header::TRANSFER_ENCODING,
        // A request's trailers are not passed on.
        header::TRAILER,
        header::EXPECT,
        header::PROXY_AUTHORIZATION,
        PROXY_CONNECTION,
        KEEP_ALIVE,
        header::HOST,
    ] {
        head.remove_header(&name);
    }
    if head.headers.get(header::TE).is_some_and(|te| te != "trailers") {
        head.remove_header(&header::TE);
    }
    for name in &out.remove {
        head.remove_header(name);
    }
    let had_length = head.remove_header(&header::CONTENT_LENGTH).is_some();
    head.insert_header(header::HOST, to.authority.as_str())?;
    for (name, value) in &out.set {
        head.insert_header(name.clone(), value.clone())?;
    }
    let has_body = had_length
        || !out.body.is_empty()
        || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if has_body && !out.upgrade {
        head.insert_header(header::CONTENT_LENGTH, out.body.len().to_string())?;
    }
    Ok(head)
}

/// Headers that `Connection` names: they are for this hop alone (RFC 9110, section 7.6.1).
fn nominated(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let names = values.flat_map(|value| value.to_str().unwrap_or_default().split(',')).map(str::trim);
    names.filter(|name| !name.is_empty()).map(str::to_ascii_lowercase).filter(|name| name != "host").collect()
}
