//! `sideguard inject`: the sidecar into manifests.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use sideguard_injector::daemon;
use sideguard_injector::known::Known;
use sideguard_injector::manifest::{ManifestError, Manifests};
use sideguard_injector::settings::Settings;

use crate::remote::output::put_as_is;
use crate::{remote, report};

/// Flags of `sideguard inject`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard inject --profile researcher -f deployment.yaml | kubectl apply -f -\n  \
    kubectl get deployment crm -o yaml | sideguard inject -c injector.yaml --known known.yaml -f - | kubectl apply -f -\n\n\
    Changed are Pods and the templates of Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and CronJobs, also in Lists. \
    Documents without one come out as they went in, to the byte. Of a document that is changed the order of keys and every \
    field stay; lost are comments, anchors (their values are written out), and how texts and numbers were written.\n\n\
    Exit codes: 0 done, 1 a pod is refused (nothing is printed), 2 usage, 64 a file cannot be read."
)]
pub(crate) struct Arguments {
    /// Manifests, YAML or JSON; `-` is standard input.
    #[arg(short = 'f', long, value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Configuration of the injector (kind: Injector); its defaults when absent.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Namespaces and Agents of the cluster, as `kubectl get namespaces,agents -A -o yaml` prints them. When absent, every
    /// namespace counts as opted in, and Agents as saying nothing of injection.
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// Profile of pods that name none: the name of an Agent.
    #[arg(long, value_name = "NAME", conflicts_with = "known")]
    profile: Option<String>,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let (settings, known, text) = match read(arguments) {
        Ok(read) => read,
        Err(error) => return report(&error, 64),
    };
    let (namespace, profile) = (arguments.namespace.as_str(), arguments.profile.as_deref());
    let manifests = Manifests { settings: &settings, known: known.as_ref(), namespace, profile };
    match manifests.inject(&text) {
        Ok(done) => {
            for warning in &done.warnings {
                eprintln!("sideguard: warning: {warning}");
            }
            remote::done(put_as_is(&done.text))
        }
        Err(error @ ManifestError::Refused { .. }) => report(&error.into(), 1),
        Err(error) => report(&error.into(), 64),
    }
}

fn read(arguments: &Arguments) -> anyhow::Result<(Settings, Option<Known>, String)> {
    let spec = daemon::load(arguments.config.as_deref()).map_err(anyhow::Error::msg)?;
    let known = match arguments.known.as_ref().or(spec.known.as_ref()) {
        None => None,
        Some(file) => {
            let what = || format!("`{}`", file.display());
            let text = std::fs::read_to_string(file).with_context(what)?;
            Some(Known::read(&text).with_context(what)?)
        }
    };
    let settings = Settings::new(spec)?;
    Ok((settings, known, manifests(&arguments.file)?))
}

fn manifests(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("`{}`", file.display()))
}
