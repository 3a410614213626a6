//! The injector's side towards the cluster: watches what reviews have to know ([`facts`]), and keeps the certificate of the
//! webhook's port and the roots that the API server checks it by ([`authority`], [`certificates`]).
//!
//! Any number of replicas do the same. What they agree on is a Secret, written only in the place of what was read; each shows
//! the certificate that stands there, never one that only it knows.

mod authority;
mod certificates;
mod facts;

use std::path::PathBuf;
use std::time::Duration;

use sideguard_kubernetes::{Cluster, ConnectError};
use sideguard_runtime::tasks;
use sideguard_types::resource::InjectorCluster;

use crate::certificate::Certificate;
use crate::known::Facts;

pub use authority::Ages;

/// Where the injector stands in the cluster.
#[derive(Debug, Clone)]
pub struct Place {
    /// How the API server is reached (a kubeconfig); as a pod's service account reaches it when absent.
    pub kubeconfig: Option<PathBuf>,
    /// Name of the Service before the webhook's port, in the injector's own namespace.
    pub service: String,
    /// Name of the Secret with authority and certificate, in the same namespace.
    pub secret: String,
    /// Name of the MutatingWebhookConfiguration.
    pub mutating: String,
    /// Name of the ValidatingWebhookConfiguration.
    pub validating: String,
    /// How long authority and certificate last.
    pub ages: Ages,
}

impl Default for Place {
    fn default() -> Self {
        let name = || "sideguard-injector".to_owned();
        Self {
            kubeconfig: None,
            service: name(),
            secret: name(),
            mutating: name(),
            validating: name(),
            ages: Ages::default(),
        }
    }
}

/// Changes that come so close to each other are taken in together.
const TOGETHER: Duration = Duration::from_millis(50);

impl From<&InjectorCluster> for Place {
    fn from(cluster: &InjectorCluster) -> Self {
        let InjectorCluster { kubeconfig, service, secret, webhooks } = cluster.clone();
        let (mutating, validating) = (webhooks.clone(), webhooks);
        Self { kubeconfig, service, secret, mutating, validating, ages: Ages::default() }
    }
}

/// Tells `facts` and `certificate` what the cluster has, for as long as the tasks are kept. One that is not given is
/// somebody else's to tell.
///
/// # Errors
/// When it cannot be read how the cluster is reached; the cluster itself is not asked yet.
pub async fn start(
    place: Place,
    facts: Option<Facts>,
    certificate: Option<Certificate>,
) -> Result<Vec<tasks::Owned>, ConnectError> {
    let cluster = Cluster::open(place.kubeconfig.as_deref()).await?;
    let watching = facts.map(|facts| tasks::spawn("cluster", facts::watch(cluster.clone(), facts)));
    let keeping = certificate.map(|certificate| {
        tasks::spawn("certificates", certificates::keep(cluster.clone(), place, certificate))
    });
    Ok(watching.iter().chain(&keeping).map(tasks::Owned::new).collect())
}
