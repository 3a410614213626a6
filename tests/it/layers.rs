//! The layering that ARCHITECTURE.md states.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

const RANKS: [(&str, u8); 15] = [
    ("sideguard-types", 0),
    ("sideguard-runtime", 1),
    ("sideguard-policy", 2),
    ("sideguard-dialects", 2),
    ("sideguard-capture", 2),
    ("sideguard-record", 2),
    ("sideguard-store", 2),
    ("sideguard-client", 2),
    ("sideguard-kubernetes", 2),
    ("sideguard-proxy", 3),
    ("sideguard-control", 3),
    ("sideguard-injector", 3),
    ("sideguard", 4),
    ("sideguard-tests", 5),
    ("sideguard-bench", 5),
];

/// Crates that may not depend on anything that does I/O.
const PURE: [&str; 3] = ["sideguard-types", "sideguard-policy", "sideguard-dialects"];
const IMPURE: [&str; 6] = ["tokio", "hyper", "pingora-core", "redis", "async-nats", "governor"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata runs")
}

#[test]
fn a_crate_depends_only_on_ranks_below_its_own() {
    let metadata = metadata();
    let ranks: BTreeMap<&str, u8> = RANKS.into_iter().collect();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let rank = ranks
            .get(name)
            .unwrap_or_else(|| panic!("`{name}` has no rank: give it one here and in ARCHITECTURE.md"));
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            if let Some(below) = ranks.get(dependency.name.as_str()) {
                assert!(
                    below < rank,
                    "`{name}` (rank {rank}) depends on `{}` (rank {below})",
                    dependency.name
                );
            }
        }
    }
}

#[test]
fn pure_crates_depend_on_nothing_that_does_io() {
    for package in metadata().workspace_packages() {
        if PURE.contains(&package.name.as_str()) {
            let names: BTreeSet<&str> = package
                .dependencies
                .iter()
                .filter(|d| d.kind == DependencyKind::Normal)
                .map(|d| d.name.as_str())
                .collect();
            for impure in IMPURE {
                assert!(!names.contains(impure), "`{}` depends on `{impure}`", package.name);
            }
        }
    }
}

fn sources(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(dir).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            found.push((path, text));
        }
    }
}

#[test]
fn pure_crates_read_no_clock_file_or_environment() {
    for folder in ["policies/types/src", "policies/engine/src", "proxy/dialects/src"] {
        let mut files = Vec::new();
        sources(&root().join(folder), &mut files);
        for (path, text) in files {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for banned in
                ["std::fs", "std::env::", "SystemTime", "Instant::now", "std::net::Tcp", "std::thread"]
            {
                assert!(
                    !code.contains(banned) || path.ends_with("tests.rs"),
                    "{} uses {banned}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn only_the_store_names_redis_or_nats() {
    const CLIENTS: [&str; 2] = ["redis", "async-nats"];
    for package in
        metadata().workspace_packages().into_iter().filter(|p| p.name.as_str() != "sideguard-store")
    {
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            assert!(!CLIENTS.contains(&name), "`{}` depends on `{name}`", package.name);
        }
    }
    // Within the store, the traits and the embedded store do not know them either.
    let mut files = Vec::new();
    sources(&root().join("control/store/src"), &mut files);
    for (path, text) in files {
        let shared =
            path.components().any(|part| part.as_os_str() == "shared") || path.ends_with("shared.rs");
        let names = ["redis::", "async_nats"].into_iter().any(|client| {
            text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(client))
        });
        assert!(shared || !names, "{} names a client of the shared store", path.display());
    }
}

#[test]
fn there_is_one_tls_stack() {
    // deny.toml says the same to cargo-deny; this holds where that is not installed.
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    for banned in ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "reqwest", "serde_yml"] {
        assert!(!lock.contains(&format!("name = \"{banned}\"\n")), "`{banned}` is in Cargo.lock");
    }
}

#[test]
fn only_the_engine_names_pingora() {
    let mut files = Vec::new();
    sources(&root().join("proxy/src"), &mut files);
    for (path, text) in files {
        let engine = path.components().any(|part| part.as_os_str() == "engine");
        let names = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("pingora"));
        assert!(engine || !names, "{} names pingora", path.display());
    }
}

#[test]
fn one_stage_never_imports_another() {
    // `judge` and the settlement's `Held` are shared on purpose: they are what stages hand on or reuse within `observe`.
    const STAGES: [&str; 5] = ["accept", "identify", "classify", "forward", "observe"];
    for stage in ["accept", "classify", "decide", "identify"] {
        let text = std::fs::read_to_string(root().join(format!("proxy/src/{stage}.rs"))).expect("a stage");
        for other in STAGES.iter().filter(|other| **other != stage) {
            let import = format!("use crate::{other}::");
            assert!(!text.contains(&import), "stage `{stage}` imports stage `{other}`");
        }
    }
}

#[test]
fn no_file_is_longer_than_600_lines() {
    for folder in ["policies", "proxy", "control", "deploy", "tests"] {
        let mut files = Vec::new();
        sources(&root().join(folder), &mut files);
        for (path, text) in files {
            assert!(text.lines().count() <= 600, "{} has {} lines", path.display(), text.lines().count());
        }
    }
}
