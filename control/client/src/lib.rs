//! The control service's interface, as typed calls: what the command line and the sidecars ask it by.
//!
//! It keeps connections and a key and nothing else: it does not cache, and knows no policy. Of several replicas it asks
//! another one when nothing could be sent to the first; what may have been sent it does not send again. Start at
//! [`Client::new`]; the words are those of [`sideguard_types::control`].
//!
//! ```no_run
//! # async fn stop() -> Result<(), sideguard_client::ClientError> {
//! use sideguard_client::Client;
//! use sideguard_runtime::secret::Secret;
//! use sideguard_types::control::Scope;
//!
//! let key = Secret::new("sgk_…".to_owned());
//! let control = Client::new("https://control.example.com:4760", Some(key), None)?;
//! control.kill(&Scope::Fleet, "drill").await?;
//! # Ok(())
//! # }
//! ```

mod approvals;
mod calls;
mod connect;
mod error;
mod feed;
mod jobs;
mod keys;
mod operating;
mod places;
mod query;
mod records;
mod workflows;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sideguard_runtime::https::{Connector, Tasks};
use sideguard_runtime::secret::Secret;
use sideguard_types::control::Problem;

pub use calls::{Listing, Objects};
pub use connect::Identity;
pub use error::ClientError;
pub use feed::{Stream, Told};
pub use records::{Records, Watch};
pub use workflows::Runs;

use places::{Place, Places};

/// Largest body that is sent.
pub const MAX_BODY: usize = 16 << 20;
/// Largest body that is taken: a generation with all of its texts.
pub const MAX_ANSWER: usize = 64 << 20;
/// Longest time for a connection to come about.
const TO_CONNECT: Duration = Duration::from_secs(5);
/// The same where there are several replicas.
const TO_CONNECT_HASTILY: Duration = Duration::from_secs(1);
/// Longest time from a request to the end of its answer.
const TO_ANSWER: Duration = Duration::from_secs(30);
/// The same for the feed, which the service answers within 30 s when nothing happens.
const TO_FEED: Duration = Duration::from_secs(45);
/// The same for a farewell: whoever ends does not wait.
const TO_LEAVE: Duration = Duration::from_secs(2);
/// How long an unused connection is kept; the service lets go of it after 30 s.
const IDLE: Duration = Duration::from_secs(20);

/// A control service, with the key to ask it by. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    places: Arc<Places>,
    key: Option<Secret<HeaderValue>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url()).field("key", &self.key).finish()
    }
}

impl Client {
    /// A client of the service at `url`, such as `https://control.example.com:4760`, or of its replicas, with commas
    /// between. `roots` are certificates in PEM that theirs must come from; the system's when absent. Opens no
    /// connection yet.
    ///
    /// # Errors
    /// [`ClientError::Setup`] when an address is not `http://` or `https://` and a host, the key cannot stand in a header,
    /// or there is no usable root.
    pub fn new(url: &str, key: Option<Secret<String>>, roots: Option<&[u8]>) -> Result<Self, ClientError> {
        Self::with_identity(url, key, roots, None)
    }

    /// As [`Client::new`], with a certificate to show to a service that asks for one.
    ///
    /// # Errors
    /// As [`Client::new`], and when the certificate cannot be used.
    pub fn with_identity(
        url: &str,
        key: Option<Secret<String>>,
        roots: Option<&[u8]>,
        own: Option<&Identity>,
    ) -> Result<Self, ClientError> {
        let places = Places::read(url)?;
        let tls = if places.any_is_secure() { Some(connect::tls(roots, own)?) } else { None };
        let within = if places.count() > 1 { TO_CONNECT_HASTILY } else { TO_CONNECT };
        let http = legacy::Client::builder(Tasks).pool_idle_timeout(IDLE).build(Connector::new(tls, within));
        let key = key.as_ref().map(bearer).transpose()?;
        Ok(Self { http, places: Arc::new(places), key })
    }

    /// Begins at any of the replicas, so that a fleet's sidecars do not all ask the first.
    #[must_use]
    pub fn anywhere(self) -> Self {
        self.places.anywhere();
        self
    }

