//! Jobs in lines and in whole.

use sideguard_types::job::{Job, JobEvent};

use crate::remote::output::moment;
use crate::remote::table::{pairs, table};

/// Headings of a listing.
pub(super) const HEAD: [&str; 8] =
    ["ID", "TENANT", "TOPIC", "STATE", "REASON", "WORKER", "ATTEMPTS", "CREATED"];

/// A job in one line.
pub(super) fn row(job: &Job) -> Vec<String> {
    let held = job.hold.as_ref().filter(|_| job.state.is_leased());
    vec![
        job.id.clone(),
        job.tenant.clone(),
        job.spec.topic.clone(),
        job.state.as_str().to_owned(),
        job.reason.map_or("-", |reason| reason.as_str()).to_owned(),
        held.map_or_else(|| "-".to_owned(), |hold| hold.agent.clone()),
        job.attempts.to_string(),
        moment(job.created),
    ]
}

/// All that is known of a job.
pub(super) fn whole(job: &Job) -> String {
    let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
    let by = if job.by.person { format!("{} (a person)", job.by.name) } else { job.by.name.clone() };
    let chain: Vec<&str> = job.by.chain.iter().map(String::as_str).chain([by.as_str()]).collect();
    let worker =
        job.hold.as_ref().map(|hold| format!("{} ({}, pool {})", hold.agent, hold.worker, hold.pool));
    let large = |large: Option<u64>, inline: &serde_json::Value| match large {
        Some(bytes) => format!("{bytes} bytes: `sideguard job get {} --only …` prints it", job.id),
        None if inline.is_null() => "-".to_owned(),
        None => inline.to_string(),
    };
    let mut shown = pairs(&[
        ("Id", job.id.clone()),
        ("Tenant", job.tenant.clone()),
        ("Topic", job.spec.topic.clone()),
        ("By", chain.join(" > ")),
        ("State", job.state.as_str().to_owned()),
        ("Reason", text(job.reason.map(|reason| reason.as_str()))),
        ("Message", text(Some(&job.message))),
        ("Worker", text(worker.as_deref())),
        ("Attempts", job.attempts.to_string()),
        ("Approval", text(job.approval.as_deref())),
        ("Input", large(job.large_input.as_ref().map(|large| large.bytes), &job.spec.input)),
        ("Progress", large(None, &job.progress)),
        ("Result", large(job.large_result.as_ref().map(|large| large.bytes), &job.result)),
    ]);
    shown.push('\n');
    shown.push_str(&table(&["TIME", "STATE", "REASON", "WORKER", "EPOCH"], &events(&job.events)));
    shown
}

fn events(events: &[JobEvent]) -> Vec<Vec<String>> {
    let line = |event: &JobEvent| {
        vec![
            event.time.to_string(),
            event.state.as_str().to_owned(),
            event.reason.map_or("-", |reason| reason.as_str()).to_owned(),
            event.worker.clone().unwrap_or_else(|| "-".to_owned()),
            event.epoch.to_string(),
        ]
    };
    events.iter().map(line).collect()
}
