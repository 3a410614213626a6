//! Below HTTP: upstreams and clients whose bytes the test writes and reads itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sideguard_runtime::tasks::{self, Owned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fake::Connections;

/// Longest time that a test waits for bytes.
const PATIENCE: Duration = Duration::from_secs(20);

/// An upstream that speaks to each connection as the test says.
pub struct RawFake {
    address: SocketAddr,
    connections: Arc<Connections>,
    _task: Owned,
}

impl RawFake {
    /// Starts one on loopback. A connection is open until what `serve` made of it ends.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start<F, Served>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(Connections::default());
        let counting = Arc::clone(&connections);
        let task = tasks::spawn("raw-fake", async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else { continue };
                let connected = counting.count();
                let served = serve(tcp);
                tasks::spawn("raw-fake-connection", async move {
                    served.await;
                    drop(connected);
                });
            }
        });
        Self { address, connections, _task: Owned::new(&task) }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL over plain HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The connections that reached it.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }
}

/// Reads a head up to and with its empty line; what there is when the other side ends before.
///
/// # Panics
/// When nothing comes.
pub async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match within(stream.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Value of a header in a head, empty where it is absent.
#[must_use]
pub fn header<'h>(head: &'h str, name: &str) -> &'h str {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .unwrap_or_default()
}

/// Reads a message: its head, and its body by its length, its chunks, or, for a reply without either, to the end.
///
/// # Panics
/// When nothing comes.
pub async fn message(stream: &mut (impl AsyncRead + Unpin)) -> (String, Vec<u8>) {
    let head = head(stream).await;
    let mut body = Vec::new();
    if header(&head, "transfer-encoding").eq_ignore_ascii_case("chunked") {
        while let Some(chunk) = chunk(stream).await {
            body.extend_from_slice(&chunk);
        }
    } else if let Ok(length) = header(&head, "content-length").parse::<usize>() {
        body.resize(length, 0);
        within(stream.read_exact(&mut body)).await.expect("a whole body");
    } else if head.starts_with("HTTP/") {
        within(stream.read_to_end(&mut body)).await.expect("a body");
    }
    (head, body)
}

/// Reads one chunk of a chunked body; `None` at its end.
///
/// # Panics
/// When there is no chunk.
pub async fn chunk(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(within(stream.read_u8()).await.expect("the length of a chunk"));
    }
    let length = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).expect("a length");
    let mut chunk = vec![0; length + 2];
    within(stream.read_exact(&mut chunk)).await.expect("a chunk");
    chunk.truncate(length);
    (length > 0).then_some(chunk)
}

/// Sends bytes, and reads to the end of the connection. The second value is whether there was one: the other side may
/// have kept the connection open for 3 s without a word.
///
/// # Panics
/// When there is no connection.
pub async fn exchange(to: SocketAddr, bytes: &[u8]) -> (String, bool) {
    let mut stream = TcpStream::connect(to).await.expect("the port");
    // The other side may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut out = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    let closed = loop {
        match tokio::time::timeout(Duration::from_secs(3), stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => break true,
            Ok(Ok(count)) => out.extend_from_slice(&buffer[..count]),
            Err(_) => break false,
        }
    };
    (String::from_utf8_lossy(&out).into_owned(), closed)
}

/// Waits until the other side closes.
///
/// # Panics
/// When it does not, or sends something.
pub async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut byte = [0];
    assert!(matches!(within(stream.read(&mut byte)).await, Ok(0) | Err(_)), "bytes where the end should be");
}

async fn within<T>(reading: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, reading).await.expect("bytes within 20 s")
}
