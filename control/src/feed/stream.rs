//! The feed as one connection that stays (Server-Sent Events): each new generation and change of kill switches at once, and
//! a [`Beat`](sideguard_types::control::feed::Beat) after each and every ten seconds.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;
use sideguard_types::control::feed::Has;
use tokio::sync::watch;

use super::Now;
use super::places::Place;
use crate::api::Control;
use crate::error::Failure;
use crate::keys::Principal;

/// How often a beat is sent when nothing changes.
const BEAT: Duration = Duration::from_secs(10);

/// One sidecar's stream.
struct Follower {
    control: Arc<Control>,
    watching: watch::Receiver<Option<Now>>,
    closing: watch::Receiver<bool>,
    place: Place,
    tenant: String,
    has: Has,
    begun: bool,
    queue: VecDeque<Bytes>,
}

/// What a sidecar is told from now on. It ends when this replica is not sure any more, or closes.
pub(crate) fn stream(
    control: Arc<Control>,
    who: &Principal,
    has: Has,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send + use<>, Failure> {
    let waiting = &control.waiting;
    let place = waiting.places.enter(who)?;
    let (watching, closing) = (waiting.now.subscribe(), waiting.closing.subscribe());
    let tenant = who.sidecars_tenant().to_owned();
    let queue = VecDeque::new();
    let follower = Follower { control, watching, closing, place, tenant, has, begun: false, queue };
    Ok(futures_util::stream::unfold(follower, Follower::next))
}

/// One event. JSON has no bare line ends, so that it is one line.
pub(super) fn event(name: &str, data: &impl Serialize) -> Result<Bytes, Failure> {
    let data = serde_json::to_string(data).map_err(|error| Failure::Invalid(error.to_string()))?;
    Ok(format!("event: {name}\ndata: {data}\n\n").into())
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        while self.queue.is_empty() {
            if self.begun {
                tokio::select! {
                    changed = self.watching.changed() => changed.ok()?,
                    _ = self.closing.wait_for(|closing| *closing) => return None,
                    () = self.place.outdone() => return None,
                    () = tokio::time::sleep(BEAT) => {}
                }
            }
            self.begun = true;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, tenant = self.tenant, "a feed ends");
                return None;
            }
        }
        Some((Ok(self.queue.pop_front()?), self))
    }

    /// Takes what is new into the queue, and a beat behind it.
    async fn look(&mut self) -> Result<(), Failure> {
        let now = self.watching.borrow_and_update().clone();
        let Control { store, signer, waiting, .. } = &*self.control;
        if let Some(now) = now {
            // Stops go first: a generation may take a while to be put in force.
            if now.kills.number != self.has.kills {
                self.queue.push_back(event("kills", &signer.kills(now.kills.for_tenant(&self.tenant)))?);
                self.has.kills = now.kills.number;
            }
            let number = now.generation.told.number;
            if number != self.has.generation && number > 0 {
                let ready = waiting.ready.of(store, signer, &now.generation, &self.tenant).await?;
                self.queue.push_back(ready.event.clone());
                self.has.generation = number;
            }
        }
        let beat = waiting.beat(signer, &self.tenant, &self.has.nonce).ok_or(Failure::Unsure)?;
        self.queue.push_back(event("beat", &beat)?);
        Ok(())
    }
}
