//! What stops calls that are under way or about to leave: the kill file, the kill switches of a fleet, and the end of the
//! job that a call is made for.

use sideguard_types::call::{Caller, Verb};
use sideguard_types::refusal::{Code, Refusal};

use super::Sidecar;
use crate::call::Exchange;

fn killed() -> Refusal {
    Refusal::new(Code::Killed, "kill", "all calls are stopped by the kill switch")
}

impl Sidecar {
    /// Whether the kill file is there.
    pub(crate) fn killed(&self) -> bool {
        *self.killed.borrow()
    }

    /// Whether all its policy comes from control.
    pub(crate) fn is_governed_centrally(&self) -> bool {
        self.fleet.is_some() && self.config.policies.is_empty() && self.given.is_empty()
    }

    /// Why calls of an agent may not go on now, if so.
    pub(crate) fn stops(&self, caller: Option<&Caller>, verb: Verb) -> Option<Refusal> {
        if self.killed() {
            return Some(killed());
        }
        self.fleet.as_ref().zip(caller).and_then(|(fleet, caller)| fleet.stops(caller, verb))
    }

    /// Waits until an exchange may not go on: the kill file is there, the kill switch of a scope that its caller is in is
    /// on, or its job is no longer this worker's.
    pub(crate) async fn until_stopped(&self, exchange: &Exchange) -> Refusal {
        tokio::select! {
            biased;
            refusal = exchange.job.until_fenced() => refusal,
            () = self.until_killed(exchange.caller.as_deref()) => killed(),
        }
    }

    /// As [`until_stopped`](Self::until_stopped), for a connection whose bytes nobody reads: it may be used for any job that
    /// its agent is at.
    pub(crate) async fn until_closed(&self, exchange: &Exchange) -> Refusal {
        let caller = exchange.caller.as_deref();
        let of_worker = self.work.as_ref().filter(|work| caller.is_some_and(|caller| work.is_by(caller)));
        let fenced = async {
            match of_worker {
                Some(work) => work.until_fenced().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            refusal = self.until_stopped(exchange) => refusal,
            refusal = fenced => refusal,
        }
    }

    /// Waits until calls of an agent may not go on for a kill file or switch.
    pub(crate) async fn until_killed(&self, caller: Option<&Caller>) {
        let mut file = self.killed.subscribe();
        // It ends with the sidecar, which outlives whoever waits.
        let file = file.wait_for(|killed| *killed);
        match self.fleet.as_ref().zip(caller) {
            Some((fleet, caller)) => tokio::select! {
                _ = file => {}
                () = fleet.until_stopped(caller) => {}
            },
            None => drop(file.await),
        }
    }
}
