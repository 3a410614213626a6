//! What every request has to pass: the right host, a key or a session, its role, its limits.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use hyper::body::{Frame, SizeHint};
use sideguard_runtime::clock;

use super::{Access, Control};
use crate::error::{Failure, problem};
use crate::keys::{self, Principal, Role};
use crate::limits::Place;
use crate::serve::Peer;
use crate::sessions::{self, Session};

/// Name of the page's cookie.
pub(super) const COOKIE: &str = "sideguard_session";
/// A header that no other site's page can send: what changes something needs it when a cookie says who asks.
const OWN_PAGE: &str = "x-sideguard-page";
/// Sent with every answer. Answers of the interface are no page: nothing in them may run or be framed.
const ALWAYS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Lets a request in that is for this host, and finishes the answer's headers.
pub(super) async fn outermost(
    State(control): State<Arc<Control>>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let peer = peer(&request);
    let probe = matches!(request.uri().path(), "/healthz" | "/readyz");
    if !probe {
        control.hosts.check(request.headers())?;
        if control.certificates && !peer.certified {
            return Err(Failure::Forbidden("be used without a client certificate"));
        }
    }
    let mut response = problem(next.run(request).await).await;
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if peer.tls {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    Ok(response)
}

/// Where a request comes from; nowhere in a test that has no connection.
pub(super) fn peer(request: &Request) -> Peer {
    let nowhere = Peer { address: (Ipv4Addr::UNSPECIFIED, 0).into(), tls: false, certified: false };
    request.extensions().get::<Peer>().copied().unwrap_or(nowhere)
}

/// Lets a request to its route when whoever makes it may.
pub(super) async fn guard(
    access: Access,
    held: bool,
    State(control): State<Arc<Control>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let address = peer(&request).address.ip();
    let scraped = access == Access::Scrape && control.loopback;
    if scraped || matches!(access, Access::Open | Access::Token | Access::Signature) {
        if request.uri().path() != "/healthz" {
            control.limits.address(address)?;
        }
        return Ok(next.run(request).await);
    }
    let asked = match Asked::of(&request) {
        Ok(asked) => asked.whose(&control).await,
        Err(error) => Err(error),
    };
    let Session { who, key } = asked.map_err(|error| stranger(&control, address, error))?;
    control.limits.key(&key)?;
    if !may(access, &who) {
        return Err(Failure::Forbidden("do this"));
    }
    let place = if held { Some(control.limits.hold(&key)?) } else { None };
    request.extensions_mut().insert(who);
    let response = next.run(request).await;
    Ok(match place {
        Some(place) => response.map(|body| Body::new(Holding { body, _place: place })),
        None => response,
    })
}

/// Who has no good key is counted by address.
fn stranger(control: &Control, address: IpAddr, error: Failure) -> Failure {
    match (&error, control.limits.address(address)) {
        (Failure::Unauthenticated, Err(many)) => many.into(),
        _ => error,
    }
}

/// Whether a role reaches.
fn may(access: Access, who: &Principal) -> bool {
    let person = matches!(who.role, Role::Operator | Role::Approver | Role::Viewer);
    match access {
        Access::Open | Access::Token | Access::Signature => true,
        Access::Sidecars => who.role == Role::Sidecar,
        Access::People => person,
        Access::Overseers | Access::Scrape => person && who.tenant.is_none(),
        Access::Voters => matches!(who.role, Role::Operator | Role::Approver),
        Access::Operators => who.role == Role::Operator,
        Access::Submitters => matches!(who.role, Role::Operator | Role::Sidecar),
        Access::Known => person || who.role == Role::Sidecar,
        Access::Owners => who.role == Role::Operator && who.tenant.is_none(),
    }
}

/// What a request brings to say who asks.
enum Asked {
    Key(String),
    Session(String),
}

impl Asked {
    /// A key, else the page's cookie.
    fn of(request: &Request) -> Result<Self, Failure> {
        let headers = request.headers();
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let key = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
            return key.map(|key| Self::Key(key.trim().to_owned())).ok_or(Failure::Unauthenticated);
        }
        let id = cookie(headers).ok_or(Failure::Unauthenticated)?;
        own_page(request.method(), headers, peer(request).tls)?;
        Ok(Self::Session(id.to_owned()))
    }

    async fn whose(self, control: &Control) -> Result<Session, Failure> {
        match self {
            Self::Key(key) => {
                let who = control.known.whose(&control.store, clock::now(), &key).await?;
                Ok(Session { who, key: keys::hash(&key) })
            }
            Self::Session(id) => sessions::whose(&control.store, clock::now(), &id).await,
        }
    }
}

