//! `sideguard up`: control service and proxy in one process.

mod background;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use sideguard_client::{Client, ClientError};
use sideguard_proxy::app::{self, Nobody, StartError};
use sideguard_proxy::ports::Ports;
use sideguard_runtime::telemetry::{self, LogFormat};
use sideguard_runtime::{environment, signal};
use sideguard_types::control::{Apply, Text};
use sideguard_types::resource::{ControlSpec, Listen, Metadata, ProxySpec, SharedStore};

use crate::remote::{Failure, join, manifest};
use crate::run::STARTER;

/// Longest time that calls under way are waited for at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// Longest time until its own control governs the proxy.
const GOVERNED: Duration = Duration::from_secs(10);

/// Flags of `sideguard up`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard up\n  sideguard up --detach -f policies/\n  sideguard down\n\n\
    The page, and the way in for `sideguard get`, is http://127.0.0.1:4760; agents use http://127.0.0.1:4750. What -f\n\
    names is applied at the start; without it a starter policy is, if nothing has been applied before."
)]
pub(crate) struct Arguments {
    /// Files and directories to apply at the start.
    #[arg(short = 'f', long = "file", value_name = "DIR")]
    file: Vec<PathBuf>,
    /// Goes on in the background once it is ready; `sideguard down` ends it.
    #[arg(short, long)]
    detach: bool,
    #[arg(long = "in-background", hide = true)]
    in_background: bool,
    /// State directory.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Address of control and page.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4760")]
    control: String,
    /// Address for agents.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4750")]
    outbound: String,
    /// Address of the sidecar's admin port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4751")]
    admin: String,
    /// Redis, in place of the embedded store; needs --nats.
    #[arg(long, value_name = "URL", requires = "nats")]
    redis: Option<String>,
    /// Name that everything in them begins with, so that several fleets can share servers.
    #[arg(long, value_name = "NAME", default_value = "sideguard", requires = "redis")]
    namespace: String,
    /// NATS with JetStream, in place of the embedded store; needs --redis.
    #[arg(long, value_name = "URL", requires = "redis")]
    nats: Option<String>,
    /// Static resolution for agents' calls, as HOST=ADDRESS:PORT.
    #[arg(long, value_name = "HOST=ADDRESS:PORT")]
    resolve: Vec<String>,
    /// Addresses that are not public but may be reached, such as `10.0.0.0/8` or `127.0.0.1:8000`.
    #[arg(long, value_name = "BLOCK")]
    private: Vec<String>,
}

/// Flags of `sideguard down`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sideguard down\n\nExit codes: 0 it has ended, 1 nothing was up.")]
pub(crate) struct Down {
    /// State directory.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Ends what `up` started.
pub(crate) fn down(arguments: Down) -> ExitCode {
    let state = arguments.state.unwrap_or_else(environment::state_directory);
    background::end(&state).unwrap_or_else(|error| crate::report(&error, 125))
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    let state = arguments.state.clone().unwrap_or_else(environment::state_directory);
    if arguments.detach {
        return background::start(&state).unwrap_or_else(|error| crate::report(&error, 125));
    }
    telemetry::start_logs("warn", LogFormat::Text);
    match up(arguments, &state).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.downcast_ref().is_some_and(StartError::is_configuration) => {
            crate::report(&error, 64)
        }
        Err(error) => crate::report(&error, 125),
    }
}

async fn up(arguments: Arguments, state: &Path) -> anyhow::Result<()> {
    if arguments.in_background {
        background::detach()?;
    }
    // Before the ports are told: whoever knows them may send a signal at once.
    let terminated = signal::terminated().context("signals cannot be handled")?;
    let _running = background::claim(state)?;
    let store = arguments.redis.zip(arguments.nats).map(|(redis, nats)| SharedStore {
        redis,
        nats,
        namespace: arguments.namespace,
    });
    let texts = if arguments.file.is_empty() { None } else { Some(manifest::read(&arguments.file)?) };
    let spec = ControlSpec { listen: arguments.control, store, ..ControlSpec::default() };
    let control = sideguard_control::app::start(&spec, state).await?;
    let client = join::operator(&control.url(), control.operator_key())?;
    begin(&client, texts).await?;
    let resolve = |text: &String| {
        let (host, to) =
            text.split_once('=').with_context(|| format!("--resolve: `{text}` is not HOST=ADDRESS:PORT"))?;
        Ok((host.to_owned(), to.to_owned()))
    };
    let proxy = ProxySpec {
        agent: Some(Metadata { name: "local".to_owned(), ..Metadata::default() }),
        listen: Listen {
            outbound: arguments.outbound,
            admin: arguments.admin,
            dns: None,
            inbound: Vec::new(),
        },
        control: Some(join::enrolment(&client, &control.url(), state, None, None).await?),
        hosts: arguments.resolve.iter().map(resolve).collect::<anyhow::Result<_>>()?,
        private: arguments.private,
        ..ProxySpec::default()
    };
    let sidecar = app::start(proxy, state, Vec::new(), Ports::Configured, Arc::new(Nobody)).await?;
    sidecar.governed(GOVERNED).await.map_err(|why| anyhow!("control governs nothing: {why}"))?;
    let lines: [String; background::LINES] = [
        format!("sideguard: page {} (key: {})", control.url(), control.operator_key().display()),
        format!("sideguard: agents http://{}, admin http://{}", sidecar.outbound(), sidecar.admin()),
    ];
    for line in lines {
        if arguments.in_background { println!("{line}") } else { eprintln!("{line}") }
    }
    terminated.await;
    match signal::terminated() {
        // A second signal means now.
        Ok(again) => sidecar.stop(DRAIN, again).await,
        Err(_) => sidecar.stop(DRAIN, std::future::pending()).await,
    }
    control.stop().await;
    Ok(())
}

/// Applies what is given; where nothing is and nothing ever was, the starter policy.
async fn begin(client: &Client, texts: Option<Vec<Text>>) -> anyhow::Result<()> {
    let given = texts.is_some();
    let documents = match texts {
        Some(texts) => texts,
        None if client.newest_generations(1).await?.is_empty() => {
            vec![Text { name: "starter.yaml".to_owned(), text: STARTER.to_owned() }]
        }
        None => return Ok(()),
    };
    let apply = Apply { documents, dry_run: false, prune: None, expect: None };
    let applied = match client.apply(&apply).await {
        // Another replica on the same store began at the same moment.
        Err(ClientError::Refused(problem)) if problem.status == 409 && !given => return Ok(()),
        applied => applied.map_err(Failure::from)?,
    };
    for warning in &applied.warnings {
        eprintln!("{warning}");
    }
    Ok(())
}
