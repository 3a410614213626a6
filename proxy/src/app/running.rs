//! A sidecar that serves, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sideguard_capture::rules;
use sideguard_runtime::{clock, tasks};
use sideguard_types::audit::{Phase, Record};

use super::{Sidecar, state};
use crate::{fleet, ship};

/// Longest time that the collector of telemetry is waited for at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// A sidecar that serves.
pub struct Running {
    pub(super) sidecar: Arc<Sidecar>,
    pub(super) outbound: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) tasks: Vec<tasks::Owned>,
    pub(super) accepting: Vec<tasks::Owned>,
    pub(super) shipping: tasks::Owned,
}

impl Running {
    /// Address of the outbound port.
    #[must_use]
    pub const fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// Address of the admin port.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Certificate of the sidecar's authority, in PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.sidecar.authority.pem()
    }

    /// Puts what the rules of a namespace have dropped on record: packets by kind.
    pub fn dropped(&self, packets: [u64; rules::DROPPED.len()]) {
        if packets.iter().all(|count| *count == 0) {
            return;
        }
        let told = rules::DROPPED.iter().zip(packets).filter(|(_, count)| *count > 0);
        let told: Vec<String> = told.map(|(kind, count)| format!("{count} {kind}")).collect();
        let mut record = Record::new(Phase::Control, clock::now());
        record.code = Some("packets_dropped".to_owned());
        record.reason = format!("packets that the namespace's rules dropped: {}", told.join(", "));
        self.sidecar.note(&record);
    }

    /// The sidecar itself.
    #[must_use]
    pub const fn sidecar(&self) -> &Arc<Sidecar> {
        &self.sidecar
    }

    /// Waits until a sidecar of a fleet has a policy to judge by; others have one from the start.
    ///
    /// # Errors
    /// Why there is none after `most`.
    pub async fn governed(&self, most: Duration) -> Result<(), String> {
        match &self.sidecar.fleet {
            Some(fleet) => fleet.governed(most).await,
            None => Ok(()),
        }
    }

    /// Waits until somebody asks it to drain (`POST /drain`).
    pub async fn drain_asked(&self) {
        self.sidecar.drain.wait_begin().await;
    }

    /// Stops: takes no new connections, lets calls under way end until `deadline` or until `hurry`, closes the record.
    pub async fn stop(self, deadline: Duration, hurry: impl Future<Output = ()>) {
        self.end(deadline, hurry, false).await;
    }

    /// As [`stop`](Self::stop), for a sidecar whose state nobody will start again: its key ends as well.
    pub async fn stop_for_good(self, deadline: Duration, hurry: impl Future<Output = ()>) {
        self.end(deadline, hurry, true).await;
    }

    async fn end(self, deadline: Duration, hurry: impl Future<Output = ()>, for_good: bool) {
        drop(self.accepting);
        self.sidecar.drain.begin();
        let idle = tokio::select! {
            idle = self.sidecar.drain.wait_idle(deadline) => idle,
            () = hurry => false,
        };
        if !idle {
            tracing::warn!(busy = self.sidecar.drain.count(), "calls were still under way at the deadline");
        }
        self.sidecar.leases.end().await;
        drop(self.tasks);
        self.sidecar.nameserver.close(&self.sidecar, true);
        let mut record = Record::new(Phase::Control, clock::now());
        record.code = Some("stop".to_owned());
        self.sidecar.note(&record);
        let shipped = ship::end(&self.sidecar).await;
        drop(self.shipping);
        // After the last of the record is with control: what follows may have no key any more.
        fleet::leave(&self.sidecar, for_good && shipped).await;
        if let Some(telemetry) = &self.sidecar.telemetry {
            telemetry.stop(FLUSH).await;
        }
        self.sidecar.log.close();
        state::remove_ports(&self.sidecar.state);
    }
}
