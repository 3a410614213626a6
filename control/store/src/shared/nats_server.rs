//! The connection to NATS: one stream of JetStream for all journals, and plain messages.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, InfoError, LastRawMessageErrorKind, PurgeErrorKind, RawMessageError, StorageType,
    Stream,
};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;

use super::part::Part;
use crate::error::StoreError;
use crate::key::Key;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_millis(1500);
/// The code with which JetStream says that it cannot do a request now.
const UNAVAILABLE: usize = 503;
/// How many notices a subscriber may leave waiting before it loses some.
const WAITING: usize = 1024;

/// A connection that comes back by itself.
pub(super) struct NatsServer {
    client: Client,
    context: Context,
    stream: Stream<()>,
    namespace: String,
}

impl fmt::Debug for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsServer").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// Why a message was not stored.
pub(super) enum NotStored {
    /// The subject has moved on.
    Overtaken,
    /// It may or may not have been stored.
    Failed(StoreError),
}

impl NatsServer {
    /// Connects and makes the stream when it is missing, or says that the server is away.
    pub(super) async fn connect(url: &str, namespace: &str) -> Result<Self, StoreError> {
        let options = ConnectOptions::new()
            .name("sideguard")
            .connection_timeout(Duration::from_secs(1))
            .request_timeout(Some(DEADLINE))
            .subscription_capacity(WAITING)
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis(50 << attempts.min(4)).min(Duration::from_millis(500))
            });
        let client = in_time(options.connect(&addresses(url)?[..])).await?.map_err(not_connected)?;
        let context = ContextBuilder::new().timeout(DEADLINE).ack_timeout(DEADLINE).build(client.clone());
        let config = Config {
            name: format!("{namespace}-journals"),
            subjects: vec![format!("{namespace}.journal.>")],
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            description: Some("journals of sideguard".to_owned()),
            ..Config::default()
        };
        let name = config.name.clone();
        // A stream that is there keeps its settings, such as more replicas.
        in_time(context.get_or_create_stream(config)).await?.map_err(away)?;
        let stream = in_time(context.get_stream_no_info(name)).await?.map_err(away)?;
        Ok(Self { client, context, stream, namespace: namespace.to_owned() })
    }

    /// The subject of a journal. `=` is in no key.
    pub(super) fn journal(&self, key: &Key) -> String {
        format!("{}.journal.{}", self.namespace, token_path(key.as_str()))
    }

    /// The subjects of journals whose keys start with `start`, which is empty or ends with `/`.
    pub(super) fn journals(&self, start: &str) -> String {
        format!("{}.journal.{}>", self.namespace, token_path(start))
    }

    /// The key of a journal's subject.
    pub(super) fn key(&self, subject: &str) -> Option<Key> {
        let tokens = subject.strip_prefix(&self.namespace)?.strip_prefix(".journal.")?;
        Key::read(&tokens.replace('.', "/").replace('=', ".")).ok()
    }

    /// Fails at once while there is no connection.
    fn connected(&self) -> Result<(), StoreError> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(StoreError::Away { server: "nats", source: None }),
        }
    }

    /// Stores a message if the last one of its subject has the number `last`, 0 for none.
    pub(super) async fn store(&self, subject: &str, last: u64, payload: Bytes) -> Result<u64, NotStored> {
        self.connected().map_err(NotStored::Failed)?;
        let message = PublishMessage::build().payload(payload).expected_last_subject_sequence(last);
        let stored =
            in_time(async { self.context.send_publish(subject.to_owned(), message).await?.await }).await;
        match stored.map_err(NotStored::Failed)? {
            Ok(stored) => Ok(stored.sequence),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Err(NotStored::Overtaken),
            Err(error) => Err(NotStored::Failed(away(error))),
        }
    }

    /// The last message of a subject.
    pub(super) async fn last(&self, subject: &str) -> Result<Option<Part>, StoreError> {
        self.connected()?;
        let request = self.stream.raw_message_builder().last_by_subject(subject);
        part(in_time(request.send()).await?)
    }

    /// The first message of a subject whose number is at least `sequence`.
    pub(super) async fn next(&self, subject: &str, sequence: u64) -> Result<Option<Part>, StoreError> {
        self.connected()?;
        let request = self.stream.raw_message_builder().sequence(sequence.max(1)).next_by_subject(subject);
        part(in_time(request.send()).await?)
    }

    /// Removes the messages of a subject whose numbers are below `sequence`.
    pub(super) async fn purge(&self, subject: &str, sequence: u64) -> Result<(), StoreError> {
        self.connected()?;
        let purge = self.stream.purge().filter(subject).sequence(sequence);
        match in_time(purge.into_future()).await? {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                PurgeErrorKind::JetStream(error) => Err(refused(error)),
                PurgeErrorKind::Request | PurgeErrorKind::TimedOut => Err(away(error)),
            },
        }
    }

    /// The journals that have messages in subjects that match `filter`, in no order.
    pub(super) async fn keys(&self, filter: &str) -> Result<Vec<Key>, StoreError> {
        self.connected()?;
        let mut subjects = in_time(self.stream.info_with_subjects(filter)).await?.map_err(away)?;
        let mut keys = Vec::new();
        while let Some(subject) = in_time(subjects.next()).await? {
            let (subject, _) = subject.map_err(|error: InfoError| away(error))?;
            keys.extend(self.key(&subject));
        }
        Ok(keys)
    }

    /// Sends a notice to those who listen now.
    pub(super) async fn publish(&self, topic: &str, notice: Bytes) -> Result<(), StoreError> {
        self.connected()?;
        in_time(self.client.publish(self.topic(topic), notice)).await?.map_err(away)?;
        in_time(self.client.flush()).await?.map_err(away)
    }

    /// Listens to a topic; returns when the server knows of it.
    pub(super) async fn subscribe(&self, topic: &str) -> Result<Subscriber, StoreError> {
        self.connected()?;
        let subscriber = in_time(self.client.subscribe(self.topic(topic))).await?.map_err(away)?;
        // The server reads commands in order: a message to ourselves comes back after the subscription is made.
        let inbox = self.client.new_inbox();
        let mut echo = in_time(self.client.subscribe(inbox.clone())).await?.map_err(away)?;
        in_time(self.client.publish(inbox, Bytes::new())).await?.map_err(away)?;
        match in_time(echo.next()).await? {
            Some(_) => Ok(subscriber),
            None => Err(StoreError::Away { server: "nats", source: None }),
        }
    }

    fn topic(&self, topic: &str) -> String {
        format!("{}.notice.{}", self.namespace, token_path(topic))
    }

    /// Whether JetStream answers.
    pub(super) async fn check(&self) -> Result<(), StoreError> {
        self.connected()?;
        in_time(self.stream.get_info()).await?.map(|_| ()).map_err(away)
    }

    pub(super) async fn close(&self) {
        // An error means that there is no connection to close.
        let _ = in_time(self.client.drain()).await;
    }
}

