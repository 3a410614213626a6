//! Waiting for the disk without a runtime.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Unwritable;
use super::writer::Shared;

/// Resolves when an intent is as safe as the log's `sync` asks for. See [`Log::durable`](super::Log::durable).
#[must_use = "a future does nothing unless it is awaited"]
pub struct Durable {
    /// `None` when there is nothing to wait for.
    pub(super) wait: Option<(Arc<Shared>, u64)>,
}

impl Future for Durable {
    type Output = Result<(), Unwritable>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.wait {
            None => Poll::Ready(Ok(())),
            Some((shared, seq)) => shared.poll_synced(*seq, context.waker()),
        }
    }
}
