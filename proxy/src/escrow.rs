//! A request as it is held for people to look at, and the hash that their approval is bound to.
//!
//! The hash is over everything that leaves: method, place, every header that bears on what the call does, and the body. Left
//! out are only headers that differ each time the same is sent, and for MCP the message's own number. Credentials are in
//! the hash, mixed with a secret of the sidecar's so that nobody can guess at them, and are shown to nobody.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sideguard_dialects::detect::Operation;
use sideguard_dialects::request::{self, Request};
use sideguard_dialects::{edit, json as strict};
use sideguard_types::control::approvals::Held;
use sideguard_types::verdict::Verdict;

use crate::call::{Body, Exchange, Route};
use crate::upstreams::CREDENTIAL_HEADERS;

/// Largest body that is held.
const BODY: usize = 512 << 10;
/// Longest value of a header, and longest path, that is shown.
const TEXT: usize = 4 << 10;
/// Most headers that a held request may have.
const HEADERS: usize = 80;
/// Shown in place of what is secret.
const HIDDEN: &str = "***";

/// Headers that say nothing of what a call does: those of the connection, those that are not sent as they came, and those
/// that clients number or date their attempts by.
const VARYING: [&str; 32] = [
    "accept-encoding",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "b3",
    "baggage",
    "connection",
    "content-length",
    "date",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "sentry-trace",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "x-amzn-trace-id",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-client-request-id",
    "x-correlation-id",
    "x-request-id",
    "x-should-retry",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
    "x-stainless-timeout",
];

/// Parts of names of headers whose values are secret.
const SECRET: [&str; 9] =
    ["-key", "auth", "cookie", "credential", "jwt", "passw", "secret", "session", "token"];

/// Query parameters whose values are secret. What merely may be is shown: people must see what they say yes to.
const SECRET_PARAMETERS: [&str; 11] = [
    "access_token",
    "api-key",
    "api_key",
    "apikey",
    "client_secret",
    "password",
    "sig",
    "signature",
    "token",
    "x-amz-security-token",
    "x-amz-signature",
];

/// A held request with its hash.
#[derive(Debug)]
pub(crate) struct Escrow {
    /// SHA-256 over the canonical request, in hex.
    pub(crate) hash: String,
    pub(crate) request: Held,
}

/// Why a request cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request is too large to be held for an approval: {0}")]
pub(crate) struct TooLarge(&'static str);

/// The request of an exchange, as it would leave.
pub(crate) fn of(
    exchange: &Exchange,
    route: &Route,
    headers: &HeaderMap,
    body: &Body,
    verdict: &Verdict,
    secret: &[u8; 32],
) -> Result<Escrow, TooLarge> {
    if body.raw.len().max(body.decoded.len()) > BODY {
        return Err(TooLarge("its body is over 512 KiB"));
    }
    let bound = bound(headers, route);
    if bound.len() > HEADERS {
        return Err(TooLarge("it has too many headers"));
    }
    let hash = hash(exchange, route, &bound, &canonical(exchange.operation, body), secret);
    let shown = bound.iter().map(|(name, value)| {
        let value = if is_secret(name.as_str()) { HIDDEN.into() } else { String::from_utf8_lossy(value) };
        (name.to_string(), value.into_owned())
    });
    let request = Held {
        method: exchange.method.clone(),
        scheme: scheme(route).to_owned(),
        host: route.to.authority(route.tls),
        path: shown_path(&route.target),
        headers: shown.collect(),
        body: BASE64_STANDARD.encode(&body.decoded),
        arguments: arguments(exchange, body),
        constraints: verdict.constraints.as_ref().map_or(Value::Null, |constraints| json!(constraints)),
    };
    let long = |text: &str| text.len() > TEXT;
    if long(&request.path) || request.headers.iter().any(|(_, value)| long(value)) {
        return Err(TooLarge("its path or a header is over 4 KiB"));
    }
    Ok(Escrow { hash, request })
}

const fn scheme(route: &Route) -> &'static str {
    if route.tls { "https" } else { "http" }
}

/// The headers that an approval is bound to, in order of their names.
fn bound<'h>(headers: &'h HeaderMap, route: &Route) -> Vec<(&'h HeaderName, &'h [u8])> {
    let brokered = route.upstream.as_ref().and_then(|upstream| upstream.credential.as_ref());
    let replaced =
        |name: &HeaderName| brokered.is_some_and(|(own, _)| own == name || CREDENTIAL_HEADERS.contains(name));
    let connection = headers.get_all(http::header::CONNECTION).into_iter();
    let hops: Vec<String> = connection
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut bound: Vec<_> = headers
        .iter()
        .filter(|(name, _)| {
            let varies = VARYING.contains(&name.as_str()) || name.as_str().starts_with("x-sideguard-");
            // What `Connection` names does not go out: it is not shown, and no part of what is approved.
            !varies && !replaced(name) && !hops.iter().any(|hop| hop == name.as_str())
        })
        .map(|(name, value)| (name, value.as_bytes()))
        .collect();
    // Stable: several of one name keep their order.
    bound.sort_by_key(|(name, _)| name.as_str());
    bound
}

