//! Keeps the Secret, the certificate that is shown, and the roots in the webhook configurations in line with each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sideguard_kubernetes::connect::{AskError, resource, within_time};
use sideguard_kubernetes::kube::Error;
use sideguard_kubernetes::kube::api::{Api, Patch, PatchParams, PostParams};
use sideguard_kubernetes::mirror::Mirror;
use sideguard_kubernetes::{Cluster, DynamicObject};
use sideguard_runtime::clock;
use tokio::sync::Notify;

use super::authority::{AuthorityError, Kept, step};
use super::{Place, TOGETHER};
use crate::certificate::{Certificate, CertificateError};

/// Group of the webhook configurations.
const ADMISSION: &str = "admissionregistration.k8s.io";
/// How often everything is looked at without a change in the cluster, at most.
const LOOK: Duration = Duration::from_secs(30);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a look was not finished.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the certificate of the Secret: {0}")]
    Show(#[from] CertificateError),
}

/// Keeps them for as long as it is polled.
pub(super) async fn keep(cluster: Cluster, place: Place, certificate: Certificate) {
    let changed = Arc::new(Notify::new());
    let mut work = Vec::new();
    let mut watched = |api: Api<DynamicObject>, kind, name: &str| {
        let field = format!("metadata.name={name}");
        let (mirror, follow) = Mirror::of(api.clone(), kind, "", &field, Arc::clone(&changed));
        work.push(Box::pin(follow));
        Watched { api, name: name.to_owned(), mirror }
    };
    let secrets = resource("", "v1", "Secret", "secrets");
    let secret = watched(cluster.within(cluster.namespace(), &secrets), &secrets, &place.secret);
    let mutating = resource(ADMISSION, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations");
    let mutating = watched(cluster.everywhere(&mutating), &mutating, &place.mutating);
    let validating =
        resource(ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations");
    let validating = watched(cluster.everywhere(&validating), &validating, &place.validating);
    let own = format!("{}.{}.svc", place.service, cluster.namespace());
    let names = vec![own.clone(), format!("{own}.cluster.local")];
    let look = place.ages.certificate.min(place.ages.settle.max(Duration::from_secs(1))).min(LOOK * 10) / 10;
    let keeper = Keeper { names, place, certificate, secret, configurations: [mutating, validating] };
    let keeping = async {
        loop {
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(TOGETHER).await,
                () = tokio::time::sleep(look) => {}
            }
            if let Err(error) = keeper.look().await {
                tracing::warn!(%error, "the webhook's certificate cannot be looked after now");
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    tokio::join!(futures_util::future::join_all(work), keeping);
}

/// One object by its name.
struct Watched {
    api: Api<DynamicObject>,
    name: String,
    mirror: Mirror,
}

impl Watched {
    /// It, if it is there; nothing when that is not known.
    fn object(&self) -> Option<Option<Arc<DynamicObject>>> {
        let mut objects = self.mirror.objects()?.into_iter();
        Some(objects.find(|object| object.metadata.name.as_deref() == Some(&self.name)))
    }

    /// Changes it where it is still as it was read. Somebody who was faster is no failure: they will be seen.
    async fn change(&self, read: &DynamicObject, mut patch: Value) -> Result<(), AskError> {
        patch["metadata"]["resourceVersion"] = json!(read.metadata.resource_version);
        let how = PatchParams::default();
        let patched = within_time(self.api.patch(&self.name, &how, &Patch::Merge(patch))).await;
        unless_conflict(patched)
    }
}

fn unless_conflict(answer: Result<DynamicObject, AskError>) -> Result<(), AskError> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(409) => Ok(()),
        Err(error) => Err(error),
    }
}

struct Keeper {
    names: Vec<String>,
    place: Place,
    certificate: Certificate,
    secret: Watched,
    configurations: [Watched; 2],
}

impl Keeper {
    async fn look(&self) -> Result<(), LookError> {
        let Some(secret) = self.secret.object() else { return Ok(()) };
        let kept = secret.as_ref().and_then(|secret| read(secret));
        if let Some(kept) = &kept {
            // The roots first: a certificate that nobody trusts yet refuses every pod.
            let told = self.tell(&kept.bundle()).await?;
            self.certificate.replace(kept.leaf.certificate.as_bytes(), kept.leaf.key.as_bytes())?;
            let next = step(Some(kept), &self.names, self.place.ages, clock::now(), told)?;
            if let (Some(next), Some(secret)) = (next, &secret) {
                tracing::info!(secret = self.secret.name, "certificates change");
                self.secret.change(secret, json!({ "data": next.data() })).await?;
            }
            return Ok(());
        }
        let Some(first) = step(None, &self.names, self.place.ages, clock::now(), false)? else {
            return Ok(());
        };
        tracing::info!(secret = self.secret.name, "a new authority and certificate");
        match &secret {
            Some(secret) => self.secret.change(secret, json!({ "data": first.data() })).await?,
            None => self.make(&first).await?,
        }
        Ok(())
    }

    async fn make(&self, first: &Kept) -> Result<(), AskError> {
        let data: BTreeMap<_, _> =
            first.data().into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": self.secret.name },
            "type": "Opaque",
            "data": data,
        });
        let secret: DynamicObject =
            serde_json::from_value(secret).map_err(|error| AskError::Refused(Error::SerdeError(error)))?;
        unless_conflict(within_time(self.secret.api.create(&PostParams::default(), &secret)).await)
    }

    /// Puts the roots into both configurations. Whether they stood there already.
    async fn tell(&self, bundle: &str) -> Result<bool, AskError> {
        let bundle = STANDARD.encode(bundle);
        let mut told = true;
        for configuration in &self.configurations {
            let Some(Some(object)) = configuration.object() else {
                told = false;
                continue;
            };
            let mut webhooks = object.data["webhooks"].clone();
            let mut changed = false;
            for webhook in webhooks.as_array_mut().into_iter().flatten() {
                changed |= webhook["clientConfig"]["caBundle"] != bundle;
                webhook["clientConfig"]["caBundle"] = json!(bundle);
            }
            if changed {
                told = false;
                tracing::info!(configuration = configuration.name, "the webhook's roots are told");
                configuration.change(&object, json!({ "webhooks": webhooks })).await?;
            }
        }
        Ok(told)
    }
}

fn read(secret: &DynamicObject) -> Option<Kept> {
    let data = secret.data["data"].as_object()?;
    let data = data.iter().filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())));
    Kept::read(&data.collect())
}
