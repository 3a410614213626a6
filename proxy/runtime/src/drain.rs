//! Stopping without cutting anybody off: new work is turned away, what is under way may finish until a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Trigger and counter of one drain. Clones share it.
#[derive(Debug, Clone)]
pub struct Drain {
    draining: Arc<watch::Sender<bool>>,
    busy: Arc<AtomicUsize>,
    idle: Arc<Notify>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { draining: Arc::new(watch::channel(false).0), busy: Arc::default(), idle: Arc::default() }
    }
}

/// Held while a piece of work is under way.
#[derive(Debug)]
pub struct Busy(Drain);

impl Drain {
    /// Notes that a piece of work begins; it ends when the returned value is dropped.
    #[must_use]
    pub fn busy(&self) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    /// How many pieces of work are under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    /// Begins to drain.
    pub fn begin(&self) {
        self.draining.send_replace(true);
    }

    /// Whether it has begun.
    #[must_use]
    pub fn begun(&self) -> bool {
        *self.draining.borrow()
    }

    /// A receiver that turns true when the drain begins.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Waits until the drain begins.
    pub async fn wait_begin(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.draining.subscribe().wait_for(|begun| *begun).await;
    }

    /// Waits until nothing is under way, at most `deadline`. Returns whether it got there.
    pub async fn wait_idle(&self, deadline: Duration) -> bool {
        let wait = async {
            loop {
                let notified = self.idle.notified();
                if self.count() == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Drain;

    #[tokio::test(start_paused = true)]
    async fn idle_is_reached_when_the_last_piece_of_work_ends() {
        let drain = Drain::default();
        let work = drain.busy();
        drain.begin();
        assert!(drain.begun());
        assert!(!drain.wait_idle(Duration::from_secs(1)).await);
        let waiting = drain.clone();
        let waiter =
            crate::tasks::spawn("wait", async move { waiting.wait_idle(Duration::from_secs(60)).await });
        drop(work);
        assert!(waiter.await.expect("the waiter does not panic"));
    }
}
