//! `sideguard run`: one command under a sidecar of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::command::{Ran, command, ran, sideguard};
use harness::fake::Fake;
use harness::{model, setting};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

const SEED: &str = include_str!("../../policies/bundles/safety.yaml");

fn state() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Both ways to take a command's calls in, where what is tested does not depend on it.
const WAYS: [&str; 2] = ["env", "netns"];

/// Runs a shell script under `sideguard run` with flags; it goes through the proxy by itself, to servers on this host.
async fn script(state: &Path, flags: &[&str], script: &str) -> Ran {
    let own = ["run", "--isolate", "env", "--private", "127.0.0.1"];
    sideguard(state, &[&own[..], flags, &["--", "sh", "-c", script]].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_exit_status_is_passed_on() {
    let state = state();
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("not-executable");
    std::fs::write(&file, "text").expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    for way in WAYS {
        let run = ["run", "--isolate", way, "--"];
        for (command, code) in [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
        {
            let ran = sideguard(state.path(), &[&run[..], &["sh", "-c", command]].concat()).await;
            assert_eq!(ran.code, Some(code), "{way} {command}: {}", ran.err);
            assert!(ran.err.contains("sideguard: 0 calls, 0 denied, 0 tokens"), "{}", ran.err);
        }
        let missing = sideguard(state.path(), &[&run[..], &["/no/such/command"]].concat()).await;
        assert_eq!(missing.code, Some(127), "{}", missing.err);
        let barred = sideguard(state.path(), &[&run[..], &[&file.display().to_string()]].concat()).await;
        assert_eq!(barred.code, Some(126), "{}", barred.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_policy_is_64_and_a_failure_of_our_own_125_and_neither_runs_the_command() {
    let state = state();
    let mark = state.path().join("mark");
    let touch = format!("touch {}", mark.display());
    let bad = state.path().join("bad.yaml");
    std::fs::write(&bad, "version: v1\nrules:\n- id: block-destructive\nmatch:\n").expect("a file");
    let bad = bad.display().to_string();
    let empty = state.path().join("empty");
    std::fs::create_dir(&empty).expect("a directory");
    let empty = empty.display().to_string();
    for flags in [
        &["-f", bad.as_str()][..],
        &["-f", "/no/such/file"],
        &["-f", &empty],
        &["--budget", "euros=3"],
        &["--agent", "Bad Name!"],
    ] {
        let ran = script(state.path(), flags, &touch).await;
        assert_eq!(ran.code, Some(64), "{flags:?}: {}", ran.err);
        assert!(ran.err.starts_with("sideguard: "), "{}", ran.err);
        assert_eq!(ran.err.matches("os error").count(), usize::from(ran.err.contains("/no/such/file")));
    }
    for flags in [&["--state", "/proc/no"][..], &["--control", "http://127.0.0.1:1"]] {
        let ran = script(state.path(), flags, &touch).await;
        assert_eq!(ran.code, Some(125), "{flags:?}: {}", ran.err);
    }
    assert_eq!(sideguard(state.path(), &["run"]).await.code, Some(2), "a usage error");
    assert!(!mark.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_finds_the_proxy_and_its_roots_in_the_environment_and_no_key() {
    let state = state();
    let own = state.path().display().to_string();
    let mut command = command(state.path(), &["run", "--isolate", "env", "--state", &own, "--", "env", "-0"]);
    command.env("OPENAI_API_KEY", "canary-upstream-key").env("NO_PROXY", "*").env("no_proxy", "127.0.0.1");
    let ran = ran(command).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let variable = |name: &str| {
        let mut all = ran.out.split('\0').filter_map(|pair| pair.split_once('='));
        all.find(|(found, _)| *found == name).map(|(_, value)| value)
    };
    let proxy = variable("HTTPS_PROXY").expect("a proxy");
    assert!(proxy.starts_with("http://127.0.0.1:"), "{proxy}");
    for name in ["HTTP_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        assert_eq!(variable(name), Some(proxy), "{name}");
    }
    assert_eq!(
        (variable("NO_PROXY"), variable("no_proxy"), variable("NODE_USE_ENV_PROXY")),
        (None, None, Some("1"))
    );
    let bundle = state.path().join("ca/bundle.pem").display().to_string();
    for name in [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "AWS_CA_BUNDLE",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "GIT_SSL_CAINFO",
        "DENO_CERT",
        "PIP_CERT",
        "CARGO_HTTP_CAINFO",
        "HTTPLIB2_CA_CERTS",
        "NIX_SSL_CERT_FILE",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    ] {
        assert_eq!(variable(name), Some(bundle.as_str()), "{name}");
    }
    assert_eq!(variable("SSL_CERT_DIR"), Some(state.path().join("ca").display().to_string().as_str()));
    assert!(std::fs::read_to_string(&bundle).is_ok_and(|pem| pem.contains("BEGIN CERTIFICATE")));
    assert!(variable("OPENAI_API_KEY").is_some_and(|key| !key.is_empty() && key != "canary-upstream-key"));
    assert!(!ran.out.contains("canary") && !ran.err.contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_a_policy_file_names_stays_with_the_sidecar() {
    let (state, place) = (state(), tempfile::tempdir().expect("a directory"));
    let file = place.path().join("policy.yaml");
    let upstream = "apiVersion: sideguard.dev/v1\nkind: Upstream\nmetadata: {name: crm}\nspec: {baseUrl: \"http://127.0.0.1:1\", \
        credential: {header: authorization, value: \"Bearer ${env:CRM_TOKEN}\"}}\n---\n";
    std::fs::write(&file, format!("{upstream}{}", harness::sidecar::ALLOW)).expect("a file");
    for way in WAYS {
        let file = file.display().to_string();
        let run =
            ["run", "--isolate", way, "-f", &file, "--", "sh", "-c", "echo $CRM_TOKEN; cat /proc/*/environ"];
        let mut command = command(state.path(), &run);
        // The command and its own ancestors inside: nobody there has ever held it.
        command.env("CRM_TOKEN", "canary-crm-token");
        let ran = ran(command).await;
        assert_eq!(ran.out.lines().next(), Some("sideguard"), "{way}: {}", ran.err);
        assert!(way == "env" || !ran.out.contains("canary"), "{}", ran.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_not_written_through_a_link() {
    let (state, place) = (state(), tempfile::tempdir().expect("a directory"));
    let (target, report) = (place.path().join("target"), place.path().join("report.json"));
    std::fs::write(&target, "kept").expect("a file");
    let swap = format!("rm {0}; ln -s {1} {0}", report.display(), target.display());
    let ran = script(state.path(), &["--report", &report.display().to_string()], &swap).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(&target).expect("the file"), "kept");
    let ran = script(state.path(), &["--report", &report.display().to_string()], "true").await;
    assert_eq!(ran.code, Some(125), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_is_ignored_stays_ignored() {
    let state = state();
    for way in WAYS {
        let own = format!(
            "trap '' HUP; exec {} run --isolate {way} -- sh -c 'echo ready; read word; exit 5'",
            harness::sidecar::binary().display()
        );
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", &own]).env("SIDEGUARD_STATE", state.path()).kill_on_drop(true);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("a start");
        let mut ready = [0; 6];
        child.stdout.take().expect("standard output").read_exact(&mut ready).await.expect("a word");
        let pid = child.id().expect("a process").to_string();
        assert!(
            std::process::Command::new("kill").args(["-HUP", &pid]).status().expect("kill runs").success()
        );
        drop(child.stdin.take());
        let status = tokio::time::timeout(std::time::Duration::from_secs(20), child.wait()).await;
        assert_eq!(status.expect("an end").expect("a status").code(), Some(5), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_command() {
    let state = state();
    let signals = [("TERM", 41), ("HUP", 42), ("USR1", 43), ("INT", 44)];
    for (way, (name, number)) in WAYS.into_iter().flat_map(|way| signals.map(|signal| (way, signal))) {
        let script = format!("trap 'exit {number}' {name}; echo ready; while :; do sleep 0.05; done");
        let mut command = command(state.path(), &["run", "--isolate", way, "--", "sh", "-c", &script]);
        let mut child = command.spawn().expect("a start");
        let mut ready = [0; 6];
        child.stdout.take().expect("standard output").read_exact(&mut ready).await.expect("a word");
        let pid = child.id().expect("a process").to_string();
        let sent =
            std::process::Command::new("kill").args([format!("-{name}"), pid]).status().expect("kill runs");
        assert!(sent.success());
        let status = tokio::time::timeout(std::time::Duration::from_secs(20), child.wait()).await;
        assert_eq!(status.expect("an end").expect("a status").code(), Some(number), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_agents_work_but_cannot_destroy() {
    let fake = Fake::start(None, |seen| {
        if seen.target.contains("chat") {
            model::json(model::completion("ok", 12, 7))
        } else {
            model::json("{}")
        }
    })
    .await;
    let (state, url) = (state(), fake.url());
    let report = state.path().join("report.json");
    let chat = model::ask("hi", "");
    let script_text = format!(
        "c() {{ curl -s -o /dev/null -w '%{{http_code}} ' \"$@\"; }}
         c -H 'content-type: application/json' -d '{chat}' {url}/v1/chat/completions
         c {url}/customers/1
         c -X POST -d name=x {url}/customers
         c -X DELETE {url}/customers/1"
    );
    let ran =
        script(state.path(), &["--agent", "worker", "--report", &report.display().to_string()], &script_text)
            .await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "200 200 200 403 "), "{}", ran.err);
    assert_eq!(fake.seen().len(), 3);
    assert!(ran.err.contains("deny  tool.call DELETE"), "{}", ran.err);
    assert!(ran.err.contains("[starter/no-destruction]"), "{}", ran.err);
    assert!(ran.err.contains("sideguard: 3 calls, 1 denied, 19 tokens, $0.0"), "{}", ran.err);
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(&report).expect("a report")).expect("JSON");
    assert_eq!((&report["calls"], &report["denied"]), (&json!(3), &json!(1)));
    assert_eq!(report["tokens"], json!({"input": 12, "output": 7, "estimated": false}));
    assert!(report["cost_usd"].as_str().is_some_and(|usd| usd.starts_with("0.0")));
    assert!(Path::new(report["record"].as_str().expect("a path")).is_dir());
    let found =
        sideguard(state.path(), &["audit", "query", "--decision", "deny", "--agent", "worker", "-o", "json"])
            .await;
    let lines: Vec<&str> = found.out.lines().collect();
    assert_eq!((found.code, lines.len()), (Some(0), 1), "{}", found.err);
    assert!(lines[0].contains("/customers/1"));
    assert_eq!(sideguard(state.path(), &["audit", "verify"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_give_policy_and_budget() {
    let fake = Fake::json("{}").await;
    let (state, url) = (state(), fake.url());
    let allow = state.path().join("allow.yaml");
    std::fs::write(&allow, setting::policy("allow", "  default_decision: allow\n")).expect("a file");
    let safety = state.path().join("safety.yaml");
    std::fs::write(&safety, SEED).expect("a file");
    let (allow, safety) = (allow.display().to_string(), safety.display().to_string());
    let calls = format!("for n in 1 2; do curl -s -o /dev/null -w '%{{http_code}} ' {url}/$n; done");
    let ran = script(state.path(), &["-f", &allow, "-f", &safety, "--budget", "calls=1"], &calls).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "200 402 "), "{}", ran.err);
    assert!(ran.err.contains("budget `run` has no room"), "{}", ran.err);
    let ran = script(state.path(), &["-f", &safety], &calls).await;
    assert_eq!(ran.out, "403 403 ", "the starter policy does not stand beside one that is given");
    assert_eq!(fake.seen().len(), 1);
}
