//! What is known of the cluster: namespaces, profiles, version. A snapshot that whoever learns of something new replaces as a
//! whole, so that a review sees one state of things and waits for nothing.
//!
//! It is filled from a file ([`Known::read`]) or by watchers of the cluster. Until it is, every pod is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use serde_json::Value;
use sideguard_types::resource::{API_VERSION, AgentSpec};

use crate::label;

/// One state of the cluster, as far as injection asks for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// Version of the API server; none when it was not learned.
    pub version: Option<Version>,
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Profiles by namespace and name.
    pub profiles: BTreeMap<(String, String), Arc<Profile>>,
}

/// A namespace's labels and annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A profile: an object of kind Agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// `metadata.generation`: which state of the object this is; 0 when it was not told.
    pub generation: i64,
    /// Rights of the agent, and how its pods are made.
    pub agent: AgentSpec,
}

/// Version of a cluster, such as 1.33.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
}

/// Why objects cannot be taken for knowledge.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// It is no YAML, or none of what is known.
    #[error("document {number}: {reason}")]
    Document {
        /// Which one, from 1.
        number: usize,
        /// Why.
        reason: String,
    },
}

impl Version {
    /// The first one that runs native sidecars without being asked to.
    pub const NATIVE_SIDECARS: Self = Self { major: 1, minor: 29 };

    /// A version from `1.33`, `v1.33.2-gke.1` or the like.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?;
        // Some providers write `33+`.
        let end = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        Some(Self { major, minor: minor.get(..end)?.parse().ok()? })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Namespace {
    /// Whether its pods are injected.
    #[must_use]
    pub fn opted_in(&self) -> bool {
        self.labels.get(label::INJECT).is_some_and(|value| value == "enabled")
    }

    /// The tenant that its pods belong to: what its label `sideguard.dev/tenant` names, else its own name.
    #[must_use]
    pub fn tenant<'n>(&'n self, name: &'n str) -> &'n str {
        self.labels.get(label::TENANT).map_or(name, String::as_str)
    }
}

impl Known {
    /// Knowledge from YAML or JSON: objects of kind Namespace and Agent as the cluster has them, also in a List, such as
    /// `kubectl get namespaces,agents -A -o yaml` prints.
    ///
    /// # Errors
    /// When a document cannot be read, or is of another kind.
    pub fn read(text: &str) -> Result<Self, KnownError> {
        let mut known = Self::default();
        let refused = |number, reason| KnownError::Document { number, reason };
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| refused(1, error.to_string()))?;
        for (number, document) in (1..).zip(documents) {
            known.take(&document).map_err(|reason| refused(number, reason))?;
        }
        Ok(known)
    }

    /// Takes an object in. One of the same name is replaced.
    ///
    /// # Errors
    /// When it is neither a Namespace nor an Agent, or cannot be read.
    pub fn take(&mut self, object: &Value) -> Result<(), String> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let name = text("/metadata/name").to_owned();
        match (text("/apiVersion"), text("/kind")) {
            ("v1", "List") => {
                let items = object.get("items").and_then(Value::as_array).into_iter().flatten();
                return items.map(|item| self.take(item)).collect();
            }
            _ if name.is_empty() => return Err("an object without `metadata.name`".to_owned()),
            ("v1", "Namespace") => {
                let map = |pointer| strings(object.pointer(pointer));
                let namespace =
                    Namespace { labels: map("/metadata/labels"), annotations: map("/metadata/annotations") };
                self.namespaces.insert(name, namespace);
            }
            (API_VERSION, "Agent") => {
                let namespace = match text("/metadata/namespace") {
                    "" => "default".to_owned(),
                    namespace => namespace.to_owned(),
                };
                let profile = Profile::read(object).map_err(|error| format!("agent `{name}`: {error}"))?;
                self.profiles.insert((namespace, name), Arc::new(profile));
            }
            (version, kind) => return Err(format!("`{kind}` of `{version}` is no Namespace and no Agent")),
        }
        Ok(())
    }

    /// A profile by namespace and name.
    #[must_use]
    pub fn profile(&self, namespace: &str, name: &str) -> Option<&Arc<Profile>> {
        self.profiles.get(&(namespace.to_owned(), name.to_owned()))
    }
}

impl Profile {
    /// A profile from an object of kind Agent, as the cluster has it.
    ///
    /// # Errors
    /// When its spec cannot be read.
    pub fn read(object: &Value) -> Result<Self, serde_json::Error> {
        let agent = match object.get("spec") {
            None | Some(Value::Null) => AgentSpec::default(),
            Some(spec) => serde_json::from_value(spec.clone())?,
        };
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        Ok(Self { generation, agent })
    }
}

fn strings(map: Option<&Value>) -> BTreeMap<String, String> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// What is known now, shared by those who learn and those who ask. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Facts(Arc<ArcSwapOption<Known>>);

impl Facts {
    /// Facts that are known from the start.
    #[must_use]
    pub fn new(known: Known) -> Self {
        let facts = Self::default();
        facts.replace(known);
        facts
    }

    /// Puts a new state of things in the place of the old one.
    pub fn replace(&self, known: Known) {
        self.0.store(Some(Arc::new(known)));
    }

    /// What is known; nothing before the first [`Facts::replace`].
    #[must_use]
    pub fn known(&self) -> Option<Arc<Known>> {
        self.0.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, Known, Version};

    #[test]
    fn versions_are_read_as_providers_write_them() {
        for text in ["1.33", "v1.33.2-gke.1", "1.33+"] {
            assert_eq!(Version::parse(text), Some(Version { major: 1, minor: 33 }), "{text}");
        }
        for text in ["", "1", "x.1", "1.x"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        assert!(Version { major: 1, minor: 28 } < Version::NATIVE_SIDECARS);
    }

    #[test]
    fn objects_are_read_as_kubectl_prints_them() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata:\n    name: team\n    \
            labels: {sideguard.dev/inject: enabled, sideguard.dev/tenant: acme}\n---\napiVersion: sideguard.dev/v1\n\
            kind: Agent\nmetadata: {name: researcher, namespace: team, generation: 3}\nspec: {models: [gpt-5]}\n";
        let known = Known::read(text).expect("knowledge");
        let namespace = &known.namespaces["team"];
        assert!(namespace.opted_in());
        assert_eq!(namespace.tenant("team"), "acme");
        let profile = known.profile("team", "researcher").expect("a profile");
        assert_eq!((profile.generation, profile.agent.models.len()), (3, 1));
        let error = Known::read("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n").expect_err("no pod");
        assert!(error.to_string().contains("`Pod`"), "{error}");
    }

    #[test]
    fn nothing_is_known_until_it_is_told() {
        let facts = Facts::default();
        assert!(facts.known().is_none());
        facts.clone().replace(Known::default());
        assert!(facts.known().is_some());
    }
}
