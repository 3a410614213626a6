//! What stands in the cluster, as objects of ours: each with its tenant, in a text that says where it comes from.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sideguard_kubernetes::kinds::Kind;
use sideguard_kubernetes::{DynamicObject, agentic, yaml};
use sideguard_policy::compile;
use sideguard_policy::source::{self, Finding, Severity, Source};
use sideguard_types::control::Name;
use sideguard_types::resource::{API_VERSION, AgentFrom, KubernetesSpec, Metadata};

use super::KIND;
use crate::desired::file;
use crate::keys;
use crate::signer::hex;

/// Label of every object that comes from a cluster: the cluster's name.
pub(super) const CLUSTER: &str = "sideguard.dev/cluster";
/// Label of every object that comes from a cluster: the [`Id`] of what it was made of.
pub(super) const SOURCE: &str = "sideguard.dev/source";
/// Kind of objects that hold texts.
pub(super) const CONFIG_MAP: &str = "ConfigMap";
/// Longest message about one object, in bytes.
const LONGEST: usize = 2_000;
/// Most faults that one message tells.
const FAULTS: usize = 10;

/// Names an object of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Id {
    /// What [`SOURCE`] says.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let id = Self { kind: parts.next()?, namespace: parts.next()?, name: parts.next()? };
        parts.next().is_none().then_some(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// Why an object is not in force as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// One word, as in a condition.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if message.len() > LONGEST {
            message.truncate(message.floor_char_boundary(LONGEST));
            message.push('…');
        }
        Self { reason, message }
    }
}

/// An object as it is to be in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) name: Name,
    pub(super) text: String,
    /// Hash of the text.
    pub(super) hash: String,
}

/// An object of the cluster, and what it asks to have in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) id: Id,
    /// When it was made: of two that ask for the same name the older one has it.
    pub(super) created: String,
    pub(super) made: Result<Vec<Made>, Refusal>,
}

/// What is known of namespaces, beside the objects in them.
#[derive(Debug)]
pub(super) struct Tenants<'s> {
    pub(super) spec: &'s KubernetesSpec,
    /// Labels by namespace.
    pub(super) labels: HashMap<String, BTreeMap<String, String>>,
    /// Specs of XBackend objects by namespace and name.
    pub(super) backends: HashMap<(String, String), Value>,
}

impl Tenants<'_> {
    /// The tenant of a namespace; none for one whose objects hold for all.
    fn of(&self, namespace: &str) -> Result<Option<String>, Refusal> {
        if self.spec.shared_namespaces.iter().any(|shared| shared == namespace) {
            return Ok(None);
        }
        let labels = self.labels.get(namespace).ok_or_else(|| {
            Refusal::new("NamespaceUnknown", format!("the namespace `{namespace}` has not been seen yet"))
        })?;
        tenant(namespace, labels).map(Some)
    }
}

/// The tenant that a namespace's objects and agents belong to.
pub(super) fn tenant(namespace: &str, labels: &BTreeMap<String, String>) -> Result<String, Refusal> {
    let tenant = labels.get(super::TENANT).map_or(namespace, String::as_str);
    keys::tenant(tenant).map_err(|error| {
        Refusal::new("TenantInvalid", format!("the namespace's label `{}`: {error}", super::TENANT))
    })?;
    Ok(tenant.to_owned())
}

/// What an object of the cluster asks for. `known` says whether a text is one that is in force already.
pub(super) fn given(
    kind: &str,
    object: &DynamicObject,
    tenants: &Tenants<'_>,
    known: &dyn Fn(&Name, &str) -> bool,
) -> Given {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let id = Id { kind: kind.to_owned(), namespace, name: metadata.name.clone().unwrap_or_default() };
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default();
    let made = tenants.of(&id.namespace).and_then(|tenant| {
        let maker = Maker { id: &id, tenants, tenant, known };
        match kind {
            CONFIG_MAP => maker.config_map(object),
            _ if Kind::named(kind).is_some() => maker.resource(object).map(|made| vec![made]),
            _ => maker.agentic(object),
        }
    });
    Given { id, created, made }
}

struct Maker<'m> {
    id: &'m Id,
    tenants: &'m Tenants<'m>,
    tenant: Option<String>,
    known: &'m dyn Fn(&Name, &str) -> bool,
}

