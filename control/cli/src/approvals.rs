//! `sideguard approvals`, `approve` and `deny`: calls that wait for people.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use sideguard_client::{Client, ClientError, Listing};
use sideguard_types::control::approvals::{Answer, Approval, Said, State};

use crate::policy::Output;
use crate::remote::output::{moment, put, put_as_is, put_json};
use crate::remote::table::{pairs, table};
use crate::remote::{Failure, Outcome, Place, done};

/// How often a watched listing is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Most approvals of a listing.
const MOST: usize = 1_000;

/// Flags of `sideguard approvals`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard approvals\n  sideguard approvals -w\n  sideguard approvals --status all -o json\n  \
    sideguard approvals 01a2b3c4d5e6f708192a3b4c\n\nWith an ID the request is shown as it would be sent, with all of its \
    arguments."
)]
pub(crate) struct List {
    /// Only the one of this id, with the whole request.
    id: Option<String>,
    /// Which ones.
    #[arg(long, value_enum, default_value_t = Which::Pending)]
    status: Which,
    /// Goes on and shows each change.
    #[arg(short, long, conflicts_with = "id")]
    watch: bool,
    /// Prints nothing but ids, as `approve` takes them.
    #[arg(short, long, conflicts_with_all = ["id", "watch", "output"])]
    quiet: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Which approvals are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// Those that wait for an answer.
    Pending,
    /// Those that are granted and not used.
    Approved,
    /// Those that were denied.
    Denied,
    /// Those that nobody answered or used in time.
    Expired,
    /// Those that a call has used.
    Consumed,
    /// All of them.
    All,
}

impl Which {
    const fn state(self) -> Option<State> {
        match self {
            Self::Pending => Some(State::Pending),
            Self::Approved => Some(State::Approved),
            Self::Denied => Some(State::Denied),
            Self::Expired => Some(State::Expired),
            Self::Consumed => Some(State::Consumed),
            Self::All => None,
        }
    }
}

/// Flags of `sideguard approve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sideguard approve 01a2b3c4d5e6f708192a3b4c --reason 'as agreed'\n\nThe call that waits goes \
    out, once; when it waits no longer, the same call passes once when it comes again. `sideguard approvals ID` shows it."
)]
pub(crate) struct Approve {
    #[command(flatten)]
    answer: Given,
}

/// Flags of `sideguard deny`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sideguard deny 01a2b3c4d5e6f708192a3b4c --reason 'not on a Friday'\n\nOne no is enough. A \
    grant that no call has used yet is taken back by it."
)]
pub(crate) struct Deny {
    #[command(flatten)]
    answer: Given,
}

