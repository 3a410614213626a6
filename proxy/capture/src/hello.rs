//! The first flight of a TLS client (RFC 8446, section 4.1.2): the name that it asks for, read without answering.
//!
//! Whoever reads this name may not be the last who does: a hello that two parsers could read in two ways (an extension
//! given twice, several names, lengths that do not add up) is refused.

/// Longest hello that is read; those with post-quantum keys have some 2 KiB.
const MOST: usize = 32 << 10;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
/// `encrypted_client_hello` (RFC 9849).
const ECH: u16 = 0xfe0d;
/// `early_data` (RFC 8446, section 4.2.10).
const EARLY_DATA: u16 = 42;

/// What a hello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The server name (RFC 6066, section 3), lower case; `None` when there is none.
    pub server_name: Option<String>,
    /// Whether an encrypted hello stands in it, whose name may be another one.
    pub encrypted: bool,
    /// Whether data may follow at once, and another hello after it.
    pub early_data: bool,
    /// Bytes of the records that hold it.
    pub length: usize,
}

/// Why there is no hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// It is no TLS, or no client's first flight.
    #[error("the bytes are not a TLS client hello")]
    NotTls,
    /// It is longer than anything that clients send.
    #[error("the TLS client hello is longer than {MOST} bytes")]
    TooLong,
    /// Two parsers could read it in two ways.
    #[error("the TLS client hello is ambiguous: {0}")]
    Ambiguous(&'static str),
}

/// Reads the hello at the beginning of `bytes`; `None` when more bytes are needed.
///
/// # Errors
/// When what stands there is not one.
pub fn read(bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(body) = whole(&message)? {
            let length = bytes.len().saturating_sub(rest.len());
            return body_of(body).map(|hello| Some(Hello { length, ..hello }));
        }
        let Some((&kind, after)) = rest.split_first() else { return Ok(None) };
        if kind != HANDSHAKE {
            return Err(HelloError::NotTls);
        }
        let Some((header, after)) = after.split_at_checked(4) else { return Ok(None) };
        let [major, _, high, low] = *header else { return Err(HelloError::NotTls) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if major != 3 || length == 0 || length > (16 << 10) {
            return Err(HelloError::NotTls);
        }
        let Some((part, after)) = after.split_at_checked(length) else { return Ok(None) };
        message.extend_from_slice(part);
        if message.len() > MOST {
            return Err(HelloError::TooLong);
        }
        rest = after;
    }
}

/// The body of the handshake message, when all of it is there.
fn whole(message: &[u8]) -> Result<Option<&[u8]>, HelloError> {
    let Some((header, body)) = message.split_at_checked(4) else { return Ok(None) };
    let [kind, a, b, c] = *header else { return Err(HelloError::NotTls) };
    if kind != CLIENT_HELLO {
        return Err(HelloError::NotTls);
    }
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
    if length > MOST {
        return Err(HelloError::TooLong);
    }
    Ok(body.get(..length))
}

/// A reader over bytes whose lengths must add up.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], HelloError> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(HelloError::Ambiguous("its lengths do not add up"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<usize, HelloError> {
        Ok(self.take(1)?.first().copied().map_or(0, usize::from))
    }

    fn two(&mut self) -> Result<u16, HelloError> {
        match *self.take(2)? {
            [high, low] => Ok(u16::from_be_bytes([high, low])),
            _ => Err(HelloError::NotTls),
        }
    }

    fn end(&self) -> Result<(), HelloError> {
        if self.0.is_empty() { Ok(()) } else { Err(HelloError::Ambiguous("bytes are left over")) }
    }
}

fn body_of(body: &[u8]) -> Result<Hello, HelloError> {
    let mut hello = Reader(body);
    // Version and random, session id, cipher suites, compression methods.
    hello.take(34)?;
    let session = hello.byte()?;
    hello.take(session)?;
    let suites = usize::from(hello.two()?);
    hello.take(suites)?;
    let compressions = hello.byte()?;
    hello.take(compressions)?;
    let mut found = Hello { server_name: None, encrypted: false, early_data: false, length: 0 };
    if hello.0.is_empty() {
        return Ok(found);
    }
    let length = usize::from(hello.two()?);
    let mut extensions = Reader(hello.take(length)?);
    hello.end()?;
    let mut seen: Vec<u16> = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.two()?;
        let length = usize::from(extensions.two()?);
        let data = extensions.take(length)?;
        if seen.contains(&kind) {
            return Err(HelloError::Ambiguous("an extension stands twice"));
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => found.server_name = Some(server_name(data)?),
            ECH => found.encrypted = true,
            EARLY_DATA => found.early_data = true,
            _ => {}
        }
    }
    Ok(found)
}

