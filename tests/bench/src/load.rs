//! The load generator: keep-alive connections that are kept busy, or requests that are due at fixed moments.

mod answer;
mod connection;
mod ticks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(crate) use connection::{Connection, Door};

use crate::clock::{self, SECOND};

/// What was seen of some load, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// From when a request was sent, or was due, to the end of its answer.
    pub(crate) latencies: Vec<u64>,
    /// From then to the first event, or byte, of the answer.
    pub(crate) firsts: Vec<u64>,
    /// From the making of each event of a stream to its arrival.
    pub(crate) delays: Vec<u64>,
    /// Requests that failed.
    pub(crate) failures: u64,
    /// Why the first of them did.
    pub(crate) failure: Option<String>,
    /// From the first request to the last answer.
    pub(crate) span: u64,
}

/// Connections to one target, and the request that goes over them.
pub(crate) struct Load {
    door: Door,
    request: Arc<[u8]>,
    connections: Vec<Connection>,
}

impl Load {
    /// Opens so many connections and sends one request over each.
    pub(crate) async fn open(door: &Door, request: Arc<[u8]>, connections: usize) -> Result<Self> {
        let mut load = Self { door: door.clone(), request, connections: Vec::with_capacity(connections) };
        for _ in 0..connections {
            let mut connection = Connection::open(&load.door).await?;
            connection.exchange(&load.request).await?;
            load.connections.push(connection);
        }
        Ok(load)
    }

    /// Keeps every connection busy for a time: the next request goes out once the last is answered.
    pub(crate) async fn closed(&mut self, time: Duration) -> Result<Seen> {
        let start = clock::now();
        let end = start + nanoseconds(time);
        self.on_each(time, |mut connection, request| async move {
            let mut seen = Seen::default();
            loop {
                let sent = clock::now();
                if sent >= end {
                    return (Some(connection), seen);
                }
                if !seen.exchange(&mut connection, &request, sent).await {
                    return (None, seen);
                }
            }
        })
        .await
        .map(|seen| Seen { span: clock::now() - start, ..seen })
    }

    /// Sends `rate` requests a second, each at its moment whether or not others have been answered, over
    /// whichever connection is free. A request that finds none free waits, and the wait counts: latencies are
    /// from the moment at which it was due.
    pub(crate) async fn paced(&mut self, rate: u64, time: Duration) -> Result<Seen> {
        let count = rate * nanoseconds(time) / SECOND;
        let (next, due) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
        let mut ticks = ticks::Ticks::start(rate)?;
        let (start, connections) = (ticks.first(), self.connections.len());
        let release = async {
            let mut released = 0;
            while released < count {
                let ticked = ticks.tick().await?.min(count - released);
                released += ticked;
                due.add_permits(usize::try_from(ticked)?);
            }
            // One more for each connection, so that it learns that there is nothing left.
            due.add_permits(connections);
            Ok(())
        };
        let work = self.on_each(time, |mut connection, request| {
            let (next, due) = (Arc::clone(&next), Arc::clone(&due));
            async move {
                let mut seen = Seen::default();
                loop {
                    let Ok(permit) = due.acquire().await else { return (None, seen) };
                    permit.forget();
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return (Some(connection), seen);
                    }
                    if !seen.exchange(&mut connection, &request, start + number * SECOND / rate).await {
                        return (None, seen);
                    }
                }
            }
        });
        let (seen, ()) = tokio::try_join!(work, release)?;
        Ok(Seen { span: clock::now() - start, ..seen })
    }

    /// Runs `work` on every connection at once, keeps those that are still good, and opens the others anew.
    async fn on_each<W, F>(&mut self, time: Duration, work: W) -> Result<Seen>
    where
        W: Fn(Connection, Arc<[u8]>) -> F,
        F: Future<Output = (Option<Connection>, Seen)> + Send + 'static,
    {
        let wanted = self.connections.len();
        let mut running: JoinSet<_> = self
            .connections
            .drain(..)
            .map(|connection| work(connection, Arc::clone(&self.request)))
            .collect();
        let all = async {
            let mut seen = Seen::default();
            while let Some(ended) = running.join_next().await {
                let (connection, part) = ended?;
                self.connections.extend(connection);
                seen.add(part);
            }
            anyhow::Ok(seen)
        };
        // Generous: a run that is merely slow should end by itself.
        let Ok(seen) = tokio::time::timeout(time * 4 + Duration::from_secs(5), all).await else {
            bail!("requests are left without an answer");
        };
        for _ in self.connections.len()..wanted {
            self.connections.push(Connection::open(&self.door).await.context("cannot connect again")?);
        }
        seen
    }
}

impl Seen {
    /// Sends one request that was due at `due`; false when it failed and the connection with it.
    async fn exchange(&mut self, connection: &mut Connection, request: &[u8], due: u64) -> bool {
        match connection.exchange(request).await {
            Ok(arrival) => {
                self.latencies.push(arrival.last.saturating_sub(due));
                self.firsts.push(arrival.first.saturating_sub(due));
                self.delays.extend(arrival.delays);
                true
            }
            Err(error) => {
                self.failures += 1;
                self.failure.get_or_insert_with(|| format!("{error:#}"));
                false
            }
        }
    }

    fn add(&mut self, part: Self) {
        self.latencies.extend(part.latencies);
        self.firsts.extend(part.firsts);
        self.delays.extend(part.delays);
        self.failures += part.failures;
        self.failure = self.failure.take().or(part.failure);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
