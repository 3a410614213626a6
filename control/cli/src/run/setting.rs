//! Under what a command runs: the flags that `run` and `worker` share, and the sidecar's configuration that they make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use sideguard_policy::source::Source;
use sideguard_proxy::app::{Running, StartError};
use sideguard_proxy::config::ConfigError;
use sideguard_proxy::feed;
use sideguard_runtime::{clock, environment, id};
use sideguard_types::resource::{Control, Listen, Metadata, NoSni, ProxySpec, Tls, TokenFile};

use crate::remote::{Place, join};

/// What holds when no policy is named.
pub(crate) const STARTER: &str = include_str!("../../../../policies/bundles/starter.yaml");
/// Longest time that control may take to govern a new sidecar.
const JOINED: Duration = Duration::from_secs(10);

/// Flags that say under what a command runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Setting {
    /// Policy file or directory; a starter policy when none is named.
    #[arg(short = 'f', long = "policy", value_name = "POLICY")]
    pub(crate) policies: Vec<PathBuf>,
    /// How the command is kept from going past the sidecar.
    #[arg(long, value_enum, default_value_t = Isolate::Auto)]
    pub(crate) isolate: Isolate,
    /// User to run the command as: NAME, UID or UID:GID. Only root can; by default whoever called sudo.
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Port of this host that the command may reach at 127.0.0.1, through the sidecar. Can be given again.
    #[arg(long, value_name = "PORT")]
    pub(crate) local: Vec<u16>,
    /// Address or block that is not public but may be reached, such as `10.0.0.0/8`. Can be given again.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) private: Vec<String>,
    /// Where a host is, as curl's --resolve: `crm.example=127.0.0.1:9443`. Can be given again.
    #[arg(long, value_name = "HOST[:PORT]=ADDRESS:PORT")]
    pub(crate) resolve: Vec<String>,
    /// What becomes of TLS connections that name no server, as those to an address are.
    #[arg(long, value_enum, default_value_t = Nameless::Refuse)]
    pub(crate) no_sni: Nameless,
    /// Control service to join.
    #[arg(long, value_name = "URL")]
    pub(crate) control: Option<String>,
    /// File with an enrolment token for it; without it an operator's key that is known here makes one.
    #[arg(long, value_name = "FILE", requires = "control")]
    pub(crate) token_file: Option<PathBuf>,
    /// Tenant of the agent.
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Limits for this run, such as `tokens=200000,usd=2.50,calls=500`.
    #[arg(long, value_name = "UNIT=AMOUNT,…")]
    pub(crate) budget: Option<String>,
    /// Name of the agent in policies and record; the command's own name when absent.
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// State directory; one of its own for each run when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Shows calls that are let through as well.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Isolate {
    /// The strongest that works here.
    Auto,
    /// A network namespace of its own.
    Netns,
    /// Proxy settings in its environment.
    Env,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Nameless {
    /// They are refused.
    Refuse,
    /// They count as connections to their address.
    Address,
}

impl From<Nameless> for NoSni {
    fn from(nameless: Nameless) -> Self {
        match nameless {
            Nameless::Refuse => Self::Refuse,
            Nameless::Address => Self::Address,
        }
    }
}

impl Setting {
    /// The name of the agent that a command is: the given one, or the command's own.
    pub(crate) fn agent(&self, command: &[String]) -> String {
        agent_name(self.agent.as_deref(), command.first().map_or("", String::as_str))
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        let own = || environment::state_directory().join("runs").join(id::new(clock::now()));
        let state = self.state.clone().unwrap_or_else(own);
        std::path::absolute(&state).unwrap_or(state)
    }

    /// Waits for the fleet's policy: a command that starts before it would see refusals.
    pub(crate) async fn governed(&self, running: &Running) -> anyhow::Result<()> {
        let url = self.control.as_deref().unwrap_or_default();
        running.governed(JOINED).await.map_err(|why| anyhow::anyhow!("control `{url}`: {why}"))
    }

    /// A state directory that was made for this run alone is never enrolled again: the key in it ends.
    pub(crate) async fn stop(&self, running: Running, within: Duration) {
        if self.state.is_none() {
            running.stop_for_good(within, std::future::pending()).await;
        } else {
            running.stop(within, std::future::pending()).await;
        }
    }

