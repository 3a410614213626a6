//! The agent's side of one exchange.

use std::future::poll_fn;
use std::io::Cursor;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request};
use pingora_core::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;

use crate::waits::Waits;

/// Longest time that an unread request body is read for, so that its sender can take in an early reply.
const DRAIN: Duration = Duration::from_secs(2);
/// Most bytes of an unread request body that are read for the same reason.
const DRAIN_BYTES: usize = 16 << 20;

/// The agent has closed its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFault {
    /// Larger than allowed.
    TooLarge,
    /// The agent closed the connection, or fell silent, before its end.
    Gone,
    /// Its framing is broken.
    Malformed,
}

/// The agent's side of one exchange: a request to read, a reply to write.
pub(crate) struct Down {
    session: ServerSession,
    /// Whether a body that waits for `100 Continue` was asked for.
    asked: bool,
    /// Counts how long the agent is waited for.
    waits: Waits,
}

impl Down {
    pub(super) fn new(session: ServerSession) -> Self {
        Self { session, asked: false, waits: Waits::default() }
    }

    /// Counts from now on how long the agent is waited for.
    pub(crate) fn count(&mut self, waits: &Waits) {
        self.waits = waits.clone();
    }

    /// Method, target, version and headers.
    pub(crate) fn head(&self) -> &request::Parts {
        self.session.req_header()
    }

    pub(super) fn header(&self) -> &pingora_http::RequestHeader {
        self.session.req_header()
    }

    /// The target as it came: origin form, absolute form, or a path alone over HTTP/2.
    pub(crate) fn target(&self) -> &[u8] {
        self.session.req_header().raw_path()
    }

    /// The head's bytes as they came; `None` over HTTP/2.
    pub(crate) fn raw_head(&self) -> Option<Bytes> {
        self.session.as_http1().map(|session| session.get_headers_raw_bytes())
    }

    /// Whether the agent asks to leave HTTP behind for a WebSocket (RFC 6455, section 4.1). Any other upgrade is not
    /// followed: what is spoken after it could hold calls that nobody judges.
    pub(crate) fn wants_upgrade(&self) -> bool {
        let head = self.head();
        let only = |name| {
            let mut values = head.headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
        };
        let nominated =
            head.headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let bodiless = !head.headers.contains_key(header::TRANSFER_ENCODING)
            && matches!(only(header::CONTENT_LENGTH), None | Some(b"0"));
        self.session.is_upgrade_req()
            && head.method == Method::GET
            && bodiless
            && only(header::UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
            && nominated
                .flat_map(|names| names.split(','))
                .any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
    }

    /// Whether the agent waits for a word before it sends the request's body (RFC 9110, section 10.1.1).
    fn expects_continue(&self) -> bool {
        self.head().version == Version::HTTP_11 && self.head().headers.contains_key(header::EXPECT)
    }

    /// Reads the whole request body, answering `Expect: 100-continue` first.
    pub(crate) async fn body(&mut self, max: usize, silence: Duration) -> Result<Bytes, BodyFault> {
        if self.session.is_body_empty() {
            return Ok(Bytes::new());
        }
        let declared =
            self.head().headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let declared = declared.and_then(|length| length.parse::<usize>().ok());
        if declared.is_some_and(|length| length > max) {
            return Err(BodyFault::TooLarge);
        }
        if self.expects_continue() {
            self.asked = true;
            // The engine would take this for the reply, and close the connection for the body that is still to come.
            self.session.set_close_on_response_before_downstream_finish(false);
            self.session.write_continue_response().await.map_err(|_| BodyFault::Gone)?;
            self.session.set_close_on_response_before_downstream_finish(true);
        }
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        loop {
            let chunk = pin!(tokio::time::timeout(silence, self.session.read_request_body()));
            let chunk = self.waits.during(chunk).await;
            match chunk.map_err(|_| BodyFault::Gone)? {
                Ok(None) if whole.is_empty() => return Ok(first),
                Ok(None) => return Ok(whole.freeze()),
                Ok(Some(chunk)) if first.len().max(whole.len()) + chunk.len() > max => {
                    drop(chunk);
                    return Err(BodyFault::TooLarge);
                }
                Ok(Some(chunk)) if first.is_empty() && whole.is_empty() => first = chunk,
                Ok(Some(chunk)) => {
                    if whole.is_empty() {
                        // A declared length can lie: what is reserved stays within reason.
                        whole.reserve(declared.unwrap_or(0).min(1 << 20).max(first.len() + chunk.len()));
                        whole.extend_from_slice(&std::mem::take(&mut first));
                    }
                    whole.extend_from_slice(&chunk);
                }
                Err(error) => return Err(body_fault(&error)),
            }
        }
    }

    /// Writes the reply's head. `length` is the length of its body where it is known.
    pub(crate) async fn reply(&mut self, head: Reply, length: Length) -> Result<(), Gone> {
        let mut out = match head.base {
            Some(base) => base,
            None => ResponseHeader::build(head.status, Some(8)).map_err(|_| Gone)?,
        };
        for name in head.remove {
            out.remove_header(&name);
        }
        for (name, value) in head.set {
            out.insert_header(name, value).map_err(|_| Gone)?;
        }
        match length {
            Length::Known(length) => {
                out.remove_header(&header::TRANSFER_ENCODING);
                out.insert_header(header::CONTENT_LENGTH, length.to_string()).map_err(|_| Gone)?;
            }
            Length::AsIs => {}
            Length::Streamed => {
                out.remove_header(&header::CONTENT_LENGTH);
                if self.head().version == Version::HTTP_11 {
                    out.insert_header(header::TRANSFER_ENCODING, "chunked").map_err(|_| Gone)?;
                } else {
                    out.remove_header(&header::TRANSFER_ENCODING);
                }
            }
        }
        if !self.session.is_http2() || matches!(length, Length::Known(_)) {
            out.remove_header(&header::TRAILER);
        }
        out.set_version(Version::HTTP_11);
        self.session.write_response_header(Box::new(out)).await.map_err(|_| Gone)
    }

    /// Writes a part of the reply's body.
    pub(crate) async fn send(&mut self, part: Bytes, end: bool) -> Result<(), Gone> {
        self.waits.during(pin!(self.session.write_response_body(part, end))).await.map_err(|_| Gone)
    }

    /// Writes the reply's trailers, which end it. HTTP/1 has none here.
    pub(crate) async fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Gone> {
        if self.session.is_http2() {
            return self.session.write_response_trailers(trailers).await.map_err(|_| Gone);
        }
        self.send(Bytes::new(), true).await
    }

    /// Waits until the agent closes its side. Only for when the request's body has been read.
    pub(crate) async fn gone(&mut self) -> Gone {
        match self.session.read_body_or_idle(true).await {
            Ok(_) => std::future::pending().await,
            Err(_) => Gone,
        }
    }

    /// Leaves HTTP behind after 101: what the agent has sent since, as far as it is here, and the connection.
    pub(crate) async fn leave_http(&mut self) -> Option<(Bytes, Stream)> {
        let early = at_hand(self.session.read_request_body()).await;
        let nothing = ServerSession::new_http1(Box::new(Cursor::new(Vec::new())));
        match std::mem::replace(&mut self.session, nothing) {
            ServerSession::H1(session) => Some((early, session.into_inner())),
            _ => None,
        }
    }

    /// Closes the connection after this exchange.
    pub(crate) fn close_after(&mut self) {
        self.session.set_keepalive(None);
    }

    /// Reads and drops what is left of the request's body, within limits.
    pub(crate) async fn drain(&mut self) {
        if self.session.is_body_done() {
            return;
        }
        if self.expects_continue() && !self.asked {
            // Nothing is on its way, but it might still come.
            return self.close_after();
        }
        let session = &mut self.session;
        let read = async {
            let mut left = DRAIN_BYTES;
            while let Ok(Some(chunk)) = session.read_request_body().await {
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    break;
                }
            }
            left
        };
        if tokio::time::timeout(DRAIN, read).await.is_ok_and(|left| left > 0) {
            return;
        }
        self.close_after();
    }

