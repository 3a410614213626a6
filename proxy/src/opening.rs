//! What a connection opens with: tells protocols apart by their first bytes, and holds what a client may say first in a
//! tunnel that stays closed.

use sideguard_capture::hello::{self, Hello};

/// First bytes of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
pub(crate) const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
/// Longest first line that may still turn out to be HTTP's.
const LINE: usize = 16 << 10;
/// Bytes of a TLS record before its content (RFC 8446, section 5.1).
const RECORD: usize = 5;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tls,
    Http1,
    Http2,
    /// HTTP, but meant for a proxy elsewhere.
    Connect,
    Raw,
}

/// Tells them apart; `None` when more bytes are needed. Only a whole first line tells HTTP from another protocol of
/// words, and a server may skip empty ones before it (RFC 9112, section 2.2) and read it more loosely than it is
/// meant: what holds `HTTP/` after a blank, and a line too long to tell, count as HTTP.
pub(crate) fn kind(bytes: &[u8]) -> Option<Kind> {
    let blank = |b: &u8| matches!(b, b'\r' | b'\n' | b' ' | b'\t');
    if *bytes.first()? == 0x16 {
        return Some(Kind::Tls);
    }
    let Some(start) = bytes.iter().position(|b| !blank(b)) else {
        return (bytes.len() > LINE).then_some(Kind::Http1);
    };
    if bytes.starts_with(H2_PREFACE) {
        return Some(Kind::Http2);
    }
    let said = bytes.get(start..).unwrap_or_default();
    let end = said.iter().position(|b| *b == b'\n');
    let line = said.get(..end.unwrap_or(said.len())).unwrap_or_default();
    let text = |b: &u8| matches!(b, b'\r' | b'\t' | b' '..=b'~' | 0x80..);
    if !line.iter().all(text) {
        return Some(Kind::Raw);
    }
    if end.is_none() {
        return (bytes.len() > LINE).then_some(Kind::Http1);
    }
    let http = line.windows(6).any(|part| {
        matches!(part.first(), Some(b' ' | b'\t'))
            && part.get(1..).is_some_and(|part| part.eq_ignore_ascii_case(b"HTTP/"))
    });
    if !http {
        return Some(Kind::Raw);
    }
    let connect = line.get(..7).is_some_and(|method| method.eq_ignore_ascii_case(b"CONNECT"));
    Some(if connect { Kind::Connect } else { Kind::Http1 })
}

/// What a tunnel that stays closed may hold.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// The host that it leads to.
    pub(crate) host: String,
    /// Whether bytes that are neither TLS nor HTTP may pass.
    pub(crate) raw: bool,
    /// Whether TLS to the host is opened elsewhere, so that it may not pass closed.
    pub(crate) opened: bool,
    /// Whether a hello may hold an encrypted one.
    pub(crate) encrypted: bool,
}

/// Looks at what a client says, from its first byte until nothing can change any more whom it speaks to.
#[derive(Debug)]
pub(crate) struct Gate {
    rules: Rules,
    /// Whether a hello has passed.
    greeted: bool,
    /// Whether data may come before a second hello: a server that wants one skips it (RFC 8446, section 4.2.10).
    early: bool,
}

/// How much of what is held may go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) bytes: usize,
    /// Whether all that follows may pass unseen.
    pub(crate) open: bool,
}

impl Gate {
    pub(crate) const fn new(rules: Rules) -> Self {
        Self { rules, greeted: false, early: false }
    }

    /// Looks at the bytes that are held. The error says why none of them may go on.
    pub(crate) fn look(&mut self, held: &[u8]) -> Result<Passed, String> {
        let mut passed = 0;
        loop {
            let rest = held.get(passed..).unwrap_or_default();
            let step = if self.greeted { self.record(rest)? } else { self.first(rest)? };
            match step {
                None => return Ok(Passed { bytes: passed, open: false }),
                Some(0) => return Ok(Passed { bytes: held.len(), open: true }),
                Some(bytes) => passed = passed.saturating_add(bytes),
            }
        }
    }