    /// The same service, asked by another key.
    ///
    /// # Errors
    /// [`ClientError::Setup`] when the key cannot stand in a header.
    pub fn with_key(&self, key: &Secret<String>) -> Result<Self, ClientError> {
        Ok(Self { key: Some(bearer(key)?), ..self.clone() })
    }

    /// Where the service is; of several replicas, the one that is asked next.
    #[must_use]
    pub fn url(&self) -> String {
        self.places.now().1.url()
    }

    /// How many replicas there are to ask.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.places.count()
    }

    /// Asks another replica from now on, as this one takes requests and does not answer them.
    pub fn pass_over(&self) {
        self.places.turn(self.places.now().0);
    }

    /// Asks another replica from now on, unless that was done since the one at `url` was asked.
    fn turn(&self, url: &str) {
        let (at, place) = self.places.now();
        if place.url() == url {
            self.places.turn(at);
        }
    }

    fn unreachable(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Unreachable { url: self.url(), reason: reason.into() }
    }

    fn protocol(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Protocol { url: self.url(), reason: reason.into() }
    }

    /// Asks, and reads the answer's JSON.
    async fn ask<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, ClientError> {
        let answer = self.send(ask).await?;
        self.read(&answer, ask.path)
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8], path: &str) -> Result<T, ClientError> {
        serde_json::from_slice(answer)
            .map_err(|error| self.protocol(format!("{error} in the answer to `{path}`")))
    }

    /// Asks, and gives the answer's body when it is a success.
    async fn send(&self, ask: Ask<'_>) -> Result<Bytes, ClientError> {
        let exchange = async {
            let (response, _) = self.begin(ask).await?;
            if response.status().is_success() {
                self.body(response).await
            } else {
                Err(self.refused(response).await)
            }
        };
        let late = || self.unreachable(format!("no answer within {} s", ask.within.as_secs()));
        tokio::time::timeout(ask.within, exchange).await.unwrap_or_else(|_| {
            self.turn(&self.url());
            Err(late())
        })
    }

    /// Asks, and gives the answer's beginning and where it is from. A replica to which nothing could be sent is passed over.
    async fn begin(&self, ask: Ask<'_>) -> Result<(Response<Incoming>, String), ClientError> {
        let mut passed = 1;
        loop {
            let (at, place) = self.places.now();
            let request = self.request(ask, place)?;
            match self.http.request(request).await {
                Ok(response) => {
                    if matches!(response.status().as_u16(), 502..=504) {
                        self.places.turn(at);
                    }
                    return Ok((response, place.url()));
                }
                Err(error) => {
                    self.places.turn(at);
                    if !error.is_connect() || passed == self.places.count() {
                        return Err(ClientError::Unreachable { url: place.url(), reason: causes(&error) });
                    }
                    passed += 1;
                }
            }
        }
    }

    /// Why an answer is no success.
    async fn refused(&self, response: Response<Incoming>) -> ClientError {
        let (status, problem) = (response.status(), is_problem(&response));
        match self.body(response).await {
            Ok(body) => self.refusal(status, problem, &body),
            Err(error) => error,
        }
    }

    fn request(&self, ask: Ask<'_>, place: &Place) -> Result<Request<Full<Bytes>>, ClientError> {
        let body = Bytes::copy_from_slice(ask.body);
        if body.len() > MAX_BODY {
            return Err(ClientError::Setup(format!("more than {} MiB in one request", MAX_BODY >> 20)));
        }
        let made = Uri::builder()
            .scheme(place.scheme.clone())
            .authority(place.authority.clone())
            .path_and_query(format!("{}{}", place.base, ask.path))
            .build()
            .and_then(|uri| {
                let mut request = Request::builder()
                    .method(ask.method)
                    .uri(uri)
                    .header(ACCEPT, "application/json, application/problem+json, text/event-stream")
                    .header(USER_AGENT, concat!("sideguard/", env!("CARGO_PKG_VERSION")));
                if !body.is_empty() {
                    request = request.header(CONTENT_TYPE, ask.kind);
                }
                if let Some(key) = &self.key {
                    request = request.header(AUTHORIZATION, key.expose());
                }
                request.body(Full::new(body))
            });
        made.map_err(|error| ClientError::Setup(format!("`{}` cannot be asked for: {error}", ask.path)))
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let too_long = || self.protocol(format!("an answer of more than {} MiB", MAX_ANSWER >> 20));
        let mut body = response.into_body();
        let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if expected > MAX_ANSWER {
            return Err(too_long());
        }
        let mut whole = BytesMut::with_capacity(expected);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.unreachable(causes(&error)))?;
            if let Some(data) = frame.data_ref() {
                if whole.len() + data.len() > MAX_ANSWER {
                    return Err(too_long());
                }
                whole.extend_from_slice(data);
            }
        }
        Ok(whole.freeze())
    }

    fn refusal(&self, status: StatusCode, problem: bool, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(told) if problem => ClientError::Refused(told),
            _ => self.protocol(format!("status {status} without a reason")),
        }
    }
}

