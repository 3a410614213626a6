//! The proxy's configuration: what the user wrote, checked and with its names filled in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sideguard_policy::source::{self, Finding, Source};
use sideguard_runtime::environment;
use sideguard_types::call::Caller;
use sideguard_types::resource::{Metadata, ProxySpec};

use crate::upstreams::Fill;

/// Prefix of the environment variables that set keys of the configuration.
const PREFIX: &str = "SIDEGUARD_";
/// Variables with that prefix that are not keys of the configuration.
const NOT_KEYS: [&str; 4] = ["SIDEGUARD_STATE", "SIDEGUARD_LOG", "SIDEGUARD_CONFIG", "SIDEGUARD_BIN"];

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Errors in the file.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Findings(Vec<Finding>),
    /// A value that cannot be used.
    #[error("configuration: {0}")]
    Value(String),
}

/// Reads the configuration file and the environment over it. Paths in it are taken from the file's directory.
///
/// # Errors
/// Every error in the file, with its place.
pub fn load(path: &Path) -> Result<ProxySpec, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let source = Source { name: path.display().to_string(), text };
    let overrides: Vec<(String, String)> = environment::with_prefix(PREFIX)
        .into_iter()
        .filter(|(name, _)| !NOT_KEYS.contains(&name.as_str()))
        .collect();
    let (_, mut spec) = source::load_proxy(&source, &overrides).map_err(ConfigError::Findings)?;
    let base = path.parent().unwrap_or(Path::new(""));
    let anchor = |path: &mut PathBuf| *path = base.join(&*path);
    spec.policies.iter_mut().for_each(anchor);
    spec.tls.trust.iter_mut().for_each(anchor);
    spec.state.iter_mut().for_each(anchor);
    check(&spec)?;
    Ok(spec)
}

/// Checks what the shape alone does not.
///
/// # Errors
/// The first value that cannot be used.
pub fn check(spec: &ProxySpec) -> Result<(), ConfigError> {
    let bad = |what: &str| Err(ConfigError::Value(what.to_owned()));
    if !matches!(spec.refusals.budget_status, 402 | 403 | 422 | 429) {
        return bad("`refusals.budgetStatus` must be 402, 403, 422 or 429");
    }
    if !matches!(spec.tls.min_version.as_str(), "1.2" | "1.3") {
        return bad("`tls.minVersion` must be \"1.2\" or \"1.3\"");
    }
    if spec.limits.max_body.0 == 0 || spec.limits.max_headers.0 < 1024 || spec.limits.max_connections == 0 {
        return bad("`limits`: maxBody and maxConnections must be above zero, maxHeaders at least 1KiB");
    }
    Ok(())
}

/// The agent that a port belongs to.
#[must_use]
pub fn caller(agent: &Metadata) -> Arc<Caller> {
    Arc::new(Caller {
        tenant: agent.tenant.clone().unwrap_or_else(|| "default".to_owned()),
        agent: agent.name.clone(),
        labels: agent.labels.clone(),
        ..Caller::default()
    })
}

/// Fills in values from this process's environment and files.
#[derive(Debug, Clone, Copy)]
pub struct Process;

impl Fill for Process {
    fn fill(&self, text: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, tail) = after.split_once('}').ok_or("`${` without `}`")?;
            out.push_str(before);
            match name.split_once(':') {
                Some(("env", variable)) => {
                    out.push_str(
                        &environment::variable(variable)
                            .ok_or(format!("`{variable}` is not set in the environment"))?,
                    );
                }
                Some(("file", path)) => {
                    let text = fs::read_to_string(path).map_err(|error| format!("`{path}`: {error}"))?;
                    out.push_str(text.trim_end_matches(['\r', '\n']));
                }
                _ => return Err(format!("`${{{name}}}` is neither `${{env:NAME}}` nor `${{file:PATH}}`")),
            }
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn variable(&self, name: &str) -> Option<String> {
        environment::variable(name)
    }
}
