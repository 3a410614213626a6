//! The record as control has it.

use std::collections::HashSet;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use sideguard_client::{Client, ClientError, Records};
use sideguard_record::read::Entry as Line;
use sideguard_runtime::clock;
use sideguard_types::control::records::Entry;

use super::{FilterFlags, Output, Place, Printer};
use crate::remote::{Failure, OWN_FAILURE, Outcome, done};

/// Entries that are asked for at once.
const PAGE: usize = 500;

impl FilterFlags {
    /// The same question, to control.
    fn records(self) -> anyhow::Result<(Records, Option<usize>)> {
        let limit = self.limit;
        let (tenant, sidecar) = (self.tenant.clone(), self.sidecar.clone());
        let filter = self.filter(clock::now())?;
        let text =
            |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let records = Records {
            from: filter.since.map(|time| time.to_string()),
            to: filter.until.map(|time| time.to_string()),
            tenant,
            agent: filter.agent,
            decision: text(filter.decision.map(|value| serde_json::json!(value))),
            rule: filter.rule,
            topic: filter.topic,
            call: filter.call,
            sidecar,
            phase: text(filter.phase.map(|value| serde_json::json!(value))),
            point: text(filter.point.map(|value| serde_json::json!(value))),
            after: None,
            limit: Some(limit.unwrap_or(PAGE).clamp(1, PAGE)),
        };
        Ok((records, limit))
    }
}

/// `audit query --fleet`.
pub(super) async fn query(place: Place, flags: FilterFlags, output: Output) -> ExitCode {
    done(queried(place, flags, output).await)
}

async fn queried(place: Place, flags: FilterFlags, output: Output) -> Outcome {
    let (mut which, limit) = flags.records().map_err(|error| Failure::new(2, error.to_string()))?;
    let client = place.client()?;
    let mut printer = Printer::new(output);
    let mut left = limit.unwrap_or(usize::MAX);
    loop {
        let page = client.records(&which).await?;
        for entry in page.items.into_iter().take(left) {
            left -= 1;
            show(&mut printer, &entry)?;
        }
        which.after = page.next;
        if left == 0 || which.after.is_none() {
            return Ok(());
        }
    }
}

/// `audit tail --fleet`.
pub(super) async fn tail(place: Place, lines: usize, once: bool, output: Output) -> ExitCode {
    done(tailed(place, lines, once, output).await)
}

async fn tailed(place: Place, lines: usize, once: bool, output: Output) -> Outcome {
    let client = place.client()?;
    let mut printer = Printer::new(output);
    // Watched first and asked then, so that nothing falls between.
    let watch = if once { None } else { Some(client.watch(&Records::default()).await?) };
    let mut shown = HashSet::new();
    for entry in newest(&client, lines).await?.into_iter().rev() {
        show(&mut printer, &entry)?;
        shown.insert((entry.tenant, entry.sidecar, entry.position));
    }
    let Some(mut watch) = watch else { return Ok(()) };
    while let Some(entry) = watch.next().await? {
        let known =
            !shown.is_empty() && shown.remove(&(entry.tenant.clone(), entry.sidecar.clone(), entry.position));
        if !known {
            show(&mut printer, &entry)?;
        }
    }
    Err(Failure::new(OWN_FAILURE, "control has ended the stream").hint("start it again"))
}

/// The newest entries, the newest first.
async fn newest(client: &Client, most: usize) -> Result<Vec<Entry>, ClientError> {
    let mut which = Records { limit: Some(most.clamp(1, PAGE)), ..Records::default() };
    let mut found = Vec::new();
    while found.len() < most {
        let page = client.records(&which).await?;
        found.extend(page.items);
        which.after = page.next;
        if which.after.is_none() {
            break;
        }
    }
    found.truncate(most);
    Ok(found)
}

/// `audit export --fleet`: one sidecar after the other, each in order.
pub(super) async fn export(place: Place, sidecar: Option<String>) -> ExitCode {
    done(exported(place, sidecar).await)
}

async fn exported(place: Place, sidecar: Option<String>) -> Outcome {
    let client = place.client()?;
    let mut journals = client.journals().await?;
    journals.retain(|journal| sidecar.as_ref().is_none_or(|wanted| *wanted == journal.sidecar));
    if let Some(sidecar) = sidecar.filter(|_| journals.is_empty()) {
        return Err(Failure::new(
            crate::remote::FOUND,
            format!("control has no record of a sidecar `{sidecar}`"),
        ));
    }
    for journal in journals {
        let mut next = Some(journal.first.to_string());
        while let Some(from) = next {
            let page = client.journal(&journal.sidecar, &journal.tenant, &from).await?;
            let text: String = page.items.iter().map(|entry| format!("{}\n", entry.record.get())).collect();
            written(std::io::stdout().lock().write_all(text.as_bytes()))?;
            next = page.next;
        }
    }
    Ok(())
}

fn show(printer: &mut Printer, entry: &Entry) -> Outcome {
    let line = Line::parse(entry.record.get().as_bytes())
        .map_err(|error| Failure::new(OWN_FAILURE, format!("control sent what is no record: {error}")))?;
    written(printer.print(&line))
}

/// A reader that has read enough is no failure to tell of.
fn written(result: std::io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::default()),
        Err(error) => Err(Failure::new(OWN_FAILURE, format!("cannot write to standard output: {error}"))),
    }
}
