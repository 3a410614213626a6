//! `sideguard audit`: the record, read and verified where it lies, or asked for at control.

mod central;
mod proof;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use ed25519_dalek::VerifyingKey;
use sideguard_client::Client;
use sideguard_record::read::{self, Entry, Filter};
use sideguard_record::verify;
use sideguard_runtime::{clock, environment};
use sideguard_types::audit::Phase;
use sideguard_types::call::Point;
use sideguard_types::time::{Span, Timestamp};
use sideguard_types::verdict::Decision;

use crate::remote::{self, Outcome};

/// How often a followed record is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Verbs of `sideguard audit`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Shows the last entries, and further ones as they are written.
    #[command(after_help = "Examples:\n  sideguard audit tail -n 20\n  sideguard audit tail --fleet")]
    Tail {
        #[command(flatten)]
        place: Place,
        /// How many of the last entries to begin with.
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: usize,
        /// Ends after the last entries instead of waiting for more.
        #[arg(long)]
        once: bool,
        /// Form of the output.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Shows the entries that fit: the oldest first, those of a fleet the newest first.
    #[command(after_help = "Examples:\n  sideguard audit query --decision deny --since 24h -o json\n  \
        sideguard audit query --fleet --agent researcher --limit 20")]
    Query {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        filter: Box<FilterFlags>,
        /// Form of the output.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Checks the chain and the signatures, or a proof; names the first bad entry and exits 1.
    #[command(after_help = "Examples:\n  sideguard audit verify --key $(cat record.pub)\n  \
        sideguard audit verify --proof proof.json --control-key HEX")]
    Verify {
        /// State directory, or the directory of one record. All records in it are read, those of single runs too.
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// Public key in hex that must have signed; the one beside the record, or in the proof, when absent.
        #[arg(long, value_name = "HEX")]
        key: Vec<String>,
        /// Checks this proof instead of a record; needs nothing else.
        #[arg(long, value_name = "FILE", conflicts_with = "state")]
        proof: Option<PathBuf>,
        /// Public key in hex with which control must have signed the proof; the one in it when absent.
        #[arg(long, value_name = "HEX", requires = "proof")]
        control_key: Option<String>,
    },
    /// Writes every entry to standard output, one JSON object a line, byte for byte as it is kept.
    #[command(
        after_help = "Examples:\n  sideguard audit export > record.ndjson\n  sideguard audit export --fleet > fleet.ndjson"
    )]
    Export {
        #[command(flatten)]
        place: Place,
        /// Only this sidecar's, of a fleet.
        #[arg(long, value_name = "ID", requires = "fleets")]
        sidecar: Option<String>,
    },
    /// Writes a proof that control has a record, which `verify --proof` checks without it.
    #[command(
        after_help = "Examples:\n  sideguard audit prove --call 019ac1b2c3d4e5f6a7b8c9d0 > proof.json\n  \
        sideguard audit prove --sidecar 019ac1b2c3d4e5f6a7b8c9d0 --position 12 > proof.json"
    )]
    Prove(proof::Arguments),
}

/// Where the record is.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// State directory, or the directory of one record. All records in it are read, those of single runs too.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Asks control for what all sidecars have shipped, instead of reading a directory.
    #[arg(long, group = "fleets")]
    fleet: bool,
    /// Address of control, with --fleet or in its place; else SIDEGUARD_CONTROL_URL, else the one of this machine.
    #[arg(long, value_name = "URL", group = "fleets")]
    control: Option<String>,
    /// File with the key to ask control by; else SIDEGUARD_KEY or SIDEGUARD_KEY_FILE.
    #[arg(long, value_name = "FILE", requires = "fleets")]
    key_file: Option<PathBuf>,
    /// File with the root certificates to check control by, in PEM; else SIDEGUARD_CA_FILE, else the system's.
    #[arg(long, value_name = "FILE", requires = "fleets")]
    ca_file: Option<PathBuf>,
}

/// Form of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// Which entries are asked for; flags AND together.
#[derive(Debug, clap::Args)]
pub(crate) struct FilterFlags {
    /// Not before: RFC 3339, or so long ago (`30m`, `24h`).
    #[arg(long)]
    since: Option<String>,
    /// Before: RFC 3339, or so long ago.
    #[arg(long)]
    until: Option<String>,
    /// The agent.
    #[arg(long)]
    agent: Option<String>,
    /// The decision: allow, deny, require_approval, throttle, allow_with_constraints.
    #[arg(long, value_parser = word::<Decision>)]
    decision: Option<Decision>,
    /// The rule that decided (glob).
    #[arg(long)]
    rule: Option<String>,
    /// The topic (glob).
    #[arg(long)]
    topic: Option<String>,
    /// The call's id.
    #[arg(long)]
    call: Option<String>,
    /// The phase: intent, outcome, decision, control.
    #[arg(long, value_parser = word::<Phase>)]
    phase: Option<Phase>,
    /// The point, such as `tool.call`.
    #[arg(long, value_parser = word::<Point>)]
    point: Option<Point>,
    /// The tenant, of a fleet.
    #[arg(long, requires = "fleets")]
    tenant: Option<String>,
    /// The sidecar's id, of a fleet.
    #[arg(long, value_name = "ID", requires = "fleets")]
    sidecar: Option<String>,
    /// At most so many.
    #[arg(long)]
    limit: Option<usize>,
}

