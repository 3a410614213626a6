//! Places in the waiting room: a sidecar has few, and a new question of it ends its oldest one. So nobody fills the room, and
//! a connection that died without a word keeps nobody out.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::Failure;
use crate::keys::Principal;

/// Places of one sidecar.
const EACH: u64 = 2;
/// Sidecars that have places.
const MOST: usize = 20_000;

/// Numbers of the newest place of each sidecar.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<String, watch::Sender<u64>>>);

/// One place; to drop it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    own: u64,
    newest: watch::Receiver<u64>,
}

impl Places {
    /// A place for a sidecar.
    pub(super) fn enter(&self, who: &Principal) -> Result<Place, Failure> {
        let name = format!("{}/{}", who.sidecars_tenant(), who.name);
        let mut all = self.0.lock();
        if all.len() >= MOST && !all.contains_key(&name) {
            all.retain(|_, newest| newest.receiver_count() > 0);
            if all.len() >= MOST {
                return Err(Failure::Full);
            }
        }
        let newest = all.entry(name).or_insert_with(|| watch::Sender::new(0));
        newest.send_modify(|number| *number += 1);
        let own = *newest.borrow();
        Ok(Place { own, newest: newest.subscribe() })
    }
}

impl Place {
    /// Waits until newer places have taken this one over.
    pub(super) async fn outdone(&mut self) {
        let own = self.own;
        // It does not fail: the sender stays while somebody holds a place.
        let _ = self.newest.wait_for(|newest| *newest >= own + EACH).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::Places;
    use crate::keys::{Principal, Role};

    #[test]
    fn the_newest_places_of_a_sidecar_stay() {
        let places = Places::default();
        let who = |name: &str| Principal::new(name, Role::Sidecar, Some("acme".to_owned()));
        let mut first = places.enter(&who("a")).expect("a place");
        let mut second = places.enter(&who("a")).expect("a place");
        let _other = places.enter(&who("b")).expect("a place");
        assert!(first.outdone().now_or_never().is_none());
        let mut third = places.enter(&who("a")).expect("a place");
        assert!(first.outdone().now_or_never().is_some());
        assert!(second.outdone().now_or_never().is_none() && third.outdone().now_or_never().is_none());
    }
}