/// Of a header, in lower case.
fn is_secret(name: &str) -> bool {
    SECRET.iter().any(|part| name.contains(part))
}

/// The body with what differs each time taken out.
fn canonical(operation: Operation, body: &Body) -> Vec<u8> {
    if operation == Operation::Mcp
        && let Ok(Request::Mcp(request)) = request::read(operation, &body.decoded)
    {
        let numbers = request.messages.iter().flat_map(|message| message.without_numbers(&body.decoded));
        return edit::apply(&body.decoded, numbers.collect());
    }
    body.raw.to_vec()
}

fn hash(
    exchange: &Exchange,
    route: &Route,
    headers: &[(&HeaderName, &[u8])],
    body: &[u8],
    secret: &[u8; 32],
) -> String {
    let caller = exchange.caller.as_deref();
    let (tenant, agent) = caller.map_or(("", ""), |caller| (&caller.tenant, &caller.agent));
    let chain = caller.map_or(&[][..], |caller| &caller.chain);
    let mut parts = Parts::default();
    parts.add(b"sideguard request 2");
    // Two upstreams at one place have credentials and rules of their own.
    parts.add(route.upstream.as_ref().map_or(&b""[..], |upstream| upstream.name.as_bytes()));
    parts.add(tenant.as_bytes());
    parts.add(agent.as_bytes());
    parts.list(chain.iter().map(String::as_bytes));
    parts.add(exchange.method.as_bytes());
    parts.add(scheme(route).as_bytes());
    parts.add(route.to.authority(route.tls).as_bytes());
    parts.add(route.target.as_bytes());
    let values: Vec<Vec<u8>> = headers
        .iter()
        .map(|(name, value)| {
            if is_secret(name.as_str()) {
                Sha256::new().chain_update(secret).chain_update(value).finalize().to_vec()
            } else {
                value.to_vec()
            }
        })
        .collect();
    parts.list(headers.iter().map(|(name, _)| name.as_str().as_bytes()));
    parts.list(values.iter().map(Vec::as_slice));
    parts.add(body);
    parts.hash()
}

/// Bytes of several parts, each with its length before it, so that no two sets of parts look alike.
#[derive(Default)]
struct Parts(Sha256);

impl Parts {
    fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    fn list<'p>(&mut self, parts: impl ExactSizeIterator<Item = &'p [u8]>) {
        self.0.update((parts.len() as u64).to_be_bytes());
        parts.for_each(|part| self.add(part));
    }

    fn hash(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What people read: the tool's arguments, or the body.
fn arguments(exchange: &Exchange, body: &Body) -> Value {
    let args = exchange.items.first().and_then(|item| body.decoded.get(item.args.clone()?));
    let bytes = args.unwrap_or(&body.decoded);
    if bytes.is_empty() {
        return Value::Null;
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Value::String(format!("{} bytes that are no text", bytes.len()));
    };
    // As a text where another form would show something else: keys that come twice, numbers that lose digits.
    let digits = bytes.split(|byte| !byte.is_ascii_digit()).any(|run| run.len() > 15);
    let faithful = !digits && strict::read(bytes).is_ok();
    let read = if faithful { serde_json::from_str(text).ok() } else { None };
    read.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Path and query, without the values of parameters that are secret.
fn shown_path(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let shown = |pair: &str| match pair.split_once('=') {
        Some((name, value))
            if SECRET_PARAMETERS.contains(&name.to_ascii_lowercase().as_str())
                || (name == "key" && value.starts_with("AIza")) =>
        {
            format!("{name}={HIDDEN}")
        }
        _ => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(shown).collect();
    format!("{path}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::{Parts, is_secret, shown_path};

    #[test]
    fn no_two_sets_of_parts_have_the_same_hash() {
        let hash = |lists: &[&[&str]]| {
            let mut parts = Parts::default();
            lists.iter().for_each(|list| parts.list(list.iter().map(|part| part.as_bytes())));
            parts.hash()
        };
        let all = [
            hash(&[&["a", "bc"], &[]]),
            hash(&[&["ab", "c"], &[]]),
            hash(&[&["a"], &["bc"]]),
            hash(&[&[], &["a", "bc"]]),
            hash(&[&["abc"], &[]]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
    }

    #[test]
    fn secrets_do_not_show_and_what_is_to_be_judged_does() {
        for name in ["authorization", "cookie", "x-api-key", "mcp-session-id", "x-amz-security-token"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["content-type", "x-http-method-override", "if-match", "accept"] {
            assert!(!is_secret(name), "{name}");
        }
        assert_eq!(
            shown_path("/b?key=reports/all.csv&force&Token=canary&key=AIzaCanary"),
            "/b?key=reports/all.csv&force&Token=***&key=***"
        );
    }
}