#[derive(Debug, clap::Args)]
struct Given {
    /// Id of the approval.
    id: String,
    /// Why, for the agent's developer and those who ask later.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Runs `approve`.
pub(crate) async fn approve(arguments: Approve) -> ExitCode {
    done(answered(arguments.answer, Said::Approve).await)
}

/// Runs `deny`.
pub(crate) async fn deny(arguments: Deny) -> ExitCode {
    done(answered(arguments.answer, Said::Deny).await)
}

async fn answered(given: Given, verdict: Said) -> Outcome {
    let answer = Answer { verdict, reason: given.reason };
    let answered = given.place.client()?.answer_approval(&given.id, &answer).await;
    let approval = answered.map_err(|error| {
        let over = matches!(&error, ClientError::Refused(problem) if problem.status == 409);
        let failure = Failure::from(error);
        if over {
            failure.hint(format!("`sideguard approvals {}` shows how it stands", given.id))
        } else {
            failure
        }
    })?;
    match given.output {
        Output::Json => put_json(&approval),
        Output::Text => put(&format!("{} {}\n", approval.id, tally(&approval))),
    }
}

/// Runs `approvals`.
pub(crate) async fn list(arguments: List) -> ExitCode {
    done(listed(arguments).await)
}

async fn listed(arguments: List) -> Outcome {
    let List { id, status, watch, quiet, output, place } = arguments;
    let client = place.client()?;
    if let Some(id) = id {
        let approval = client.approval(&id).await?;
        return match output {
            Output::Json => put_json(&approval),
            Output::Text => put(&whole(&approval)),
        };
    }
    if watch {
        return watched(&client, status, output).await;
    }
    let found = all(&client, status).await?;
    if quiet {
        return put(&found.iter().map(|approval| format!("{}\n", approval.id)).collect::<String>());
    }
    match output {
        Output::Json => put_json(&serde_json::json!({ "items": found })),
        Output::Text if found.is_empty() => {
            eprintln!("sideguard: nothing found");
            Ok(())
        }
        Output::Text => put(&table(&HEAD, &found.iter().map(row).collect::<Vec<_>>())),
    }
}

async fn all(client: &Client, which: Which) -> Outcome<Vec<Approval>> {
    let mut found = Vec::new();
    let mut part = Listing::default();
    loop {
        let page = client.approvals(which.state(), &part).await?;
        found.extend(page.items);
        match page.next {
            Some(next) if found.len() < MOST => part.after = Some(next),
            _ => return Ok(found),
        }
    }
}

async fn watched(client: &Client, which: Which, output: Output) -> Outcome {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    if output == Output::Text {
        put(&table(&HEAD, &[]))?;
    }
    loop {
        let found = all(client, which).await?;
        // The oldest first: what is new stands at the end.
        for approval in found.iter().rev() {
            let mark = tally(approval);
            if known.get(&approval.id) == Some(&mark) {
                continue;
            }
            match output {
                Output::Json => {
                    let line = serde_json::to_string(approval).unwrap_or_default();
                    put_as_is(&format!("{line}\n"))?;
                }
                Output::Text => put(&format!("{}\n", row(approval).join("   ")))?,
            }
            known.insert(approval.id.clone(), mark);
        }
        known.retain(|id, _| found.iter().any(|approval| approval.id == *id));
        tokio::time::sleep(LOOK).await;
    }
}

const HEAD: [&str; 7] = ["ID", "STATE", "AGENT", "RULE", "CALL", "CREATED", "EXPIRES"];

fn row(approval: &Approval) -> Vec<String> {
    let Approval { tenant, agent, rule, id, created, expires, .. } = approval;
    vec![
        id.clone(),
        tally(approval),
        format!("{tenant}/{agent}"),
        rule.clone(),
        call(approval),
        moment(*created),
        moment(*expires),
    ]
}

/// What would be done, in a few words.
fn call(approval: &Approval) -> String {
    let Approval { method, host, path, tool, .. } = approval;
    tool.as_ref().map_or_else(|| format!("{method} {host}{path}"), |tool| format!("{tool} at {host}"))
}

/// Where it stands, with the count of yeses where several are needed.
fn tally(approval: &Approval) -> String {
    let yes = approval.votes.iter().filter(|vote| vote.verdict == Said::Approve).count();
    match (approval.state, approval.quorum) {
        (State::Pending, 2..) => format!("pending {yes}/{}", approval.quorum),
        (state, _) => state.as_str().to_owned(),
    }
}

/// All of one approval, the request as it would be sent at its end.
fn whole(approval: &Approval) -> String {
    let chain = || [approval.chain.as_slice(), std::slice::from_ref(&approval.agent)].concat().join(" > ");
    let mut facts = vec![
        ("Id", approval.id.clone()),
        ("State", tally(approval)),
        ("Agent", format!("{}/{}", approval.tenant, approval.agent)),
        ("Rule", approval.rule.clone()),
        ("Reason", approval.reason.clone()),
        ("Point", approval.point.clone()),
        ("Topic", approval.topic.clone()),
        ("Created", moment(approval.created)),
        ("Expires", moment(approval.expires)),
        ("Call", approval.call.clone()),
        ("Sidecar", approval.sidecar.clone()),
        ("Hash", approval.hash.clone()),
        ("Policy", approval.policy_digest.clone()),
    ];
    let mut more = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    more("Chain", (!approval.chain.is_empty()).then(chain));
    more("Tool", approval.tool.clone());
    more("Model", approval.model.clone());
    more("Note", approval.note.clone());
    more(
        "Used",
        approval.used.as_ref().map(|used| format!("by call {} at {}", used.call, moment(used.time))),
    );
    let mut text = pairs(&facts);
    for vote in &approval.votes {
        let why = vote.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let line = format!("{} at {}: {}{why}", vote.by, moment(vote.time), vote.verdict.as_str());
        text.push_str(&pairs(&[("Vote", line)]));
    }
    text.push_str(&format!(
        "\n{} {}://{}{}\n",
        approval.method, approval.scheme, approval.host, approval.path
    ));
    for (name, value) in &approval.headers {
        text.push_str(&format!("{name}: {}\n", value.replace('\n', " ")));
    }
    match &approval.arguments {
        Value::Null => {}
        Value::String(plain) => text.push_str(&format!("\n{plain}\n")),
        json => text.push_str(&format!("\n{json:#}\n")),
    }
    if !approval.constraints.is_null() {
        text.push_str(&format!("\nPolicy changes before it is sent:\n{:#}\n", approval.constraints));
    }
    text
}
