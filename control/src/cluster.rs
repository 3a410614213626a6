//! The Kubernetes cluster that this service belongs to: what its users write comes into force as one part of the desired state,
//! and its service accounts enrol sidecars.
//!
//! One replica acts, the one with the lease: two whose copies of the cluster are of different age would each put back what the
//! other has done. It looks at everything whenever something changes ([`given`]), plans what that makes of the generation in
//! force ([`plan`]), writes it where that generation is still in force, and tells each object what became of it ([`told`]). All
//! it needs to know is in the cluster and in the generation, so it may end at any moment. While the API server is away
//! everything stays as it is.

mod accounts;
mod given;
mod plan;
mod sync;
#[cfg(test)]
mod tests;
mod told;

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sideguard_kubernetes::connect::resource;
use sideguard_kubernetes::kinds::{GROUP, KINDS, VERSION};
use sideguard_kubernetes::lease::Lease;
use sideguard_kubernetes::mirror::Mirror;
use sideguard_kubernetes::{Cluster, ConnectError};
use sideguard_runtime::{environment, tasks};
use sideguard_store::Store;
use sideguard_types::resource::KubernetesSpec;
use tokio::sync::Notify;

use crate::feed::Waiting;
use crate::signer::hex;

pub(crate) use accounts::Accounts;

/// Label of namespaces: the tenant that their objects belong to.
const TENANT: &str = "sideguard.dev/tenant";
/// Label of ConfigMaps: the kind of the objects that stand in them.
const KIND: &str = "sideguard.dev/kind";
/// Name of the lease that the replica that acts holds.
const LEASE: &str = "sideguard-control";

/// A cluster that is not followed yet.
pub(crate) struct Kubernetes {
    cluster: Cluster,
    spec: KubernetesSpec,
    /// What tells this replica from others.
    own: String,
    namespaces: Mirror,
    changed: Arc<Notify>,
    work: Vec<Work>,
    accounts: Arc<Accounts>,
}

type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Kubernetes {
    /// Reads how the cluster is reached.
    pub(crate) async fn open(spec: &KubernetesSpec, state: &Path) -> Result<Self, ConnectError> {
        let cluster = Cluster::open(spec.kubeconfig.as_deref()).await?;
        let changed = Arc::new(Notify::new());
        let kind = resource("", "v1", "Namespace", "namespaces");
        let (namespaces, work) = Mirror::of(cluster.everywhere(&kind), &kind, "", "", Arc::clone(&changed));
        // The same after a restart, so that a replica that was killed takes its lease again at once.
        let state = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
        let place = hex(&Sha256::digest(state.as_os_str().as_encoded_bytes()));
        let own = format!("{}-{}", environment::host(), place.get(..8).unwrap_or_default());
        let accounts = Arc::new(Accounts::new(&cluster, spec, namespaces.clone()));
        Ok(Self {
            cluster,
            spec: spec.clone(),
            own,
            namespaces,
            changed,
            work: vec![Box::pin(work)],
            accounts,
        })
    }

    /// Whose tokens enrol sidecars.
    pub(crate) fn accounts(&self) -> Arc<Accounts> {
        Arc::clone(&self.accounts)
    }

    /// Follows the cluster for as long as the tasks are kept.
    pub(crate) fn start(mut self, store: &Store, waiting: &Arc<Waiting>) -> Vec<tasks::Owned> {
        let mut mirrors = Vec::new();
        if self.spec.objects {
            for kind in KINDS {
                let kind = resource(GROUP, VERSION, kind.name, kind.plural);
                mirrors.push((kind.kind.clone(), self.mirror(&kind, "")));
            }
            let kind = resource("", "v1", "ConfigMap", "configmaps");
            mirrors.push((given::CONFIG_MAP.to_owned(), self.mirror(&kind, KIND)));
        }
        if self.spec.agentic_networking {
            for kind in sideguard_kubernetes::agentic::resources() {
                mirrors.push((kind.kind.clone(), self.mirror(&kind, "")));
            }
        }
        let Self { cluster, spec, own, namespaces, changed, mut work, .. } = self;
        if !mirrors.is_empty() {
            let lease = Lease::new(&cluster, cluster.namespace(), LEASE, &own);
            let sync = sync::Sync {
                held: lease.held(),
                told: told::Told::new(cluster, own),
                spec,
                namespaces,
                mirrors,
                store: store.clone(),
                waiting: Arc::clone(waiting),
            };
            work.push(Box::pin(lease.keep()));
            work.push(Box::pin(sync.run(changed)));
        }
        work.into_iter().map(|work| tasks::Owned::new(&tasks::spawn("kubernetes", work))).collect()
    }

    fn mirror(&mut self, kind: &sideguard_kubernetes::kube::api::ApiResource, selector: &str) -> Mirror {
        let api = self.cluster.everywhere(kind);
        let (mirror, work) = Mirror::of(api, kind, selector, "", Arc::clone(&self.changed));
        self.work.push(Box::pin(work));
        mirror
    }
}
