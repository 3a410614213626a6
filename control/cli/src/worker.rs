//! `sideguard worker`: does jobs that control gives out, each by one run of a command, under a sidecar.

mod one;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sideguard_proxy::app::{self, Running, StartError};
use sideguard_proxy::ports::Ports;
use sideguard_proxy::work::{Ended, Hands, Task};
use sideguard_runtime::telemetry::{self, LogFormat};
use sideguard_runtime::{signal, tasks};
use sideguard_types::control::jobs::Outcome;
use sideguard_types::resource::WorkerSpec;
use sideguard_types::time::Span;
use tokio::sync::watch;

use crate::remote::Place;
use crate::run::setting::{Setting, wrong};
use crate::run::summary::Summary;
use crate::run::{self, isolated};

use one::Runner;

/// Longest time that the record and what is left of calls are waited for at the end.
const STOP: Duration = Duration::from_secs(2);

/// Flags of `sideguard worker`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard worker --pool reports -- python report.py\n  \
    sideguard worker --pool crm --capability gpu --label zone=a --parallel 4 -- ./job.sh\n\n\
    The command gets a job's input as JSON on standard input, and SIDEGUARD_JOB_ID, SIDEGUARD_JOB_TOPIC,\n\
    SIDEGUARD_JOB_ATTEMPT and TRACEPARENT. What it prints is the result: JSON, or else a text; 4 MiB at most.\n\
    Exit status 0: done; 75: failed, and another try may help; any other: failed, and standard error says why.")]
pub(crate) struct Arguments {
    /// Pool to work in. Can be given again.
    #[arg(long, value_name = "POOL", required = true)]
    pool: Vec<String>,
    /// Something that the command can do. Can be given again.
    #[arg(long, value_name = "CAPABILITY")]
    capability: Vec<String>,
    /// Label of the worker, for the placement of jobs. Can be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// How many jobs it does at once.
    #[arg(long, value_name = "JOBS", default_value_t = 1)]
    parallel: u32,
    /// Longest time that jobs under way are waited for at the end.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span)]
    drain: Span,
    #[command(flatten)]
    setting: Setting,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn span(text: &str) -> Result<Span, String> {
    Span::parse(text).map_err(|error| error.to_string())
}

/// Works until SIGTERM or SIGINT. Exit codes: 0, 64 for a bad configuration, 125 for anything else.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    telemetry::start_logs("warn", LogFormat::Text);
    match working(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.downcast_ref().is_some_and(StartError::is_configuration) => {
            crate::report(&error, 64)
        }
        Err(error) => crate::report(&error, 125),
    }
}

async fn working(mut arguments: Arguments) -> anyhow::Result<()> {
    // Before anything is told: whoever waits for it may send a signal at once.
    let terminated = signal::terminated().context("signals cannot be handled")?;
    let setting = &mut arguments.setting;
    let state = setting.state();
    let url = Place::new(setting.control.take(), None, None, None).address()?;
    setting.control = Some(url.clone());
    let (mut spec, given) = setting.specification(setting.agent(&arguments.command))?;
    spec.control = Some(setting.joined(&spec, &url, &state).await?);
    spec.worker = Some(WorkerSpec {
        agent: None,
        pools: arguments.pool.clone(),
        capabilities: arguments.capability.clone(),
        labels: arguments.label.iter().cloned().collect(),
        max_parallel: arguments.parallel,
    });
    let app::Survey { local_ports: mut local, key_variables } = app::survey(&spec, &given)?;
    local.extend(&setting.local);
    local.sort_unstable();
    local.dedup();
    // To see whether it works; each job gets its own.
    let isolated = run::space(setting, local.clone(), &key_variables)?.is_some();
    let user = isolated::user(setting.user.as_deref()).map_err(wrong)?;
    let summary = Arc::new(Summary::new(setting.verbose));
    let running = app::start(spec, &state, given, Ports::Configured, Arc::clone(&summary) as _).await?;
    let setting = &arguments.setting;
    setting.governed(&running).await?;
    let runner = Runner {
        command: arguments.command.clone(),
        space: isolated.then_some((local, user)),
        state: state.clone(),
        keys: key_variables,
    };
    eprintln!(
        "sideguard: works in {} at {url}, outbound {} admin {}",
        arguments.pool.join(", "),
        running.outbound(),
        running.admin()
    );
    let running = serve(&arguments, running, runner, terminated).await?;
    summary.print(&state);
    setting.stop(running, STOP).await;
    Ok(())
}

/// Does jobs until a signal, then what is under way.
async fn serve(
    arguments: &Arguments,
    running: Running,
    runner: Runner,
    terminated: impl Future<Output = ()>,
) -> anyhow::Result<Running> {
    let hands = running.hands().context("the sidecar has no worker")?;
    let (stop, _) = watch::channel(false);
    let (runner, running) = (Arc::new(runner), Arc::new(running));
    let place = |_| {
        let (hands, runner, running) = (hands.clone(), Arc::clone(&runner), Arc::clone(&running));
        let stopped = stop.subscribe();
        tasks::spawn("place", async move {
            while let Some(task) = hands.next().await {
                one_job(&hands, &runner, &running, &task, stopped.clone()).await;
            }
        })
    };
    let places: Vec<_> = (0..arguments.parallel).map(place).collect();
    tokio::select! {
        () = terminated => {}
        () = running.drain_asked() => {}
    }
    hands.drain();
    let ended = async {
        for place in places {
            // One that panicked has ended too.
            let _ = place.await;
        }
        Arc::into_inner(running).context("a job has not ended")
    };
    tokio::pin!(ended);
    let again = signal::terminated().context("signals cannot be handled")?;
    tokio::select! {
        running = &mut ended => return running,
        () = tokio::time::sleep(arguments.drain.0) => {}
        () = again => {}
    }
    eprintln!("sideguard: jobs under way are stopped");
    stop.send_replace(true);
    ended.await
}

async fn one_job(
    hands: &Hands,
    runner: &Runner,
    running: &Running,
    task: &Task,
    stopped: watch::Receiver<bool>,
) {
    let outcome = runner.run(running, task, stopped).await;
    let came = match &outcome {
        Outcome::Succeeded(_) => "done".to_owned(),
        Outcome::Failed { message, .. } => format!("failed: {}", message.lines().last().unwrap_or_default()),
        Outcome::GivenBack => "given back".to_owned(),
    };
    let told = match hands.finish(task, outcome).await {
        Ended::Taken => String::new(),
        Ended::Refused => "; it was taken from this worker, and does not count".to_owned(),
        Ended::Away => "; control is away: it goes on being told".to_owned(),
        Ended::Unfit(why) => {
            let message = format!("control does not take the result: {why}");
            let told = format!("; {message}");
            hands.finish(task, Outcome::Failed { message, retry: false }).await;
            told
        }
    };
    eprintln!("sideguard: job {} ({}) {came}{told}", task.id(), task.topic());
}
