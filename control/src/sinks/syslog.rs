//! Syslog servers: RFC 5424, over TCP with octet counting (RFC 6587, section 3.4.1), over UDP one message a datagram
//! (RFC 5426).
//!
//! Syslog has no answer: over TCP what the kernel has taken counts as delivered when the server has not closed the connection
//! by then, over UDP whatever was sent. Both can lose entries without a sign; the other kinds of sinks cannot.

use std::io;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use sideguard_types::audit::{Phase, Record};
use sideguard_types::resource::SyslogSink;
use sideguard_types::verdict::Decision;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::outlet::Undelivered;
use super::shape::Shaped;

/// Longest time for a connection, and for one batch.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest datagram: what IPv4 and IPv6 both carry.
const LONGEST_DATAGRAM: usize = 65_000;
/// Facility "log audit".
const AUDIT: u8 = 13;

/// A server.
#[derive(Debug)]
pub(super) struct Syslog {
    address: String,
    tcp: bool,
    stream: Option<TcpStream>,
}

impl Syslog {
    pub(super) fn open(spec: &SyslogSink) -> Result<Self, String> {
        let (scheme, address) = spec.address.split_once("://").unwrap_or_default();
        match scheme {
            "tcp" | "udp" => Ok(Self { address: address.to_owned(), tcp: scheme == "tcp", stream: None }),
            _ => Err(format!("`{}` is not `tcp://` or `udp://`", spec.address)),
        }
    }

    pub(super) async fn deliver(&mut self, part: &[Shaped]) -> Result<(), Undelivered> {
        let sent = async { if self.tcp { self.stream(part).await } else { self.datagrams(part).await } };
        let late = || Err(io::Error::other("not within 10 s"));
        let sent = tokio::time::timeout(WITHIN, sent).await.unwrap_or_else(|_| late());
        sent.map_err(|error| {
            self.stream = None;
            Undelivered::NotNow(format!("`{}`: {error}", self.address))
        })
    }

    async fn stream(&mut self, part: &[Shaped]) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&self.address).await?,
        };
        open_still(&mut stream)?;
        let mut all = Vec::new();
        for one in part {
            let message = message(one, true);
            all.extend_from_slice(format!("{} ", message.len()).as_bytes());
            all.extend_from_slice(message.as_bytes());
        }
        stream.write_all(&all).await?;
        open_still(&mut stream)?;
        self.stream = Some(stream);
        Ok(())
    }

    async fn datagrams(&self, part: &[Shaped]) -> io::Result<()> {
        let to = tokio::net::lookup_host(&self.address).await?.next();
        let to = to.ok_or_else(|| io::Error::other("it has no address"))?;
        let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(own).await?;
        socket.connect(to).await?;
        for one in part {
            let mut text = message(one, true);
            if text.len() > LONGEST_DATAGRAM {
                text = message(one, false);
            }
            socket.send(text.as_bytes()).await?;
        }
        Ok(())
    }
}

/// Whether the server has not closed the connection. It has nothing to say, so that anything to read is its end.
fn open_still(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    let mut read = std::pin::pin!(stream.read(&mut byte));
    let waker = std::task::Waker::noop();
    match read.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
        std::task::Poll::Ready(Ok(0)) => Err(io::ErrorKind::ConnectionReset.into()),
        std::task::Poll::Ready(Err(error)) => Err(error),
        std::task::Poll::Ready(Ok(_)) | std::task::Poll::Pending => Ok(()),
    }
}

/// One message. Without the entry itself when that is too long for a datagram: what is found with says where it is.
fn message(one: &Shaped, whole: bool) -> String {
    let Shaped { record, tenant, sidecar, position, json } = one;
    let priority = AUDIT * 8 + severity(record);
    let phase = match record.phase {
        Phase::Intent => "intent",
        Phase::Outcome => "outcome",
        Phase::Decision => "decision",
        Phase::Control => "control",
    };
    let time = DateTime::from_timestamp_micros(record.time.0).unwrap_or_default();
    let time = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let decision = record.decision.map(Decision::as_str).unwrap_or_default();
    let host = header(sidecar);
    let mut data = String::new();
    for (name, value) in [
        ("tenant", tenant.as_str()),
        ("agent", &record.agent),
        ("call", &record.call),
        ("decision", decision),
        ("rule", &record.rule),
        ("topic", &record.topic),
        ("position", &position.to_string()),
    ] {
        if !value.is_empty() {
            data.push_str(&format!(" {name}=\"{}\"", escaped(value)));
        }
    }
    let text = if whole { json.as_str() } else { "the entry is longer than a datagram" };
    // 32473 is the number for examples (RFC 5612): the project has none of its own.
    format!("<{priority}>1 {time} {host} sideguard - {phase} [sideguard@32473{data}] {text}")
}

/// How grave an entry is: a denial is a warning, what could be decided otherwise a notice.
fn severity(record: &Record) -> u8 {
    match record.decision {
        Some(Decision::Deny) => 4,
        Some(Decision::Throttle | Decision::RequireApproval) => 5,
        Some(Decision::Allow | Decision::AllowWithConstraints) | None => 6,
    }
}

/// A part of the head: printable ASCII without spaces.
fn header(text: &str) -> String {
    let text: String = text.chars().filter(char::is_ascii_graphic).take(255).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// A value of structured data (section 6.3.3).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use sideguard_types::audit::{Phase, Record};
    use sideguard_types::time::Timestamp;
    use sideguard_types::verdict::Decision;

    use super::super::shape::Shaped;
    use super::message;

    #[test]
    fn a_message_is_as_the_rfc_has_it() {
        let mut record = Record::new(Phase::Decision, Timestamp(1_700_000_000_123_456));
        record.agent = "re\"search]\\".to_owned();
        record.decision = Some(Decision::Deny);
        let one = Shaped {
            sidecar: "s 1".to_owned(),
            tenant: "acme".to_owned(),
            position: 7,
            record,
            json: "{}".to_owned(),
        };
        assert_eq!(
            message(&one, true),
            "<108>1 2023-11-14T22:13:20.123456Z s1 sideguard - decision [sideguard@32473 tenant=\"acme\" \
             agent=\"re\\\"search\\]\\\\\" decision=\"deny\" position=\"7\"] {}"
        );
    }
}