    /// Ends the stream without a proper end, so that the agent cannot take it for whole.
    pub(crate) async fn break_off(mut self) {
        self.session.shutdown().await;
    }

    /// Ends the exchange and keeps the connection where it can be kept.
    pub(super) async fn finish(self) -> Option<ReusedHttpStream> {
        let settings = HttpPersistentSettings::for_session(&self.session);
        let reusable = self.session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}

/// What a read yields without waiting.
pub(super) async fn at_hand(read: impl Future<Output = pingora_error::Result<Option<Bytes>>>) -> Bytes {
    let mut read = pin!(read);
    poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Ready(Ok(Some(bytes))) => Poll::Ready(bytes),
        _ => Poll::Ready(Bytes::new()),
    })
    .await
}

fn body_fault(error: &pingora_error::Error) -> BodyFault {
    use pingora_error::ErrorType;
    match error.etype() {
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::ReadTimedout => BodyFault::Gone,
        _ => BodyFault::Malformed,
    }
}

/// How long a reply's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// So many bytes.
    Known(usize),
    /// As the upstream's own head says.
    AsIs,
    /// Not known before its end.
    Streamed,
}

/// A reply's head: the upstream's with changes, or one of our own.
pub(crate) struct Reply {
    pub(super) base: Option<ResponseHeader>,
    status: StatusCode,
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    /// A head of our own.
    pub(crate) const fn new(status: StatusCode) -> Self {
        Self { base: None, status, remove: Vec::new(), set: Vec::new() }
    }

    pub(super) fn of(base: ResponseHeader) -> Self {
        Self { status: base.status, base: Some(base), remove: Vec::new(), set: Vec::new() }
    }

    /// The upstream's headers; none in a head of our own.
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        self.base.as_ref().map(|base| &base.headers)
    }

    /// Takes a header away.
    pub(crate) fn remove(&mut self, name: HeaderName) {
        self.remove.push(name);
    }

    /// Sets a header.
    pub(crate) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.set.push((name, value));
    }
}