/// A path as tokens of a subject, whose separator is `.` where a path has `/`.
fn token_path(path: &str) -> String {
    path.replace('.', "=").replace('/', ".")
}

fn part(answer: Result<StreamMessage, RawMessageError>) -> Result<Option<Part>, StoreError> {
    match answer {
        Ok(message) => match Part::decode(message.sequence, message.payload) {
            Some(part) => Ok(Some(part)),
            None => Err(StoreError::broken("reading a journal", "a message has another form")),
        },
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::NO_MESSAGE_FOUND =>
            {
                Ok(None)
            }
            LastRawMessageErrorKind::JetStream(error) => Err(refused(error)),
            LastRawMessageErrorKind::InvalidSubject => Err(StoreError::broken("reading a journal", error)),
            LastRawMessageErrorKind::Other => Err(away(error)),
        },
    }
}

/// Reads URLs with commas between them. One may hold a password: none is in the error.
pub(super) fn addresses(urls: &str) -> Result<Vec<ServerAddr>, StoreError> {
    let invalid = "the URL of nats cannot be read: use `nats://host:port`";
    let addresses: Result<Vec<_>, _> = urls.split(',').map(str::parse).collect();
    addresses.map_err(|_| StoreError::Invalid(invalid.to_owned()))
}

fn not_connected(error: ConnectError) -> StoreError {
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            StoreError::broken("logging in to nats", error)
        }
        _ => away(error),
    }
}

/// What an error means that JetStream itself told: it is away while it has no leader, anything else is no outage.
fn refused(error: async_nats::jetstream::Error) -> StoreError {
    if error.code() == UNAVAILABLE {
        away(error)
    } else {
        StoreError::broken("a request of jetstream", error)
    }
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, StoreError> {
    tokio::time::timeout(DEADLINE, answer).await.map_err(away)
}

fn away(error: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Away { server: "nats", source: Some(error.into()) }
}
