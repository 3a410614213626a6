//! The plugin's place on a node: its files, and its entry in the list of plugins that the runtime reads.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sideguard_runtime::ports;

use super::NAME;

/// What of the image goes to the node: the program, `nft`, and the C library that both were built for.
const PARTS: [&str; 7] =
    ["lib", "lib64", "usr/lib", "usr/lib64", "usr/sbin/nft", "usr/local/bin/sideguard", "etc/protocols"];
/// Loaders of programs, by architecture.
const LOADERS: [&str; 2] = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"];
/// The program, in the image.
const PROGRAM: &str = "usr/local/bin/sideguard";
/// Endings of files that runtimes read as lists of plugins or single ones.
const LISTS: [&str; 3] = ["conf", "conflist", "json"];

/// Where things are on the node.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Node {
    /// Where the node's root is seen from here.
    #[arg(long, value_name = "DIR", default_value = "/host")]
    host: PathBuf,
    /// The node's directory of plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin: PathBuf,
    /// The node's directory of lists of plugins.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf: PathBuf,
    /// The node's directory for the plugin's own files.
    #[arg(long, value_name = "DIR", default_value = "/opt/sideguard")]
    home: PathBuf,
    /// Where the image's files are.
    #[arg(long, value_name = "DIR", default_value = "/")]
    image: PathBuf,
    /// Name of the directory of files: it is asked for at each look, and takes reading the program.
    #[arg(skip)]
    name: OnceLock<String>,
}

/// Why the plugin cannot be put in its place, or taken from it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// A file or directory cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No network was set up yet.
    #[error("no list of plugins in `{}` yet", .0.display())]
    NoList(PathBuf),
    /// The runtime reads something that holds one plugin, to which none can be added.
    #[error("`{}` is no list of plugins (`.conflist`)", .0.display())]
    NotAList(PathBuf),
    /// The image has not what the plugin needs.
    #[error("`{}` is not the image of sideguard: it has no loader of programs", .0.display())]
    NoImage(PathBuf),
}

fn at<T>(path: &Path, done: io::Result<T>) -> Result<T, NodeError> {
    done.map_err(|source| NodeError::File { path: path.to_owned(), source })
}

