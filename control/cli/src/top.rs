//! `sideguard top`: what agents do now, by what their sidecars report every few seconds.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use sideguard_client::Client;
use sideguard_types::control::{Sidecar, Standing};
use sideguard_types::units::MicroUsd;

use crate::policy::Output;
use crate::remote::output::{put, put_as_is, put_json};
use crate::remote::table::table;
use crate::remote::{Outcome, Place, done};

/// How often a watched table is made anew.
const LOOK: Duration = Duration::from_secs(1);
const HEAD: [&str; 11] = [
    "TENANT", "AGENT", "SIDECARS", "STANDING", "CALLS", "DENIED", "TOKENS", "COST", "CALLS/S", "DENIED/S",
    "TOKENS/S",
];

/// Flags of `sideguard top`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sideguard top\n  sideguard top -w --tenant acme\n\n\
    Counts are since the sidecars' start; what is a second is over the last few of them. A sidecar that speaks for several \
    agents is one line.")]
pub(crate) struct Arguments {
    /// Goes on, the table made anew every second.
    #[arg(short, long)]
    watch: bool,
    /// Only of this tenant; all that the key sees when absent.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Form of the output; with --watch one JSON text a line.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// What an agent's sidecars do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    tenant: String,
    agent: String,
    sidecars: u64,
    standing: Standing,
    calls: u64,
    denied: u64,
    tokens: u64,
    /// In dollars.
    cost: String,
    #[serde(skip)]
    micros: u64,
    calls_per_second: f64,
    denied_per_second: f64,
    tokens_per_second: f64,
    breakers: Vec<String>,
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    done(top(&arguments).await)
}

async fn top(arguments: &Arguments) -> Outcome {
    let client = arguments.place.client()?;
    if !arguments.watch {
        let lines = look(&client, arguments).await?;
        return match arguments.output {
            Output::Json => put_json(&json!({ "items": lines })),
            Output::Text => put(&text(&lines)),
        };
    }
    let screen = std::io::IsTerminal::is_terminal(&std::io::stdout());
    loop {
        let lines = look(&client, arguments).await?;
        match arguments.output {
            Output::Json => put_as_is(&format!("{}\n", json!({ "items": lines })))?,
            Output::Text => {
                if screen {
                    // To the corner, and everything below it gone.
                    put_as_is("\x1b[H\x1b[J")?;
                }
                put(&text(&lines))?;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(client: &Client, arguments: &Arguments) -> Outcome<Vec<Line>> {
    Ok(lines(&client.sidecars(arguments.tenant.as_deref()).await?))
}

/// The busiest first.
fn lines(sidecars: &[Sidecar]) -> Vec<Line> {
    let mut lines: BTreeMap<(String, String), Line> = BTreeMap::new();
    for sidecar in sidecars {
        let agent = sidecar.report.agents.join(",");
        let line = lines.entry((sidecar.tenant.clone(), agent.clone())).or_insert_with(|| Line {
            tenant: sidecar.tenant.clone(),
            agent,
            sidecars: 0,
            standing: sidecar.standing,
            calls: 0,
            denied: 0,
            tokens: 0,
            cost: String::new(),
            micros: 0,
            calls_per_second: 0.0,
            denied_per_second: 0.0,
            tokens_per_second: 0.0,
            breakers: Vec::new(),
        });
        line.add(sidecar);
    }
    let mut lines: Vec<Line> = lines.into_values().collect();
    lines.sort_by(|one, other| {
        other.calls_per_second.total_cmp(&one.calls_per_second).then(other.calls.cmp(&one.calls))
    });
    lines
}

impl Line {
    fn add(&mut self, sidecar: &Sidecar) {
        let report = &sidecar.report;
        self.sidecars += 1;
        self.calls = self.calls.saturating_add(report.calls);
        self.denied = self.denied.saturating_add(report.denied);
        self.tokens = self.tokens.saturating_add(report.tokens);
        self.micros = self.micros.saturating_add(report.cost);
        self.cost = MicroUsd(self.micros).to_string();
        self.breakers.extend(report.breakers.iter().cloned());
        if sidecar.standing != Standing::Current {
            self.standing = sidecar.standing;
        }
        // What a sidecar did that is not heard of any more is not what it does now.
        if report.lately.millis > 0 && sidecar.standing != Standing::Lost {
            #[expect(clippy::cast_precision_loss, reason = "for people to read")]
            let rate = |count: u64| count as f64 * 1e3 / report.lately.millis as f64;
            self.calls_per_second += rate(report.lately.calls);
            self.denied_per_second += rate(report.lately.denied);
            self.tokens_per_second += rate(report.lately.tokens);
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.tenant.clone(),
            self.agent.clone(),
            self.sidecars.to_string(),
            self.standing.as_str().to_owned(),
            self.calls.to_string(),
            self.denied.to_string(),
            self.tokens.to_string(),
            format!("${}", self.cost),
            format!("{:.1}", self.calls_per_second),
            format!("{:.1}", self.denied_per_second),
            format!("{:.1}", self.tokens_per_second),
        ]
    }
}

fn text(lines: &[Line]) -> String {
    let mut text = table(&HEAD, &lines.iter().map(Line::cells).collect::<Vec<_>>());
    for line in lines.iter().filter(|line| !line.breakers.is_empty()) {
        text.push_str(&format!("{}/{}: {}\n", line.tenant, line.agent, line.breakers.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sideguard_types::control::Sidecar;

    use super::lines;

    fn sidecar(id: &str, agent: &str, standing: &str, calls: u64) -> Sidecar {
        serde_json::from_value(json!({
            "id": id, "tenant": "acme", "standing": standing, "seen": "2026-11-27T10:00:00Z", "agents": [agent],
            "version": "0.1.0", "generation": 1, "digest": "", "ready": true, "calls": calls, "denied": 1, "tokens": 10,
            "cost": 1_500_000, "lately": { "millis": 2_000, "calls": 4, "denied": 0, "tokens": 20 },
        }))
        .expect("a sidecar")
    }

    #[test]
    fn sidecars_of_one_agent_are_one_line_and_lost_ones_do_nothing_now() {
        let lines = lines(&[
            sidecar("1", "idle", "lost", 90),
            sidecar("2", "busy", "current", 5),
            sidecar("3", "busy", "stale", 6),
        ]);
        let busy = &lines[0];
        assert_eq!((busy.agent.as_str(), busy.sidecars, busy.calls, busy.tokens), ("busy", 2, 11, 20));
        assert_eq!((busy.cost.as_str(), busy.standing.as_str()), ("3", "stale"));
        assert!((busy.calls_per_second - 4.0).abs() < 1e-9 && (busy.tokens_per_second - 20.0).abs() < 1e-9);
        assert_eq!(lines[1].agent, "idle");
        assert!(lines[1].calls_per_second.abs() < 1e-9);
    }
}
