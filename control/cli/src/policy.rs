//! `sideguard policy`: what can be done with policies without a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use sideguard_policy::cases::{self, CallSpec, Counters};
use sideguard_policy::source::{self, Finding, Loaded, Severity, Source};
use sideguard_policy::{PolicySet, compile, fmt, lint};
use sideguard_proxy::feed;
use sideguard_types::call::Moment;

/// Verbs of `sideguard policy`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Loads and lints policies: errors with their place, rules that never apply, sets that deny everything.
    #[command(
        after_help = "Example:\n  sideguard policy check policies/\n\nExit codes: 0 sound, 1 something found."
    )]
    Check {
        /// Files and directories.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Warnings count as errors.
        #[arg(long)]
        strict: bool,
        /// Form of the output.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Runs cases: calls, and what is to become of them.
    #[command(
        after_help = "Example:\n  sideguard policy test policies/cases/\n\nExit codes: 0 all as expected, 1 not."
    )]
    Test {
        /// Files of cases and directories.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Form of the output.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Tells how a call would be judged, and why.
    #[command(after_help = "Examples:\n  \
        sideguard policy explain policies/ --call '{\"server\": \"db\", \"tool\": \"drop_table\"}'\n  \
        sideguard policy explain policies/ --call '{\"host\": \"crm.acme.com\", \"method\": \"DELETE\"}'")]
    Explain {
        /// Files and directories.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// The call as JSON, or `@FILE`.
        #[arg(long, value_name = "JSON")]
        call: String,
        /// Form of the output.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Puts files into the canonical style, comments kept.
    #[command(
        after_help = "Example:\n  sideguard policy fmt --check policies/\n\nExit codes: 0 done, 1 with --check: a file differs."
    )]
    Fmt {
        /// Files and directories.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Changes nothing; names the files that differ.
        #[arg(long)]
        check: bool,
    },
}

/// Form of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// Runs a verb.
pub(crate) fn run(verb: Verb) -> ExitCode {
    let done = match verb {
        Verb::Check { paths, strict, output } => check(&paths, strict, output),
        Verb::Test { paths, output } => test(&paths, output),
        Verb::Explain { paths, call, output } => explain(&paths, &call, output),
        Verb::Fmt { paths, check } => format(&paths, check),
    };
    // What was named on the command line is at fault.
    done.unwrap_or_else(|error| crate::report(&error, 2))
}

/// Everything that is wrong with the set, and the set where it can be used.
fn loaded(sources: &[Source]) -> (Loaded, Result<PolicySet, Vec<Finding>>) {
    let loaded = source::load(sources);
    let set = compile(&loaded);
    (loaded, set)
}

fn check(paths: &[PathBuf], strict: bool, output: Output) -> anyhow::Result<ExitCode> {
    let sources = feed::read(paths)?;
    let (loaded, set) = loaded(&sources);
    let findings = match &set {
        Ok(set) => loaded.findings.iter().cloned().chain(lint::lint(&loaded, set)).collect(),
        Err(findings) => findings.clone(),
    };
    show(&findings, output)?;
    let bad = findings.iter().any(|finding| strict || finding.severity == Severity::Error);
    if let (Ok(set), Output::Text) = (&set, output) {
        println!(
            "{}: {} rules in {} files, {} warnings, digest {}",
            if bad { "refused" } else { "ok" },
            set.rule_count(),
            sources.len(),
            findings.len(),
            set.digest()
        );
    }
    Ok(ExitCode::from(u8::from(bad)))
}

fn show(findings: &[Finding], output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(findings)?),
        Output::Text => findings.iter().for_each(|finding| println!("{finding}\n")),
    }
    Ok(())
}

fn test(paths: &[PathBuf], output: Output) -> anyhow::Result<ExitCode> {
    let files = feed::read(paths)?;
    let report = cases::run(&files, &|name, from| {
        let path = Path::new(&from.name).parent().unwrap_or(Path::new("")).join(name);
        fs::read_to_string(&path).ok().map(|text| Source::new(name, text))
    });
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => {
            report.findings.iter().for_each(|finding| println!("{finding}\n"));
            for failure in &report.failures {
                println!(
                    "{}:{}: `{}`: {}\n{}\n",
                    failure.file, failure.line, failure.name, failure.message, failure.explanation
                );
            }
            println!("{} passed, {} failed", report.passed, report.failures.len() + report.findings.len());
        }
    }
    Ok(ExitCode::from(u8::from(!report.is_success())))
}

fn explain(paths: &[PathBuf], call: &str, output: Output) -> anyhow::Result<ExitCode> {
    let text = match call.strip_prefix('@') {
        Some(file) => fs::read_to_string(file).with_context(|| format!("cannot read the call `{file}`"))?,
        None => call.to_owned(),
    };
    let call: CallSpec = serde_json::from_str(&text).context("--call is not a call")?;
    let set = match loaded(&feed::read(paths)?).1 {
        Ok(set) => set,
        Err(findings) => {
            show(&findings, output)?;
            return Ok(ExitCode::from(1));
        }
    };
    let counters = Counters::default();
    let moment = Moment { now: call.time(), velocity: &counters };
    let explanation = call.with(set.classifier(), |call| set.explain(call, moment));
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&explanation)?),
        Output::Text => println!("{explanation}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn format(paths: &[PathBuf], check: bool) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for source in feed::read(paths)? {
        match fmt::format(&source) {
            Err(findings) => {
                show(&findings, Output::Text)?;
                code = ExitCode::from(1);
            }
            Ok(text) if text == source.text => {}
            Ok(_) if check => {
                println!("{} differs", source.name);
                code = ExitCode::from(1);
            }
            Ok(text) => {
                let next = format!("{}.next", source.name);
                fs::write(&next, text)
                    .and_then(|()| fs::rename(&next, &source.name))
                    .with_context(|| format!("cannot write `{}`", source.name))?;
                println!("{} formatted", source.name);
            }
        }
    }
    Ok(code)
}
