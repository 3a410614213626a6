//! `sideguard run`: a sidecar for one command, on embedded defaults.

mod child;
pub(crate) mod isolated;
mod summary;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use sideguard_policy::source::Source;
use sideguard_proxy::app::{self, Running, StartError};
use sideguard_proxy::config::ConfigError;
use sideguard_proxy::feed;
use sideguard_proxy::ports::Ports;
use sideguard_runtime::telemetry::{self, LogFormat};
use sideguard_runtime::{clock, environment, id};
use sideguard_types::resource::{Control, Listen, Metadata, NoSni, ProxySpec, Tls, TokenFile};

use crate::remote::{Place, join};

use summary::Summary;

/// What holds when no policy is named.
pub(crate) const STARTER: &str = include_str!("../../../policies/bundles/starter.yaml");
/// Longest time that answers still under way are waited for when the command has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// Longest time that control may take to govern a new sidecar.
const JOINED: Duration = Duration::from_secs(10);

/// Flags of `sideguard run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard run -- python agent.py\n  \
    sideguard run -f policies/ --budget tokens=200000,usd=2.50 -- node agent.js\n\n\
    The command's exit status is passed on; 125: sideguard itself failed, 126: the command cannot be run, \
    127: it was not found.")]
pub(crate) struct Arguments {
    /// Policy file or directory; a starter policy when none is named.
    #[arg(short = 'f', long = "policy", value_name = "POLICY")]
    policies: Vec<PathBuf>,
    /// How the command is kept from going past the sidecar.
    #[arg(long, value_enum, default_value_t = Isolate::Auto)]
    isolate: Isolate,
    /// User to run the command as: NAME, UID or UID:GID. Only root can; by default whoever called sudo.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Port of this host that the command may reach at 127.0.0.1, through the sidecar. Can be given again.
    #[arg(long, value_name = "PORT")]
    local: Vec<u16>,
    /// Address or block that is not public but may be reached, such as `10.0.0.0/8`. Can be given again.
    #[arg(long, value_name = "ADDRESS")]
    private: Vec<String>,
    /// Where a host is, as curl's --resolve: `crm.example=127.0.0.1:9443`. Can be given again.
    #[arg(long, value_name = "HOST[:PORT]=ADDRESS:PORT")]
    resolve: Vec<String>,
    /// What becomes of TLS connections that name no server, as those to an address are.
    #[arg(long, value_enum, default_value_t = Nameless::Refuse)]
    no_sni: Nameless,
    /// Control service to join.
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// File with an enrolment token for it; without it an operator's key that is known here makes one.
    #[arg(long, value_name = "FILE", requires = "control")]
    token_file: Option<PathBuf>,
    /// Tenant of the agent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Limits for this run, such as `tokens=200000,usd=2.50,calls=500`.
    #[arg(long, value_name = "UNIT=AMOUNT,…")]
    budget: Option<String>,
    /// Name of the agent in policies and record; the command's own name when absent.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// State directory; one of its own for each run when absent.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Writes the summary as JSON to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Shows calls that are let through as well.
    #[arg(short, long)]
    verbose: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Isolate {
    /// The strongest that works here.
    Auto,
    /// A network namespace of its own.
    Netns,
    /// Proxy settings in its environment.
    Env,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Nameless {
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

/// Runs the command. Exit status: the command's own, or 125, 126, 127.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    telemetry::start_logs("error", LogFormat::Text);
    match governed(&arguments).await {
        Ok(code) => code,
        Err(error) => crate::report(&error, 125),
    }
}

async fn governed(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let program = arguments.command.first().map_or("", String::as_str);
    let agent = agent_name(arguments.agent.as_deref(), program);
    let state = arguments
        .state
        .clone()
        .unwrap_or_else(|| environment::state_directory().join("runs").join(id::new(clock::now())));
    let state = std::path::absolute(&state).unwrap_or(state);
    let summary = Arc::new(Summary::new(arguments.verbose));
    // Before the command exists, which could put a link in its place.
    let report = arguments.report.as_deref().map(|file| report(file).map(|open| (file, open))).transpose()?;
    let status = match under_sidecar(arguments, agent, &state, Arc::clone(&summary)).await {
        Ok(status) => status,
        Err(error) if error.downcast_ref().is_some_and(StartError::is_configuration) => {
            eprintln!("sideguard: {error}");
            return Ok(ExitCode::from(64));
        }
        Err(error) => return Err(error),
    };
    summary.print(&state);
    if let Some((path, mut file)) = report {
        let text = format!("{:#}\n", summary.report(&state));
        file.write_all(text.as_bytes())
            .with_context(|| format!("cannot write the report `{}`", path.display()))?;
    }
    Ok(status)
}

/// Opens the report's file, empty. Not through a link.
fn report(path: &Path) -> anyhow::Result<File> {
    let no_links = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(no_links)
        .open(path)
        .with_context(|| format!("cannot write the report `{}`", path.display()))
}

/// Which directory a path leads to.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Runs the command in the strongest isolation that is asked for and works, from the sidecar's start to its end.
async fn under_sidecar(
    arguments: &Arguments,
    agent: String,
    state: &Path,
    summary: Arc<Summary>,
) -> anyhow::Result<ExitCode> {
    let (mut spec, given) = specification(arguments, agent)?;
    if let Some(url) = &arguments.control {
        spec.control = Some(joined(arguments, &spec, url, state).await?);
    }
    let app::Survey { local_ports: mut local, key_variables } = app::survey(&spec, &given)?;
    local.extend(&arguments.local);
    local.sort_unstable();
    local.dedup();
    let user = isolated::user(arguments.user.as_deref()).map_err(wrong)?;
    let as_root = user.is_none() && rustix::process::geteuid().is_root();
    let space = match arguments.isolate {
        Isolate::Env => {
            eprintln!(
                "sideguard: --isolate env: a program that ignores its proxy settings can go past the sidecar"
            );
            None
        }
        Isolate::Netns | Isolate::Auto => {
            let variables = child::variables(None, Path::new(isolated::TRUST), &key_variables);
            match isolated::prepare(local, user, variables) {
                Ok(made) => {
                    if as_root {
                        eprintln!(
                            "sideguard: the command runs as root, without capabilities: files that root's other programs run are within its reach (--user NAME)"
                        );
                    }
                    Some(made)
                }
                Err(why) if arguments.isolate == Isolate::Netns => bail!("--isolate netns: {why}"),
                Err(why) => {
                    eprintln!(
                        "sideguard: not isolated: {why}; a program that ignores its proxy settings can go past the sidecar (`sideguard doctor` tells more)"
                    );
                    None
                }
            }
        }
    };
    let Some((space, inside)) = space else {
        let running = app::start(spec, state, given, Ports::Configured, summary).await?;
        governed_by(&running, arguments).await?;
        let (program, rest) = arguments.command.split_first().context("no command")?;
        let mut command = tokio::process::Command::new(program);
        command.args(rest);
        child::set(
            &mut command,
            child::variables(Some(running.outbound()), &state.join("ca"), &key_variables),
        );
        let status = match child::start(&mut command, program) {
            Ok(started) => started.wait().await,
            Err(status) => status,
        };
        stop(running, arguments).await;
        return Ok(status);
    };
    let running = app::start(spec, state, given, Ports::Inside(inside), summary).await?;
    governed_by(&running, arguments).await?;
    let own = identity(state);
    let (status, dropped) = space.run(&arguments.command, state, running.authority()).await?;
    running.dropped(dropped);
    stop(running, arguments).await;
    if identity(state) != own {
        eprintln!(
            "sideguard: `{}` was moved while the command ran: do not trust what is there now",
            state.display()
        );
    }
    Ok(status)
}

/// Waits for the fleet's policy: a command that starts before it would see refusals.
async fn governed_by(running: &Running, arguments: &Arguments) -> anyhow::Result<()> {
    let url = arguments.control.as_deref().unwrap_or_default();
    running.governed(JOINED).await.map_err(|why| anyhow::anyhow!("control `{url}`: {why}"))
}

/// A state directory that was made for this run alone is never enrolled again: the key in it ends.
async fn stop(running: Running, arguments: &Arguments) {
    if arguments.state.is_none() {
        running.stop_for_good(DRAIN, std::future::pending()).await;
    } else {
        running.stop(DRAIN, std::future::pending()).await;
    }
}

/// How the sidecar comes into the fleet at `url`: by the given token, or by one that the key which is known here gets.
async fn joined(arguments: &Arguments, spec: &ProxySpec, url: &str, state: &Path) -> anyhow::Result<Control> {
    if let Some(file) = &arguments.token_file {
        return Ok(Control::new(url.to_owned(), Some(TokenFile { file: file.clone() })));
    }
    let (tenant, agent) =
        spec.agent.as_ref().map_or((None, None), |agent| (agent.tenant.clone(), Some(agent.name.clone())));
    let client = Place::at(url).client()?;
    join::enrolment(&client, url, state, tenant, agent)
        .await
        .context("--control: name a file with an enrolment token (`--token-file`), or an operator's key (SIDEGUARD_KEY_FILE)")
}

fn wrong(what: String) -> StartError {
    StartError::Config(ConfigError::Value(what))
}

fn specification(arguments: &Arguments, agent: String) -> Result<(ProxySpec, Vec<Source>), StartError> {
    let any = "127.0.0.1:0".to_owned();
    let host = |text: &String| {
        let (host, address) = text
            .split_once('=')
            .ok_or_else(|| wrong(format!("--resolve: `{text}` is not HOST=ADDRESS:PORT")))?;
        Ok((host.to_owned(), address.to_owned()))
    };
    let local = arguments.local.iter().map(|port| format!("127.0.0.1:{port}"));
    let spec = ProxySpec {
        agent: Some(Metadata { name: agent, tenant: arguments.tenant.clone(), ..Metadata::default() }),
        listen: Listen { outbound: any.clone(), admin: any, dns: None, inbound: Vec::new() },
        // Read once, before the command exists: what it writes to these files later is not policy.
        policies: Vec::new(),
        tls: Tls { no_sni: arguments.no_sni.into(), ..Tls::default() },
        hosts: arguments.resolve.iter().map(host).collect::<Result<_, StartError>>()?,
        private: arguments.private.iter().cloned().chain(local).collect(),
        ..ProxySpec::default()
    };
    let mut given = feed::read(&arguments.policies)?;
    if arguments.policies.is_empty() && arguments.control.is_none() {
        given.push(Source { name: "starter.yaml".to_owned(), text: STARTER.to_owned() });
    }
    if let Some(budget) = &arguments.budget {
        let text = budget_text(budget).map_err(wrong)?;
        given.push(Source { name: "--budget".to_owned(), text });
    }
    Ok((spec, given))
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
