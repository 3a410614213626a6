//! The policy that calls are judged by: read from files, compiled off the hot path, swapped whole. A set that does
//! not compile changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sideguard_policy::source::{self, Finding, Loaded, Severity, Source};
use sideguard_policy::{PolicySet, compile};
use sideguard_types::resource::{NamedUpstream, UpstreamSpec};

use crate::upstreams::{Fill, UpstreamError, Upstreams};

/// Longest policy file that is read.
const MAX_FILE: u64 = 1 << 20;
/// Most files that a set may have.
const MAX_FILES: usize = 4_096;

/// One compiled generation.
#[derive(Debug)]
pub struct Policy {
    /// The rules.
    pub set: PolicySet,
    pub(crate) upstreams: Upstreams,
}

/// Why a set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("cannot read policy `{path}`: {why}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// A directory holds no policy.
    #[error("there is no policy file (`*.yaml`, `*.yml`) in `{}`", .0.display())]
    Empty(PathBuf),
    /// Errors in the files.
    #[error("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Findings {
        /// All of them.
        findings: Vec<Finding>,
    },
    /// An upstream cannot be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A budget cannot be used.
    #[error("{0}")]
    Budget(String),
}

/// Policy texts from files and directories (`*.yaml`, `*.yml`, in order of name, with subdirectories other than `cases`).
///
/// # Errors
/// When one of them cannot be read.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, PolicyError> {
    let mut sources = Vec::new();
    for file in files(paths)? {
        let failed = |why| PolicyError::Read { path: file.clone(), why };
        if fs::metadata(&file).map_err(failed)?.len() > MAX_FILE {
            return Err(failed(std::io::Error::other(format!("larger than {MAX_FILE} bytes"))));
        }
        let text = fs::read_to_string(&file).map_err(failed)?;
        sources.push(Source { name: file.display().to_string(), text });
    }
    Ok(sources)
}

/// Compiles texts to a generation.
///
/// # Errors
/// Every error in the texts, with its place.
pub fn build(sources: &[Source], own: &[NamedUpstream], fill: &dyn Fill) -> Result<Policy, PolicyError> {
    let loaded = source::load(sources);
    let set = compiled(&loaded)?;
    let own: Vec<(String, UpstreamSpec)> = own.iter().cloned().map(Into::into).collect();
    let given = own.iter().map(|(name, spec)| (name.as_str(), spec));
    let resources = set.upstreams().iter().map(|(metadata, spec)| (metadata.name.as_str(), spec));
    let upstreams = Upstreams::new(given.chain(resources), fill)?;
    Ok(Policy { upstreams, set })
}

fn compiled(loaded: &Loaded) -> Result<PolicySet, PolicyError> {
    let errors: Vec<Finding> =
        loaded.findings.iter().filter(|finding| finding.severity == Severity::Error).cloned().collect();
    if !errors.is_empty() {
        return Err(PolicyError::Findings { findings: errors });
    }
    compile(loaded).map_err(|findings| PolicyError::Findings { findings })
}

fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, PolicyError> {
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        walk(path, true, &mut files)?;
        if files.len() == before {
            return Err(PolicyError::Empty(path.clone()));
        }
    }
    Ok(files)
}

fn walk(path: &Path, named: bool, files: &mut Vec<PathBuf>) -> Result<(), PolicyError> {
    let failed = |why| PolicyError::Read { path: path.to_owned(), why };
    if files.len() >= MAX_FILES {
        return Err(failed(std::io::Error::other(format!("more than {MAX_FILES} files"))));
    }
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if named || yaml {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    let mut entries = fs::read_dir(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        // Hidden entries are another program's, such as the links of a mounted ConfigMap; `cases` are tests of policies.
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with('.') && name != "cases" {
            walk(&entry.path(), false, files)?;
        }
    }
    Ok(())
}

/// What the files look like from outside; two that differ mean that something was written.
#[must_use]
pub(crate) fn stamp(paths: &[PathBuf]) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
    let look = |file: PathBuf| {
        let metadata = fs::metadata(&file).ok();
        let length = metadata.as_ref().map_or(0, fs::Metadata::len);
        (file, length, metadata.and_then(|metadata| metadata.modified().ok()))
    };
    files(paths).unwrap_or_default().into_iter().map(look).collect()
}
