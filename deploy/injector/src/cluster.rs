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
            secret: "sideguard-injector-tls".to_owned(),
            mutating: name(),
            validating: name(),
            ages: Ages::default(),
        }
    }
}

/// Changes that come so close to each other are taken in together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Tells `facts` and `certificate` what the cluster has, for as long as the tasks are kept.
///
/// # Errors
/// When it cannot be read how the cluster is reached; the cluster itself is not asked yet.
pub async fn start(
    place: Place,
    facts: Facts,
    certificate: Certificate,
) -> Result<Vec<tasks::Owned>, ConnectError> {
    let cluster = Cluster::open(place.kubeconfig.as_deref()).await?;
    let watching = facts::watch(cluster.clone(), facts);
    let keeping = certificates::keep(cluster, place, certificate);
    Ok(vec![
        tasks::Owned::new(&tasks::spawn("cluster", watching)),
        tasks::Owned::new(&tasks::spawn("certificates", keeping)),
    ])
}
