//! A copy of the cluster's objects of one kind, that follows what happens to them.
//!
//! While the API server is away the copy stays as it was. A kind that it does not serve, or does not let us see, has never
//! been listed: that is another thing than a kind without objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::Status;
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::Writer;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt, utils::ResetTimerBackoff};
use sideguard_runtime::chance;
use tokio::sync::Notify;

/// Pauses after a failure: the first one and the longest.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After so long without a failure the first pause holds again.
const CALM: Duration = Duration::from_secs(60);

/// A copy of one kind's objects. Clones share it.
#[derive(Clone)]
pub struct Mirror {
    store: Store<DynamicObject>,
    listed: Arc<AtomicBool>,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("listed", &self.listed).field("objects", &self.store.len()).finish()
    }
}

impl Mirror {
    /// A copy, and the work that keeps it: to be run as a task. `changed` is told of each change. `selector` picks objects by
    /// label, `field` by field; all when empty.
    pub fn of(
        api: Api<DynamicObject>,
        resource: &ApiResource,
        selector: &str,
        field: &str,
        changed: Arc<Notify>,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let mut writer = Writer::<DynamicObject>::new(resource.clone());
        let listed = Arc::new(AtomicBool::new(false));
        let mirror = Self { store: writer.as_reader(), listed: Arc::clone(&listed) };
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let config = watcher::Config {
            label_selector: given(selector),
            field_selector: given(field),
            ..watcher::Config::default()
        };
        let kind = resource.kind.clone();
        let pauses = ResetTimerBackoff::new(Pauses(PAUSE), CALM);
        let events =
            watcher(api, config).modify(|object| object.metadata.managed_fields = None).backoff(pauses);
        let work = async move {
            let mut events = Box::pin(events);
            let mut trouble = String::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        writer.apply_watcher_event(&event);
                        match event {
                            watcher::Event::Init | watcher::Event::InitApply(_) => continue,
                            watcher::Event::InitDone => {
                                trouble.clear();
                                listed.store(true, Ordering::Release);
                            }
                            watcher::Event::Apply(_) | watcher::Event::Delete(_) => {}
                        }
                        changed.notify_one();
                    }
                    Err(error) => {
                        let error = told(&error);
                        // The same again and again while it is away.
                        if error != trouble {
                            tracing::warn!(kind, error, "objects of the cluster cannot be watched now");
                            trouble = error;
                        }
                    }
                }
            }
        };
        (mirror, work)
    }

    /// Every object, once they have been listed.
    #[must_use]
    pub fn objects(&self) -> Option<Vec<Arc<DynamicObject>>> {
        self.listed.load(Ordering::Acquire).then(|| self.store.state())
    }
}

/// An error in short: what the API server said, or else the last cause.
fn told(error: &watcher::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    loop {
        if let Some(status) = cause.downcast_ref::<Status>() {
            return status.message.clone();
        }
        match cause.source() {
            Some(source) => cause = source,
            None => return cause.to_string(),
        }
    }
}

/// Pauses that double, each cut short by chance.
struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        Some(pause / 2 + chance::within(pause / 2))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = PAUSE;
    }
}
