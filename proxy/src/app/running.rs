//! A sidecar that serves, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sideguard_capture::isolate::Inside;
use sideguard_capture::rules;
use sideguard_runtime::clock::Stopwatch;
use sideguard_runtime::{clock, tasks};
use sideguard_types::audit::{Phase, Record};
use tokio::sync::Semaphore;

use super::{Sidecar, state};
use crate::ports::{self, Door, Opened};
use crate::work::{Hands, Task};
use crate::{fleet, nameserver, ship};

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
    /// Places for connections.
    pub(super) places: Arc<Semaphore>,
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

    /// Takes the jobs of its worker into this process's own hands, where it has one. No agent gets any from now on.
    #[must_use]
    pub fn hands(&self) -> Option<Hands> {
        Hands::of(&self.sidecar)
    }

    /// Opens the ports of a namespace in which one job is done: what comes in there is made for it. They are open until
    /// what is returned is dropped.
    ///
    /// # Errors
    /// When a port cannot be used.
    pub fn enter(&self, inside: Inside, task: &Task) -> std::io::Result<Vec<tasks::Owned>> {
        let Opened { doors, dns_tcp, dns_udp } = ports::handed_over(inside)?;
        let sidecar = &self.sidecar;
        let doors = doors.into_iter().map(|(listener, door)| {
            let door = Arc::new(Door { job: Some(Arc::clone(task.held())), ..door });
            let accept = super::accept(listener, door, Arc::clone(&self.places), Arc::clone(sidecar));
            tasks::Owned::new(&tasks::spawn("accept", accept))
        });
        let udp = dns_udp.into_iter().map(|socket| {
            let serve = nameserver::serve_udp(socket, Arc::clone(sidecar));
            tasks::Owned::new(&tasks::spawn("dns-udp", serve))
        });
        let tcp = dns_tcp.into_iter().map(|listener| {
            let serve = nameserver::serve_tcp(listener, Arc::clone(sidecar));
            tasks::Owned::new(&tasks::spawn("dns-tcp", serve))
        });
        Ok(doors.chain(udp).chain(tcp).collect())
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
        self.sidecar.drain.begin();
        let since = Stopwatch::start();
        tokio::pin!(hurry);
        // An agent at work still has to be let in: its calls, and its result.
        let hurried = match &self.sidecar.work {
            Some(work) => tokio::select! {
                _ = tokio::time::timeout(deadline, work.until_done()) => false,
                () = &mut hurry => true,
            },
            None => false,
        };
        drop(self.accepting);
        let left = deadline.saturating_sub(since.elapsed());
        let idle = !hurried
            && tokio::select! {
                idle = self.sidecar.drain.wait_idle(left) => idle,
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
