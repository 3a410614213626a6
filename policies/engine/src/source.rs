//! Text to resources. Errors are collected, not thrown: one call tells everything that is wrong with all files,
//! each with its place.

mod configuration;
mod document;
mod environment;
mod finding;
mod suggest;

pub use configuration::{load_control, load_injector, load_proxy};
pub use document::Document;
pub use finding::{Finding, Severity};

pub(crate) use document::{Page, Step, load_node, read};
pub(crate) use suggest::nearest;

/// A file's name and what stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name for messages; its stem names a safety.yaml document that has no name of its own.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// A text with its name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// What was read, and what was wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The resources; where something in one could not be read, the rest of it.
    pub documents: Vec<Document>,
    /// Errors and warnings in the order of the files.
    pub findings: Vec<Finding>,
}

/// Reads resources of every kind that is applied, and safety.yaml documents (no `kind`, but `version: v1` and `rules`), from any number of multi-document YAML texts.
#[must_use]
pub fn load(sources: &[Source]) -> Loaded {
    let mut loaded = Loaded::default();
    for source in sources {
        let page = Page::new(source);
        let parsed = crate::yaml::parse(&source.text);
        loaded.findings.extend(parsed.refusals.into_iter().map(|refusal| page.refused(refusal)));
        let mut unnamed = 0_usize;
        for root in parsed.roots.into_iter().filter(|root| !root.is_null()) {
            if let Some(document) = load_node(&page, root, &mut unnamed, &mut loaded.findings) {
                loaded.documents.push(document);
            }
        }
    }
    loaded
}