/// A value by the name that it has in the record.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|error| error.to_string())
}

impl FilterFlags {
    fn filter(self, now: Timestamp) -> anyhow::Result<Filter> {
        let moment = |text: Option<String>| text.map(|text| moment(&text, now)).transpose();
        Ok(Filter {
            since: moment(self.since)?,
            until: moment(self.until)?,
            agent: self.agent,
            decision: self.decision,
            rule: self.rule,
            topic: self.topic,
            call: self.call,
            phase: self.phase,
            point: self.point,
            limit: self.limit,
            tail: None,
        })
    }
}

/// A moment, or how long ago it was.
fn moment(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    if let Ok(span) = Span::parse(text) {
        return Ok(Timestamp(now.0.saturating_sub(i64::try_from(span.0.as_micros()).unwrap_or(i64::MAX))));
    }
    Timestamp::parse(text)
        .with_context(|| format!("`{text}` is neither a date and time nor a span such as `24h`"))
}

/// Runs a verb. Exit code 1 when `verify` finds something wrong, 125 when the record cannot be read.
pub(crate) fn run(verb: Verb) -> ExitCode {
    let done = match verb {
        Verb::Tail { place, lines, once, output } if place.is_fleet() => {
            return crate::in_runtime(|| central::tail(place, lines, once, output));
        }
        Verb::Query { place, filter, output } if place.is_fleet() => {
            return crate::in_runtime(|| central::query(place, *filter, output));
        }
        Verb::Export { place, sidecar } if place.is_fleet() => {
            return crate::in_runtime(|| central::export(place, sidecar));
        }
        Verb::Prove(arguments) => return crate::in_runtime(|| proof::prove(arguments)),
        Verb::Verify { proof: Some(file), key, control_key, .. } => {
            proof::check(&file, &key, control_key.as_deref())
        }
        Verb::Tail { place, lines, once, output } => tail(&place, lines, once, output),
        Verb::Query { place, filter, output } => query(&place, *filter, output),
        Verb::Verify { state, key, .. } => check(&Place::here(state), &key),
        Verb::Export { place, .. } => export(&place),
    };
    match done {
        Ok(code) => code,
        // A reader that has seen enough closes the pipe.
        Err(error) if closed(&error) => ExitCode::SUCCESS,
        Err(error) => crate::report(&error, 125),
    }
}

fn closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

impl Place {
    const fn here(state: Option<PathBuf>) -> Self {
        Self { state, fleet: false, control: None, key_file: None, ca_file: None }
    }

    /// Whether control is asked.
    const fn is_fleet(&self) -> bool {
        self.fleet || self.control.is_some()
    }

    /// A client of control.
    fn client(self) -> Outcome<Client> {
        remote::Place::new(self.control, self.key_file, self.ca_file, self.state).client()
    }

    /// The directories of all records, oldest run first.
    fn records(&self) -> anyhow::Result<Vec<PathBuf>> {
        let state = self.state.clone().unwrap_or_else(environment::state_directory);
        if holds_segments(&state) {
            return Ok(vec![state]);
        }
        let mut runs: Vec<PathBuf> = std::fs::read_dir(state.join("runs"))
            .map(|runs| runs.filter_map(Result::ok).map(|run| run.path().join("spool")).collect())
            .unwrap_or_default();
        runs.sort();
        let records: Vec<PathBuf> =
            std::iter::once(state.join("spool")).chain(runs).filter(|spool| holds_segments(spool)).collect();
        if records.is_empty() {
            bail!("no record in `{}`: name its state directory with `--state`", state.display());
        }
        Ok(records)
    }
}

fn holds_segments(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|files| {
        files
            .filter_map(Result::ok)
            .any(|file| file.path().extension().is_some_and(|extension| extension == "ndjson"))
    })
}

