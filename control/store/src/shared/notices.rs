//! Notices over NATS, without JetStream: who does not listen misses them.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;

use super::Shared;
use crate::error::StoreError;
use crate::notices::{Notes, Notices, check};

#[async_trait]
impl Notices for Shared {
    async fn publish(&self, topic: &str, notice: Bytes) -> Result<(), StoreError> {
        check(topic, &notice)?;
        self.nats()?.publish(topic, notice).await
    }

    async fn subscribe(&self, topic: &str) -> Result<Notes, StoreError> {
        check(topic, &[])?;
        let subscriber = self.nats()?.subscribe(topic).await?;
        Ok(subscriber.map(|message| message.payload).boxed())
    }
}
