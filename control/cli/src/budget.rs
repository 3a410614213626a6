//! `sideguard budget`: how the fleet's budgets stand.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use sideguard_types::control::budgets::Account;

use crate::policy::Output;
use crate::remote::output::{moment, put, put_as_is, put_json};
use crate::remote::table::table;
use crate::remote::{Outcome, Place, done};

/// How often a watched listing is shown anew.
const LOOK: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";
const HEAD: [&str; 10] =
    ["TENANT", "BUDGET", "ACCOUNT", "UNIT", "LIMIT", "SPENT", "HELD", "LEFT", "RESET", "ALERT"];

/// Flags of `sideguard budget`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard budget\n  sideguard budget --tenant acme -w\n  sideguard budget -o json\n\n\
    HELD is what sidecars hold on lease: they may have spent it already. `*` is a budget of all tenants."
)]
pub(crate) struct Arguments {
    /// Only of this tenant; all that the key sees when absent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Goes on and shows them anew every second.
    #[arg(short, long)]
    watch: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    done(budget(&arguments).await)
}

async fn budget(arguments: &Arguments) -> Outcome {
    let client = arguments.place.client()?;
    loop {
        let accounts = client.budgets(arguments.tenant.as_deref()).await?;
        match arguments.output {
            Output::Json if arguments.watch => put_as_is(&format!("{}\n", json!({ "items": accounts })))?,
            Output::Json => put_json(&json!({ "items": accounts }))?,
            Output::Text => {
                if arguments.watch && std::io::stdout().is_terminal() {
                    put_as_is(CLEAR)?;
                }
                show(&accounts)?;
            }
        }
        if !arguments.watch {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn show(accounts: &[Account]) -> Outcome {
    if accounts.is_empty() {
        eprintln!("sideguard: there are no budgets");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = accounts.iter().map(row).collect();
    put(&table(&HEAD, &rows))
}

fn row(account: &Account) -> Vec<String> {
    let Account { tenant, budget, unit, key, limit, spent, held, left, window, reset_at, alert, .. } =
        account;
    let limit = window.as_ref().map_or_else(|| limit.clone(), |window| format!("{limit}/{window}"));
    let reset = reset_at.map(moment).unwrap_or_default();
    let alert = alert.map(|share| format!("{:.0}%", share * 100.0)).unwrap_or_default();
    let key = if key.is_empty() { "-" } else { key };
    [tenant, budget, key, unit.as_str(), &limit, spent, held, left, &reset, &alert]
        .map(ToString::to_string)
        .to_vec()
}
