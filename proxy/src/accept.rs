//! Stage 1: the request is read whole, its framing checked, its way upstream worked out, its body decompressed.

use std::borrow::Cow;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use sideguard_policy::path;
use sideguard_runtime::secret::Secret;
use sideguard_types::refusal::{Code, Refusal};

use crate::app::Sidecar;
use crate::call::{Accepted, Arrival, Body, Exchange, HostPort, Refused, Route};
use crate::engine::{BodyFault, Down};
use crate::feed::Policy;
use crate::work;

/// Reads a request. The rule named in refusals is the stage's own: `http`.
pub(crate) async fn accept(
    sidecar: &Sidecar,
    arrival: &Arrival,
    down: &mut Down,
) -> Result<Accepted, Refused> {
    let policy = sidecar.policy.load_full();
    let mut exchange = Exchange::new(policy, down.head().method.as_str());
    exchange.trace_id = text(&down.head().headers, "traceparent").and_then(trace_id);
    down.count(&exchange.waits);
    if let Some(traces) = &sidecar.traces {
        traces.begin(&mut exchange, &down.head().headers);
    }
    if let Some(raw) = down.raw_head() {
        if raw.len() as u64 > sidecar.config.limits.max_headers.0 {
            return Err(exchange.refuse(long_head(sidecar.config.limits.max_headers.0)));
        }
        if let Err(what) = well_formed(&raw) {
            return Err(exchange.refuse(Refusal::new(Code::Malformed, "http", what)));
        }
    }
    if let Err(refusal) = method(&exchange.method, &down.head().headers) {
        return Err(exchange.refuse(refusal));
    }
    let headers = &down.head().headers;
    exchange.session =
        text(headers, "x-sideguard-session").map(|session| session.chars().take(128).collect());
    let key = headers
        .get("x-sideguard-key")
        .and_then(|key| key.to_str().ok())
        .map(|key| Secret::new(key.to_owned()))
        .or_else(|| {
            headers
                .get(header::PROXY_AUTHORIZATION)
                .and_then(|value| crate::identify::basic_password(value.as_bytes()))
        })
        .or_else(|| arrival.key.clone());
    if arrival.inbound.is_none() {
        sidecar.metrics.stripped_headers(reserved_headers(headers));
    }
    if sidecar.fleet.is_some()
        && arrival.inbound.is_none()
        && let Some(own) = own(arrival, down)
    {
        exchange.own = Some(own.to_owned());
    }
    match exchange.own.is_none().then(|| route(&exchange.policy, arrival, down)).transpose() {
        Ok(None) => {}
        Ok(Some(route)) => {
            // What comes in is not judged by its path: the agent is.
            let doubt = path::doubtful(route.path()).filter(|_| arrival.inbound.is_none());
            exchange.route = Some(route);
            if let Some(doubt) = doubt {
                let reason = format!("{doubt}, which servers read in different ways");
                return Err(exchange.refuse(Refusal::new(Code::Unjudgeable, "route", reason)));
            }
        }
        Err(refusal) => return Err(exchange.refuse(refusal)),
    }
    let max = usize::try_from(sidecar.config.limits.max_body.0).unwrap_or(usize::MAX);
    if down.wants_upgrade() {
        return Ok(Accepted { exchange, body: Body::default(), key });
    }
    let raw = match down.body(max, sidecar.config.limits.idle_timeout.0).await {
        Ok(raw) => raw,
        Err(fault) => {
            let refusal = match fault {
                BodyFault::TooLarge => too_large(max),
                BodyFault::Gone => {
                    Refusal::new(Code::Malformed, "http", "the request's body did not arrive whole")
                }
                BodyFault::Malformed => {
                    Refusal::new(Code::Malformed, "http", "the request's body is not framed properly")
                }
            };
            if fault != BodyFault::TooLarge {
                down.close_after();
            }
            return Err(exchange.refuse(refusal));
        }
    };
    if arrival.inbound.is_some() {
        return Ok(Accepted { exchange, body: Body { decoded: raw.clone(), raw }, key });
    }
    let decoded = match decode(&down.head().headers, &raw, max) {
        Ok(decoded) => decoded,
        Err(refusal) => return Err(exchange.refuse(refusal)),
    };
    Ok(Accepted { exchange, body: Body { raw, decoded }, key })
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty())
}

