//! Runs as text.

use sideguard_types::control::workflows::Summary;
use sideguard_types::time::Timestamp;
use sideguard_types::workflow::{Run, Step, StepState, Undo, Work};

use crate::remote::output::moment;
use crate::remote::table::{pairs, table};

/// Headings of a listing.
pub(super) const HEAD: [&str; 7] = ["ID", "TENANT", "WORKFLOW", "STATE", "STEPS", "STARTED", "TOOK"];
const STEPS: [&str; 5] = ["STEP", "STATE", "TRIES", "TOOK", "DETAIL"];
const TIMELINE: [&str; 4] = ["TIME", "STEP", "WHAT", "DETAIL"];

/// One line of a listing.
pub(super) fn row(run: &Summary) -> Vec<String> {
    vec![
        run.id.clone(),
        run.tenant.clone(),
        run.workflow.clone(),
        run.state.as_str().to_owned(),
        format!("{}/{}", run.over, run.steps),
        moment(run.created),
        took(Some(run.created), run.ended),
    ]
}

fn took(from: Option<Timestamp>, to: Option<Timestamp>) -> String {
    match (from, to) {
        (Some(from), Some(to)) => format!("{:.1}s", to.since(from).as_secs_f64()),
        _ => "-".to_owned(),
    }
}

/// All of a run: what it is, its steps, what was undone, and in wide form its timeline.
pub(super) fn whole(run: &Run, wide: bool) -> String {
    let mut about = vec![
        ("Run", run.id.clone()),
        ("Workflow", run.workflow.clone()),
        ("Tenant", run.tenant.clone()),
        ("State", run.state.as_str().to_owned()),
        ("Started", format!("{} by {}", moment(run.created), run.by)),
    ];
    about.extend(run.ended.map(|ended| ("Ended", moment(ended))));
    about.extend(run.rerun_of.clone().map(|old| ("Rerun of", old)));
    about.extend(run.error.clone().map(|error| ("Error", error)));
    about.extend((!run.input.is_null()).then(|| ("Input", run.input.to_string())));
    about.extend((!run.output.is_null()).then(|| ("Output", run.output.to_string())));
    let steps: Vec<Vec<String>> = run.steps.iter().map(step).collect();
    let mut text = format!("{}\n{}", pairs(&about), table(&STEPS, &steps));
    if !run.undo.is_empty() {
        let undone: Vec<Vec<String>> = run.undo.iter().map(undo).collect();
        text.push_str(&format!("\n{}", table(&["UNDONE", "STATE", "TRIES", "DETAIL"], &undone)));
    }
    if wide {
        text.push_str(&format!("\n{}", table(&TIMELINE, &timeline(run))));
    }
    text
}

fn step(step: &Step) -> Vec<String> {
    let tries: u32 = step.works.iter().map(|work| work.attempt).sum();
    let tries = if tries == 0 { "-".to_owned() } else { tries.to_string() };
    let state = step.state.as_str().to_owned();
    vec![step.id.clone(), state, tries, took(step.started, step.ended), detail(step)]
}

/// What matters most of a step now.
fn detail(step: &Step) -> String {
    if let Some(error) = &step.error {
        return error.clone();
    }
    if !step.items.is_empty() {
        let over = step.works.iter().filter(|work| work.state.is_over()).count();
        let failed = step.works.iter().filter(|work| work.state == StepState::Failed).count();
        let failed = if failed == 0 { String::new() } else { format!(", {failed} failed") };
        return format!("{over} of {} items{failed}", step.items.len());
    }
    let open = |work: &&Work| work.state.is_open();
    step.works.iter().find(open).map(underway).unwrap_or_default()
}

fn underway(work: &Work) -> String {
    match (&work.approval, &work.job, work.due) {
        (Some(approval), ..) => format!("approval {approval}"),
        (_, Some(job), _) if work.state == StepState::Running => format!("job {job}"),
        (.., Some(due)) => format!("until {}", moment(due)),
        _ => String::new(),
    }
}

fn undo(undo: &Undo) -> Vec<String> {
    let item = undo.item.map(|item| format!("[{item}]")).unwrap_or_default();
    let work = &undo.work;
    let detail = work.error.clone().unwrap_or_else(|| underway(work));
    vec![format!("{}{item}", undo.step), work.state.as_str().to_owned(), work.attempt.to_string(), detail]
}

fn timeline(run: &Run) -> Vec<Vec<String>> {
    let line = |moment: &sideguard_types::workflow::Moment| {
        let item = moment.item.map(|item| format!("[{item}]")).unwrap_or_default();
        let step = moment.step.as_ref().map_or_else(|| "-".to_owned(), |step| format!("{step}{item}"));
        vec![moment.time.to_string(), step, moment.what.clone(), moment.detail.clone()]
    };
    let mut lines: Vec<Vec<String>> = run.timeline.iter().map(line).collect();
    if run.left_out > 0 {
        let left_out =
            vec!["…".to_owned(), String::new(), format!("{} left out", run.left_out), String::new()];
        lines.insert(lines.len() / 2, left_out);
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sideguard_types::time::Timestamp;
    use sideguard_types::workflow::{Moment, Run, RunState, Step, StepState, Undo, Work};

    use super::whole;

    #[test]
    fn a_run_is_shown_with_its_steps_and_its_timeline() {
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        let work = |state| Work { state, attempt: 2, job: Some("j".to_owned()), ..Work::default() };
        let step = |id: &str, state, works| Step { id: id.to_owned(), state, works, ..Step::default() };
        let run = Run {
            id: "r".to_owned(),
            workflow: "refund".to_owned(),
            tenant: "acme".to_owned(),
            by: "ada".to_owned(),
            state: RunState::Compensating,
            input: json!({"order": 1}),
            steps: vec![
                Step {
                    started: Some(at(1)),
                    ended: Some(at(3)),
                    ..step("fetch", StepState::Succeeded, vec![work(StepState::Succeeded)])
                },
                Step {
                    items: vec![json!(1), json!(2)],
                    ..step(
                        "each",
                        StepState::Running,
                        vec![work(StepState::Succeeded), work(StepState::Running)],
                    )
                },
                step("pay", StepState::Running, vec![work(StepState::Running)]),
                Step {
                    error: Some("its `if` is false".to_owned()),
                    ..step("mail", StepState::Skipped, Vec::new())
                },
            ],
            undo: vec![Undo { step: "each".to_owned(), item: Some(0), work: work(StepState::Running) }],
            timeline: vec![Moment {
                time: at(1),
                step: Some("fetch".to_owned()),
                item: None,
                what: "started".to_owned(),
                detail: String::new(),
            }],
            ..Run::default()
        };
        let text = whole(&run, true);
        for line in [
            "State:     compensating",
            "STEP    STATE       TRIES   TOOK   DETAIL",
            "fetch   succeeded   2       2.0s",
            "each    running     4       -      1 of 2 items",
            "pay     running     2       -      job j",
            "mail    skipped     -       -      its `if` is false",
            "each[0]   running   2       job j",
            "1970-01-01T00:00:01.000000Z   fetch   started",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}\n{text}");
        }
    }
}
