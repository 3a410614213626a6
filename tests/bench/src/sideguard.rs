//! Sideguard with everything on: rules, a budget, the record, breakers. Reached only through its published
//! interface: configuration, policies, state directory.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::certificates::HOST;

/// Rules in the policy, the last of which allows everything.
const RULES: usize = 1_000;

/// One installation: configuration, policies and state under one directory.
pub(crate) struct Installation {
    directory: PathBuf,
}

impl Installation {
    /// Writes configuration and policies to `directory`, with no state: calls to the upstream `openai` go to
    /// `plain`, and those to [`HOST`] to `tls`, whose authority is in the PEM file `root`.
    pub(crate) fn write(directory: &Path, plain: SocketAddr, tls: SocketAddr, root: &Path) -> Result<Self> {
        let made = Self { directory: directory.to_owned() };
        if made.state().exists() {
            fs::remove_dir_all(made.state())?;
        }
        fs::create_dir_all(made.state())?;
        let policies = directory.join("policies");
        fs::create_dir_all(&policies)?;
        fs::write(policies.join("rules.yaml"), rules(RULES))?;
        fs::write(policies.join("budget.yaml"), BUDGET)?;
        fs::write(made.config(), configuration(&made, &policies, plain, tls, root))?;
        Ok(made)
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.join("proxy.yaml")
    }

    /// The file of the authority that agents must trust; there once Sideguard is ready.
    pub(crate) fn authority(&self) -> PathBuf {
        self.state().join("ca").join("ca.crt")
    }

    /// The outbound port, once Sideguard is ready.
    pub(crate) fn outbound(&self) -> Option<SocketAddr> {
        let ports: Value = serde_json::from_slice(&fs::read(self.ports()).ok()?).ok()?;
        ports.get("outbound")?.as_str()?.parse().ok()
    }

    /// Forgets the ports of the last start, so that the next one can be told from it.
    pub(crate) fn forget_ports(&self) -> Result<()> {
        match fs::remove_file(self.ports()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("cannot remove `ports.json`")
            }
            _ => Ok(()),
        }
    }

    fn ports(&self) -> PathBuf {
        self.state().join("ports.json")
    }

    fn state(&self) -> PathBuf {
        self.directory.join("state")
    }
}

fn configuration(
    installation: &Installation,
    policies: &Path,
    plain: SocketAddr,
    tls: SocketAddr,
    root: &Path,
) -> String {
    // The load repeats one call for ever: the breaker counts it, but with a limit that it does not reach.
    format!(
        r#"apiVersion: sideguard.dev/v1
kind: Proxy
spec:
  agent: {{name: bench}}
  listen: {{outbound: "127.0.0.1:0", admin: "127.0.0.1:0"}}
  state: "{state}"
  policies: ["{policies}"]
  tls: {{trust: ["{root}"]}}
  upstreams:
    - {{name: openai, baseUrl: "http://{plain}", dialect: openai}}
    - {{name: bench, baseUrl: "https://{HOST}", dialect: openai}}
  hosts: {{"{HOST}": "{tls}"}}
  breakers: {{agent: {{repeats: 4000000000}}}}
"#,
        state = installation.state().display(),
        policies = policies.display(),
        root = root.display(),
    )
}

const BUDGET: &str = "\
apiVersion: sideguard.dev/v1
kind: Budget
metadata: {name: bench}
spec:
  limits:
    - {unit: tokens, amount: 1000000000000, window: day, per: agent}
    - {unit: usd, amount: 1000000000, window: month}
    - {unit: calls, amount: 1000000000000, window: 1h, per: agent}
";

/// A policy of `count` rules of the kinds that users write, none of which but the last fits the load.
fn rules(count: usize) -> String {
    let mut text = String::from(
        "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: bench}\nspec:\n  rules:\n",
    );
    for number in 1..count {
        let fits = match number % 4 {
            0 => format!("topics: [\"job.service-{number}.*.delete\", \"job.*.drop-{number}\"]"),
            1 => format!("hosts: [\"*.blocked-{number}.example\", \"blocked-{number}.example\"]"),
            2 => format!("tools: [\"drop_table_{number}\", \"purge_{number}_*\"]"),
            _ => format!("topics: [\"job.db-{number}.*\"], risk_tags: [destructive], verbs: [write, admin]"),
        };
        let _written = writeln!(
            text,
            "    - {{id: rule-{number}, match: {{{fits}}}, decision: deny, reason: \"rule {number} forbids it\"}}"
        );
    }
    text + "    - {id: rest, decision: allow}\n"
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::Path;

    use serde_json::Value;
    use sideguard_types::resource::{BudgetSpec, PolicySpec, ProxySpec};

    use super::{BUDGET, Installation, configuration, rules};

    fn spec<T: serde::de::DeserializeOwned>(text: &str) -> T {
        let document: Value = serde_saphyr::from_str(text).expect("YAML");
        serde_json::from_value(document["spec"].clone()).expect("what the kind is made of")
    }

    #[test]
    fn a_policy_has_just_so_many_rules() {
        for count in [1, 10, 1_000] {
            assert_eq!(spec::<PolicySpec>(&rules(count)).rules.len(), count);
        }
    }

    #[test]
    fn what_is_written_is_what_sideguard_reads() {
        let installation = Installation { directory: Path::new("/site/sideguard").to_owned() };
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let text =
            configuration(&installation, Path::new("/p"), address(1), address(2), Path::new("/ca.pem"));
        let proxy: ProxySpec = spec(&text);
        assert_eq!(proxy.state.as_deref(), Some(Path::new("/site/sideguard/state")));
        assert_eq!(proxy.upstreams.len(), 2);
        assert_eq!(spec::<BudgetSpec>(BUDGET).limits.len(), 3);
    }
}
