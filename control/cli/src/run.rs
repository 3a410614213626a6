//! `sideguard run`: a sidecar for one command, on embedded defaults.

pub(crate) mod child;
pub(crate) mod isolated;
pub(crate) mod setting;
pub(crate) mod summary;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use sideguard_capture::isolate::Inside;
use sideguard_proxy::app::{self, StartError};
use sideguard_proxy::ports::Ports;
use sideguard_runtime::telemetry::{self, LogFormat};

use setting::{Isolate, Setting, wrong};
use summary::Summary;

pub(crate) use setting::STARTER;

/// Longest time that answers still under way are waited for when the command has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// Flags of `sideguard run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard run -- python agent.py\n  \
    sideguard run -f policies/ --budget tokens=200000,usd=2.50 -- node agent.js\n\n\
    The command's exit status is passed on; 125: sideguard itself failed, 126: the command cannot be run, \
    127: it was not found.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    setting: Setting,
    /// Writes the summary as JSON to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
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
    let setting = &arguments.setting;
    let (agent, state) = (setting.agent(&arguments.command), setting.state());
    let summary = Arc::new(Summary::new(setting.verbose));
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
    let setting = &arguments.setting;
    let (mut spec, given) = setting.specification(agent)?;
    if let Some(url) = &setting.control {
        spec.control = Some(setting.joined(&spec, url, state).await?);
    }
    let app::Survey { local_ports: mut local, key_variables } = app::survey(&spec, &given)?;
    local.extend(&setting.local);
    local.sort_unstable();
    local.dedup();
    let space = space(setting, local, &key_variables)?;
    let Some((space, inside)) = space else {
        let running = app::start(spec, state, given, Ports::Configured, summary).await?;
        setting.governed(&running).await?;
        let (program, rest) = arguments.command.split_first().context("no command")?;
        let mut command = tokio::process::Command::new(program);
        command.args(rest);
        child::set(
            &mut command,
            child::variables(Some(&running.outbound().to_string()), &state.join("ca"), &key_variables),
        );
        let status = match child::start(&mut command, program) {
            Ok(started) => started.wait().await,
            Err(status) => status,
        };
        setting.stop(running, DRAIN).await;
        return Ok(status);
    };
    let running = app::start(spec, state, given, Ports::Inside(inside), summary).await?;
    setting.governed(&running).await?;
    let own = identity(state);
    let (status, dropped) = space.run(&arguments.command, state, running.authority()).await?;
    running.dropped(dropped);
    setting.stop(running, DRAIN).await;
    if identity(state) != own {
        eprintln!(
            "sideguard: `{}` was moved while the command ran: do not trust what is there now",
            state.display()
        );
    }
    Ok(status)
}

/// A namespace of its own for a command, where that is asked for and works. Says what that means.
pub(crate) fn space(
    setting: &Setting,
    local: Vec<u16>,
    key_variables: &[String],
) -> anyhow::Result<Option<(isolated::Space, Inside)>> {
    let user = isolated::user(setting.user.as_deref()).map_err(wrong)?;
    let as_root = user.is_none() && rustix::process::geteuid().is_root();
    if setting.isolate == Isolate::Env {
        eprintln!(
            "sideguard: --isolate env: a program that ignores its proxy settings can go past the sidecar"
        );
        return Ok(None);
    }
    let variables = child::variables(None, Path::new(isolated::TRUST), key_variables);
    match isolated::prepare(local, user, variables, isolated::Ways::Inherited) {
        Ok(made) => {
            if as_root {
                eprintln!(
                    "sideguard: the command runs as root, without capabilities: files that root's other programs run are within its reach (--user NAME)"
                );
            }
            Ok(Some(made))
        }
        Err(why) if setting.isolate == Isolate::Netns => bail!("--isolate netns: {why}"),
        Err(why) => {
            eprintln!(
                "sideguard: not isolated: {why}; a program that ignores its proxy settings can go past the sidecar (`sideguard doctor` tells more)"
            );
            Ok(None)
        }
    }
}