fn query(place: &Place, flags: FilterFlags, output: Output) -> anyhow::Result<ExitCode> {
    let mut filter = flags.filter(clock::now())?;
    let mut printer = Printer::new(output);
    for dir in place.records()? {
        for entry in read::query(&dir, &filter)? {
            printer.print(&entry?)?;
            if let Some(left) = &mut filter.limit {
                *left -= 1;
            }
        }
        if filter.limit == Some(0) {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tail(place: &Place, lines: usize, once: bool, output: Output) -> anyhow::Result<ExitCode> {
    let records = place.records()?;
    let Some(dir) = records.last() else { bail!("no record") };
    let mut printer = Printer::new(output);
    let filter = Filter { tail: Some(lines), ..Filter::default() };
    let mut next = 1;
    for entry in read::query(dir, &filter)? {
        let entry = entry?;
        next = entry.seq + 1;
        printer.print(&entry)?;
    }
    if once {
        return Ok(ExitCode::SUCCESS);
    }
    let mut follow = read::follow(dir, next);
    loop {
        for entry in follow.poll()? {
            printer.print(&entry)?;
        }
        std::thread::sleep(LOOK);
    }
}

fn check(place: &Place, keys: &[String]) -> anyhow::Result<ExitCode> {
    let keys = keys.iter().map(|key| public_key(key)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut code = ExitCode::SUCCESS;
    for dir in place.records()? {
        match verify::verify(&dir, &keys) {
            Ok(found) => println!(
                "ok: {}: {} records in {} segments, {} checkpoints, {} after the last one",
                dir.display(),
                found.records,
                found.segments,
                found.checkpoints,
                found.unsigned_tail
            ),
            Err(broken) => {
                println!("broken: {broken}");
                code = ExitCode::from(1);
            }
        }
    }
    Ok(code)
}

fn public_key(hex: &str) -> anyhow::Result<VerifyingKey> {
    let hex = hex.trim();
    let byte = |at: usize| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    let bytes: [u8; 32] = bytes
        .and_then(|bytes| bytes.try_into().ok())
        .with_context(|| format!("`{hex}` is not a public key: 64 hex digits, as in `record.pub`"))?;
    VerifyingKey::from_bytes(&bytes).context("not a public key of Ed25519")
}

fn export(place: &Place) -> anyhow::Result<ExitCode> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for dir in place.records()? {
        for entry in read::query(&dir, &Filter::default())? {
            writeln!(out, "{}", entry?.line)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Prints entries as they come.
struct Printer {
    output: Output,
    headed: bool,
}

impl Printer {
    const fn new(output: Output) -> Self {
        Self { output, headed: false }
    }

    fn print(&mut self, entry: &Entry) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.output == Output::Json {
            return writeln!(out, "{}", entry.line);
        }
        if !self.headed {
            self.headed = true;
            writeln!(
                out,
                "{:<19}  {:<8}  {:<14}  {:<13}  {:<44}  WHY",
                "TIME", "PHASE", "DECISION", "POINT", "WHAT"
            )?;
        }
        writeln!(out, "{}", row(entry))
    }
}

fn row(entry: &Entry) -> String {
    let record = &entry.record;
    let time = record.time.to_string();
    let phase = match record.phase {
        Phase::Intent => "intent",
        Phase::Outcome => "outcome",
        Phase::Decision => "decision",
        Phase::Control => "control",
    };
    let decision = match (record.decision, record.status) {
        (Some(Decision::AllowWithConstraints), _) => "constrain".to_owned(),
        (Some(decision), _) => decision.as_str().to_owned(),
        (None, Some(status)) => status.to_string(),
        (None, None) => String::new(),
    };
    let what = match (&record.target.tool, &record.target.model) {
        (Some(tool), _) => tool.clone(),
        (None, Some(model)) => model.clone(),
        (None, None) => format!("{} {}{}", record.target.method, record.target.host, record.target.path),
    };
    let mut why = Vec::new();
    if !record.rule.is_empty() {
        why.push(format!("[{}]", record.rule));
    }
    why.extend(record.code.clone());
    if !record.reason.is_empty() {
        why.push(record.reason.clone());
    }
    if let Some(usage) = &record.usage {
        let about = if usage.estimated { "~" } else { "" };
        why.push(format!(
            "{about}{} in, {about}{} out",
            usage.input.unwrap_or_default(),
            usage.output.unwrap_or_default()
        ));
    }
    if let Some(cost) = record.cost_usd {
        why.push(format!("${cost}"));
    }
    let point = record.point.map_or("", |point| point.as_str());
    let time = time.get(..19).unwrap_or(&time);
    format!("{time:<19}  {phase:<8}  {decision:<14}  {point:<13}  {what:<44}  {}", why.join(" "))
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use sideguard_types::time::Timestamp;

    #[test]
    fn moments_are_dates_or_spans() {
        let now = Timestamp::parse("2026-11-23T10:00:00Z").expect("a valid time");
        let hour = super::moment("1h", now).expect("a span");
        assert_eq!(hour.to_string(), "2026-11-23T09:00:00.000000Z");
        assert!(super::moment("yesterday", now).is_err());
    }

    #[test]
    fn public_keys_are_64_hex_digits() {
        assert!(super::public_key("00").is_err() && super::public_key(&"zz".repeat(32)).is_err());
    }
}