impl Node {
    /// A path of the node as it is seen from here.
    fn seen(&self, path: &Path) -> PathBuf {
        self.host.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Puts everything in its place, and gives the list that the plugin is in. What is there already stays as it is.
    pub(super) fn install(&self, rules: &[String]) -> Result<PathBuf, NodeError> {
        let home = self.files()?;
        let script = self.script(&home)?;
        write(&self.seen(&self.bin).join(NAME), script.as_bytes(), 0o755)?;
        let list = self.list()?;
        let mut content = parsed(&list)?;
        let plugins = plugins(&mut content).ok_or_else(|| NodeError::NotAList(list.clone()))?;
        let capabilities = json!({"io.kubernetes.cri.pod-annotations": true});
        let entry = json!({"type": NAME, "capabilities": capabilities, "rules": rules});
        if plugins.last() != Some(&entry) {
            plugins.retain(|plugin| plugin["type"] != NAME);
            plugins.push(entry);
            write(&list, pretty(&content).as_bytes(), 0o600)?;
        }
        self.tidy(&home);
        Ok(list)
    }

    /// What is not in its place; nothing when all is.
    pub(super) fn missing(&self) -> Option<String> {
        let script = self.seen(&self.bin).join(NAME);
        if !script.exists() {
            return Some(format!("`{}` is missing", script.display()));
        }
        match self.list().and_then(|list| Ok((parsed(&list)?, list))) {
            Ok((mut content, list)) => {
                let last =
                    plugins(&mut content).and_then(|plugins| plugins.last().cloned()).unwrap_or_default();
                (last["type"] != NAME)
                    .then(|| format!("the plugin is not the last one in `{}`", list.display()))
            }
            Err(error) => Some(error.to_string()),
        }
    }

    /// Takes everything away: from the lists first, so that none names a plugin that is gone.
    pub(super) fn remove(&self) -> Result<(), NodeError> {
        for list in self.lists()? {
            let mut content = parsed(&list)?;
            let Some(plugins) = plugins(&mut content) else { continue };
            let before = plugins.len();
            plugins.retain(|plugin| plugin["type"] != NAME);
            if plugins.len() != before {
                write(&list, pretty(&content).as_bytes(), 0o600)?;
            }
        }
        let script = self.seen(&self.bin).join(NAME);
        gone(&script, fs::remove_file(&script))?;
        let home = self.seen(&self.home);
        // The directory itself may be a mount.
        for old in names(&home)? {
            gone(&old, fs::remove_dir_all(&old))?;
        }
        Ok(())
    }

    /// The plugin's own files: a directory of the node that is named for what is in it, complete or not there.
    fn files(&self) -> Result<PathBuf, NodeError> {
        let home = self.home.join(self.name()?);
        let whole = self.seen(&home);
        if !whole.exists() {
            let part = self.seen(&self.home).join("part");
            gone(&part, fs::remove_dir_all(&part))?;
            for name in PARTS {
                let from = self.image.join(name);
                if from.symlink_metadata().is_ok() {
                    copy(&from, &part.join(name))?;
                }
            }
            at(&whole, fs::rename(&part, &whole))?;
        }
        Ok(home)
    }

    fn name(&self) -> Result<&str, NodeError> {
        if let Some(name) = self.name.get() {
            return Ok(name);
        }
        let program = self.image.join(PROGRAM);
        let digest = Sha256::digest(at(&program, fs::read(&program))?);
        let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(self.name.get_or_init(|| format!("{}-{short}", env!("CARGO_PKG_VERSION"))))
    }

    /// What the runtime runs. Nodes differ in their C library, and some have none: the program brings its own.
    fn script(&self, home: &Path) -> Result<String, NodeError> {
        let loader = LOADERS.iter().find(|loader| self.image.join(loader).exists());
        let loader = loader.ok_or_else(|| NodeError::NoImage(self.image.clone()))?;
        let home = home.display();
        let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
        Ok(format!(
            "#!/bin/sh\n# Put here by `sideguard cni install`.\nexec {home}/{loader} --library-path \
             {home}/lib/{triple}:{home}/usr/lib/{triple} {home}/{PROGRAM} cni plugin --root {home}\n"
        ))
    }

    /// All lists of plugins, in the order of their names.
    fn lists(&self) -> Result<Vec<PathBuf>, NodeError> {
        let ends = |path: &PathBuf| path.extension().is_some_and(|end| LISTS.iter().any(|list| *list == end));
        Ok(names(&self.seen(&self.conf))?.into_iter().filter(ends).collect())
    }

    /// The one that runtimes read: the first.
    fn list(&self) -> Result<PathBuf, NodeError> {
        let first = self.lists()?.into_iter().next();
        first.ok_or_else(|| NodeError::NoList(self.conf.clone()))
    }

    /// Removes files of earlier versions. What stays now goes another time.
    fn tidy(&self, home: &Path) {
        let own = self.seen(home);
        for old in names(&self.seen(&self.home)).unwrap_or_default() {
            if old != own {
                let _ = fs::remove_dir_all(old);
            }
        }
    }
}

/// What is in a directory, in order; nothing when it is not there.
fn names(dir: &Path) -> Result<Vec<PathBuf>, NodeError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => at(dir, entries)?,
    };
    let mut all: Vec<PathBuf> = at(dir, entries.map(|entry| Ok(entry?.path())).collect())?;
    all.sort();
    Ok(all)
}

fn parsed(list: &Path) -> Result<Value, NodeError> {
    let text = at(list, fs::read(list))?;
    at(list, serde_json::from_slice(&text).map_err(io::Error::from))
}

fn plugins(list: &mut Value) -> Option<&mut Vec<Value>> {
    list.get_mut("plugins")?.as_array_mut()
}

fn pretty(list: &Value) -> String {
    format!("{list:#}\n")
}

/// Writes a file as a whole, unless it is so already. One that was there keeps its mode.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), NodeError> {
    use std::os::unix::fs::PermissionsExt;
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let mode = fs::metadata(path).map_or(mode, |present| present.permissions().mode() & 0o777);
    at(path, ports::place(path, bytes, mode))
}

fn gone(path: &Path, removed: io::Result<()>) -> Result<(), NodeError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => at(path, Err(error)),
        _ => Ok(()),
    }
}

/// Copies a file, a link, or a directory with what is in it.
fn copy(from: &Path, to: &Path) -> Result<(), NodeError> {
    let kind = at(from, from.symlink_metadata())?.file_type();
    if kind.is_dir() {
        at(to, fs::create_dir_all(to))?;
        for inside in names(from)? {
            copy(&inside, &to.join(inside.file_name().unwrap_or_default()))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        at(parent, fs::create_dir_all(parent))?;
    }
    if kind.is_symlink() {
        let target = at(from, fs::read_link(from))?;
        return at(to, symlink(target, to));
    }
    at(to, fs::copy(from, to).map(drop))
}
