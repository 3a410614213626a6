//! Tasks with an owner: all of them end when the owner is dropped.

use std::future::Future;

use parking_lot::Mutex;
use tokio::task::JoinSet;

/// Tasks that nobody waits for.
#[derive(Default)]
pub(crate) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    /// Starts a task; those that have ended are let go of on the way.
    pub(crate) fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.0.lock();
        while running.try_join_next().is_some() {}
        running.spawn(task);
    }
}
