//! The store of many control replicas: documents and the ledger in Redis, journals in NATS JetStream, notices over NATS.
//!
//! Redis acknowledges what a crash loses unless it runs with `appendonly yes` and `appendfsync always`; NATS likewise
//! unless JetStream has `sync_interval: always`, or a stream of three replicas. Lost connections come back by
//! themselves; until then every call ends with [`StoreError::Away`] within two seconds.

pub(crate) mod diagnose;
mod documents;
mod journal;
mod ledger;
mod listen;
mod nats_server;
mod notices;
mod part;
mod places;
mod redis_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::IntoConnectionInfo;
use redis::io::tcp::TcpSettings;
use sideguard_runtime::tasks;
use tokio::sync::oneshot;

use crate::documents::Feed;
use crate::error::StoreError;
use crate::{Backend, Store};
use nats_server::NatsServer;
use places::Places;
use redis_server::RedisServer;

/// The longest namespace, in bytes.
const LONGEST_NAMESPACE: usize = 64;

/// The connections of one replica.
#[derive(Debug)]
struct Shared {
    redis: RedisServer,
    nats: NatsServer,
    places: Places,
    feed: Feed,
    listener: Mutex<Option<tasks::Owned>>,
    closed: AtomicBool,
}

/// Connects to both servers. All that is stored carries `namespace`.
pub(crate) async fn open(redis_url: &str, nats_url: &str, namespace: &str) -> Result<Store, StoreError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if namespace.is_empty() || namespace.len() > LONGEST_NAMESPACE || !namespace.bytes().all(plain) {
        let text = format!("`{namespace}` is not a namespace: use lower case letters, digits and `-`");
        return Err(StoreError::Invalid(text));
    }
    let client = redis_client(redis_url)?;
    let tag = format!("{{{namespace}}}");
    let redis = RedisServer::connect(client.clone(), tag.clone()).await?;
    let nats = NatsServer::connect(nats_url, namespace).await?;
    let feed = Feed::new();
    let (first, connected) = oneshot::channel();
    let task = listen::listen(client, format!("{tag}:changes"), feed.clone(), first);
    let listener = tasks::Owned::new(&tasks::spawn("store-changes", task));
    connected.await.map_err(|_| StoreError::Closed)??;
    let shared = Arc::new(Shared {
        redis,
        nats,
        places: Places::default(),
        feed,
        listener: Mutex::new(Some(listener)),
        closed: AtomicBool::new(false),
    });
    Ok(Store {
        documents: shared.clone(),
        ledger: shared.clone(),
        journal: shared.clone(),
        notices: shared.clone(),
        backend: shared,
    })
}

fn redis_client(url: &str) -> Result<redis::Client, StoreError> {
    // The URL may hold a password: it is in no error.
    let invalid = |_| {
        StoreError::Invalid(
            "the URL of redis cannot be read: use `redis://host:port/0`, or `rediss://` for TLS".to_owned(),
        )
    };
    // A server that vanished without a word is noticed when what was sent is not confirmed in time.
    let settings = TcpSettings::default().set_nodelay(true).set_user_timeout(Duration::from_secs(3));
    let info = url.into_connection_info().map_err(invalid)?.set_tcp_settings(settings);
    redis::Client::open(info).map_err(invalid)
}

impl Shared {
    fn redis(&self) -> Result<&RedisServer, StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(&self.redis) }
    }

    fn nats(&self) -> Result<&NatsServer, StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(&self.nats) }
    }
}

#[async_trait]
impl Backend for Shared {
    async fn health(&self) -> Result<(), StoreError> {
        self.redis()?.ping().await?;
        self.nats()?.check().await
    }

    async fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.listener.lock().take();
            self.feed.close();
            self.nats.close().await;
        }
    }
}
