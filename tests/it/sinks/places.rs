//! Places that keep what sinks bring them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use harness::Fake;
use harness::fake::{self, Seen, whole};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use parking_lot::Mutex;
use prost::Message;
use serde_json::Value;
use sideguard_runtime::tasks;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, UdpSocket};

/// What webhooks are signed with.
pub(super) const SECRET: &str = "a-secret-of-the-tests-0123456789";

/// A webhook.
pub(super) struct Hook {
    fake: Fake,
    status: Arc<AtomicU16>,
    taken: Arc<Mutex<Vec<Seen>>>,
}

impl Hook {
    pub(super) async fn start() -> Self {
        let (status, taken) = (Arc::new(AtomicU16::new(200)), Arc::new(Mutex::new(Vec::new())));
        let (answer, keep) = (Arc::clone(&status), Arc::clone(&taken));
        let fake = Fake::start(None, move |seen| {
            let status = answer.load(Ordering::Acquire);
            if status == 200 {
                keep.lock().push(seen.clone());
            }
            let mut reply = fake::reply("text/plain", whole(""));
            *reply.status_mut() = http::StatusCode::from_u16(status).expect("a status");
            reply
        })
        .await;
        Self { fake, status, taken }
    }

    pub(super) fn url(&self) -> String {
        format!("{}/hook", self.fake.url())
    }

    pub(super) fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Release);
    }

    /// How often something was brought.
    pub(super) fn tries(&self) -> usize {
        self.fake.seen().len()
    }

    /// Entries that were taken, in order.
    pub(super) fn entries(&self) -> Vec<Value> {
        let taken = self.taken.lock();
        let lines = taken.iter().flat_map(|seen| {
            let text = String::from_utf8(seen.body.to_vec()).expect("a text");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        lines.map(|line| serde_json::from_str(&line).expect("JSON")).collect()
    }

    pub(super) fn positions(&self) -> Vec<u64> {
        self.entries().iter().filter_map(|entry| entry["position"].as_u64()).collect()
    }

    /// Whether every batch is signed as it should be.
    pub(super) fn all_signed(&self) -> bool {
        let taken = self.taken.lock();
        !taken.is_empty() && taken.iter().all(signed)
    }
}

/// Whether a signature fits, as a webhook's owner would check it.
fn signed(seen: &Seen) -> bool {
    let header = |name: &str| seen.headers.get(name).and_then(|value| value.to_str().ok());
    let signature = header("x-sideguard-signature").and_then(|text| text.strip_prefix("v1="));
    let (Some(time), Some(signature)) = (header("x-sideguard-timestamp"), signature) else { return false };
    let now = sideguard_runtime::clock::now().seconds();
    let fresh = time.parse::<i64>().is_ok_and(|time| (now - time).abs() < 300);
    let message = [time.as_bytes(), b".", &seen.body].concat();
    let bytes: Option<Vec<u8>> = (0..signature.len() / 2)
        .map(|at| u8::from_str_radix(signature.get(at * 2..at * 2 + 2)?, 16).ok())
        .collect();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    fresh && bytes.is_some_and(|bytes| ring::hmac::verify(&key, &message, &bytes).is_ok())
}

/// A collector of logs.
pub(super) struct Logs(Fake);

impl Logs {
    pub(super) async fn start() -> Self {
        Self(Fake::start(None, |_| fake::reply("application/x-protobuf", whole(""))).await)
    }

    pub(super) fn url(&self) -> String {
        self.0.url()
    }

    pub(super) fn header(&self, name: &str) -> String {
        let seen = self.0.seen();
        let value = seen.first().and_then(|seen| seen.headers.get(name));
        value.map(|value| value.to_str().expect("a text").to_owned()).unwrap_or_default()
    }

    pub(super) fn positions(&self) -> Vec<u64> {
        let seen = self.0.seen();
        let bodies = seen.iter().filter(|seen| seen.target == "/v1/logs");
        let requests = bodies.map(|seen| ExportLogsServiceRequest::decode(seen.body.clone()).expect("OTLP"));
        let records = requests
            .flat_map(|request| request.resource_logs)
            .flat_map(|resource| resource.scope_logs)
            .flat_map(|scope| scope.log_records);
        records
            .map(|record| match record.body.and_then(|body| body.value) {
                Some(Any::StringValue(text)) => {
                    let entry: Value = serde_json::from_str(&text).expect("JSON");
                    entry["position"].as_u64().expect("a number")
                }
                other => panic!("no text: {other:?}"),
            })
            .collect()
    }
}

/// A syslog server.
pub(super) struct Server {
    address: SocketAddr,
    messages: Arc<Mutex<Vec<String>>>,
    _task: tasks::Owned,
}

impl Server {
    /// Over TCP, with octet counting.
    pub(super) async fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let messages: Arc<Mutex<Vec<String>>> = Arc::default();
        let keep = Arc::clone(&messages);
        let task = tasks::spawn("syslog", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let keep = Arc::clone(&keep);
                tasks::spawn("syslog-connection", async move {
                    let mut stream = BufReader::new(stream);
                    let mut length = Vec::new();
                    while stream.read_until(b' ', &mut length).await.is_ok_and(|read| read > 0) {
                        let text = String::from_utf8_lossy(&length).trim().to_owned();
                        let mut message = vec![0; text.parse::<usize>().expect("a length")];
                        if stream.read_exact(&mut message).await.is_err() {
                            return;
                        }
                        keep.lock().push(String::from_utf8(message).expect("a text"));
                        length.clear();
                    }
                });
            }
        });
        Self { address, messages, _task: tasks::Owned::new(&task) }
    }

    /// Over UDP.
    pub(super) async fn udp() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let messages: Arc<Mutex<Vec<String>>> = Arc::default();
        let keep = Arc::clone(&messages);
        let task = tasks::spawn("syslog", async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length) = socket.recv(&mut buffer).await {
                keep.lock().push(String::from_utf8(buffer[..length].to_vec()).expect("a text"));
            }
        });
        Self { address, messages, _task: tasks::Owned::new(&task) }
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn messages(&self) -> Vec<String> {
        self.messages.lock().clone()
    }

    pub(super) fn positions(&self) -> Vec<u64> {
        let position = |message: &String| {
            let (_, rest) = message.split_once(" position=\"").expect("a position");
            rest.split('"').next().and_then(|text| text.parse().ok()).expect("a number")
        };
        self.messages.lock().iter().map(position).collect()
    }
}
