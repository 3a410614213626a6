//! `sideguard get`: what there is of a kind.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use sideguard_client::Client;

use crate::remote::kind::{Kind, labels};
use crate::remote::output::{Form, put, put_as_is, put_json, put_yaml};
use crate::remote::rows::{Row, Which, head, one, rows};
use crate::remote::table::Table;
use crate::remote::{Outcome, Place, done};

/// How often a watched listing is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Flags of `sideguard get`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard get policies\n  sideguard get agents --tenant acme -w\n  \
    sideguard get policy deletes --tenant acme -o yaml\n\nExit codes: 0 done, 1 there is no such thing.")]
pub(crate) struct Arguments {
    /// policies, budgets, toolcatalogs, agents, upstreams, sinks, workerpools, workflows, workers, sidecars, generations,
    /// kills or delegations.
    kind: Kind,
    /// Only the one of this name.
    name: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    /// Goes on and shows each change.
    #[arg(short, long)]
    watch: bool,
    /// Only of this tenant; all that the key sees when absent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only objects with these labels, as KEY=VALUE.
    #[arg(short = 'l', long = "labels", value_name = "KEY=VALUE", value_parser = labels)]
    labels: Vec<Vec<(String, String)>>,
    #[command(flatten)]
    place: Place,
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    done(get(arguments).await)
}

async fn get(arguments: Arguments) -> Outcome {
    let Arguments { kind, name, output, watch, tenant, labels, place } = arguments;
    let which = Which { name, tenant, labels: labels.into_iter().flatten().collect() };
    let client = place.client()?;
    let found = rows(&client, kind, &which).await?;
    let mut printer = Printer::new(kind, output, &found);
    if watch {
        return watched(&client, kind, &which, &mut printer, found).await;
    }
    one(kind, &which, &found)?;
    printer.all(&which, &found)
}

async fn watched(
    client: &Client,
    kind: Kind,
    which: &Which,
    printer: &mut Printer,
    mut found: Vec<Row>,
) -> Outcome {
    let mut known: BTreeMap<String, Row> = BTreeMap::new();
    loop {
        for row in &found {
            if known.get(&row.key).is_none_or(|before| before.mark != row.mark) {
                printer.change(row, "")?;
            }
        }
        let now: BTreeMap<String, Row> = found.into_iter().map(|row| (row.key.clone(), row)).collect();
        for (_, gone) in known.iter().filter(|(key, _)| !now.contains_key(*key)) {
            printer.change(gone, "(gone)")?;
        }
        known = now;
        tokio::time::sleep(LOOK).await;
        found = rows(client, kind, which).await?;
    }
}

/// Prints rows.
struct Printer {
    output: Form,
    head: Vec<&'static str>,
    table: Table,
    headed: bool,
}

impl Printer {
    fn new(kind: Kind, output: Form, rows: &[Row]) -> Self {
        let (all, narrow) = head(kind);
        let columns = if output == Form::Wide { all.len() } else { narrow };
        let head: Vec<&str> = all.iter().take(columns).copied().collect();
        let table = Table::new(&head, rows.iter().map(|row| row.cells.as_slice()));
        Self { output, head, table, headed: false }
    }

    /// A whole listing; the one thing that is named by itself.
    fn all(&mut self, which: &Which, rows: &[Row]) -> Outcome {
        let items: Vec<_> = rows.iter().map(|row| &row.item).collect();
        let alone = items.first().filter(|_| which.name.is_some() && items.len() == 1);
        match (self.output, alone) {
            (Form::Table | Form::Wide, _) if rows.is_empty() => {
                eprintln!("sideguard: nothing found");
                Ok(())
            }
            (Form::Table | Form::Wide, _) => {
                let lines: String = rows.iter().map(|row| self.line(&row.cells)).collect();
                put(&format!("{}{lines}", self.line(&self.head)))
            }
            (Form::Json, Some(item)) => put_json(item),
            (Form::Json, None) => put_json(&json!({ "items": items })),
            (Form::Yaml, Some(item)) => put_yaml(item),
            (Form::Yaml, None) => put_yaml(&json!({ "items": items })),
        }
    }

    /// One change of a watched listing.
    fn change(&mut self, row: &Row, note: &str) -> Outcome {
        match self.output {
            Form::Table | Form::Wide => {
                if !self.headed {
                    self.headed = true;
                    put(&self.line(&self.head))?;
                }
                let line = self.line(&row.cells);
                put(&if note.is_empty() { line } else { format!("{} {note}\n", line.trim_end()) })
            }
            Form::Json => {
                let mut item = row.item.clone();
                if !note.is_empty() {
                    item["gone"] = json!(true);
                }
                put_as_is(&format!("{item}\n"))
            }
            Form::Yaml => put("---\n").and_then(|()| put_yaml(&row.item)),
        }
    }

    fn line<S: AsRef<str>>(&self, cells: &[S]) -> String {
        self.table.line(cells.get(..self.head.len()).unwrap_or(cells))
    }
}