/// Trace id of a `traceparent` (W3C Trace Context, section 3.2.2).
fn trace_id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_ascii_lowercase())
}

/// How many headers the agent sent that only Sideguard may set.
fn reserved_headers(headers: &HeaderMap) -> u64 {
    let reserved = |name: &str| {
        name == "x-should-retry"
            || name.starts_with("x-sideguard-") && name != "x-sideguard-session" && name != "x-sideguard-key"
    };
    headers.keys().filter(|name| reserved(name.as_str())).map(|_| 1).sum()
}

fn too_large(max: usize) -> Refusal {
    Refusal::new(
        Code::BodyTooLarge,
        "http",
        format!("the request's body is larger than {max} bytes (`limits.maxBody`)"),
    )
}

/// Answered with 431 (RFC 6585, section 5).
pub(crate) fn long_head(max: u64) -> Refusal {
    let what = format!("the request's head is larger than {max} bytes (`limits.maxHeaders`)");
    let mut refusal = Refusal::new(Code::Malformed, "http", what);
    refusal.status = 431;
    refusal
}

/// Refuses what two parsers could read in two ways (RFC 9112, sections 2.2, 5.1, 5.2 and 6.3).
/// Whether `Connection` may name a header: not one that a call is judged by, since what it names is taken out on the way.
fn is_hop(token: &[u8]) -> bool {
    const JUDGED: [&str; 12] = [
        "accept",
        "authorization",
        "content-",
        "cookie",
        "host",
        "if-",
        "mcp-",
        "origin",
        "prefer",
        "range",
        "x-http-method",
        "x-sideguard-",
    ];
    let token = String::from_utf8_lossy(token).to_ascii_lowercase();
    !JUDGED.iter().any(|start| token.starts_with(start))
}

fn well_formed(raw: &[u8]) -> Result<(), &'static str> {
    let mut lengths = 0;
    let mut encodings = 0;
    let mut hosts = 0;
    let mut chunked = true;
    for (number, line) in raw.split(|b| *b == b'\n').enumerate() {
        if line.contains(&0) {
            return Err("the head holds a NUL");
        }
        let Some(line) = line.strip_suffix(b"\r") else {
            if line.is_empty() {
                continue;
            }
            return Err("a line of the head ends without CR");
        };
        if line.contains(&b'\r') {
            return Err("the head holds a CR that ends no line");
        }
        if number == 0 || line.is_empty() {
            continue;
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err("a header is folded over two lines");
        }
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        if name.iter().any(|b| b.is_ascii_whitespace()) {
            return Err("a header's name holds white space");
        }
        if name.eq_ignore_ascii_case(b"connection") {
            let value = line.get(name.len() + 1..).unwrap_or_default();
            if value.split(|b| *b == b',').any(|token| !is_hop(token.trim_ascii())) {
                return Err("`connection` names a header of the call");
            }
        }
        lengths += usize::from(name.eq_ignore_ascii_case(b"content-length"));
        hosts += usize::from(name.eq_ignore_ascii_case(b"host"));
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            encodings += 1;
            let value = line.get(name.len() + 1..).unwrap_or_default().trim_ascii();
            chunked &= value.eq_ignore_ascii_case(b"chunked");
        }
    }
    if !chunked {
        return Err("`transfer-encoding` is something other than `chunked`");
    }
    if hosts > 1
        || hosts == 0 && !raw.split(|b| *b == b'\n').next().unwrap_or_default().ends_with(b" HTTP/1.0\r")
    {
        return Err("`host` stands not exactly once");
    }
    match (lengths, encodings) {
        (0 | 1, 0) | (0, 1) => Ok(()),
        (_, 0) => Err("`content-length` stands more than once"),
        (0, _) => Err("`transfer-encoding` stands more than once"),
        _ => Err("both `content-length` and `transfer-encoding` stand"),
    }
}

