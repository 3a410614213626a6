//! What becomes of objects, told where their authors look: as a condition of the object, and for ConfigMaps, which have none,
//! as an event. Nothing is written that stands there already.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sideguard_kubernetes::connect::{AskError, resource, within_time};
use sideguard_kubernetes::kinds::{GROUP, Kind, VERSION};
use sideguard_kubernetes::kube::api::{Patch, PatchParams, PostParams};
use sideguard_kubernetes::{Cluster, DynamicObject, agentic};
use sideguard_runtime::clock;

use super::given::{CONFIG_MAP, Id, Refusal};
use crate::desired::Entry;
use crate::signer::hex;

/// Who says so.
const CONTROLLER: &str = "sideguard.dev/control";
/// Objects that are told at once.
const AT_ONCE: usize = 8;
/// Longest note of an event, in bytes.
const LONGEST_NOTE: usize = 1_000;

/// How an object of the cluster stands.
pub(super) struct Standing {
    object: Arc<DynamicObject>,
    id: Id,
    refusal: Option<Refusal>,
    /// The generation that it came into force with, and a digest of what is in force of it.
    in_force: Option<(u64, String)>,
}

impl Standing {
    pub(super) fn new(
        object: Arc<DynamicObject>,
        refusal: Option<Refusal>,
        id: Id,
        entries: &[&Entry],
    ) -> Self {
        let since = entries.iter().map(|entry| entry.since).max();
        let digest = match entries {
            [one] => one.text.clone(),
            several => {
                let mut texts: Vec<&str> = several.iter().map(|entry| entry.text.as_str()).collect();
                texts.sort_unstable();
                hex(&Sha256::digest(texts.concat()))
            }
        };
        Self { object, id, refusal, in_force: since.map(|since| (since, format!("sha256:{digest}"))) }
    }

    /// Whether nobody else writes this object's status.
    fn is_ours(&self) -> bool {
        self.id.kind == CONFIG_MAP || Kind::named(&self.id.kind).is_some()
    }

    fn reason(&self) -> &str {
        // What the Gateway API calls it.
        let good = if self.is_ours() { "InForce" } else { "Accepted" };
        self.refusal.as_ref().map_or(good, |refusal| refusal.reason)
    }

    fn message(&self) -> String {
        match (&self.refusal, &self.in_force) {
            (None, Some((since, _))) => format!("in force since generation {since}"),
            (None, None) => "nothing stands in it".to_owned(),
            (Some(refusal), Some((since, _))) => {
                format!("{}; what came with generation {since} stays in force", refusal.message)
            }
            (Some(refusal), None) => format!("{}; nothing of it is in force", refusal.message),
        }
    }

    fn condition(&self, before: &Value) -> Value {
        let status = if self.refusal.is_none() { "True" } else { "False" };
        let conditions = before.as_array().map(Vec::as_slice).unwrap_or_default();
        let before = conditions.iter().find(|one| one["type"] == "Accepted");
        // A moment in the form of a Kubernetes Time: whole seconds.
        let now = clock::now().to_string();
        let now = now.split('.').next().map(|seconds| format!("{seconds}Z"));
        let same = before.filter(|before| before["status"] == status);
        let since = same.map_or(json!(now), |before| before["lastTransitionTime"].clone());
        json!({
            "type": "Accepted",
            "status": status,
            "reason": self.reason(),
            "message": self.message(),
            "observedGeneration": self.object.metadata.generation.unwrap_or(0),
            "lastTransitionTime": since,
        })
    }

    /// The status that the object should have.
    fn status(&self) -> Value {
        let before = &self.object.data["status"];
        if !self.is_ours() {
            let (kind, spec) = (&self.id.kind, &self.object.data["spec"]);
            return agentic::status(kind, before, spec, CONTROLLER, |conditions| self.condition(conditions));
        }
        json!({
            "observedGeneration": self.object.metadata.generation.unwrap_or(0),
            "generation": self.in_force.as_ref().map(|(since, _)| since),
            "digest": self.in_force.as_ref().map(|(_, digest)| digest),
            "conditions": [self.condition(&before["conditions"])],
        })
    }
}

