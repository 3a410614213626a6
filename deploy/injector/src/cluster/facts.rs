//! Watches namespaces and profiles. What is known is replaced as a whole, and not before all of it was seen once: until then
//! every pod is refused.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sideguard_kubernetes::connect::{resource, within_time};
use sideguard_kubernetes::kinds::{GROUP, VERSION};
use sideguard_kubernetes::mirror::Mirror;
use sideguard_kubernetes::{Cluster, DynamicObject};
use sideguard_types::resource::API_VERSION;
use tokio::sync::Notify;

use super::TOGETHER;
use crate::known::{Facts, Known, Version};

/// How often the API server is asked for its version.
const ASK: Duration = Duration::from_secs(600);
/// The same while it is not known.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Watches for as long as it is polled.
pub(super) async fn watch(cluster: Cluster, facts: Facts) {
    let changed = Arc::new(Notify::new());
    let kind = resource("", "v1", "Namespace", "namespaces");
    let (namespaces, follow_namespaces) =
        Mirror::of(cluster.everywhere(&kind), &kind, "", "", Arc::clone(&changed));
    let kind = resource(GROUP, VERSION, "Agent", "agents");
    let (agents, follow_agents) = Mirror::of(cluster.everywhere(&kind), &kind, "", "", Arc::clone(&changed));
    let tell = async {
        let mut version = None;
        loop {
            let pause = if version.is_some() { ASK } else { ASK_AGAIN };
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(TOGETHER).await,
                () = tokio::time::sleep(pause) => version = ask(&cluster).await.or(version),
            }
            if version.is_none() {
                version = ask(&cluster).await;
            }
            let seen = namespaces.objects().zip(agents.objects());
            if let Some(((namespaces, agents), version)) = seen.zip(version) {
                facts.replace(known(version, &namespaces, &agents));
            }
        }
    };
    tokio::join!(follow_namespaces, follow_agents, tell);
}

async fn ask(cluster: &Cluster) -> Option<Version> {
    match within_time(cluster.client().apiserver_version()).await {
        Ok(info) => Version::parse(&format!("{}.{}", info.major, info.minor)),
        Err(error) => {
            tracing::warn!(%error, "the cluster's version is not known yet");
            None
        }
    }
}

/// What objects say. A profile that cannot be read is none: pods that name it are refused.
fn known(version: Version, namespaces: &[Arc<DynamicObject>], agents: &[Arc<DynamicObject>]) -> Known {
    let mut known = Known { version: Some(version), ..Known::default() };
    let namespaces = namespaces.iter().map(|object| ("v1", "Namespace", object));
    let agents = agents.iter().map(|object| (API_VERSION, "Agent", object));
    for (version, kind, object) in namespaces.chain(agents) {
        let taken =
            serde_json::to_value(&**object).map_err(|error| error.to_string()).and_then(|mut object| {
                // Items of a list do not say what they are.
                object["apiVersion"] = json!(version);
                object["kind"] = json!(kind);
                known.take(&object)
            });
        if let Err(error) = taken {
            tracing::warn!(error, "an object of the cluster cannot be read");
        }
    }
    known
}
