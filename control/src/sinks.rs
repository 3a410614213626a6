//! Sinks: places outside that the record is passed on to.
//!
//! Each sink of the generation in force has a task of its own here ([`passing`]). One replica at a time passes on, whoever has
//! the sink's lease in the store; how far it has come is kept beside it ([`kept`]), so that after the end of a replica, of
//! whatever kind, another one goes on from there: every entry at least once, each sidecar's in order. Where entries go is in
//! one module a kind, behind [`outlet`]; how they are written is in [`shape`] and [`ocsf`].

mod kept;
mod ndjson;
mod ocsf;
mod otlp;
mod outlet;
mod passing;
mod shape;
mod syslog;
mod webhook;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sideguard_policy::source::{self, Source};
use sideguard_runtime::{clock, tasks};
use sideguard_store::Store;
use sideguard_types::control::sinks::SinkState;
use sideguard_types::resource::{SinkSpec, Spec};
use sideguard_types::time::Timestamp;

use crate::desired::{self, Entry};
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::Principal;
use crate::metrics::Metrics;
use crate::records::follow;

/// Name of the kind.
pub(crate) const KIND: &str = "Sink";
/// Pause after the desired state could not be read.
const PAUSE: Duration = Duration::from_secs(2);

/// A sink as it was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sink {
    name: String,
    /// The tenant that it is limited to.
    tenant: Option<String>,
    spec: SinkSpec,
}

/// What every sink's task works with.
#[derive(Debug, Clone)]
pub(crate) struct Works {
    pub(crate) store: Store,
    /// Directory of files with relative paths.
    pub(crate) files: PathBuf,
    /// This replica, by a name of its own; over an embedded store the same after every start, since there is no other.
    pub(crate) replica: String,
    pub(crate) metrics: Arc<Metrics>,
}

/// A sink's task, and the text that it was started from.
type Started = (String, tasks::Owned);

