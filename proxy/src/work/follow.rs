//! The worker's talk with control: a question is always under way, and each answer renews all leases.

use std::sync::Arc;
use std::time::Duration;

use sideguard_runtime::{chance, clock};
use sideguard_types::control::jobs::Outcome;

use super::{Work, hand};
use crate::app::Sidecar;

/// Longest time that an answer may take, which control holds back for 2 s at most: beyond it another replica is asked.
const ANSWER: Duration = Duration::from_secs(4);
/// Answers that bring nothing are asked for no more often than this.
const PACE: Duration = Duration::from_millis(250);
/// First pause after control could not be reached; it doubles up to [`LONGEST_PAUSE`]: leases are short.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Works until the task is dropped.
pub(crate) async fn follow(sidecar: Arc<Sidecar>) {
    let (Some(work), Some(fleet)) = (&sidecar.work, &sidecar.fleet) else { return };
    let mut pause = PAUSE;
    loop {
        let client = fleet.joined().await;
        give_back(&sidecar, work);
        let draining = sidecar.drain.begun();
        let (question, sent) = (work.question(draining), clock::uptime());
        let answer = tokio::select! {
            answer = client.work(&question, ANSWER) => answer,
            // What is asked has changed.
            () = work.eager.notified(), if question.draining && !draining => continue,
            () = sidecar.drain.wait_begin(), if !draining => continue,
        };
        match answer {
            Ok(told) => {
                pause = PAUSE;
                let idle = told.jobs.is_empty() && told.over.is_empty();
                work.take(told, sent);
                let took = clock::uptime().saturating_sub(sent);
                if idle && took < PACE {
                    tokio::time::sleep(PACE.saturating_sub(took)).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "control does not hear this worker: its leases end if that lasts");
                tokio::time::sleep(chance::within(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Gives back what the agent does not ask for.
fn give_back(sidecar: &Arc<Sidecar>, work: &Work) {
    let all = sidecar.drain.begun();
    for held in work.change(|book| book.give_back(clock::uptime(), all)) {
        tracing::info!(job = held.lease.job, "job given back: the agent did not ask for it");
        hand::tell_end(sidecar, held, Outcome::GivenBack);
    }
}
