//! How long a call has waited for somebody else: the agent's body, the upstream's answer, the agent to take it. What is left
//! of its time is Sideguard's own.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use sideguard_runtime::clock::Stopwatch;

/// Time that one call has waited. Clones share it; the default keeps no count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waits(Option<Arc<AtomicU64>>);

impl Waits {
    /// A count from zero.
    pub(crate) fn counted() -> Self {
        Self(Some(Arc::default()))
    }

    /// The time so far.
    pub(crate) fn total(&self) -> Duration {
        Duration::from_nanos(self.0.as_ref().map_or(0, |nanos| nanos.load(Ordering::Relaxed)))
    }

    /// Does what has to be waited for. Only the time counts for which it cannot go on; what is ready at once costs not even
    /// a look at the clock.
    pub(crate) async fn during<F: Future>(&self, mut work: Pin<&mut F>) -> F::Output {
        let Some(nanos) = &self.0 else { return work.await };
        let mut wait = Wait { since: None, nanos };
        poll_fn(|context| {
            let polled = work.as_mut().poll(context);
            match polled {
                Poll::Pending => drop(wait.since.get_or_insert_with(Stopwatch::start)),
                Poll::Ready(_) => wait.end(),
            }
            polled
        })
        .await
    }
}

/// A wait that counts when it ends, or is given up.
struct Wait<'w> {
    since: Option<Stopwatch>,
    nanos: &'w AtomicU64,
}

impl Wait<'_> {
    fn end(&mut self) {
        if let Some(since) = self.since.take() {
            let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.nanos.fetch_add(nanos, Ordering::Relaxed);
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use super::Waits;

    #[tokio::test]
    async fn what_is_given_up_has_been_waited_for_and_what_is_ready_has_not() {
        let waits = Waits::counted();
        assert_eq!(waits.during(pin!(async { 7 })).await, 7);
        assert_eq!(waits.total(), Duration::ZERO);
        let never = pin!(std::future::pending::<()>());
        let given_up = tokio::time::timeout(Duration::from_millis(20), waits.during(never)).await;
        assert!(given_up.is_err());
        assert!(waits.total() >= Duration::from_millis(15), "{:?}", waits.total());
    }
}
