//! Ships the record to control: what is on disk here, in order, from where control has it. Control is asked for its place at
//! each beginning, so that nothing is lost and nothing is kept twice whichever side was away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sideguard_client::{Client, ClientError};
use sideguard_record::read::{Lump, Raw, oldest, raw};
use sideguard_types::control::records::BATCH_BYTES;

use crate::app::Sidecar;

/// First pause after a failure; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Pause after control has refused what was sent: somebody has to look first.
const REFUSED: Duration = Duration::from_secs(30);
/// How long more records are waited for before the few that there are go out.
const GATHER: Duration = Duration::from_millis(50);

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
pub(crate) async fn ship(sidecar: Arc<Sidecar>, spool: PathBuf) {
    let Some(fleet) = &sidecar.fleet else { return };
    let client = fleet.joined().await;
    let mut pause = PAUSE;
    loop {
        let before = sidecar.log.shipped_to();
        let Err(stop) = session(&sidecar, fleet.id(), &client, &spool).await;
        if sidecar.log.shipped_to() > before {
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

/// Nothing: a session ends in an error or not at all.
enum Never {}

async fn session(sidecar: &Sidecar, id: &str, client: &Client, spool: &Path) -> Result<Never, Stop> {
    let key = sidecar.log.public_key();
    let position = client.ship(id, key, 0, Bytes::new()).await?;
    wait(sidecar, 1).await?;
    let written = sidecar.log.synced();
    if position.next > written.saturating_add(1) {
        tracing::error!(
            control = position.next - 1,
            here = written,
            "control has more of this record than this disk: was its state directory copied or put back?"
        );
    }
    // The last record that both should have goes once more: control sees then whether it is the same one.
    let first = oldest(spool).map_err(lost)?.unwrap_or(1);
    let mut tail = raw(spool, position.next.saturating_sub(1).min(written).max(first));
    loop {
        wait(sidecar, tail.next()).await?;
        let lump;
        (tail, lump) = take(tail, sidecar.log.synced()).await?;
        let (end, full) = (lump.from.saturating_add(lump.count), lump.bytes.len() * 2 > BATCH_BYTES);
        let position = client.ship(id, key, lump.from, lump.bytes.into()).await?;
        if position.next < end {
            return Err(Stop::Away(format!("control went back to record {}", position.next)));
        }
        sidecar.log.shipped(end.saturating_sub(1));
        if !full {
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// Waits until a record is on disk.
async fn wait(sidecar: &Sidecar, seq: u64) -> Result<(), Stop> {
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