/// What a request asks of the sidecar itself: by a path of the outbound port, or by its address where a client takes the
/// port for a proxy.
fn own<'d>(arrival: &Arrival, down: &'d Down) -> Option<&'d str> {
    if arrival.tunnel.is_some() || arrival.origin.is_some() {
        return None;
    }
    let target = std::str::from_utf8(down.target()).ok()?;
    let Some((tls, at, path)) = absolute(target) else { return work::own(target) };
    let at = HostPort::parse(at, 80).filter(|at| !tls && at.port == arrival.at.port())?;
    let here = at.host == "localhost"
        || at.host.parse::<IpAddr>().is_ok_and(|named| named.is_loopback() || named == arrival.at.ip());
    work::own(path).filter(|_| here)
}

/// Works out where a request leads, from the tunnel it is in, its absolute target, or its gateway path.
fn route(policy: &Policy, arrival: &Arrival, down: &Down) -> Result<Route, Refusal> {
    let unjudgeable = |reason: String| Refusal::new(Code::Unjudgeable, "route", reason);
    let target =
        std::str::from_utf8(down.target()).map_err(|_| unjudgeable("the target is not text".to_owned()))?;
    let claimed = authority(down);
    // What CONNECT asks for, in whatever case, and everything else that names no path: another proxy could read it so.
    if !target.starts_with('/') && target != "*" && absolute(target).is_none() {
        return Err(unjudgeable(format!("the target `{target:.80}` is neither a path nor a URL")));
    }
    if let Some(inbound) = &arrival.inbound {
        let target = absolute(target).map_or(target, |(_, _, path)| path).to_owned();
        let to = HostPort { host: inbound.to.ip().to_string(), port: inbound.to.port() };
        return Ok(Route { to, tls: false, target, upstream: None });
    }
    if let Some(tunnel) = &arrival.tunnel {
        let target = match absolute(target) {
            None => target.to_owned(),
            Some((_, at, path)) if at.eq_ignore_ascii_case(&claimed) => path.to_owned(),
            Some(_) => {
                return Err(unjudgeable("the absolute target and `Host` name different hosts".to_owned()));
            }
        };
        for (what, name) in [("`Host`", Some(claimed.as_ref())), ("SNI", arrival.sni.as_deref())] {
            let Some(name) = name.filter(|name| !name.is_empty()) else { continue };
            let port = if what == "SNI" {
                tunnel.port
            } else if arrival.tls {
                443
            } else {
                80
            };
            // A client may leave a port out that it named in CONNECT.
            let named = HostPort::parse(name, port);
            if !named.is_some_and(|named| {
                named.host == tunnel.host && (named.port == tunnel.port || !name.contains(':'))
            }) {
                return Err(unjudgeable(format!(
                    "{what} names `{name}`, but the tunnel leads to `{}`",
                    tunnel.host
                )));
            }
        }
        let upstream = policy.upstreams.at(tunnel, arrival.tls, &target);
        return Ok(Route { to: tunnel.clone(), tls: arrival.tls, target, upstream });
    }
    if let Some(origin) = arrival.origin {
        let to = redirected_to(origin, &claimed).map_err(unjudgeable)?;
        let target = match absolute(target) {
            None => target.to_owned(),
            Some((false, at, path)) if at.eq_ignore_ascii_case(&claimed) => path.to_owned(),
            Some(_) => {
                return Err(unjudgeable(
                    "the absolute target leads elsewhere than the connection".to_owned(),
                ));
            }
        };
        let upstream = policy.upstreams.at(&to, false, &target);
        return Ok(Route { to, tls: false, target, upstream });
    }
    if let Some((tls, at, path)) = absolute(target) {
        let to = HostPort::parse(at, if tls { 443 } else { 80 });
        let to = to.ok_or_else(|| unjudgeable(format!("`{at}` is not a host and port")))?;
        let upstream = policy.upstreams.at(&to, tls, path);
        return Ok(Route { to, tls, target: path.to_owned(), upstream });
    }
    gateway(policy, target)
}