impl Maker<'_> {
    /// A custom resource: its spec as it stands.
    fn resource(&self, object: &DynamicObject) -> Result<Made, Refusal> {
        let labels = object.metadata.labels.clone().unwrap_or_default();
        self.make(&self.id.kind, &self.id.name, labels, object.data["spec"].clone())
    }

    /// A ConfigMap: every document of every text in it.
    fn config_map(&self, object: &DynamicObject) -> Result<Vec<Made>, Refusal> {
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let wanted = labels.get(KIND).map(String::as_str).unwrap_or_default();
        let kind = Kind::named(wanted).ok_or_else(|| {
            Refusal::new("Invalid", format!("the label `{KIND}`: there is no kind `{wanted}`"))
        })?;
        let texts: Vec<Source> = object.data["data"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, text)| Some(Source::new(key.clone(), text.as_str()?)))
            .collect();
        let loaded = source::load(&texts);
        let errors: Vec<&Finding> =
            loaded.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        if !errors.is_empty() {
            return Err(faults(&errors, |at| format!("{}:{}:{}", at.file, at.line, at.column)));
        }
        let mut made = Vec::new();
        for document in loaded.documents {
            let Metadata { name, tenant, labels } = &document.resource.metadata;
            let own = document.resource.spec.kind();
            if own != kind.name {
                let message =
                    format!("{}: `{own}` stands in a ConfigMap of kind `{}`", document.file(), kind.name);
                return Err(Refusal::new("Invalid", message));
            }
            if tenant.is_some() && *tenant != self.tenant {
                let message = format!("{}: `metadata.tenant` is not the namespace's", document.file());
                return Err(Refusal::new("TenantInvalid", message));
            }
            let spec = serde_json::to_value(&document.resource.spec)
                .map_err(|error| Refusal::new("Invalid", error.to_string()))?;
            made.push(self.make(own, name, labels.clone(), spec["spec"].clone())?);
        }
        Ok(made)
    }

    /// An object of kube-agentic-networking, where it can be put in our words.
    fn agentic(&self, object: &DynamicObject) -> Result<Vec<Made>, Refusal> {
        let Id { kind, namespace, name } = self.id;
        if self.tenants.spec.agents != AgentFrom::ServiceAccount {
            return Err(Refusal::new(
                "Unsupported",
                "it names service accounts, and agents are known by profiles here",
            ));
        }
        let backend = |name: &str| self.tenants.backends.get(&(namespace.clone(), name.to_owned())).cloned();
        let ours = agentic::translate(kind, namespace, name, &object.data["spec"], &backend)
            .map_err(|unsupported| Refusal::new("Unsupported", unsupported.to_string()))?;
        self.make(ours.kind, &ours.name, BTreeMap::new(), ours.spec).map(|made| vec![made])
    }

    fn make(
        &self,
        kind: &str,
        name: &str,
        mut labels: BTreeMap<String, String>,
        spec: Value,
    ) -> Result<Made, Refusal> {
        labels.insert(CLUSTER.to_owned(), self.tenants.spec.cluster.clone());
        labels.insert(SOURCE.to_owned(), self.id.to_string());
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(name));
        metadata.extend(self.tenant.iter().map(|tenant| ("tenant".to_owned(), json!(tenant))));
        metadata.insert("labels".to_owned(), json!(labels));
        let written = yaml::write(&json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": metadata,
            "spec": spec,
        }));
        let tenant = self.tenant.clone().unwrap_or_else(|| "default".to_owned());
        let name = Name { tenant, kind: kind.to_owned(), name: name.to_owned() };
        let hash = hex(&Sha256::digest(written.text.as_bytes()));
        if !(self.known)(&name, &hash) {
            check(&name, &written)?;
        }
        Ok(Made { name, text: written.text, hash })
    }
}

/// Compiles an object by itself.
fn check(name: &Name, written: &yaml::Written) -> Result<(), Refusal> {
    let loaded = source::load(&[Source::new(file(name), written.text.clone())]);
    match compile(&loaded) {
        Ok(_) => Ok(()),
        Err(findings) => Err(faults(&findings.iter().collect::<Vec<_>>(), |at| {
            written.place(at.line).unwrap_or("spec").to_owned()
        })),
    }
}

/// What is wrong, each with its place.
fn faults(findings: &[&Finding], place: impl Fn(&Finding) -> String) -> Refusal {
    let tell = |finding: &&Finding| {
        let hint = finding.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{}: {}{hint}", place(finding), finding.message)
    };
    let mut told: Vec<String> = findings.iter().take(FAULTS).map(tell).collect();
    if findings.len() > FAULTS {
        told.push(format!("and {} more", findings.len() - FAULTS));
    }
    Refusal::new("Invalid", told.join("; "))
}