/// The session's id in a request's cookies.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, id) = pairs.find(|(name, _)| *name == COOKIE)?;
    (id.len() == 68 && id.starts_with("sgs_")).then_some(id)
}

/// Whether a request with a cookie comes from our own page: a browser sends cookies by itself.
pub(super) fn own_page(method: &Method, headers: &HeaderMap, tls: bool) -> Result<(), Failure> {
    let other = || Failure::Misdirected("the request comes from another site's page".to_owned());
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Err(other());
    }
    let scheme = if tls { "https" } else { "http" };
    let own = format!("{scheme}://{}", text("host").unwrap_or_default());
    if text("origin").is_some_and(|origin| !origin.eq_ignore_ascii_case(&own)) {
        return Err(other());
    }
    if !method.is_safe() && !headers.contains_key(OWN_PAGE) {
        return Err(Failure::Misdirected(format!("a change by cookie needs the header `{OWN_PAGE}`")));
    }
    Ok(())
}

/// The hosts that a request may be for: a page of another name that resolves to this address must not get an answer.
#[derive(Debug)]
pub(crate) enum Hosts {
    /// Whichever.
    Any,
    /// Names of loopback, and these.
    Loopback(Vec<String>),
    /// These alone.
    Named(Vec<String>),
}

impl Hosts {
    /// What holds for a service that listens on an address.
    pub(crate) fn new(address: IpAddr, names: &[String]) -> Self {
        let named: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        match (address.is_loopback(), named.is_empty()) {
            (true, _) => Self::Loopback(named),
            (false, true) => Self::Any,
            (false, false) => Self::Named(named),
        }
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let told = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = name(told).to_ascii_lowercase();
        let fits = match self {
            Self::Any => true,
            Self::Named(named) => named.contains(&host),
            Self::Loopback(named) => {
                let loopback = host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
                loopback || host == "localhost" || named.contains(&host)
            }
        };
        if fits {
            return Ok(());
        }
        Err(Failure::Misdirected(format!(
            "this service is not reached as `{}`: list the name in `hosts` of its configuration",
            told.escape_default()
        )))
    }
}

/// A host without its port and brackets.
fn name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// The body of an answer that takes a place until it has ended.
struct Holding {
    body: Body,
    _place: Place,
}

impl hyper::body::Body for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::{Hosts, cookie, own_page};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn on_loopback_only_its_own_names_are_answered() {
        let hosts = Hosts::new("127.0.0.1".parse().expect("an address"), &["Control.acme.com".to_owned()]);
        for host in
            ["127.0.0.1", "127.0.0.1:4760", "localhost:1", "LOCALHOST", "[::1]:4760", "control.acme.com:4760"]
        {
            assert!(hosts.check(&headers(&[("host", host)])).is_ok(), "{host}");
        }
        for host in ["", "evil.example", "127.0.0.1.evil.example:4760", "localhost.evil.example", "10.0.0.1"]
        {
            assert!(hosts.check(&headers(&[("host", host)])).is_err(), "{host}");
        }
        let wide = "0.0.0.0".parse().expect("an address");
        assert!(Hosts::new(wide, &[]).check(&headers(&[("host", "any")])).is_ok());
        let named = Hosts::new(wide, &["a.example".to_owned()]);
        assert!(named.check(&headers(&[("host", "b.example")])).is_err());
    }

    #[test]
    fn a_cookie_counts_only_from_our_own_page() {
        let id = format!("sgs_{}", "0".repeat(64));
        let sent = headers(&[("cookie", &format!("a=b; sideguard_session={id}; c=d"))]);
        assert_eq!(cookie(&sent), Some(id.as_str()));
        assert_eq!(cookie(&headers(&[("cookie", "sideguard_session=../x")])), None);
        let from = |method: &Method, pairs: &[(&'static str, &str)]| {
            let mut all = headers(&[("host", "h:1")]);
            all.extend(headers(pairs));
            own_page(method, &all, false).is_ok()
        };
        assert!(from(&Method::GET, &[]));
        assert!(!from(&Method::POST, &[]), "a change needs the header");
        let own = ("x-sideguard-page", "1");
        assert!(from(&Method::POST, &[own, ("origin", "http://h:1"), ("sec-fetch-site", "same-origin")]));
        for other in [
            ("origin", "https://h:1"),
            ("origin", "http://h:2"),
            ("origin", "null"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
        ] {
            assert!(!from(&Method::POST, &[own, other]), "{other:?}");
            assert!(!from(&Method::GET, &[other]), "{other:?}");
        }
    }
}