/// Where plain HTTP leads that was going to `origin`: to the host that it names, at the same port.
fn redirected_to(origin: SocketAddr, claimed: &str) -> Result<HostPort, String> {
    let address = origin.ip().to_canonical();
    if claimed.is_empty() {
        return Ok(HostPort { host: address.to_string(), port: origin.port() });
    }
    let to = HostPort::parse(claimed, origin.port());
    let to = to.ok_or_else(|| format!("`Host`: `{claimed}` is not a host and port"))?;
    let other = to.host.parse::<IpAddr>().is_ok_and(|named| named.to_canonical() != address);
    if other || to.port != origin.port() {
        return Err(format!("`Host` names `{claimed}`, but the connection leads to `{origin}`"));
    }
    Ok(to)
}

/// A gateway path: its first segment names the upstream.
fn gateway(policy: &Policy, target: &str) -> Result<Route, Refusal> {
    let rest = target.strip_prefix('/').unwrap_or(target);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let Some(upstream) = policy.upstreams.named(name) else {
        let known: Vec<&str> = policy.upstreams.names().collect();
        let mut refusal = Refusal::new(Code::Unjudgeable, "route", format!("no upstream is called `{name}`"));
        refusal.hint = Some(format!(
            "use this port as HTTP(S)_PROXY, or as a base URL whose path begins with an upstream: {}",
            known.join(", ")
        ));
        return Err(refusal);
    };
    let rest = if rest.starts_with('/') { Cow::Borrowed(rest) } else { Cow::Owned(format!("/{rest}")) };
    let target = format!("{}{rest}", upstream.base.path);
    Ok(Route {
        to: upstream.base.to.clone(),
        tls: upstream.base.tls,
        target,
        upstream: Some(Arc::clone(upstream)),
    })
}

/// Scheme, authority and path of an absolute target.
fn absolute(target: &str) -> Option<(bool, &str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    Some((tls, authority, if path.is_empty() { "/" } else { path }))
}

fn authority(down: &Down) -> Cow<'_, str> {
    match down.head().uri.authority() {
        Some(authority) => Cow::Borrowed(authority.as_str()),
        None => Cow::Borrowed(text(&down.head().headers, "host").unwrap_or_default()),
    }
}

/// Refuses methods that would be judged as something other than what they do. Methods are case-sensitive (RFC 9110,
/// section 9.1), but not every server knows.
fn method(method: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |reason: String| Err(Refusal::new(Code::Unjudgeable, "http", reason));
    if method.bytes().any(|b| b.is_ascii_lowercase()) {
        return refuse(format!("the method `{method:.20}` is not in upper case"));
    }
    if matches!(method, "TRACE" | "TRACK") {
        return refuse(format!("`{method}` has the server send back what it got, credentials included"));
    }
    // What begins a connection was seen before; here it could only make a tunnel of one that is judged call by call.
    if method == "CONNECT" {
        return refuse("`CONNECT` cannot follow on a connection that is in use".to_owned());
    }
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let other = |value: &http::HeaderValue| {
            let value = value.as_bytes().trim_ascii();
            value != method.as_bytes() && !(method == "POST" && matches!(value, b"GET" | b"HEAD"))
        };
        if headers.get_all(name).iter().any(other) {
            return refuse(format!("`{name}` makes something else of `{method}`"));
        }
    }
    Ok(())
}

