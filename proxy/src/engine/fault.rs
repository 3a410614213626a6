//! What went wrong with an upstream, in words for the agent's developer. The engine's own words name its internals, and
//! the libraries' own point to their documentation; they go to the log at `debug`.

use std::error::Error as StdError;
use std::io;

use pingora_error::{Error, ErrorType};

/// Says what an error of the engine means.
pub(super) fn words(error: &Error) -> &'static str {
    let (inner, io) = innermost(error);
    match inner.etype() {
        ErrorType::ConnectRefused => "the connection was refused",
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
            "no connection within the time allowed (`limits.connectTimeout`)"
        }
        ErrorType::ConnectNoRoute => "there is no route to it",
        ErrorType::ReadTimedout => "no answer within the time allowed (`limits.idleTimeout`)",
        ErrorType::WriteTimedout => {
            "the request was not taken in within the time allowed (`limits.idleTimeout`)"
        }
        ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert | ErrorType::HandshakeError => {
            handshake(&inner.context.as_ref().map(|context| context.as_str().to_owned()).unwrap_or_default())
        }
        ErrorType::ConnectionClosed | ErrorType::Custom("PrematureBodyEnd") => CLOSED,
        ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => "its answer is not framed properly",
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error => "its answer is not valid HTTP",
        ErrorType::H2Error | ErrorType::InvalidH2 | ErrorType::H2Downgrade => match io {
            Some(io) => io_words(io),
            None => "it ended the HTTP/2 stream with an error",
        },
        _ => io.map_or("the connection failed", io_words),
    }
}

const CLOSED: &str = "it closed the connection early";

/// Says what an error of a socket means.
pub(crate) fn io_words(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => "the connection was refused",
        Kind::TimedOut => "no connection within the time allowed",
        Kind::HostUnreachable | Kind::NetworkUnreachable => "there is no route to it",
        Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::NotConnected
        | Kind::UnexpectedEof => CLOSED,
        Kind::PermissionDenied => "this machine does not let the sidecar connect to it",
        Kind::AddrInUse | Kind::AddrNotAvailable => "this machine has no local port left to connect from",
        _ => "the connection failed",
    }
}

/// Says why a TLS handshake failed. The engine keeps no more of the reason than its text.
fn handshake(context: &str) -> &'static str {
    // The name that was asked for stands at the end, and could be spelled like a reason.
    let reason = context.rsplit_once(", SNI:").map_or(context, |(reason, _)| reason).to_ascii_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
    // First, since this one quotes names.
    if says(&["not valid for name", "notvalidforname"]) {
        "its certificate is not for this name"
    } else if says(&["unknownissuer", "unknown issuer", "badsignature", "bad signature"]) {
        // Signed by nobody known, or by another who bears the name of one who is.
        "its certificate is not signed by an authority that the sidecar trusts (`tls.trust`)"
    } else if says(&["certificate expired", "certificate: expired"]) {
        "its certificate has expired"
    } else if says(&["not valid yet", "notvalidyet"]) {
        "its certificate is not valid yet"
    } else if says(&["certificate: revoked"]) {
        "its certificate is revoked"
    } else if says(&["invalid peer certificate"]) {
        "its certificate is not valid"
    } else if says(&["protocolversion", "peer is incompatible"]) {
        "it speaks no version of TLS that the sidecar does"
    } else if says(&["fatal alert"]) {
        "it refused the TLS handshake"
    } else if says(&["corrupt message", "invalidcontenttype", "unexpected message"]) {
        "it does not speak TLS"
    } else if says(&["eof", "reset", "closed", "broken pipe"]) {
        "it closed the connection during the TLS handshake"
    } else {
        "the TLS handshake failed"
    }
}

/// The innermost error of the engine's that says something, and the innermost of a socket's.
fn innermost(error: &Error) -> (&Error, Option<&io::Error>) {
    let mut inner = error;
    let mut io = None;
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(one) = next {
        // The engine boxes its own errors twice.
        let boxed = || one.downcast_ref::<Box<Error>>().map(|boxed| &**boxed);
        next = if let Some(engine) = one.downcast_ref::<Error>().or_else(boxed) {
            inner = engine;
            engine.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
        } else if let Some(socket) = one.downcast_ref::<io::Error>() {
            io = Some(socket);
            // What an I/O error wraps is not its source but its inner error.
            socket.get_ref().map(|inner| inner as &(dyn StdError + 'static))
        } else {
            one.source()
        };
    }
    (inner, io)
}

#[cfg(test)]
mod tests {
    use std::io;

    use pingora_error::{Error, ErrorType};

    use super::{handshake, words};

    #[test]
    fn the_innermost_cause_is_told_in_own_words() {
        let refused = Error::explain(ErrorType::ConnectRefused, "Fail to connect to addr: 127.0.0.1:1");
        let outer = Error::because(ErrorType::InternalError, "context", refused);
        assert_eq!(words(&outer), "the connection was refused");
        let notify =
            "peer closed connection without sending TLS close_notify: https://docs.rs/rustls/latest/";
        let eof = io::Error::new(io::ErrorKind::UnexpectedEof, notify);
        let read = Error::because(ErrorType::ReadError, "while reading", eof);
        assert_eq!(words(&read), "it closed the connection early");
    }

    #[test]
    fn a_host_s_name_is_not_taken_for_a_reason() {
        let failed = |reason: &str| {
            handshake(&format!(
                "TLS connect() failed: TLSHandshakeFailure: {reason}, SNI: unknownissuer.test"
            ))
        };
        let name = "invalid peer certificate: certificate not valid for name \"certificate expired.test\"";
        assert_eq!(failed(name), "its certificate is not for this name");
        let issuer = "its certificate is not signed by an authority that the sidecar trusts (`tls.trust`)";
        assert_eq!(failed("invalid peer certificate: UnknownIssuer"), issuer);
        assert_eq!(failed("tls handshake eof"), "it closed the connection during the TLS handshake");
        assert_eq!(failed("received fatal alert: HandshakeFailure"), "it refused the TLS handshake");
        assert_eq!(failed("who knows"), "the TLS handshake failed");
    }
}
