//! Notices within one process.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::error::StoreError;
use crate::notices::{Notes, Notices, check};

/// How many notices a subscriber may leave waiting before it loses the oldest.
const WAITING: usize = 256;

/// A channel for each topic that somebody listens to.
#[derive(Debug, Default)]
pub(super) struct EmbeddedNotices(Mutex<HashMap<String, broadcast::Sender<Bytes>>>);

#[async_trait]
impl Notices for EmbeddedNotices {
    async fn publish(&self, topic: &str, notice: Bytes) -> Result<(), StoreError> {
        check(topic, &notice)?;
        let mut topics = self.0.lock();
        if topics.get(topic).is_some_and(|sender| sender.send(notice).is_err()) {
            // Nobody listens any more.
            topics.remove(topic);
        }
        Ok(())
    }

    async fn subscribe(&self, topic: &str) -> Result<Notes, StoreError> {
        check(topic, &[])?;
        let mut topics = self.0.lock();
        topics.retain(|_, sender| sender.receiver_count() > 0);
        let receiver =
            topics.entry(topic.to_owned()).or_insert_with(|| broadcast::Sender::new(WAITING)).subscribe();
        Ok(stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(notice) => return Some((notice, receiver)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
        .boxed())
    }
}
