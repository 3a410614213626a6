//! The objects that an API server keeps, and who watches them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use super::structural;

/// Kinds that are there from the start: name in addresses, kind, whether it lives in a namespace.
const BUILT_IN: [(&str, &str, bool); 10] = [
    ("namespaces", "Namespace", false),
    ("configmaps", "ConfigMap", true),
    ("secrets", "Secret", true),
    ("pods", "Pod", true),
    ("events", "Event", true),
    ("leases", "Lease", true),
    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", false),
    ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", false),
    ("customresourcedefinitions", "CustomResourceDefinition", false),
    ("deployments", "Deployment", true),
];

/// Where an object is: no two kinds here have the same name in addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Kind, as in addresses.
    pub plural: String,
    /// Namespace; empty for what is in none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Place {
    /// A place.
    #[must_use]
    pub fn new(plural: &str, namespace: &str, name: &str) -> Self {
        Self { plural: plural.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// What a review says of a token.
#[derive(Debug, Clone)]
pub struct Reviewed {
    /// Namespace of the service account.
    pub namespace: String,
    /// Its name.
    pub account: String,
    /// Whom the token is for.
    pub audience: String,
    /// Name and uid of the pod that it is bound to.
    pub pod: Option<(String, String)>,
}

impl Reviewed {
    /// A token that control takes.
    #[must_use]
    pub fn new(namespace: &str, account: &str) -> Self {
        let audience = "sideguard-control".to_owned();
        Self { namespace: namespace.to_owned(), account: account.to_owned(), audience, pod: None }
    }
}

/// A change as watches tell it.
struct Event {
    version: u64,
    place: Place,
    kind: &'static str,
    object: Value,
}

/// Somebody who watches.
pub(super) struct Watch {
    pub(super) scope: Scope,
    pub(super) send: Sender<Bytes>,
}

/// Which objects of a kind.
pub(super) struct Scope {
    pub(super) plural: String,
    pub(super) namespace: Option<String>,
    pub(super) labels: String,
    pub(super) name: Option<String>,
}

impl Scope {
    pub(super) fn holds(&self, place: &Place, object: &Value) -> bool {
        self.plural == place.plural
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == place.namespace)
            && self.name.as_ref().is_none_or(|name| *name == place.name)
            && self.labels.split(',').filter(|one| !one.is_empty()).all(|one| {
                let labels = &object["metadata"]["labels"];
                match one.split_once('=') {
                    Some((key, value)) => labels[key] == value,
                    None => labels[one].is_string(),
                }
            })
    }
}

#[derive(Default)]
pub(super) struct Objects {
    kept: BTreeMap<Place, Value>,
    history: Vec<Event>,
    version: u64,
    compacted: u64,
    watches: Vec<Watch>,
    pub(super) tokens: BTreeMap<String, Reviewed>,
    pub(super) asked: BTreeSet<String>,
    pub(super) requests: usize,
}

/// Why something is not done: status, reason and message of the answer.
pub(super) type Refused = (u16, &'static str, String);

impl Objects {
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// Kind of a name in addresses, and whether it lives in a namespace.
    pub(super) fn kind(&self, plural: &str) -> Option<(String, bool)> {
        if let Some((_, kind, namespaced)) = BUILT_IN.iter().find(|(own, ..)| *own == plural) {
            return Some(((*kind).to_owned(), *namespaced));
        }
        let names = &self.definition(plural)?["spec"]["names"];
        Some((names["kind"].as_str()?.to_owned(), true))
    }

    fn definition(&self, plural: &str) -> Option<&Value> {
        let definitions = self.kept.iter().filter(|(place, _)| place.plural == "customresourcedefinitions");
        definitions.map(|(_, definition)| definition).find(|one| one["spec"]["names"]["plural"] == plural)
    }

    fn plural(&self, kind: &str) -> Option<String> {
        if let Some((plural, ..)) = BUILT_IN.iter().find(|(_, own, _)| *own == kind) {
            return Some((*plural).to_owned());
        }
        let definitions = self.kept.iter().filter(|(place, _)| place.plural == "customresourcedefinitions");
        let found = definitions.map(|(_, definition)| &definition["spec"]["names"]);
        found.into_iter().find(|names| names["kind"] == kind)?["plural"].as_str().map(str::to_owned)
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Value> {
        self.kept.get(place)
    }

    pub(super) fn all(&self, plural: &str, namespace: Option<&str>) -> Vec<Value> {
        let fits = |place: &Place| {
            place.plural == plural && namespace.is_none_or(|namespace| namespace == place.namespace)
        };
        self.kept.iter().filter(|(place, _)| fits(place)).map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn listed(&self, scope: &Scope) -> Vec<Value> {
        let kept = self.kept.iter().filter(|(place, object)| scope.holds(place, object));
        kept.map(|(_, object)| object.clone()).collect()
    }

    /// Creates or replaces as `kubectl apply` does.
    pub(super) fn put(&mut self, object: &Value) -> Result<(), String> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let plural = self.plural(kind).ok_or_else(|| format!("no kind `{kind}`"))?;
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let place = Place { plural, namespace: text("namespace"), name: text("name") };
        let put = if self.kept.contains_key(&place) {
            self.replace(&place, object.clone())
        } else {
            self.create(&place, object.clone())
        };
        put.map(drop).map_err(|(_, _, message)| message)
    }

    pub(super) fn create(&mut self, place: &Place, mut object: Value) -> Result<Value, Refused> {
        if self.kept.contains_key(place) {
            return Err((409, "AlreadyExists", format!("`{}` already exists", place.name)));
        }
        self.check(place, &object)?;
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(sideguard_runtime::id::token(8));
        // One second after the other: which of two was there first is part of what is tried.
        metadata["creationTimestamp"] = json!(format!(
            "2026-11-27T{:02}:{:02}:{:02}Z",
            self.version / 3_600 % 24,
            self.version / 60 % 60,
            self.version % 60
        ));
        metadata["generation"] = json!(1);
        if self.definition(&place.plural).is_some() {
            object.as_object_mut().map(|object| object.remove("status"));
        }
        Ok(self.keep("ADDED", place, object))
    }

    pub(super) fn replace(&mut self, place: &Place, object: Value) -> Result<Value, Refused> {
        let before = self.kept.get(place).cloned().ok_or_else(|| missing(place))?;
        conflicts(&before, &object)?;
        self.changed(place, &before, object, false)
    }

    pub(super) fn patch(&mut self, place: &Place, patch: &Value, status: bool) -> Result<Value, Refused> {
        let before = self.kept.get(place).cloned().ok_or_else(|| missing(place))?;
        conflicts(&before, patch)?;
        let mut object = before.clone();
        merge(&mut object, patch);
        self.changed(place, &before, object, status)
    }

    fn changed(
        &mut self,
        place: &Place,
        before: &Value,
        mut object: Value,
        status: bool,
    ) -> Result<Value, Refused> {
        if status {
            let told = object["status"].clone();
            object = before.clone();
            object["status"] = told;
        } else if self.definition(&place.plural).is_some() {
            match before.get("status") {
                Some(told) => object["status"] = told.clone(),
                None => drop(object.as_object_mut().map(|object| object.remove("status"))),
            }
        }
        self.check(place, &object)?;
        for own in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
            object["metadata"][own] = before["metadata"][own].clone();
        }
        if object == *before {
            return Ok(object);
        }
        if object["spec"] != before["spec"] {
            let generation = before["metadata"]["generation"].as_u64().unwrap_or(0);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        Ok(self.keep("MODIFIED", place, object))
    }

    pub(super) fn remove(&mut self, place: &Place) -> bool {
        let Some(object) = self.kept.remove(place) else { return false };
        self.tell("DELETED", place, object);
        true
    }

    fn keep(&mut self, kind: &'static str, place: &Place, object: Value) -> Value {
        let object = self.tell(kind, place, object);
        self.kept.insert(place.clone(), object.clone());
        object
    }

    fn tell(&mut self, kind: &'static str, place: &Place, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let event = Event { version: self.version, place: place.clone(), kind, object: object.clone() };
        // Whoever does not read, or reads too slowly, is dropped: it has to begin anew.
        self.watches.retain(|watch| {
            !watch.scope.holds(place, &event.object) || watch.send.try_send(line(kind, &event.object)).is_ok()
        });
        self.history.push(event);
        object
    }

    /// Watches from a version on.
    pub(super) fn watch(&mut self, watch: Watch, from: u64) {
        if from < self.compacted {
            let gone = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
                "message": "too old resource version" });
            let _ = watch.send.try_send(line("ERROR", &gone));
            return;
        }
        let missed = self.history.iter().filter(|event| event.version > from);
        for event in missed.filter(|event| watch.scope.holds(&event.place, &event.object)) {
            let _ = watch.send.try_send(line(event.kind, &event.object));
        }
        let kind = self.kind(&watch.scope.plural).map(|(kind, _)| kind);
        let bookmark = json!({ "kind": kind, "apiVersion": "v1", "metadata": { "resourceVersion": self.version.to_string() } });
        let _ = watch.send.try_send(line("BOOKMARK", &bookmark));
        self.watches.push(watch);
    }

    pub(super) fn compact(&mut self) {
        self.version += 1;
        self.compacted = self.version;
        self.history.clear();
        self.watches.clear();
    }

    /// Refuses what the definition of its kind does not allow, unknown keys included.
    fn check(&self, place: &Place, object: &Value) -> Result<(), Refused> {
        let Some(definition) = self.definition(&place.plural) else { return Ok(()) };
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let faults = structural::faults(schema, object);
        if faults.is_empty() { Ok(()) } else { Err((422, "Invalid", faults.join("; "))) }
    }
}

fn missing(place: &Place) -> Refused {
    (404, "NotFound", format!("{} `{}` not found", place.plural, place.name))
}

/// An object that names a version is for the place of that version alone.
fn conflicts(before: &Value, object: &Value) -> Result<(), Refused> {
    let (have, asked) = (&before["metadata"]["resourceVersion"], &object["metadata"]["resourceVersion"]);
    if asked.is_string() && asked != have {
        return Err((409, "Conflict", "the object has been modified".to_owned()));
    }
    Ok(())
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({ "type": kind, "object": object })).into()
}

/// JSON Merge Patch (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().map(|into| into.remove(key));
        } else {
            merge(&mut into[key.as_str()], value);
        }
    }
}