/// Decompresses a body. What cannot be decompressed here cannot be judged.
fn decode(headers: &HeaderMap, raw: &Bytes, max: usize) -> Result<Bytes, Refusal> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(encoding) = encodings.next().filter(|_| !raw.is_empty()) else { return Ok(raw.clone()) };
    let encoding = encoding.to_str().ok().filter(|_| encodings.next().is_none());
    let encoding = encoding.unwrap_or("more than one").trim().to_ascii_lowercase();
    let decoded = match encoding.as_str() {
        "" | "identity" => return Ok(raw.clone()),
        "gzip" | "x-gzip" => inflate(flate2::read::MultiGzDecoder::new(&raw[..]), max),
        "deflate" => {
            let mut decoder = flate2::bufread::ZlibDecoder::new(&raw[..]);
            let decoded = inflate(&mut decoder, max);
            // Another reader might go on where this one stopped.
            if matches!(decoded, Ok(None)) || decoder.into_inner().is_empty() {
                decoded
            } else {
                Err(std::io::ErrorKind::InvalidData.into())
            }
        }
        _ => {
            let mut refusal = Refusal::new(
                Code::Unjudgeable,
                "http",
                format!("a body in content-encoding `{encoding}` cannot be judged"),
            );
            refusal.hint = Some("send it plain, gzip or deflate".to_owned());
            return Err(refusal);
        }
    };
    match decoded {
        Ok(Some(decoded)) => Ok(decoded),
        Ok(None) => Err(too_large(max)),
        Err(_) => Err(Refusal::new(Code::Unjudgeable, "http", format!("the body is not valid {encoding}"))),
    }
}

/// `None` when more than `max` bytes come out.
pub(crate) fn inflate(decoder: impl Read, max: usize) -> std::io::Result<Option<Bytes>> {
    let mut out = Vec::new();
    decoder.take(u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut out)?;
    Ok((out.len() <= max).then(|| Bytes::from(out)))
}

#[cfg(test)]
mod tests {
    use super::{absolute, redirected_to, well_formed};

    #[test]
    fn redirected_plain_http_goes_where_it_was_going() {
        let origin = "198.51.100.7:8080".parse().expect("an address");
        let to = |claimed: &str| redirected_to(origin, claimed).map(|to| format!("{}:{}", to.host, to.port));
        assert_eq!(to("api.example:8080"), Ok("api.example:8080".to_owned()));
        assert_eq!(to("API.example"), Ok("api.example:8080".to_owned()));
        assert_eq!(to("198.51.100.7:8080"), Ok("198.51.100.7:8080".to_owned()));
        assert_eq!(to(""), Ok("198.51.100.7:8080".to_owned()));
        for claimed in ["api.example:80", "198.51.100.8:8080", "a b", "api.example:x"] {
            assert!(to(claimed).is_err(), "{claimed}");
        }
    }

    #[test]
    fn heads_that_two_parsers_could_read_in_two_ways_are_refused() {
        assert_eq!(well_formed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"), Ok(()));
        assert_eq!(well_formed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE, Upgrade\r\n\r\n"), Ok(()));
        let named = b"DELETE / HTTP/1.1\r\nHost: a\r\nIf-Match: 1\r\nConnection: close, if-match\r\n\r\n";
        assert_eq!(well_formed(named), Err("`connection` names a header of the call"));
        assert_eq!(well_formed(b"POST / HTTP/1.1\r\nhost:a\r\ntransfer-encoding:Chunked \r\n\r\n"), Ok(()));
        assert_eq!(well_formed(b"GET / HTTP/1.0\r\n\r\n"), Ok(()));
        for head in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\nA: b\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nA: b\0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n",
        ] {
            assert!(well_formed(head).is_err(), "{}", head.escape_ascii());
        }
    }

    #[test]
    fn absolute_targets_are_taken_apart() {
        assert_eq!(absolute("http://a:81/x?y"), Some((false, "a:81", "/x?y")));
        assert_eq!(absolute("https://a"), Some((true, "a", "/")));
        assert_eq!(absolute("/openai/v1"), None);
        assert_eq!(absolute("ftp://a/"), None);
    }
}
