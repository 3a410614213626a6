//! Threads that own a connection, and the queues to them. A full queue makes the caller wait.

use std::fs::File;
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;

/// How many jobs may wait for a thread.
const QUEUE: usize = 1024;
/// The most writes of one transaction.
const GROUP: usize = 256;

/// Told why the transaction is not on disk, if it is not.
type Done = Box<dyn FnOnce(Result<(), String>) + Send>;
/// Does its work; what it hands back is called when the transaction has ended.
type Work = Box<dyn FnOnce(Result<&Connection, &rusqlite::Error>) -> Outcome + Send>;

struct Outcome {
    keep: bool,
    done: Done,
}

enum Job {
    Work(Work),
    Close(oneshot::Sender<()>),
}

/// One thread with a connection of its own.
#[derive(Debug)]
pub(super) struct Worker(mpsc::Sender<Job>);

impl Worker {
    /// A thread that writes, and lets go of `lock` when it ends.
    pub(super) fn writer(connection: Connection, lock: File) -> Result<Self, StoreError> {
        Self::start("store-write", move |jobs| {
            let closing = write_all(&connection, jobs);
            drop(connection);
            drop(lock);
            closing
        })
    }

    /// A thread that reads.
    pub(super) fn reader(connection: Connection) -> Result<Self, StoreError> {
        Self::start("store-read", move |jobs| {
            let closing = read_all(&connection, jobs);
            drop(connection);
            closing
        })
    }

    fn start(
        name: &str,
        body: impl FnOnce(&mut mpsc::Receiver<Job>) -> Closed + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (sender, mut jobs) = mpsc::channel(QUEUE);
        let run = move || {
            let closing = body(&mut jobs);
            // Whoever still waits for room in the queue, or for an answer, is told before `close` returns.
            drop(jobs);
            if let Some(closed) = closing {
                let _ = closed.send(());
            }
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|error| StoreError::broken("starting a thread", error))?;
        Ok(Self(sender))
    }

    /// Runs `job` on the thread. `committed` is called there when its changes are on disk, also when nobody waits for
    /// the answer any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        committed: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let work = move |connection: Result<&Connection, &rusqlite::Error>| {
            let result = match connection {
                Ok(connection) => job(connection),
                Err(error) => Err(StoreError::broken("beginning a transaction", error.to_string())),
            };
            let keep = result.is_ok();
            let done = move |end: Result<(), String>| {
                let result = result.and_then(|value| match end {
                    Ok(()) => Ok(value),
                    Err(error) => Err(StoreError::broken("committing a transaction", error)),
                });
                if let Ok(value) = &result {
                    committed(value);
                }
                let _ = answer.send(result);
            };
            Outcome { keep, done: Box::new(done) }
        };
        self.0.send(Job::Work(Box::new(work))).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Ends the thread when it has done what was asked before.
    pub(super) async fn close(&self) {
        let (closed, ended) = oneshot::channel();
        if self.0.send(Job::Close(closed)).await.is_ok() {
            // An error means that another `close` was first.
            let _ = ended.await;
        }
    }
}

type Closed = Option<oneshot::Sender<()>>;

fn read_all(connection: &Connection, jobs: &mut mpsc::Receiver<Job>) -> Closed {
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::Close(closed) => return Some(closed),
            Job::Work(work) => {
                let begun = connection.execute_batch("BEGIN DEFERRED");
                let outcome = work(begun.as_ref().map(|()| connection));
                (outcome.done)(end(connection, begun));
            }
        }
    }
    None
}

fn write_all(connection: &Connection, jobs: &mut mpsc::Receiver<Job>) -> Closed {
    while let Some(first) = jobs.blocking_recv() {
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        let mut next = Some(first);
        let mut group = Vec::new();
        let mut closing = None;
        while let Some(job) = next.take() {
            match job {
                Job::Close(closed) => closing = Some(closed),
                Job::Work(work) => {
                    group.push(match &begun {
                        Ok(()) => alone(connection, work),
                        Err(error) => work(Err(error)).done,
                    });
                    if group.len() < GROUP {
                        next = jobs.try_recv().ok();
                    }
                }
            }
        }
        let end = end(connection, begun);
        for done in group {
            done(end.clone());
        }
        if closing.is_some() {
            return closing;
        }
    }
    None
}

/// Runs one write of a group so that its failure takes back its own changes only.
fn alone(connection: &Connection, work: Work) -> Done {
    let point = connection.execute_batch("SAVEPOINT job");
    let outcome = work(point.as_ref().map(|()| connection));
    let after = match (&point, outcome.keep) {
        (Ok(()), true) => connection.execute_batch("RELEASE job"),
        (Ok(()), false) => connection.execute_batch("ROLLBACK TO job; RELEASE job"),
        (Err(_), _) => Ok(()),
    };
    match after {
        Ok(()) => outcome.done,
        Err(error) => {
            let failed = error.to_string();
            Box::new(move |_| (outcome.done)(Err(failed)))
        }
    }
}

fn end(connection: &Connection, begun: rusqlite::Result<()>) -> Result<(), String> {
    let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
    committed.map_err(|error| {
        // SQLite has rolled back by itself after most errors; then this one has nothing to do.
        let _ = connection.execute_batch("ROLLBACK");
        error.to_string()
    })
}