/// Keeps a task for each sink of the generation in force, until dropped.
pub(crate) async fn run(works: Works, waiting: Arc<Waiting>) {
    let mut running: BTreeMap<String, Started> = BTreeMap::new();
    let mut number = None;
    loop {
        let kept = waiting.other_than(number).await;
        let wanted: Vec<&Entry> = kept.entries.iter().filter(|entry| entry.name.kind == KIND).collect();
        running
            .retain(|key, (text, _)| wanted.iter().any(|entry| key_of(entry) == *key && entry.text == *text));
        let mut failed = false;
        for entry in
            wanted.into_iter().filter(|entry| !running.contains_key(&key_of(entry))).collect::<Vec<_>>()
        {
            match read(&works.store, entry).await {
                Ok(sink) => {
                    let task = tasks::spawn("sink", passing::run(works.clone(), sink));
                    running.insert(key_of(entry), (entry.text.clone(), tasks::Owned::new(&task)));
                }
                Err(error) => {
                    failed = true;
                    tracing::warn!(%error, sink = entry.name.name, "a sink cannot be read");
                }
            }
        }
        number = (!failed).then_some(kept.told.number);
        if failed {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Gives up all leases of this replica, when nothing is passed on any more.
pub(crate) async fn release(works: &Works) -> Result<(), Failure> {
    let head = desired::head(&works.store, clock::now()).await?.kept;
    for entry in head.entries.iter().filter(|entry| entry.name.kind == KIND) {
        let sink = read(&works.store, entry).await?;
        kept::release(&works.store, clock::now(), &sink, &works.replica).await?;
    }
    Ok(())
}

fn key_of(entry: &Entry) -> String {
    format!("{}/{}", entry.name.tenant, entry.name.name)
}

/// A sink from its text.
async fn read(store: &Store, entry: &Entry) -> Result<Sink, Failure> {
    let text =
        desired::texts(store, clock::now(), std::slice::from_ref(entry)).await?.pop().unwrap_or_default();
    let loaded = source::load(&[Source::new(key_of(entry), text)]);
    let document = loaded.documents.into_iter().next();
    let Some(Spec::Sink(spec)) = document.map(|document| document.resource.spec) else {
        return Err(Failure::Broken(key_of(entry)));
    };
    let tenant = (!entry.shared).then(|| entry.name.tenant.clone());
    Ok(Sink { name: entry.name.name.clone(), tenant, spec })
}

impl Sink {
    /// Where its state is kept: `all` is no tenant's name before a slash.
    fn path(&self) -> String {
        match &self.tenant {
            Some(tenant) => format!("tenant/{tenant}/{}", self.name),
            None => format!("all/{}", self.name),
        }
    }

    /// The kind of place that it leads to.
    const fn to(&self) -> &'static str {
        match &self.spec {
            SinkSpec { ndjson: Some(_), .. } => "ndjson",
            SinkSpec { otlp: Some(_), .. } => "otlp",
            SinkSpec { webhook: Some(_), .. } => "webhook",
            _ => "syslog",
        }
    }
}

/// How the sinks that a principal may see stand.
pub(crate) async fn states(
    store: &Store,
    now: Timestamp,
    who: &Principal,
) -> Result<Vec<SinkState>, Failure> {
    let head = desired::head(store, now).await?.kept;
    let seen = |entry: &&Entry| entry.name.kind == KIND && entry.seen_by(who);
    let mut states = Vec::new();
    for entry in head.entries.iter().filter(seen) {
        let sink = read(store, entry).await?;
        let state = kept::state(store, now, &sink).await?.unwrap_or_default();
        let holder = kept::holder(store, now, &sink).await?;
        let waiting = follow::waiting(store, &state.cursor).await?;
        states.push(SinkState {
            to: sink.to().to_owned(),
            name: sink.name,
            tenant: sink.tenant,
            delivered: state.delivered,
            filtered: state.filtered,
            skipped: state.skipped,
            waiting,
            last: state.last,
            error: state.error,
            holder,
        });
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use sideguard_runtime::clock;
    use sideguard_store::Store;
    use sideguard_types::control::{Apply, Text};

    use super::kept::{self, LEASE, State};
    use super::{Sink, states};
    use crate::desired::{self, Wish};
    use crate::error::Failure;
    use crate::keys::{Principal, Role};

    fn operator(tenant: Option<&str>) -> Principal {
        let tenant = tenant.map(str::to_owned);
        Principal::new("x", Role::Operator, tenant)
    }

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        (dir, store)
    }

    #[tokio::test]
    async fn sinks_are_applied_and_seen_by_whom_they_concern_alone() {
        let (_dir, store) = store().await;
        let now = clock::now();
        let text = |tenant: &str| {
            format!(
                "apiVersion: sideguard.dev/v1\nkind: Sink\nmetadata: {{name: s{tenant}}}\nspec: {{ndjson: {{file: s}}}}\n"
            )
        };
        let apply = |text: String| {
            let documents = vec![Text { name: "s.yaml".to_owned(), text }];
            Wish::Apply(Apply { documents, dry_run: false, prune: None, expect: None })
        };
        let own = text(", tenant: acme");
        let refused = desired::change(&store, now, &operator(Some("acme")), apply(own.clone())).await;
        assert!(matches!(refused, Err(Failure::Forbidden(_))), "{refused:?}");
        for text in [own, text("")] {
            desired::change(&store, now, &operator(None), apply(text)).await.expect("it is applied");
        }
        let seen = async |who: &Principal| states(&store, now, who).await.expect("states").len();
        assert_eq!(seen(&operator(None)).await, 2);
        assert_eq!(seen(&operator(Some("acme"))).await, 1, "its own, and not the one for all tenants");
        assert_eq!(seen(&operator(Some("other"))).await, 0);
        let kept = desired::head(&store, now).await.expect("a head").kept;
        let signed = desired::for_tenant(&store, now, &kept, "acme").await.expect("a generation");
        assert!(signed.documents.is_empty(), "sidecars have nothing to do with sinks");
    }

    #[tokio::test]
    async fn one_replica_at_a_time_passes_on_and_one_taken_for_dead_cannot_put_the_position_back() {
        let (_dir, store) = store().await;
        let sink = Sink { name: "s".to_owned(), tenant: None, spec: Default::default() };
        let now = clock::now();
        let take = async |at, replica| kept::take(&store, at, &sink, replica).await.expect("the store");
        let mut first = take(now, "a").await.expect("the lease");
        assert!(take(now, "b").await.is_none());
        let state = State { delivered: 7, ..State::default() };
        first.renew(&store, now, &sink, Some(&state)).await.expect("it is renewed");
        let later = now.plus(LEASE * 2);
        let mut second = take(later, "b").await.expect("the lease is over");
        let further = State { delivered: 9, ..State::default() };
        second.renew(&store, later, &sink, Some(&further)).await.expect("it is renewed");
        let late = first.renew(&store, later, &sink, Some(&state)).await;
        assert!(matches!(late, Err(Failure::Conflict(_))), "{late:?}");
        let kept = kept::state(&store, later, &sink).await.expect("the store").expect("a state");
        assert_eq!(kept.delivered, 9);
        assert_eq!(kept::holder(&store, later, &sink).await.expect("the store").as_deref(), Some("b"));
        assert!(take(later, "b").await.is_some(), "after a restart it goes on at once");
        kept::release(&store, later, &sink, "b").await.expect("the store");
        assert!(take(later, "a").await.is_some(), "given up, it is anybody's");
    }
}
