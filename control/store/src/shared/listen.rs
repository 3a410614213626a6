//! Hears of changes from Redis.
//!
//! A script publishes what it changed. Redis delivers this in order for as long as the connection holds, and ends the
//! connection of a listener that is too slow; so a change can only be missed together with the connection. After a
//! new one is subscribed, watchers are told to look at everything again.

use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{PubSub, PubSubSink};
use redis::{Client, Msg};
use tokio::sync::oneshot;

use super::redis_server::{in_time, key, number};
use crate::documents::{Change, Feed, Revision};
use crate::error::StoreError;

/// How often the connection is tried when nothing comes.
const QUIET: Duration = Duration::from_secs(2);
/// How long to wait before connecting again.
const PAUSE: Duration = Duration::from_millis(200);

/// Tells `feed` of changes until it is dropped; `first` hears how the first connection went, and an error ends it.
pub(super) async fn listen(
    client: Client,
    channel: String,
    feed: Feed,
    first: oneshot::Sender<Result<(), StoreError>>,
) {
    match subscribe(&client, &channel).await {
        Ok(connection) => {
            let _ = first.send(Ok(()));
            forward(connection, &feed).await;
        }
        Err(error) => {
            let _ = first.send(Err(error));
            return;
        }
    }
    loop {
        match subscribe(&client, &channel).await {
            Ok(connection) => {
                feed.tell(Change::Resync);
                forward(connection, &feed).await;
            }
            Err(error) => tracing::debug!(%error, "cannot hear of changes"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn subscribe(client: &Client, channel: &str) -> Result<PubSub, StoreError> {
    in_time(async {
        let mut connection = client.get_async_pubsub().await?;
        connection.subscribe(channel).await?;
        Ok(connection)
    })
    .await
}

/// Ends when the connection does.
async fn forward(connection: PubSub, feed: &Feed) {
    let (mut sink, mut messages) = connection.split();
    loop {
        match tokio::time::timeout(QUIET, messages.next()).await {
            Ok(Some(message)) => tell(&message, feed),
            Ok(None) => return,
            Err(_) if alive(&mut sink).await => {}
            Err(_) => return,
        }
    }
}

async fn alive(sink: &mut PubSubSink) -> bool {
    in_time(sink.ping::<redis::Value>()).await.is_ok()
}

/// A message is a revision and the keys that were changed at it.
fn tell(message: &Msg, feed: &Feed) {
    let mut words = message.get_payload_bytes().split(|byte| *byte == b' ');
    let Some(Ok(revision)) = words.next().map(number) else {
        feed.tell(Change::Resync);
        return;
    };
    for word in words {
        feed.tell(match key(word) {
            Ok(key) => Change::Changed { key, revision: Revision(revision) },
            Err(_) => Change::Resync,
        });
    }
}