    /// How many of the first bytes may go on; zero when all may.
    fn first(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let host = &self.rules.host;
        match kind(bytes) {
            None => Ok(None),
            Some(Kind::Tls) if self.rules.opened => {
                Err(format!("TLS to `{host}` is opened and judged: it cannot pass as raw bytes"))
            }
            Some(Kind::Tls) => self.hello(bytes),
            Some(Kind::Raw) if self.rules.raw => Ok(Some(0)),
            Some(Kind::Raw) => Err("the tunnel holds neither TLS nor HTTP".to_owned()),
            Some(Kind::Http1 | Kind::Http2 | Kind::Connect) => {
                Err(format!("HTTP to `{host}` is judged: it cannot pass as raw bytes"))
            }
        }
    }

    fn hello(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let Some(hello) = hello::read(bytes).map_err(|error| error.to_string())? else { return Ok(None) };
        self.check(&hello)?;
        self.greeted = true;
        self.early |= hello.early_data;
        let mut length = 0_usize;
        // All records up to the end of the hello: it is whole, so that their lengths are there.
        while length < hello.length {
            let Some(record) = bytes.get(length..).and_then(record_length) else { return Ok(None) };
            length = length.saturating_add(record);
        }
        Ok(Some(length))
    }

    fn check(&self, hello: &Hello) -> Result<(), String> {
        if hello.encrypted && !self.rules.encrypted {
            return Err(
                "the client hello is encrypted, so that its name cannot be judged (`tls.ech`)".to_owned()
            );
        }
        match &hello.server_name {
            Some(asked) if *asked != self.rules.host => {
                Err(format!("SNI names `{asked}`, but the tunnel leads to `{}`", self.rules.host))
            }
            _ => Ok(()),
        }
    }

    /// A record after the hello. The server may ask for another hello (RFC 8446, section 4.1.4), which must name the same
    /// host; after anything but that the rest is between the two.
    fn record(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        const CHANGE_CIPHER_SPEC: u8 = 20;
        const ALERT: u8 = 21;
        const HANDSHAKE: u8 = 22;
        const APPLICATION_DATA: u8 = 23;
        let Some(length) = record_length(bytes) else { return Ok(None) };
        match (bytes.first(), bytes.get(RECORD)) {
            _ if length == RECORD => Err("a TLS record is empty".to_owned()),
            // Neither says anything of what is still to come.
            (Some(&(CHANGE_CIPHER_SPEC | ALERT)), _) => Ok((bytes.len() >= length).then_some(length)),
            (Some(&HANDSHAKE | &APPLICATION_DATA), None) => Ok(None),
            (Some(&HANDSHAKE), Some(1)) => self.hello(bytes),
            // Nobody can tell the last early data from the first after it: each record is looked at to the end.
            (Some(&APPLICATION_DATA), _) if self.early => Ok((bytes.len() >= length).then_some(length)),
            (Some(&HANDSHAKE | &APPLICATION_DATA), _) => Ok(Some(0)),
            _ => Err("the tunnel holds something other than TLS after the hello".to_owned()),
        }
    }
}

