//! The proxy's configuration: what the user wrote, checked and with its names filled in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sideguard_policy::chain::LONGEST;
use sideguard_policy::source::{self, Finding, Source};
use sideguard_runtime::environment;
use sideguard_types::call::Caller;
use sideguard_types::resource::{Metadata, ProxySpec, WorkerSpec};

use crate::inbound::Inbound;
use crate::roots;
use crate::upstreams::Fill;

/// The longest that a delegation may last.
const DAY: Duration = Duration::from_secs(86_400);
/// Most jobs that a worker can take at once.
const MOST_PARALLEL: u32 = 1_000;

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

/// Reads the configuration file, if any, and the environment over it. Paths in it are taken from the file's directory.
///
/// # Errors
/// Every error in the file, with its place.
pub fn load(file: Option<&Path>) -> Result<ProxySpec, ConfigError> {
    const NONE: &str = "apiVersion: sideguard.dev/v1\nkind: Proxy\n";
    let source = match file {
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            Source { name: path.display().to_string(), text }
        }
        None => Source::new("defaults", NONE),
    };
    let overrides = environment::configuration();
    let (_, mut spec) = source::load_proxy(&source, &overrides).map_err(ConfigError::Findings)?;
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    let anchor = |path: &mut PathBuf| *path = base.join(&*path);
    spec.policies.iter_mut().for_each(anchor);
    spec.tls.trust.iter_mut().for_each(anchor);
    spec.tls.publish.iter_mut().for_each(anchor);
    spec.state.iter_mut().for_each(anchor);
    if let Some(control) = &mut spec.control {
        control.token.iter_mut().for_each(|token| anchor(&mut token.file));
        [&mut control.ca, &mut control.certificate, &mut control.key].into_iter().flatten().for_each(anchor);
    }
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
    if spec.audit.max_spool.is_some_and(|bound| bound.0 < 1 << 20) {
        return bad("`audit.maxSpool` must be at least 1MiB");
    }
    if spec.limits.idle_timeout.0.is_zero() || spec.limits.connect_timeout.0.is_zero() {
        return bad("`limits`: idleTimeout and connectTimeout must be longer than nothing");
    }
    let addresses = [Some(&spec.listen.outbound), Some(&spec.listen.admin), spec.listen.dns.as_ref()];
    let own = spec.agents.iter().filter_map(|bound| bound.listen.as_ref());
    let inbound = spec.listen.inbound.iter().map(|inbound| &inbound.listen);
    for address in addresses.into_iter().flatten().chain(own).chain(inbound) {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return bad(&format!(
                "`listen`: `{address}` is not an address and port such as `127.0.0.1:4750`"
            ));
        }
    }
    for agent in spec.agent.iter().chain(spec.agents.iter().map(|bound| &bound.agent)) {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        for name in [Some(&agent.name), agent.tenant.as_ref()].into_iter().flatten() {
            if name.is_empty() || !name.bytes().all(plain) {
                return bad(&format!(
                    "`agent`: `{name}` is not a name: use lower case letters, digits, `-` and `.`"
                ));
            }
        }
    }
    delegation(spec)?;
    if spec.control.as_ref().is_some_and(|control| control.addresses().is_empty()) {
        return bad(
            "`control.url` is missing: write it as `http://127.0.0.1:4760`, several with commas between",
        );
    }
    if spec.control.is_some() && spec.upstreams.iter().any(|upstream| upstream.name == "jobs") {
        return bad(
            "`upstreams`: no upstream of a fleet's sidecar can be called `jobs`: that path is the sidecar's own",
        );
    }
    if let Some(worker) = &spec.worker {
        check_worker(spec, worker)?;
    }
    for path in &spec.tls.trust {
        roots::read(path).map_err(ConfigError::Value)?;
    }
    if spec.limits.max_body.0 == 0 || spec.limits.max_headers.0 < 1024 || spec.limits.max_connections == 0 {
        return bad("`limits`: maxBody and maxConnections must be above zero, maxHeaders at least 1KiB");
    }
    Ok(())
}

/// The ports in front of agents: the address of each, and what stands behind it.
pub(crate) fn inbound(
    spec: &ProxySpec,
) -> impl Iterator<Item = Result<(String, Inbound), (String, std::io::Error)>> {
    spec.listen.inbound.iter().map(|one| {
        let wrong = |what: &str| (one.listen.clone(), std::io::Error::other(what.to_owned()));
        let agents = spec.agent.iter().chain(spec.agents.iter().map(|bound| &bound.agent));
        let named = |agent: &&Metadata| one.agent.as_ref().is_none_or(|name| *name == agent.name);
        let agent = agents.into_iter().find(named).ok_or_else(|| wrong("no such agent"))?;
        let to = one.to.parse().map_err(|_| wrong("`to` is not an address and port"))?;
        Ok((one.listen.clone(), Inbound { agent: caller(agent), to, require: one.require }))
    })
}

/// Checks how work is handed on and taken.
fn delegation(spec: &ProxySpec) -> Result<(), ConfigError> {
    let bad = |what: String| Err(ConfigError::Value(what));
    let rules = &spec.delegation;
    if rules.life.0.is_zero() || rules.life.0 > DAY || rules.grace.0 > DAY {
        return bad(
            "`delegation`: life must be longer than nothing, and life and grace at most a day".to_owned()
        );
    }
    if rules.depth == 0 || usize::try_from(rules.depth).is_ok_and(|depth| depth > LONGEST) {
        return bad(format!("`delegation.depth` must be between 1 and {LONGEST}"));
    }
    for (one, checked) in spec.listen.inbound.iter().zip(inbound(spec)) {
        if let Err((_, what)) = checked {
            let agent = one.agent.as_deref().unwrap_or("`agent` of the configuration");
            return bad(format!("`listen.inbound`: `{}` to `{}` for {agent}: {what}", one.listen, one.to));
        }
    }
    if !spec.listen.inbound.is_empty() && spec.control.is_none() {
        return bad(
            "`listen.inbound` needs `control`: chains of delegation are checked by control's key".to_owned()
        );
    }
    Ok(())
}

fn check_worker(spec: &ProxySpec, worker: &WorkerSpec) -> Result<(), ConfigError> {
    let bad = |what: &str| Err(ConfigError::Value(what.to_owned()));
    if spec.control.is_none() {
        return bad("`worker` needs `control`, which gives out the jobs");
    }
    if worker.agent.is_none() && spec.agent.is_none() {
        return bad("`worker.agent` is missing: which agent works?");
    }
    if worker.pools.is_empty() {
        return bad("`worker.pools` is empty: name the pools that it works in");
    }
    if worker.max_parallel == 0 || worker.max_parallel > MOST_PARALLEL {
        return bad(&format!("`worker.maxParallel` must be from 1 to {MOST_PARALLEL}"));
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
