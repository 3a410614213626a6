//! `sideguard`: the command that people use. One file for each verb.

mod apply;
mod approvals;
mod audit;
mod budget;
mod capture;
mod cni;
mod control;
mod delegation;
mod delete;
mod describe;
mod diff;
mod doctor;
mod explain;
mod get;
mod history;
mod inject;
mod injector;
mod job;
mod key;
mod kill;
mod policy;
mod proxy;
mod remote;
mod rollback;
mod run;
mod token;
mod top;
mod up;
mod wait;
mod worker;
mod workflow;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use run::isolated;
use sideguard_runtime::environment;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sidecar for AI agents: judges every call that leaves, keeps budgets, records everything.
#[derive(Debug, Parser)]
#[command(
    name = "sideguard",
    version,
    propagate_version = true,
    max_term_width = 110,
    after_help = "Examples:\n  sideguard run -- python agent.py\n  sideguard proxy -c proxy.yaml\n  sideguard policy check policies/"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs a command under a sidecar.
    Run(run::Arguments),
    /// Does jobs that control gives out: runs a command for each, under a sidecar.
    Worker(worker::Arguments),
    /// Runs the sidecar or egress gateway as a daemon.
    Proxy(proxy::Arguments),
    /// Runs the control service.
    Control(control::Arguments),
    /// Runs control service and proxy in one process, for a workstation or a small team.
    Up(up::Arguments),
    /// Ends what `up --detach` started.
    Down(up::Down),
    /// Puts the redirect and lock-down rules into this network namespace and checks them: a pod's init step.
    Init(capture::Init),
    /// Puts rules into this network namespace, takes them away, prints them.
    #[command(subcommand)]
    Capture(capture::Verb),
    /// Sets the rules of pods from their Kubernetes node, as a plugin of its network.
    #[command(subcommand)]
    Cni(cni::Verb),
    /// Waits until a sidecar has started.
    Wait(wait::Arguments),
    /// Puts the sidecar into Kubernetes manifests; works offline.
    Inject(inject::Arguments),
    /// Runs the Kubernetes admission webhook that puts the sidecar into pods.
    Injector(injector::Arguments),
    /// Tells what works on this machine, and how to get more.
    Doctor(doctor::Arguments),
    /// Checks, tests, explains and formats policies; works offline.
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Reads and verifies the record.
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Makes files part of the desired state that control keeps: all of it or nothing.
    Apply(apply::Arguments),
    /// Shows what an apply would change.
    Diff(diff::Arguments),
    /// Lists what there is of a kind.
    Get(get::Arguments),
    /// Shows all that is known of one thing.
    Describe(describe::Arguments),
    /// Takes objects out of the desired state.
    Delete(delete::Arguments),
    /// Explains a kind and its fields; works offline.
    Explain(explain::Arguments),
    /// Lists the generations of the desired state.
    History(history::Arguments),
    /// Puts an earlier generation's objects in force again.
    Rollback(rollback::Arguments),
    /// Shows how the fleet's budgets stand.
    Budget(budget::Arguments),
    /// Stops everything in a scope.
    Kill(kill::Kill),
    /// Lets a scope go on that was killed.
    Unkill(kill::Unkill),
    /// Lists work that agents have handed to each other, and ends it.
    #[command(subcommand)]
    Delegation(delegation::Verb),
    /// Makes, lists and takes back keys of people.
    #[command(subcommand)]
    Key(key::Verb),
    /// Lists calls that wait for people; shows one with its arguments.
    Approvals(approvals::List),
    /// Says yes to a call that waits.
    Approve(approvals::Approve),
    /// Says no to a call that waits.
    Deny(approvals::Deny),
    /// Starts, shows, stops and repeats runs of workflows.
    #[command(subcommand)]
    Workflow(workflow::Verb),
    /// Submits jobs to workers, looks at them, takes them back.
    #[command(subcommand)]
    Job(job::Verb),
    /// Looks after jobs that were lost with their workers.
    #[command(subcommand)]
    Dlq(job::Dead),
    /// Shows what agents do now: calls, refusals, tokens, cost.
    Top(top::Arguments),
    /// Makes an enrolment token for a sidecar.
    Token(token::Arguments),
    /// Prints a script that completes commands in a shell.
    #[command(after_help = "Example:\n  sideguard completions bash > /etc/bash_completion.d/sideguard")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    // Parts of `run`, which nobody types.
    let mut own = std::env::args_os().skip(1).map(std::ffi::OsString::into_string);
    match (own.next(), own.next()) {
        (Some(Ok(part)), Some(Ok(end))) if part == isolated::OUTER => return isolated::outer(&end),
        (Some(Ok(part)), Some(Ok(user))) if part == isolated::INNER => {
            return isolated::inner(&user, &own.filter_map(Result::ok).collect::<Vec<_>>());
        }
        _ => {}
    }
    let arguments = Arguments::parse();
    match arguments.verb {
        Verb::Run(arguments) => in_runtime(|| run::run(arguments)),
        Verb::Worker(arguments) => in_runtime(|| worker::run(arguments)),
        Verb::Proxy(arguments) => in_runtime(|| proxy::run(arguments)),
        Verb::Control(arguments) => in_runtime(|| control::run(arguments)),
        Verb::Up(arguments) => in_runtime(|| up::run(arguments)),
        Verb::Down(arguments) => up::down(arguments),
        Verb::Init(arguments) => capture::init(&arguments),
        Verb::Capture(verb) => capture::run(verb),
        Verb::Cni(verb) => cni::run(verb),
        Verb::Wait(arguments) => wait::run(&arguments),
        Verb::Inject(arguments) => inject::run(&arguments),
        Verb::Injector(arguments) => in_runtime(|| injector::run(arguments)),
        Verb::Doctor(arguments) => in_runtime(|| doctor::run(arguments)),
        Verb::Policy(verb) => policy::run(verb),
        Verb::Audit(verb) => audit::run(verb),
        Verb::Apply(arguments) => in_runtime(|| apply::run(arguments)),
        Verb::Diff(arguments) => in_runtime(|| diff::run(arguments)),
        Verb::Get(arguments) => in_runtime(|| get::run(arguments)),
        Verb::Describe(arguments) => in_runtime(|| describe::run(arguments)),
        Verb::Delete(arguments) => in_runtime(|| delete::run(arguments)),
        Verb::Explain(arguments) => explain::run(&arguments),
        Verb::History(arguments) => in_runtime(|| history::run(arguments)),
        Verb::Rollback(arguments) => in_runtime(|| rollback::run(arguments)),
        Verb::Budget(arguments) => in_runtime(|| budget::run(arguments)),
        Verb::Kill(arguments) => in_runtime(|| kill::kill(arguments)),
        Verb::Unkill(arguments) => in_runtime(|| kill::unkill(arguments)),
        Verb::Delegation(verb) => in_runtime(|| delegation::run(verb)),
        Verb::Key(verb) => in_runtime(|| key::run(verb)),
        Verb::Approvals(arguments) => in_runtime(|| approvals::list(arguments)),
        Verb::Approve(arguments) => in_runtime(|| approvals::approve(arguments)),
        Verb::Deny(arguments) => in_runtime(|| approvals::deny(arguments)),
        Verb::Workflow(verb) => in_runtime(|| workflow::run(verb)),
        Verb::Job(verb) => in_runtime(|| job::run(verb)),
        Verb::Dlq(verb) => in_runtime(|| job::dead(verb)),
        Verb::Top(arguments) => in_runtime(|| top::run(arguments)),
        Verb::Token(arguments) => in_runtime(|| token::run(arguments)),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "sideguard", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}

