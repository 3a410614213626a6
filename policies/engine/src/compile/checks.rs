//! Checks that several kinds share, each with its place.

use sideguard_types::resource::UpstreamSpec;

use crate::glob::{Case, Glob};
use crate::source::{Document, Finding, Severity, Step};

/// A document being checked and where its findings go.
pub(super) struct Checks<'d> {
    document: &'d Document,
    findings: &'d mut Vec<Finding>,
}

impl<'d> Checks<'d> {
    pub(super) fn new(document: &'d Document, findings: &'d mut Vec<Finding>) -> Self {
        Self { document, findings }
    }

    pub(super) fn document(&self) -> &'d Document {
        self.document
    }

    pub(super) fn count(&self) -> usize {
        self.findings.len()
    }

    pub(super) fn error(&mut self, code: &'static str, path: &[Step<'_>], message: String) {
        self.findings.push(self.document.finding(Severity::Error, code, path, message));
    }

    pub(super) fn error_with(
        &mut self,
        code: &'static str,
        path: &[Step<'_>],
        message: String,
        hint: String,
    ) {
        let mut finding = self.document.finding(Severity::Error, code, path, message);
        finding.hint = Some(hint);
        self.findings.push(finding);
    }

    pub(super) fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Compiles the globs of a list at `path`; what is wrong with an item is told at the item.
    pub(super) fn globs(&mut self, path: &[Step<'_>], items: &[String], case: Case) -> Vec<Glob> {
        let mut globs = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match Glob::parse(item, case) {
                Ok(glob) => globs.push(glob),
                Err(message) => {
                    let place: Vec<Step<'_>> = path.iter().copied().chain([Step::Item(index)]).collect();
                    self.error("glob", &place, message);
                }
            }
        }
        globs
    }

    /// Compiles the globs of labels at `path`. An empty value is the label's empty value.
    pub(super) fn labels<'l>(
        &mut self,
        path: &[Step<'_>],
        labels: impl Iterator<Item = (&'l String, &'l String)>,
    ) -> Vec<(String, Glob)> {
        let mut globs = Vec::new();
        for (name, value) in labels {
            match Glob::parse(value, Case::Exact) {
                Ok(glob) => globs.push((name.clone(), glob)),
                Err(message) => {
                    let place: Vec<Step<'_>> = path.iter().copied().chain([Step::Key(name)]).collect();
                    self.error("glob", &place, message);
                }
            }
        }
        globs
    }

    /// Checks that `baseUrl` is one.
    pub(super) fn upstream(&mut self, spec: &UpstreamSpec) {
        let url = &spec.base_url;
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '@');
        if host.is_empty() || url.chars().any(odd) {
            let message = format!("`{url}` is not a base URL");
            let hint =
                "write scheme and host, such as `https://api.example.com`, without user, query or fragment";
            self.error_with("url", &[Step::Key("baseUrl")], message, hint.to_owned());
        }
        if let Some(credential) = &spec.credential {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if credential.header.is_empty() || !credential.header.bytes().all(token) {
                let path = [Step::Key("credential"), Step::Key("header")];
                self.error("header", &path, format!("`{}` is not the name of a header", credential.header));
            }
        }
    }
}
