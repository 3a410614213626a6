//! Enrolment by a service account's token: tenant and agent are what the API server says of the token, and of the pod that it
//! is bound to, never what the pod says.

use std::collections::BTreeMap;

use sideguard_kubernetes::Cluster;
use sideguard_kubernetes::connect::{resource, within_time};
use sideguard_kubernetes::kube::api::{Api, DynamicObject};
use sideguard_kubernetes::mirror::Mirror;
use sideguard_kubernetes::reviews::{Account, Pod, ReviewError, Reviews};
use sideguard_store::Store;
use sideguard_types::control::{Enrol, Enrolled};
use sideguard_types::resource::{AgentFrom, KubernetesSpec};
use sideguard_types::time::Timestamp;

use super::given;
use crate::error::Failure;
use crate::keys;

/// Label or annotation of pods: the profile, which is the agent's name.
const PROFILE: &str = "sideguard.dev/profile";
/// Label or annotation of namespaces: the profile of pods that name none.
const DEFAULT_PROFILE: &str = "sideguard.dev/default-profile";

/// The service accounts of a cluster.
#[derive(Debug)]
pub(crate) struct Accounts {
    cluster: Cluster,
    reviews: Reviews,
    namespaces: Mirror,
    agents: AgentFrom,
}

impl Accounts {
    pub(super) fn new(cluster: &Cluster, spec: &KubernetesSpec, namespaces: Mirror) -> Self {
        Self {
            cluster: cluster.clone(),
            reviews: Reviews::new(cluster, &spec.audience),
            namespaces,
            agents: spec.agents,
        }
    }

    /// Gives a sidecar its key for a service account's token.
    pub(crate) async fn enrol(
        &self,
        store: &Store,
        now: Timestamp,
        enrol: Enrol,
        signer: String,
    ) -> Result<Enrolled, Failure> {
        let account = self.reviews.whose(&enrol.token).await.map_err(|error| match error {
            ReviewError::Refused(reason) => {
                tracing::warn!(reason, sidecar = enrol.sidecar, "enrolment by a service account refused");
                Failure::Unauthenticated
            }
            error @ (ReviewError::Away(_) | ReviewError::Busy) => {
                tracing::warn!(%error, "a service account's token cannot be looked at now");
                Failure::Busy("whose the token is cannot be found out now".to_owned())
            }
        })?;
        let namespace = self.namespace(&account.namespace)?;
        let tenant = given::tenant(&account.namespace, &labels(&namespace))
            .map_err(|refusal| Failure::Invalid(refusal.message))?;
        let agent = match self.agents {
            AgentFrom::ServiceAccount => account.name.clone(),
            AgentFrom::Profile => self.profile(&account, &namespace).await?,
        };
        tracing::info!(tenant, agent, account = account.name, sidecar = enrol.sidecar, "enrolled");
        keys::admit(store, now, enrol, (tenant, agent), signer).await
    }

    fn namespace(&self, name: &str) -> Result<std::sync::Arc<DynamicObject>, Failure> {
        let unknown = || Failure::Busy(format!("the namespace `{name}` is not known yet"));
        let all = self.namespaces.objects().ok_or_else(unknown)?;
        let mut all = all.into_iter();
        all.find(|namespace| namespace.metadata.name.as_deref() == Some(name)).ok_or_else(unknown)
    }

    /// The profile of the pod that the token is bound to.
    async fn profile(&self, account: &Account, namespace: &DynamicObject) -> Result<String, Failure> {
        let Some(Pod { name, uid }) = &account.pod else {
            return Err(Failure::Forbidden("enrol: the token is bound to no pod"));
        };
        let pods: Api<DynamicObject> =
            self.cluster.within(&account.namespace, &resource("", "v1", "Pod", "pods"));
        let pod = within_time(pods.get_opt(name)).await.map_err(|error| {
            tracing::warn!(%error, "a pod cannot be looked at now");
            Failure::Busy("the pod cannot be looked at now".to_owned())
        })?;
        let pod = pod.filter(|pod| pod.metadata.uid.as_ref() == Some(uid)).ok_or(Failure::Unauthenticated)?;
        let own = labels(&pod).remove(PROFILE);
        let own = own.or_else(|| pod.metadata.annotations.as_ref()?.get(PROFILE).cloned());
        let annotations = namespace.metadata.annotations.as_ref();
        own.or_else(|| labels(namespace).remove(DEFAULT_PROFILE))
            .or_else(|| annotations.and_then(|all| all.get(DEFAULT_PROFILE).cloned()))
            .ok_or(Failure::Forbidden("enrol: neither its pod nor its namespace names a profile"))
    }
}

fn labels(object: &DynamicObject) -> BTreeMap<String, String> {
    object.metadata.labels.clone().unwrap_or_default()
}
