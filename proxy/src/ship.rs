//! Ships the record to control: what is on disk here, in order, from where control has it. Control is asked for its place at
//! each beginning, so that nothing is lost and nothing is kept twice whichever side was away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sideguard_client::{Client, ClientError};
use sideguard_record::read::{Lump, Raw, oldest, raw};
use sideguard_types::control::records::BATCH_BYTES;
use tokio::sync::watch;

use crate::app::{Sidecar, put_aside};

/// First pause after a failure; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Pause after control has refused what was sent: somebody has to look first.
const REFUSED: Duration = Duration::from_secs(30);
/// How long more records are waited for before the few that there are go out.
const GATHER: Duration = Duration::from_millis(50);

/// How long the log is left without a checkpoint when nothing more comes.
const SIGN: Duration = Duration::from_secs(2);

/// Longest time that a sidecar that stops waits for control to take the rest.
const END: Duration = Duration::from_secs(3);

/// Why shipping stopped.
enum Stop {
    /// Control is away, or a file cannot be read now.
    Away(String),
    /// Control does not take the record as it is.
    Refused(String),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(problem) if problem.code.starts_with("record_") => {
                Self::Refused(format!("{}: {}", problem.code, problem.detail))
            }
            other => Self::Away(other.to_string()),
        }
    }
}

/// Ships until the task is dropped.
pub(crate) async fn ship(sidecar: Arc<Sidecar>, state: PathBuf) {
    let Some(fleet) = &sidecar.fleet else { return };
    let client = fleet.joined().await;
    let mut work = Shipping { sidecar: &sidecar, state, acknowledged: &fleet.acknowledged, put_aside: 0 };
    let mut pause = PAUSE;
    loop {
        let before = *work.acknowledged.borrow();
        let Err(stop) = work.session(fleet.id(), &client).await;
        if *work.acknowledged.borrow() > before {
            pause = PAUSE;
        }
        match stop {
            Stop::Away(error) => {
                tracing::warn!(error, "the record cannot be shipped now");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Stop::Refused(error) => {
                tracing::error!(error, "control refuses this sidecar's record");
                sidecar.metrics.record_refused();
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

/// Waits a moment for control to take what is left, at the end of a sidecar.
pub(crate) async fn end(sidecar: &Sidecar) -> bool {
    let Some(fleet) = &sidecar.fleet else { return true };
    // With a checkpoint, so that the log has nothing to add when it closes. A failure is the log's to tell.
    let _ = sidecar.log.sign();
    let last = sidecar.log.last();
    let mut acknowledged = fleet.acknowledged.subscribe();
    let taken = tokio::time::timeout(END, acknowledged.wait_for(|acknowledged| *acknowledged >= last)).await;
    if taken.is_err() {
        tracing::warn!(
            "control has not taken the whole record: the rest waits on this disk for the next start"
        );
    }
    taken.is_ok()
}

/// Nothing: a session ends in an error or not at all.
enum Never {}

/// How far shipping has come.
struct Shipping<'a> {
    sidecar: &'a Sidecar,
    state: PathBuf,
    /// The last record that control has acknowledged.
    acknowledged: &'a watch::Sender<u64>,
    /// The last record of a segment that may be removed.
    put_aside: u64,
}

impl Shipping<'_> {
    async fn session(&mut self, id: &str, client: &Client) -> Result<Never, Stop> {
        let log = &self.sidecar.log;
        let key = log.public_key();
        let position = client.ship(id, key, 0, Bytes::new()).await?;
        on_disk(self.sidecar, 1).await?;
        let written = log.synced();
        if position.next > written.saturating_add(1) {
            tracing::error!(
                control = position.next - 1,
                here = written,
                "control has more of this record than this disk: was its state directory copied or put back?"
            );
        }
        // The last record that both should have goes once more: control sees then whether it is the same one.
        let spool = self.state.join("spool");
        let first = oldest(&spool).map_err(lost)?.unwrap_or(1);
        let mut tail = raw(&spool, position.next.saturating_sub(1).min(written).max(first));
        loop {
            wait(self.sidecar, tail.next()).await?;
            let lump;
            (tail, lump) = take(tail, log.synced()).await?;
            let (end, full) = (lump.from.saturating_add(lump.count), lump.bytes.len() * 2 > BATCH_BYTES);
            let position = client.ship(id, key, lump.from, lump.bytes.into()).await?;
            if position.next < end {
                return Err(Stop::Away(format!("control went back to record {}", position.next)));
            }
            self.acknowledged.send_replace(end.saturating_sub(1));
            self.release().await?;
            if !full {
                tokio::time::sleep(GATHER).await;
            }
        }
    }

    /// Lets segments go that control has, once what budgets have to know of them is put aside.
    async fn release(&mut self) -> Result<(), Stop> {
        let acknowledged = *self.acknowledged.borrow();
        let upto = self.sidecar.log.complete_to(acknowledged);
        if upto > self.put_aside {
            let state = self.state.clone();
            let put_aside = tokio::task::spawn_blocking(move || put_aside(&state, upto)).await;
            put_aside.map_err(|error| Stop::Away(error.to_string()))?.map_err(lost)?;
            self.put_aside = upto;
            self.sidecar.log.shipped(upto);
        }
        Ok(())
    }
}

/// Waits for a record; when none comes for a while, those before it are signed.
async fn wait(sidecar: &Sidecar, seq: u64) -> Result<(), Stop> {
    if let Ok(there) = tokio::time::timeout(SIGN, on_disk(sidecar, seq)).await {
        return there;
    }
    // A failure shows in the wait that follows.
    let _ = sidecar.log.sign();
    on_disk(sidecar, seq).await
}

/// Waits until a record is on disk.
async fn on_disk(sidecar: &Sidecar, seq: u64) -> Result<(), Stop> {
    sidecar.log.on_disk(seq).await.map_err(|error| Stop::Away(error.to_string()))
}

/// Reads on, where it disturbs no call.
async fn take(mut tail: Raw, upto: u64) -> Result<(Raw, Lump), Stop> {
    let read = tokio::task::spawn_blocking(move || tail.take(upto, BATCH_BYTES).map(|lump| (tail, lump)));
    read.await.map_err(|error| Stop::Away(error.to_string()))?.map_err(lost)
}

fn lost(error: std::io::Error) -> Stop {
    Stop::Away(error.to_string())
}