/// Runs a verb that needs the network. Exit code 125 when even the runtime cannot start.
fn in_runtime<F: Future<Output = ExitCode>>(verb: impl FnOnce() -> F) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(verb());
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("sideguard: {error}");
            ExitCode::from(125)
        }
    }
}

/// Whether standard output or error may be coloured.
fn colour(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && environment::variable("NO_COLOR").is_none()
}

/// An error in one line, causes behind it.
fn report(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("sideguard: {error:#}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Arguments;

    #[test]
    fn the_flags_of_every_verb_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn client_verbs_take_what_their_examples_show() {
        for line in [
            "apply -f a b --prune -l app=crm,team=data --expect 3",
            "apply -f - --dry-run -o json",
            "get agents --tenant acme -w",
            "budget --tenant acme -w -o json",
            "get Policy deletes -o yaml --control http://h:1 --key-file key",
            "delete -f policies/",
            "rollback",
            "kill agent/acme/researcher --reason because",
            "token --agent researcher --for 10m",
            "key create alice --role approver --tenant acme --for 30d",
            "key revoke 0123456789abcdef",
            "delegation list --tenant acme -o json",
            "delegation revoke 01a2b3c4d5e6f708192a3b4c --tenant acme --reason because",
            "approvals -w --status all",
            "approvals 01a2b3c4d5e6f708192a3b4c -o json",
            "approve 01a2b3c4d5e6f708192a3b4c --reason because",
            "deny 01a2b3c4d5e6f708192a3b4c",
            "top -w --tenant acme -o json",
            "workflow run refund --input {} --wait --idempotency-key k",
            "workflow get --status failed -o wide",
            "workflow cancel 01a2b3c4d5e6f708192a3b4c --compensate",
            "workflow rerun 01a2b3c4d5e6f708192a3b4c --from charge",
            "workflow validate a.yaml b/",
            "job submit job.crm.enrich --input {} --requires gpu --limits queue=10m,run=5m --wait",
            "job get --status dead-lettered",
            "dlq drop --all",
        ] {
            let words = std::iter::once("sideguard").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "apply -f a --prune",
            "get",
            "delete policy",
            "kill all",
            "token --for 10",
            "rollback 3",
            "dlq retry",
        ] {
            let words = std::iter::once("sideguard").chain(line.split(' '));
            let refused = Arguments::try_parse_from(words).err().map(|error| error.exit_code());
            assert_eq!(refused, Some(2), "{line}");
        }
    }
}