/// Tells the cluster.
pub(super) struct Told {
    cluster: Cluster,
    own: String,
    /// What was said of ConfigMaps last.
    events: HashMap<Id, String>,
}

impl Told {
    pub(super) fn new(cluster: Cluster, own: String) -> Self {
        Self { cluster, own, events: HashMap::new() }
    }

    /// Tells what is not told yet. What cannot be told now is told at the next look.
    pub(super) async fn tell(&mut self, standings: Vec<Standing>) {
        let (maps, rest): (Vec<_>, Vec<_>) =
            standings.into_iter().partition(|standing| standing.id.kind == CONFIG_MAP);
        stream::iter(&rest)
            .for_each_concurrent(AT_ONCE, |standing| async {
                if let Err(error) = self.condition(standing).await {
                    tracing::warn!(object = %standing.id, %error, "a condition cannot be written now");
                }
            })
            .await;
        self.events.retain(|id, _| maps.iter().any(|standing| standing.id == *id));
        for standing in maps {
            let said = format!("{} {}", standing.reason(), standing.message());
            if self.events.get(&standing.id) == Some(&said) {
                continue;
            }
            match self.event(&standing, &said).await {
                Ok(()) => drop(self.events.insert(standing.id, said)),
                Err(error) => tracing::warn!(object = %standing.id, %error, "an event cannot be written now"),
            }
        }
    }

    async fn condition(&self, standing: &Standing) -> Result<(), AskError> {
        let (status, before) = (standing.status(), &standing.object.data["status"]);
        if same(&status, before) {
            return Ok(());
        }
        let resource = Kind::named(&standing.id.kind).map_or_else(
            || agentic::resources().into_iter().find(|one| one.kind == standing.id.kind),
            |kind| Some(resource(GROUP, VERSION, kind.name, kind.plural)),
        );
        let Some(resource) = resource else { return Ok(()) };
        let api = self.cluster.within(&standing.id.namespace, &resource);
        let mut patch = json!({ "status": status });
        if !standing.is_ours() {
            // Lists are replaced as a whole: what others have said since it was read must not go.
            patch["metadata"]["resourceVersion"] = json!(standing.object.metadata.resource_version);
        }
        let patch = Patch::Merge(patch);
        let how = PatchParams::default();
        match within_time(api.patch_status(&standing.id.name, &how, &patch)).await {
            Ok(_) => Ok(()),
            // It went or changed meanwhile: it will be seen.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn event(&self, standing: &Standing, said: &str) -> Result<(), AskError> {
        let Standing { object, id, .. } = standing;
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let mut note = standing.message();
        note.truncate(note.floor_char_boundary(LONGEST_NOTE));
        // The same is said once, whichever replica says it.
        let name = hex(&Sha256::digest(format!("{id} {uid} {said}")));
        let event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": format!("sideguard.{}", name.get(..20).unwrap_or_default()), "namespace": id.namespace },
            "eventTime": clock::now().to_string(),
            "reportingController": CONTROLLER,
            "reportingInstance": self.own,
            "action": "Sync",
            "reason": standing.reason(),
            "type": if standing.refusal.is_none() { "Normal" } else { "Warning" },
            "note": note,
            "regarding": {
                "apiVersion": "v1", "kind": CONFIG_MAP, "namespace": id.namespace, "name": id.name, "uid": uid,
            },
        });
        let event: DynamicObject = serde_json::from_value(event)
            .map_err(|error| AskError::Refused(sideguard_kubernetes::kube::Error::SerdeError(error)))?;
        let events = resource("events.k8s.io", "v1", "Event", "events");
        let api = self.cluster.within(&id.namespace, &events);
        match within_time(api.create(&PostParams::default(), &event)).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(409) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether a status says what another one says, absent being nothing.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(fields), _) => fields.iter().all(|(key, value)| same(value, &other[key])),
        (Value::Array(items), Value::Array(others)) => {
            items.len() == others.len() && items.iter().zip(others).all(|(one, other)| same(one, other))
        }
        _ => one == other,
    }
}