    /// How the sidecar comes into the fleet at `url`: by the given token, or by one that the key which is known here gets.
    pub(crate) async fn joined(&self, spec: &ProxySpec, url: &str, state: &Path) -> anyhow::Result<Control> {
        if let Some(file) = &self.token_file {
            return Ok(Control::new(url.to_owned(), Some(TokenFile { file: file.clone() })));
        }
        let own = spec.agent.as_ref();
        let (tenant, agent) =
            own.map_or((None, None), |agent| (agent.tenant.clone(), Some(agent.name.clone())));
        let client = Place::at(url).client()?;
        join::enrolment(&client, url, state, tenant, agent)
            .await
            .context("--control: name a file with an enrolment token (`--token-file`), or an operator's key (SIDEGUARD_KEY_FILE)")
    }

    /// The sidecar's configuration, and the policy texts beside it.
    pub(crate) fn specification(&self, agent: String) -> Result<(ProxySpec, Vec<Source>), StartError> {
        let any = "127.0.0.1:0".to_owned();
        let host = |text: &String| {
            let (host, address) = text
                .split_once('=')
                .ok_or_else(|| wrong(format!("--resolve: `{text}` is not HOST=ADDRESS:PORT")))?;
            Ok((host.to_owned(), address.to_owned()))
        };
        let local = self.local.iter().map(|port| format!("127.0.0.1:{port}"));
        let spec = ProxySpec {
            agent: Some(Metadata { name: agent, tenant: self.tenant.clone(), ..Metadata::default() }),
            listen: Listen { outbound: any.clone(), admin: any, dns: None, inbound: Vec::new() },
            // Read once, before the command exists: what it writes to these files later is not policy.
            policies: Vec::new(),
            tls: Tls { no_sni: self.no_sni.into(), ..Tls::default() },
            hosts: self.resolve.iter().map(host).collect::<Result<_, StartError>>()?,
            private: self.private.iter().cloned().chain(local).collect(),
            ..ProxySpec::default()
        };
        let mut given = feed::read(&self.policies)?;
        if self.policies.is_empty() && self.control.is_none() {
            given.push(Source { name: "starter.yaml".to_owned(), text: STARTER.to_owned() });
        }
        if let Some(budget) = &self.budget {
            let text = budget_text(budget).map_err(wrong)?;
            given.push(Source { name: "--budget".to_owned(), text });
        }
        Ok((spec, given))
    }
}

/// Something is wrong with what was given.
pub(crate) fn wrong(what: String) -> StartError {
    StartError::Config(ConfigError::Value(what))
}

/// A name that can stand for the agent: the given one, or the command's last path segment.
fn agent_name(given: Option<&str>, program: &str) -> String {
    if let Some(name) = given {
        return name.to_owned();
    }
    let name = program.rsplit('/').next().unwrap_or(program).to_ascii_lowercase();
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "agent".to_owned() } else { name.to_owned() }
}

/// The `--budget` flag as a Budget document.
fn budget_text(budget: &str) -> Result<String, String> {
    const UNITS: [&str; 6] = ["tokens", "input_tokens", "output_tokens", "usd", "calls", "concurrency"];
    let mut text =
        String::from("apiVersion: sideguard.dev/v1\nkind: Budget\nmetadata: {name: run}\nspec:\n  limits:\n");
    for limit in budget.split(',').map(str::trim) {
        let (unit, amount) =
            limit.split_once('=').ok_or(format!("--budget: `{limit}` is not UNIT=AMOUNT"))?;
        let number = !amount.is_empty() && amount.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !UNITS.contains(&unit) || !number {
            return Err(format!("--budget: `{limit}`: write one of {} with a number", UNITS.join(", ")));
        }
        text.push_str(&format!("    - {{unit: {unit}, amount: \"{amount}\"}}\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{agent_name, budget_text};

    #[test]
    fn the_command_names_the_agent() {
        assert_eq!(agent_name(None, "/usr/bin/Python3"), "python3");
        assert_eq!(agent_name(Some("researcher"), "python3"), "researcher");
        assert_eq!(agent_name(None, "./"), "agent");
    }

    #[test]
    fn the_budget_flag_is_checked() {
        assert!(budget_text("tokens=100,usd=0.50").is_ok_and(|text| text.contains("amount: \"0.50\"")));
        for flag in ["", "tokens", "tokens=", "tokens=-1", "euros=1", "tokens=1}"] {
            assert!(budget_text(flag).is_err(), "{flag}");
        }
    }
}
