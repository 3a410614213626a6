//! YAML texts taken apart into objects, each with the text that its author wrote.

use std::collections::{BTreeMap, HashSet};

use sideguard_policy::source::{self, Severity, Source};
use sideguard_types::control::{Name, Text};

use crate::error::Failure;
use crate::keys;

/// Longest text that is taken.
const LONGEST: usize = 1 << 20;

/// One object that was given.
pub(super) struct Given {
    pub(super) name: Name,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) shared: bool,
    pub(super) text: String,
}

/// All that were given.
pub(super) struct Split {
    pub(super) objects: Vec<Given>,
    pub(super) warnings: Vec<String>,
}

/// Takes texts apart.
pub(super) fn split(texts: &[Text]) -> Result<Split, Failure> {
    let mut split = Split { objects: Vec::new(), warnings: Vec::new() };
    let mut errors = Vec::new();
    for text in texts {
        if text.text.len() > LONGEST {
            return Err(Failure::Invalid(format!("`{}` is longer than {LONGEST} bytes", text.name)));
        }
        let loaded = source::load(&[Source::new(text.name.clone(), text.text.clone())]);
        for finding in &loaded.findings {
            match finding.severity {
                Severity::Error => errors.push(finding.to_string()),
                Severity::Warning => split.warnings.push(finding.to_string()),
            }
        }
        let parts: Vec<String> = documents(&text.text).collect();
        if errors.is_empty() && parts.len() != loaded.documents.len() {
            return Err(Failure::Invalid(format!("the documents of `{}` cannot be told apart", text.name)));
        }
        for (document, part) in loaded.documents.iter().zip(parts) {
            let metadata = &document.resource.metadata;
            keys::tenant(document.tenant())?;
            split.objects.push(Given {
                name: Name {
                    tenant: document.tenant().to_owned(),
                    kind: document.resource.spec.kind().to_owned(),
                    name: metadata.name.clone(),
                },
                labels: metadata.labels.clone(),
                shared: metadata.tenant.is_none(),
                text: part,
            });
        }
    }
    if !errors.is_empty() {
        return Err(Failure::Findings(errors));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = split.objects.iter().find(|given| !seen.insert(&given.name)) {
        let Name { tenant, kind, name } = &twice.name;
        return Err(Failure::Invalid(format!("{kind} `{name}` of tenant `{tenant}` is given twice")));
    }
    Ok(split)
}

/// The documents of a stream. A line that begins with `---` ends one wherever it stands (YAML 1.2.2, section 9.1.2); those
/// that hold nothing but comments are none.
fn documents(text: &str) -> impl Iterator<Item = String> {
    let mut parts = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let marker = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        match (marker, parts.last_mut()) {
            (Some(rest), _) => parts.push(rest.trim_start().to_owned()),
            (None, Some(part)) => part.push_str(line),
            (None, None) => {}
        }
    }
    let empty = |part: &String| {
        part.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with(['#', '%']) || line == "..."
        })
    };
    parts.into_iter().filter(move |part| !empty(part))
}

#[cfg(test)]
mod tests {
    use sideguard_types::control::Text;

    use super::{documents, split};

    #[test]
    fn documents_keep_their_text() {
        let parts: Vec<String> =
            documents("# a comment\n---\na: 1 # kept\n---\n\n--- {b: 2}\n--- # nothing\n").collect();
        assert_eq!(parts, ["a: 1 # kept\n", "{b: 2}\n"]);
        assert_eq!(documents("a: --- x\n").count(), 1);
    }

    #[test]
    fn an_object_is_known_by_tenant_kind_and_name() {
        let text = "version: v1\nrules:\n  - {id: r, decision: deny}\n---\napiVersion: sideguard.dev/v1\nkind: Policy\n\
            metadata: {name: p, tenant: acme, labels: {team: a}}\nspec: {default_decision: allow}\n";
        let given = split(&[Text { name: "dir/safety.yaml".to_owned(), text: text.to_owned() }]);
        let given = given.map_err(|error| error.to_string()).expect("two objects").objects;
        let names: Vec<String> = given
            .iter()
            .map(|one| format!("{}/{}/{}", one.name.tenant, one.name.kind, one.name.name))
            .collect();
        assert_eq!(names, ["default/Policy/safety", "acme/Policy/p"]);
        assert_eq!((given[0].shared, given[1].shared), (true, false));
        assert_eq!(given[1].labels["team"], "a");
        let twice = Text { name: "x.yaml".to_owned(), text: format!("{text}---\n{}", given[1].text) };
        assert!(split(&[twice]).is_err());
    }
}