/// One request.
#[derive(Clone, Copy)]
struct Ask<'a> {
    method: &'a Method,
    path: &'a str,
    body: &'a [u8],
    /// What the body is.
    kind: &'static str,
    within: Duration,
}

impl<'a> Ask<'a> {
    const fn get(path: &'a str) -> Self {
        Self { method: &Method::GET, path, body: &[], kind: "application/json", within: TO_ANSWER }
    }

    const fn delete(path: &'a str) -> Self {
        Self { method: &Method::DELETE, path, body: &[], kind: "application/json", within: TO_ANSWER }
    }

    const fn post(path: &'a str, body: &'a [u8]) -> Self {
        Self { method: &Method::POST, path, body, kind: "application/json", within: TO_ANSWER }
    }

    const fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }
}

/// A body in JSON.
fn json(body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(|error| ClientError::Setup(error.to_string()))
}

fn bearer(key: &Secret<String>) -> Result<Secret<HeaderValue>, ClientError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        .map_err(|_| ClientError::Setup("the key has characters that no key has".to_owned()))?;
    value.set_sensitive(true);
    Ok(Secret::new(value))
}

fn is_problem(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/problem+json"))
}

/// The innermost cause: hyper's own words say only that something went wrong.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use sideguard_runtime::secret::Secret;

    use super::{Client, ClientError};

    #[test]
    fn an_address_is_a_scheme_and_a_host() {
        for url in ["http://127.0.0.1:4760", "http://control/", "http://[::1]:1/base/"] {
            assert!(Client::new(url, None, None).is_ok(), "{url}");
        }
        for url in [
            "",
            "127.0.0.1:4760",
            "/v1",
            "ftp://control",
            "http://key@control",
            "http://",
            "http://a,,http://b",
            "http://a,b",
        ] {
            let refused = Client::new(url, None, None);
            assert!(matches!(refused, Err(ClientError::Setup(_))), "{url}");
        }
        let client = Client::new("http://h:1/base/", None, None).expect("a client");
        assert_eq!(client.url(), "http://h:1/base");
    }

    #[test]
    fn the_key_does_not_show() {
        let key = Some(Secret::new("canary".to_owned()));
        let client = Client::new("http://127.0.0.1:1", key, None).expect("a client");
        assert!(!format!("{client:?}").contains("canary"));
        let broken = Client::new("http://127.0.0.1:1", Some(Secret::new("can\nary".to_owned())), None);
        assert!(broken.is_err_and(|error| !error.to_string().contains("ary\n")));
    }

    #[test]
    fn https_needs_a_root() {
        assert!(Client::new("https://control", None, Some(b"no certificate")).is_err());
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let client = Client::new("http://127.0.0.1:1", None, None).expect("a client");
        let answer = client.kills().await;
        assert!(matches!(answer, Err(ClientError::Unreachable { .. })), "{answer:?}");
    }

    #[tokio::test]
    async fn a_replica_that_is_not_there_is_passed_over() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let there = format!("http://{}", listener.local_addr().expect("its address"));
        let client = Client::new(&format!("http://127.0.0.1:1,{there}"), None, None).expect("a client");
        let asked = async { client.ready().await };
        let answered = async {
            let (mut tcp, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            tokio::io::AsyncReadExt::read(&mut tcp, &mut request).await.expect("a request");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut tcp, answer).await.expect("an answer");
        };
        let (asked, ()) = tokio::join!(asked, answered);
        asked.expect("an answer of the other one");
        assert_eq!(client.url(), there, "it is asked from now on");
    }
}