fn server_name(data: &[u8]) -> Result<String, HelloError> {
    let mut outer = Reader(data);
    let length = usize::from(outer.two()?);
    let mut list = Reader(outer.take(length)?);
    outer.end()?;
    if list.byte()? != 0 {
        return Err(HelloError::Ambiguous("its server name is not a host name"));
    }
    let length = usize::from(list.two()?);
    let name = list.take(length)?;
    if !list.0.is_empty() {
        return Err(HelloError::Ambiguous("it has several server names"));
    }
    let plain = !name.is_empty()
        && name.len() <= 253
        && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !plain {
        return Err(HelloError::Ambiguous("its server name is not a host name"));
    }
    Ok(String::from_utf8_lossy(name).trim_end_matches('.').to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::{HelloError, read};

    /// A real client's hello for a name.
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

    /// A hello with these extensions and nothing else.
    fn with_extensions(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        for (kind, data) in extensions {
            all.extend(kind.to_be_bytes());
            all.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
            all.extend(*data);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(u16::try_from(all.len()).expect("short").to_be_bytes());
        body.extend(all);
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        let message = [&[1, length[1], length[2], length[3]], body.as_slice()].concat();
        let length = u16::try_from(message.len()).expect("short").to_be_bytes();
        [&[22, 3, 1, length[0], length[1]], message.as_slice()].concat()
    }

    fn sni(names: &[&str]) -> Vec<u8> {
        let list: Vec<u8> = names
            .iter()
            .flat_map(|name| {
                let length = u16::try_from(name.len()).expect("short").to_be_bytes();
                [&[0, length[0], length[1]], name.as_bytes()].concat()
            })
            .collect();
        [u16::try_from(list.len()).expect("short").to_be_bytes().as_slice(), &list].concat()
    }

    #[test]
    fn a_real_clients_name_is_read_however_its_hello_is_cut() {
        let bytes = hello("API.example.com");
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "{end} bytes");
        }
        let read = read(&bytes).expect("a hello").expect("all of it");
        assert_eq!(read.server_name.as_deref(), Some("api.example.com"));
        assert!(!read.encrypted);
    }

    #[test]
    fn a_hello_in_several_records_is_put_together() {
        let bytes = hello("a.example");
        let message = &bytes[5..];
        let (one, two) = message.split_at(40);
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).expect("short").to_be_bytes();
            [&[22, 3, 1, length[0], length[1]], part].concat()
        };
        let cut = [record(one), record(two)].concat();
        let read = read(&cut).expect("a hello").expect("all of it");
        assert_eq!(read.server_name.as_deref(), Some("a.example"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let one = sni(&["a.example"]);
        assert!(read(&with_extensions(&[(0, &one)])).is_ok_and(|hello| hello.is_some()));
        assert!(read(&with_extensions(&[(42, b"")])).is_ok_and(|hello| hello.is_some_and(|h| h.early_data)));
        let none = read(&with_extensions(&[(16, b"\0\x03\x02h2")])).expect("a hello").expect("all of it");
        assert_eq!(none.server_name, None);
        assert!(
            read(&with_extensions(&[(0xfe0d, b"\0")])).is_ok_and(|hello| hello.is_some_and(|h| h.encrypted))
        );
        for bad in [
            with_extensions(&[(0, &one), (0, &sni(&["b.example"]))]),
            with_extensions(&[(0, &sni(&["a.example", "b.example"]))]),
            with_extensions(&[(0, &sni(&["a\0.example"]))]),
            with_extensions(&[(0, &sni(&[""]))]),
            with_extensions(&[(0, &[0, 99, 0])]),
        ] {
            assert!(matches!(read(&bad), Err(HelloError::Ambiguous(_))), "{bad:?}");
        }
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Err(HelloError::NotTls));
        assert_eq!(read(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Err(HelloError::NotTls));
        assert_eq!(read(&[22, 3, 1, 0, 4, 1, 1, 0, 0]), Err(HelloError::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = read(&bytes);
            let _ = read(&[&[22, 3, 1, 1, 0][..], &bytes].concat());
        }
    }
}