/// Length of the TLS record that begins here, its header included.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low, ..] = *bytes else { return None };
    Some(usize::from(u16::from_be_bytes([high, low])).saturating_add(RECORD))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::{Gate, Kind, LINE, Passed, Rules, kind};

    #[test]
    fn only_a_whole_line_of_http_is_http() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"GET /x HTTP/1.1", None),
            (b"\r\n\r\n", None),
            (b"\r\nGET /x HTTP/1.1\r\n", Some(Kind::Http1)),
            (b"GET\t/x\tHTTP/1.1\r\n", Some(Kind::Http1)),
            (b"GET /x http/1.1\r\n", Some(Kind::Http1)),
            (b"GET /x HTTP/1.1 \r\n", Some(Kind::Http1)),
            (b"\x7fGET /x HTTP/1.1\r\n", Some(Kind::Raw)),
            (b"GET /x HTTP/1.1\r\n", Some(Kind::Http1)),
            (b"GET /x HTTP/1.0\n", Some(Kind::Http1)),
            (b"GET /x\r\n", Some(Kind::Raw)),
            (b"GET /x HTTP/2.0\r\n", Some(Kind::Http1)),
            (b"CONNECT a:1 HTTP/1.1\r\n", Some(Kind::Connect)),
            (b"connect a:1 HTTP/1.1\r\n", Some(Kind::Connect)),
            (b"PRI * HTTP/2.0\r\n", Some(Kind::Http2)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some(Kind::Raw)),
            (b"EHLO there\r\n", Some(Kind::Raw)),
            (b"AMQP\0\0\x09\x01", Some(Kind::Raw)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Kind::Raw)),
            (&[0x16, 3, 1], Some(Kind::Tls)),
        ] {
            assert_eq!(kind(bytes), expected, "{}", bytes.escape_ascii());
        }
        assert_eq!(kind(&[b'a'; LINE + 1]), Some(Kind::Http1));
    }

    fn hello(name: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name).expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("a hello");
        bytes
    }

    fn gate(raw: bool, opened: bool) -> Gate {
        Gate::new(Rules { host: "bank.example".to_owned(), raw, opened, encrypted: false })
    }

    #[test]
    fn tls_passes_to_its_own_host_alone() {
        let own = hello("bank.example");
        for end in 0..own.len() {
            assert_eq!(gate(false, false).look(&own[..end]), Ok(Passed { bytes: 0, open: false }), "{end}");
        }
        let all = Passed { bytes: own.len(), open: false };
        assert_eq!(gate(false, false).look(&own), Ok(all));
        assert!(gate(true, false).look(&hello("evil.example")).is_err());
        assert!(gate(true, true).look(&own).is_err(), "what is opened elsewhere does not pass closed");
    }

    #[test]
    fn a_second_hello_is_looked_at_too() {
        let own = hello("bank.example");
        let ccs = [20, 3, 3, 0, 1, 1];
        let data = [23, 3, 3, 0, 2, 7, 7];
        let again = [&own[..], &ccs, &own, &data].concat();
        assert_eq!(gate(false, false).look(&again), Ok(Passed { bytes: again.len(), open: true }));
        let warning = [21, 3, 3, 0, 2, 1, 0];
        for between in [&ccs[..], &warning, &[&warning[..], &ccs, &warning].concat()] {
            let other = [&own[..], between, &hello("evil.example")].concat();
            assert!(gate(false, false).look(&other).is_err(), "{between:?}");
        }
        for strange in [
            &[22, 3, 3, 0, 0][..],
            &[23, 3, 3, 0, 0],
            &[20, 3, 3, 0, 0],
            &[24, 3, 3, 0, 1, 1],
            b"GET / HTTP/1.1\r\n",
        ] {
            assert!(gate(true, false).look(&[&own[..], strange].concat()).is_err(), "{strange:?}");
        }
        // Early data, which a server that wants another hello skips, does not end the looking.
        let mut early = gate(false, false);
        assert!(early.look(&own).is_ok());
        early.early = true;
        let junk = [&ccs[..], &data].concat();
        assert_eq!(early.look(&junk), Ok(Passed { bytes: junk.len(), open: false }));
        assert!(early.look(&[&data[..], &hello("evil.example")].concat()).is_err());
        // In pieces, as a client sends them.
        let mut one = gate(false, false);
        assert_eq!(one.look(&own).map(|passed| passed.open), Ok(false));
        assert_eq!(one.look(&ccs), Ok(Passed { bytes: ccs.len(), open: false }));
        assert!(one.look(&hello("evil.example")).is_err());
    }

    #[test]
    fn raw_bytes_pass_only_where_they_may_and_http_never() {
        assert_eq!(gate(true, false).look(b"\0\x01"), Ok(Passed { bytes: 2, open: true }));
        assert!(gate(false, false).look(b"\0\x01").is_err());
        assert_eq!(gate(true, false).look(b"GET / HT"), Ok(Passed { bytes: 0, open: false }));
        assert!(gate(true, false).look(b"GET / HTTP/1.1\r\n").is_err());
    }
}
