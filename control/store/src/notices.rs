//! Notices: small messages to the other control replicas, delivered at most once. Whoever needs to know for certain
//! reads documents; a notice only makes it look sooner.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::error::StoreError;
use crate::key::is_segment;

/// The largest notice, in bytes.
pub const LARGEST_NOTICE: usize = 64 << 10;

/// Notices of one topic as they come; those that are not taken in time are lost.
pub type Notes = BoxStream<'static, Bytes>;

/// Messages to all replicas that listen, the sender's own process included.
#[async_trait]
pub trait Notices: Send + Sync + fmt::Debug {
    /// Sends to all who are subscribed to `topic`, a name like one segment of a key's path.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a bad topic or more than [`LARGEST_NOTICE`] bytes; when the store is away or
    /// closed.
    async fn publish(&self, topic: &str, notice: Bytes) -> Result<(), StoreError>;

    /// What is published to `topic` from now on.
    ///
    /// # Errors
    /// As [`Self::publish`].
    async fn subscribe(&self, topic: &str) -> Result<Notes, StoreError>;
}

pub(crate) fn check(topic: &str, notice: &[u8]) -> Result<(), StoreError> {
    if !is_segment(topic) {
        return Err(StoreError::Invalid(format!("`{topic}` is not a topic: use one segment of a path")));
    }
    if notice.len() > LARGEST_NOTICE {
        return Err(StoreError::Invalid(format!("a notice is larger than {LARGEST_NOTICE} bytes")));
    }
    Ok(())
}
