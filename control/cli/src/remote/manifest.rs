//! The texts that `-f` names.

use std::io::Read;
use std::path::{Path, PathBuf};

use sideguard_client::MAX_BODY;
use sideguard_policy::source::{self, Severity, Source};
use sideguard_proxy::feed;
use sideguard_types::control::{Name, Text};

use super::{BAD_CONFIGURATION, Failure, Outcome};

/// Flags that name texts.
#[derive(Debug, clap::Args)]
pub(crate) struct Manifests {
    /// Files and directories with objects in YAML; `-` is standard input.
    #[arg(short, long = "file", value_name = "PATH", required = true, num_args = 1..)]
    pub(crate) file: Vec<PathBuf>,
}

/// Reads files, directories (`*.yaml`, `*.yml`) and standard input.
pub(crate) fn read(paths: &[PathBuf]) -> Outcome<Vec<Text>> {
    let mut texts = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            texts.push(Text { name: "stdin".to_owned(), text: standard_input()? });
            continue;
        }
        let sources = feed::read(std::slice::from_ref(path))
            .map_err(|error| Failure::new(BAD_CONFIGURATION, error.to_string()))?;
        texts.extend(sources.into_iter().map(|Source { name, text }| Text { name, text }));
    }
    if texts.is_empty() {
        return Err(Failure::new(BAD_CONFIGURATION, "no `*.yaml` or `*.yml` in what `-f` names"));
    }
    Ok(texts)
}

fn standard_input() -> Outcome<String> {
    let bad = |why: String| Failure::new(BAD_CONFIGURATION, format!("cannot read standard input: {why}"));
    let mut text = String::new();
    let most = u64::try_from(MAX_BODY).unwrap_or(u64::MAX);
    std::io::stdin().take(most).read_to_string(&mut text).map_err(|error| bad(error.to_string()))?;
    if text.len() >= MAX_BODY { Err(bad(format!("more than {} MiB", MAX_BODY >> 20))) } else { Ok(text) }
}

/// The objects that texts are about.
pub(crate) fn names(texts: &[Text]) -> Outcome<Vec<Name>> {
    let sources: Vec<Source> = texts.iter().map(|text| Source::new(&text.name, &text.text)).collect();
    let loaded = source::load(&sources);
    let findings: Vec<String> = loaded
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    if !findings.is_empty() {
        let failure = Failure::new(BAD_CONFIGURATION, "the files have errors: nothing has changed");
        return Err(Failure { findings, ..failure });
    }
    let name = |document: &source::Document| Name {
        tenant: document.tenant().to_owned(),
        kind: document.resource.spec.kind().to_owned(),
        name: document.resource.metadata.name.clone(),
    };
    Ok(loaded.documents.iter().map(name).collect())
}

#[cfg(test)]
mod tests {
    use sideguard_types::control::Text;

    use super::{names, read};

    #[test]
    fn names_come_from_the_texts() {
        let text = |text: &str| vec![Text { name: "guard.yaml".to_owned(), text: text.to_owned() }];
        let object =
            "apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: reader, tenant: acme}\nspec: {}\n";
        let found = names(&text(object)).expect("an object");
        assert_eq!(
            (found[0].tenant.as_str(), found[0].kind.as_str(), found[0].name.as_str()),
            ("acme", "Agent", "reader")
        );
        let safety = "version: v1\nrules: [{id: a, decision: deny}]\n";
        assert_eq!(names(&text(safety)).expect("a policy")[0].name, "guard");
        let failure = names(&text("kind: Nonsense\n")).expect_err("no object");
        assert!(failure.code == 64 && failure.findings[0].starts_with("guard.yaml:1:"), "{failure:?}");
    }

    #[test]
    fn a_missing_file_and_an_empty_directory_are_told() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(&[dir.path().join("none.yaml")]).expect_err("no file").code, 64);
        assert_eq!(read(&[dir.path().to_owned()]).expect_err("no files").code, 64);
    }
}
