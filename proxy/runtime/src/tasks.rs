//! The only place that spawns tasks: every task has a name.

use std::future::Future;

use tokio::task::{AbortHandle, JoinHandle};
use tracing::Instrument;

/// Starts `future` as a task called `name`, which its log lines carry.
#[expect(clippy::disallowed_methods, reason = "this is where tasks are spawned")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.instrument(tracing::debug_span!("task", name)))
}

/// Starts a task that the process is nothing without. Should it panic, the process ends: a sidecar that sees no kill switch
/// any more must not go on as if it did.
pub fn spawn_vital<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    spawn(name, async move {
        let _vital = Vital(name);
        future.await
    })
}

/// Ends the process when it is dropped by a panic.
struct Vital(&'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "a task that the process is nothing without has failed: it ends");
            std::process::abort();
        }
    }
}

/// Starts a task on the hot path: as [`spawn`], without a span of its own.
#[expect(clippy::disallowed_methods, reason = "this is where tasks are spawned")]
pub fn spawn_plain<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Ends its task when dropped.
#[derive(Debug)]
pub struct Owned(AbortHandle);

impl Owned {
    /// Takes charge of a task.
    #[must_use]
    pub fn new<T>(task: &JoinHandle<T>) -> Self {
        Self(task.abort_handle())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}
