//! Which of several replicas acts: the one that holds a Lease (`coordination.k8s.io/v1`).
//!
//! As client-go's leader election does, it compares no clocks: a lease counts as lost when it has not changed for its duration
//! by the watch of whoever looks. The holder stops to act well before that when it cannot renew.

use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sideguard_runtime::chance;
use sideguard_runtime::clock::{self, Stopwatch};
use tokio::sync::watch;

use crate::connect::{AskError, Cluster, resource, within_time};

/// How long a lease is good without a word of its holder.
const DURATION: Duration = Duration::from_secs(15);
/// After this long without a renewal its holder stops to act.
const STEP_DOWN: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
const LOOK: Duration = Duration::from_secs(2);

/// A lease that this replica holds or waits for.
pub struct Lease {
    api: Api<DynamicObject>,
    name: String,
    own: String,
    holds: watch::Sender<bool>,
    /// What was seen of it last, and since when.
    seen: Option<(Value, Stopwatch)>,
    renewed: Option<Stopwatch>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("name", &self.name).field("own", &self.own).finish_non_exhaustive()
    }
}

impl Lease {
    /// A lease by its name in a namespace, for the replica called `own`. Who had it before under the same name takes it again
    /// at once.
    #[must_use]
    pub fn new(cluster: &Cluster, namespace: &str, name: &str, own: &str) -> Self {
        let leases = resource("coordination.k8s.io", "v1", "Lease", "leases");
        Self {
            api: cluster.within(namespace, &leases),
            name: name.to_owned(),
            own: own.to_owned(),
            holds: watch::Sender::new(false),
            seen: None,
            renewed: None,
        }
    }

    /// Whether this replica holds it.
    #[must_use]
    pub fn held(&self) -> watch::Receiver<bool> {
        self.holds.subscribe()
    }

    /// Takes it when it is free and renews it, for as long as it is polled.
    pub async fn keep(mut self) {
        loop {
            let asked = Stopwatch::start();
            match self.look().await {
                Ok(true) => self.renewed = Some(asked),
                Ok(false) => self.renewed = None,
                Err(error) => tracing::debug!(%error, lease = self.name, "the lease cannot be had now"),
            }
            let holds = self.renewed.is_some_and(|renewed| renewed.elapsed() < STEP_DOWN);
            if self.holds.send_replace(holds) != holds {
                tracing::info!(lease = self.name, own = self.own, holds, "lease");
            }
            tokio::time::sleep(LOOK / 2 + chance::within(LOOK / 2)).await;
        }
    }

    /// Whether it is ours after this look.
    async fn look(&mut self) -> Result<bool, AskError> {
        let Some(found) = within_time(self.api.get_opt(&self.name)).await? else {
            return self.make().await;
        };
        let spec = found.data["spec"].clone();
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        if holder != self.own && !holder.is_empty() && !self.is_lost(&spec) {
            return Ok(false);
        }
        let transitions = spec["leaseTransitions"].as_i64().unwrap_or(0);
        let transitions = if holder == self.own { transitions } else { transitions.saturating_add(1) };
        let mut spec = self.spec(transitions);
        if holder == self.own {
            spec["acquireTime"] = found.data["spec"]["acquireTime"].clone();
        }
        // Only in the place of what was read: of two that take it one gets it.
        let version = found.metadata.resource_version;
        let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "spec": spec }));
        conflict(within_time(self.api.patch(&self.name, &PatchParams::default(), &patch)).await)
    }

    /// Whether nobody has renewed it for its duration.
    fn is_lost(&mut self, spec: &Value) -> bool {
        match &self.seen {
            Some((seen, since)) if seen == spec => since.elapsed() >= DURATION,
            _ => {
                self.seen = Some((spec.clone(), Stopwatch::start()));
                false
            }
        }
    }

    async fn make(&self) -> Result<bool, AskError> {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": self.name },
            "spec": self.spec(0),
        });
        let lease: DynamicObject = serde_json::from_value(lease)
            .map_err(|error| AskError::Refused(kube::Error::SerdeError(error)))?;
        conflict(within_time(self.api.create(&PostParams::default(), &lease)).await)
    }

    fn spec(&self, transitions: i64) -> Value {
        let now = clock::now().to_string();
        json!({
            "holderIdentity": self.own,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }
}

/// Somebody else was faster.
fn conflict(answer: Result<DynamicObject, AskError>) -> Result<bool, AskError> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(409) => Ok(false),
        Err(error) => Err(error),
    }
}
