//! `sideguard init` and `sideguard capture`: the rules of the present network namespace.

use std::process::ExitCode;

use sideguard_capture::address::Block;
use sideguard_capture::rules::{self, Loopback, Rules};

/// Flags that say what the rules are to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Port on loopback that takes redirected connections.
    #[arg(long, default_value_t = 4750, value_name = "PORT")]
    outbound: u16,
    /// Port on loopback that answers DNS.
    #[arg(long, default_value_t = 4753, value_name = "PORT")]
    dns: u16,
    /// Uid of the sidecar, whose traffic is left alone. No agent may run as it. Can be given again, for a mesh's proxy.
    #[arg(long = "proxy-uid", default_values_t = [14102], value_name = "UID")]
    proxy_uids: Vec<u32>,
    /// Uid of another process that is left alone. Can be given again.
    #[arg(long = "exclude-uid", value_name = "UID")]
    exclude_uids: Vec<u32>,
    /// TCP port that is left alone, at every address. Can be given again.
    #[arg(long = "exclude-port", value_name = "PORT")]
    exclude_ports: Vec<u16>,
    /// Addresses that are left alone, such as `10.96.0.0/12`. Can be given again.
    #[arg(long = "exclude-cidr", value_name = "CIDR", value_parser = Block::parse)]
    exclude_cidrs: Vec<Block>,
    /// Port within the namespace that agents may connect to, or `any`. None but the sidecar's when absent. Can be given again.
    #[arg(long, value_name = "PORT|any")]
    loopback: Vec<String>,
}

/// Flags of `sideguard init`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example, as a Kubernetes init container with NET_ADMIN:\n  sideguard init --proxy-uid 14102\n\n\
    It fails when the rules are not in force afterwards, so that the pod does not start without them."
)]
pub(crate) struct Init {
    #[command(flatten)]
    wanted: Wanted,
    /// Prints the rules as `nft` reads them and changes nothing.
    #[arg(long)]
    print: bool,
}

/// Verbs of `sideguard capture`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Puts the rules in place; those of an earlier call are replaced.
    #[command(after_help = "Example:\n  sideguard capture up --proxy-uid 14102 --loopback 8080")]
    Up(Wanted),
    /// Fails when the rules are not in force: for a pod whose rules the node sets. To be run before the sidecar starts.
    #[command(after_help = "Example, as a Kubernetes init container:\n  sideguard capture check\n\n\
        Exit codes: 0 what the rules redirect is refused, 1 it is not.")]
    Check,
    /// Takes the rules away.
    #[command(after_help = "Example:\n  sideguard capture down")]
    Down,
    /// Prints the rules as `nft` reads them and changes nothing.
    #[command(after_help = "Example:\n  sideguard capture print --proxy-uid 14102 | nft -c -f -")]
    Print(Wanted),
    /// Prints how many packets the rules have dropped, by kind.
    #[command(after_help = "Example:\n  sideguard capture counters")]
    Counters,
}

/// Runs `sideguard init`.
pub(crate) fn init(arguments: &Init) -> ExitCode {
    let rules = match rules_of(&arguments.wanted) {
        Ok(rules) => rules,
        Err(what) => return usage(&what),
    };
    if arguments.print {
        print!("{}", rules.text());
        return ExitCode::SUCCESS;
    }
    let code = up(&rules);
    if code != ExitCode::SUCCESS {
        return code;
    }
    // This process is not the sidecar: what it sends must come to the sidecar's port, where nobody listens yet.
    if rules::hold() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "sideguard: the rules are in place, but a connection that they redirect is not refused: somebody listens on port {} \
         already, or other rules come before",
        rules.outbound
    );
    ExitCode::from(125)
}

/// Runs a verb of `sideguard capture`.
pub(crate) fn run(verb: Verb) -> ExitCode {
    match verb {
        Verb::Up(wanted) => match rules_of(&wanted) {
            Ok(rules) => up(&rules),
            Err(what) => usage(&what),
        },
        Verb::Check if rules::hold() => ExitCode::SUCCESS,
        Verb::Check => {
            eprintln!(
                "sideguard: the rules are not in force in this pod: is the node's capture plugin installed?"
            );
            ExitCode::from(1)
        }
        Verb::Down => told(rules::remove()),
        Verb::Print(wanted) => match rules_of(&wanted) {
            Ok(rules) => {
                print!("{}", rules.text());
                ExitCode::SUCCESS
            }
            Err(what) => usage(&what),
        },
        Verb::Counters => told(rules::counters().map(|counts| {
            for (kind, count) in rules::DROPPED.iter().zip(counts) {
                println!("{kind:<6} {count}");
            }
        })),
    }
}

fn up(rules: &Rules) -> ExitCode {
    told(rules::apply(rules))
}

fn told(done: Result<(), rules::ApplyError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => crate::report(&error.into(), 125),
    }
}

fn usage(what: &str) -> ExitCode {
    eprintln!("sideguard: {what}");
    ExitCode::from(2)
}

/// The rules that flags ask for.
pub(crate) fn rules_of(wanted: &Wanted) -> Result<Rules, String> {
    let any = wanted.loopback.iter().any(|text| text == "any");
    let port =
        |text: &String| text.parse().map_err(|_| format!("--loopback: `{text}` is neither a port nor `any`"));
    let loopback = if any {
        Loopback::Any
    } else {
        Loopback::Ports(wanted.loopback.iter().map(port).collect::<Result<_, _>>()?)
    };
    let uids = [wanted.proxy_uids.as_slice(), wanted.exclude_uids.as_slice()].concat();
    if uids.contains(&0) {
        return Err("uid 0 cannot be left alone: whoever is root could then leave".to_owned());
    }
    Ok(Rules {
        outbound: wanted.outbound,
        dns: wanted.dns,
        exempt_uids: uids,
        exempt_ports: wanted.exclude_ports.clone(),
        exempt_blocks: wanted.exclude_cidrs.clone(),
        loopback,
        captured_ports: Vec::new(),
    })
}
