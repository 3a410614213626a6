//! The same patch over manifests: YAML and JSON, several documents in one text. What is not changed keeps its bytes.

mod split;
mod tree;

use serde_json::{Value, json};
use sideguard_types::resource::AgentSpec;

use crate::inject::{Outcome, inject};
use crate::known::{Known, Profile};
use crate::label;
use crate::pod::noted;
use crate::refusal::Refusal;
use crate::settings::Settings;
use split::{Document, Form};
use tree::Tree;

/// Kinds with a pod's template, and where that stands.
const TEMPLATES: [(&str, &[&str]); 7] = [
    ("Deployment", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    ("Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
];
/// Deepest nesting of Lists.
const DEEPEST: usize = 4;

/// By what manifests are injected.
#[derive(Debug)]
pub struct Manifests<'a> {
    /// The injector's configuration.
    pub settings: &'a Settings,
    /// What is known of the cluster. When absent every namespace counts as opted in, and every profile as one that says
    /// nothing.
    pub known: Option<&'a Known>,
    /// Namespace of objects that name none.
    pub namespace: &'a str,
    /// Profile of pods that name none.
    pub profile: Option<&'a str>,
}

/// What became of manifests.
#[derive(Debug)]
pub struct Done {
    /// The text, changed where pods are.
    pub text: String,
    /// What people should know, each with the object that it is about.
    pub warnings: Vec<String>,
    /// How many pods and templates have the sidecar now.
    pub injected: usize,
}

/// Why manifests cannot be injected; nothing is given out then.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A document cannot be read.
    #[error("document {number}: {reason}")]
    Unreadable {
        /// Which one, from 1.
        number: usize,
        /// Why.
        reason: String,
    },
    /// A pod is refused.
    #[error("{object}: {refusal}")]
    Refused {
        /// The object, as `Kind/name`.
        object: String,
        /// Why.
        refusal: Refusal,
    },
}

impl Manifests<'_> {
    /// Injects every pod and every template of one.
    ///
    /// # Errors
    /// When a document cannot be read, or a pod is refused.
    pub fn inject(&self, text: &str) -> Result<Done, ManifestError> {
        let mut done = Done { text: String::with_capacity(text.len()), warnings: Vec::new(), injected: 0 };
        for (number, document) in (1..).zip(split::documents(text)) {
            match self.document(number, &document, &mut done)? {
                None => done.text.push_str(document.whole),
                Some(changed) => {
                    done.text.push_str(document.before());
                    done.text.push_str(&changed);
                    done.text.push_str(document.after());
                }
            }
        }
        Ok(done)
    }

    /// A document's new text; nothing when it stays as it is.
    fn document(
        &self,
        number: usize,
        document: &Document<'_>,
        done: &mut Done,
    ) -> Result<Option<String>, ManifestError> {
        let unreadable = |reason: String| ManifestError::Unreadable { number, reason };
        if document.is_empty() {
            return Ok(None);
        }
        let mut tree: Tree = match document.form {
            Form::Json => {
                serde_json::from_str(document.body).map_err(|error| unreadable(error.to_string()))?
            }
            Form::Yaml => {
                serde_saphyr::from_str(document.body).map_err(|error| unreadable(error.to_string()))?
            }
        };
        let before = done.injected;
        self.object(&mut tree, DEEPEST, done)?;
        if done.injected == before {
            return Ok(None);
        }
        let text = match document.form {
            Form::Json => {
                serde_json::to_string_pretty(&tree).map_err(|error| unreadable(error.to_string()))?
            }
            Form::Yaml => serde_saphyr::to_string(&tree).map_err(|error| unreadable(error.to_string()))?,
        };
        Ok(Some(text))
    }

    fn object(&self, object: &mut Tree, deepest: usize, done: &mut Done) -> Result<(), ManifestError> {
        let kind = object.text("kind").to_owned();
        let metadata = object.get("metadata");
        let told = |key: &str| metadata.map(|metadata| metadata.text(key)).unwrap_or_default().to_owned();
        let (mut name, namespace) = (told("name"), told("namespace"));
        if name.is_empty() {
            name = told("generateName");
        }
        let namespace = if namespace.is_empty() { self.namespace } else { &namespace };
        if kind.ends_with("List") {
            let Some(Tree::List(items)) = object.get_mut("items") else { return Ok(()) };
            return match deepest.checked_sub(1) {
                Some(deepest) => items.iter_mut().try_for_each(|item| self.object(item, deepest, done)),
                None => Err(ManifestError::Unreadable { number: 0, reason: "Lists within Lists".to_owned() }),
            };
        }
        let object_name = format!("{kind}/{name}");
        if kind == "Pod" {
            return self.pod(object, namespace, &object_name, done);
        }
        let Some((_, path)) = TEMPLATES.iter().find(|(known, _)| *known == kind) else { return Ok(()) };
        let mut template = Some(object);
        for key in *path {
            template = template.and_then(|tree| tree.get_mut(key));
        }
        template.map_or(Ok(()), |template| self.pod(template, namespace, &object_name, done))
    }

    fn pod(
        &self,
        tree: &mut Tree,
        namespace: &str,
        name: &str,
        done: &mut Done,
    ) -> Result<(), ManifestError> {
        let pod = tree.value();
        let supposed = self.supposed(&pod, namespace);
        let known = self.known.unwrap_or(&supposed);
        let refused = |refusal| ManifestError::Refused { object: name.to_owned(), refusal };
        let injected = inject(&pod, namespace, known, self.settings).map_err(refused)?;
        done.warnings.extend(injected.warnings.iter().map(|warning| format!("{name}: {warning}")));
        match injected.outcome {
            Outcome::Injected => done.injected += 1,
            Outcome::NotOptedIn => {
                done.warnings
                    .push(format!("{name}: left as it is: namespace `{namespace}` is not to be injected"));
                return Ok(());
            }
            _ => return Ok(()),
        }
        for operation in &injected.patch {
            tree.change(operation).ok_or_else(|| ManifestError::Unreadable {
                number: 0,
                reason: format!("`{name}` cannot be changed at {}", operation["path"]),
            })?;
        }
        Ok(())
    }

    /// What is supposed where nothing is known.
    fn supposed(&self, pod: &Value, namespace: &str) -> Known {
        let mut known = Known::default();
        if self.known.is_some() {
            return known;
        }
        let own = noted(pod, "labels", label::PROFILE).or(noted(pod, "annotations", label::PROFILE));
        let profile = own.or(self.profile);
        let mut labels = json!({label::INJECT: "enabled"});
        if let Some(profile) = profile {
            labels[label::DEFAULT_PROFILE] = json!(profile);
            let key = (namespace.to_owned(), profile.to_owned());
            known.profiles.insert(key, Profile { generation: 0, agent: AgentSpec::default() }.into());
        }
        // Both names are there, so it is taken.
        let _ = known.take(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}));
        known
    }
}
