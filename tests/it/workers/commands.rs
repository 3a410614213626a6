//! `sideguard worker`: a command for each job.

use std::path::Path;
use std::time::Duration;

use harness::command::command;
use harness::{Fake, Service};
use serde_json::{Value, json};
use sideguard_runtime::clock::Stopwatch;
use tokio::process::Child;

use super::{LOST, service, stands, submit};

/// Both ways to take a command's calls in.
const WAYS: [&str; 2] = ["env", "netns"];

/// A worker that runs a shell script for each job.
async fn working(service: &Service, state: &Path, flags: &[&str], script: &str) -> Child {
    let token = service.out(&["token"]).await;
    let file = service.dir().join(format!("{}.token", sideguard_runtime::id::token(8)));
    std::fs::write(&file, token).expect("a file");
    let (file, own) = (file.display().to_string(), state.display().to_string());
    let basis = ["worker", "--pool", "crm", "--agent", "enricher", "--control", service.url()];
    let state_flags = ["--token-file", &file, "--state", &own];
    let words = [&basis[..], &state_flags, flags, &["--", "sh", "-c", script]].concat();
    let mut command = command(state, &words);
    command.stderr(std::process::Stdio::inherit());
    command.spawn().expect("a start")
}

/// Ends a worker as an operator does, and waits for its end.
async fn terminate(mut worker: Child) -> Option<i32> {
    let pid = worker.id().expect("a process").to_string();
    let sent = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.expect("kill runs").success(), "the process is there");
    let ended = tokio::time::timeout(Duration::from_secs(60), worker.wait()).await;
    ended.expect("an end").expect("a status").code()
}

fn record(state: &Path) -> Vec<Value> {
    let files = std::fs::read_dir(state.join("spool")).expect("the record");
    let ours = files.map(|file| file.expect("a file").path());
    let ours = ours.filter(|path| path.extension().is_some_and(|kind| kind == "ndjson"));
    let texts = ours.map(|path| std::fs::read_to_string(path).expect("a segment"));
    texts
        .flat_map(|text| text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<_>>())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_does_each_job_and_what_it_prints_is_the_result() {
    for way in WAYS {
        let (service, state) = (service().await, tempfile::tempdir().expect("a directory"));
        let script = r#"
            case "$SIDEGUARD_JOB_TOPIC" in
              job.crm.echo) cat ;;
              job.crm.say) cat > /dev/null; echo "job $SIDEGUARD_JOB_ID, try $SIDEGUARD_JOB_ATTEMPT" ;;
              job.crm.wrong) echo "no such customer" >&2; exit 3 ;;
              job.crm.later) echo "not now" >&2; exit 75 ;;
              job.crm.much) head -c 5000000 /dev/zero ;;
            esac"#;
        let flags = ["--isolate", way, "--parallel", "2"];
        let worker = working(&service, state.path(), &flags, script).await;
        let (echo, said) = (
            submit(&service, &["job.crm.echo", "--input", r#"{"a": [1, "é"]}"#]).await,
            submit(&service, &["job.crm.say"]).await,
        );
        let (wrong, later, much) = (
            submit(&service, &["job.crm.wrong", "--retries", "3"]).await,
            submit(&service, &["job.crm.later", "--retries", "1"]).await,
            submit(&service, &["job.crm.much"]).await,
        );
        assert_eq!(stands(&service, &echo, "succeeded").await["result"], json!({"a": [1, "é"]}), "{way}");
        let told = json!(format!("job {said}, try 1"));
        assert_eq!(stands(&service, &said, "succeeded").await["result"], told, "{way}");
        let failed = stands(&service, &wrong, "failed").await;
        assert_eq!(
            (&failed["message"], &failed["attempts"]),
            (&json!("exit status 3: no such customer"), &json!(1))
        );
        let failed = stands(&service, &later, "failed").await;
        assert_eq!((&failed["message"], &failed["attempts"]), (&json!("exit status 75: not now"), &json!(2)));
        let failed = stands(&service, &much, "failed").await;
        assert_eq!(failed["message"], "its result is larger than 4 MiB", "{way}");
        assert_eq!(terminate(worker).await, Some(0), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commands_calls_are_known_as_its_jobs_and_end_with_it() {
    for way in WAYS {
        let (service, state, tool) =
            (service().await, tempfile::tempdir().expect("a directory"), Fake::json("{}").await);
        let port = tool.address().port().to_string();
        // The process that would make the second call outlives nothing.
        let script = format!(
            "curl -s -o /dev/null -d x {url}/one; sleep 600; curl -s -d x {url}/two",
            url = tool.url()
        );
        let flags = ["--isolate", way, "--local", &port, "--parallel", "2", "--drain", "1s"];
        let worker = working(&service, state.path(), &flags, &script).await;
        let jobs = [submit(&service, &["job.crm.one"]).await, submit(&service, &["job.crm.two"]).await];
        harness::until("both are at work", || tool.seen().len() == 2).await;
        for job in &jobs {
            harness::until("its call is on record", || {
                record(state.path())
                    .iter()
                    .any(|entry| entry["job"] == json!(job) && entry["phase"] == "outcome")
            })
            .await;
            service.out(&["job", "cancel", job]).await;
        }
        let since = Stopwatch::start();
        let id = submit(&service, &["job.crm.three"]).await;
        harness::until("there is room again", || tool.seen().len() == 3).await;
        assert!(since.elapsed() < LOST, "{way}");
        // A job that goes on beyond the time for the end is stopped.
        assert_eq!(terminate(worker).await, Some(0), "{way}");
        let failed = stands(&service, &id, "failed").await;
        assert_eq!(failed["message"], "stopped: the worker ends", "{way}");
    }
}

#[tokio::test]
async fn a_worker_without_pool_or_control_does_not_start() {
    let state = tempfile::tempdir().expect("a directory");
    let none = harness::command::sideguard(state.path(), &["worker", "--pool", "crm", "--", "true"]).await;
    assert_eq!(none.code, Some(125), "{}", none.err);
    assert!(none.err.contains("no control service is known"), "{}", none.err);
    let none = harness::command::sideguard(state.path(), &["worker", "--", "true"]).await;
    assert_eq!(none.code, Some(2), "{}", none.err);
}
