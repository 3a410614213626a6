//! The verbs that ask a control service, each through the built binary against a fake one.

use std::time::Duration;

use harness::command::{Ran, command, ran, sideguard};
use harness::control::{Control, KEY, sidecar};
use insta::assert_snapshot;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

const OBJECTS: &str = "\
apiVersion: sideguard.dev/v1
kind: Policy
metadata: {name: deletes, tenant: acme, labels: {app: crm}}
spec:
  default_decision: allow
  rules:
    - {id: no-deletes, match: {topics: [\"job.*.delete\"]}, decision: deny, reason: never}
---
apiVersion: sideguard.dev/v1
kind: Budget
metadata: {name: daily, tenant: acme, labels: {app: crm, team: data}}
spec: {limits: [{unit: tokens, amount: 100000, window: 1d}, {unit: usd, amount: 20, window: month, per: agent}]}
---
apiVersion: sideguard.dev/v1
kind: Agent
metadata: {name: reader, tenant: acme, labels: {team: data}}
spec: {capabilities: [\"read:job.*\"]}
---
apiVersion: sideguard.dev/v1
kind: Upstream
metadata: {name: crm, tenant: acme}
spec: {baseUrl: \"https://crm.acme.com\"}
---
apiVersion: sideguard.dev/v1
kind: ToolCatalog
metadata: {name: crm-tools, tenant: acme}
spec: {tools: [{tool: drop_table, risk_tags: [destructive]}]}
";

/// A fake control service and the directory of a user who works with it.
struct Setting {
    control: Control,
    state: TempDir,
}

impl Setting {
    async fn new() -> Self {
        let control = Control::start(None).await;
        let state = tempfile::tempdir().expect("a directory");
        let ports = json!({ "control": control.url(), "operator_key_file": "operator.key" });
        std::fs::write(state.path().join("ports.json"), ports.to_string()).expect("a file");
        std::fs::write(state.path().join("operator.key"), format!("{KEY}\n")).expect("a file");
        Self { control, state }
    }

    /// One with the objects of the test applied.
    async fn applied() -> Self {
        let setting = Self::new().await;
        setting.file("objects.yaml", OBJECTS);
        assert_eq!(setting.run(&["apply", "-f", "objects.yaml"]).await.code, Some(0));
        setting
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.state.path().join(name), text).expect("a file");
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = command(self.state.path(), arguments);
        command.current_dir(self.state.path());
        ran(command).await
    }

    /// What a command prints that succeeds.
    async fn out(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.err);
        ran.out
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let out = self.out(&[arguments, &["-o", "json"]].concat()).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {out}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_tells_what_became_of_each_object() {
    let setting = Setting::new().await;
    setting.file("objects.yaml", OBJECTS);
    let apply = ["apply", "-f", "objects.yaml"];
    assert_snapshot!("apply_dry", setting.out(&[&apply[..], &["--dry-run"]].concat()).await);
    assert_snapshot!("apply", setting.out(&apply).await);
    let again = setting.out(&apply).await;
    assert!(again.lines().filter(|line| line.ends_with(" unchanged")).count() == 5, "{again}");
    assert!(again.contains("generation 1 sha256:"), "{again}");
    let told = setting.json(&apply).await;
    assert_eq!((&told["generation"], told["changes"].as_array().map(Vec::len)), (&json!(1), Some(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_and_standard_input_are_applied() {
    let setting = Setting::new().await;
    std::fs::create_dir(setting.state.path().join("policies")).expect("a directory");
    setting.file("policies/a.yaml", "version: v1\nrules: [{id: a, decision: deny}]\n");
    setting.file("policies/notes.txt", "no YAML");
    let out = setting.out(&["apply", "-f", "policies"]).await;
    assert_eq!(out, "policy/default/a created\ngeneration 1 sha256:00000001\n");
    let mut piped = command(setting.state.path(), &["apply", "-f", "-"]);
    let input = std::fs::File::create_new(setting.state.path().join("input")).expect("a file");
    std::fs::write(setting.state.path().join("input"), OBJECTS).expect("a file");
    drop(input);
    piped.stdin(std::fs::File::open(setting.state.path().join("input")).expect("a file"));
    let ran = ran(piped).await;
    assert!(ran.code == Some(0) && ran.out.contains("agent/acme/reader created"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_64_shown_with_its_place_and_changes_nothing() {
    let setting = Setting::applied().await;
    setting.file(
        "bad.yaml",
        "apiVersion: sideguard.dev/v1\nkind: Policy\nmetadata: {name: bad}\nspec: {rulez: []}\n",
    );
    for verb in ["apply", "diff"] {
        let ran = setting.run(&[verb, "-f", "bad.yaml"]).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(64), ""), "{}", ran.err);
        assert_snapshot!("bad_file", ran.err);
    }
    assert_eq!(setting.run(&["apply", "-f", "no-such-file"]).await.code, Some(64));
    assert_eq!(setting.json(&["get", "policies"]).await["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_removes_only_what_has_the_labels_and_expect_meets_a_conflict() {
    let setting = Setting::applied().await;
    let budget = OBJECTS.split("---\n").nth(1).expect("a budget");
    setting.file("budget.yaml", budget);
    let out = setting.out(&["apply", "-f", "budget.yaml", "--prune", "-l", "app=crm"]).await;
    assert!(
        out.contains("policy/acme/deletes deleted") && !out.contains("agent/acme/reader deleted"),
        "{out}"
    );
    let conflict = setting.run(&["apply", "-f", "objects.yaml", "--expect", "1"]).await;
    assert_eq!(conflict.code, Some(1));
    assert!(conflict.err.starts_with("sideguard: the generation in force is 2\nhint: "), "{}", conflict.err);
    for usage in [&["apply", "-f", "x", "--prune"][..], &["apply", "-f", "x", "-l", "a=b"], &["apply"]] {
        assert_eq!(setting.run(usage).await.code, Some(2), "{usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_is_unified_and_its_exit_code_says_whether_there_is_one() {
    let setting = Setting::applied().await;
    assert_eq!(setting.out(&["diff", "-f", "objects.yaml"]).await, "");
    setting.file("objects.yaml", &OBJECTS.replace("amount: 20", "amount: 50"));
    setting.file("more.yaml", "version: v1\nrules: [{id: a, decision: deny}]\n");
    let ran = setting.run(&["diff", "-f", "objects.yaml", "more.yaml"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_snapshot!("diff", ran.out);
    let told = setting.run(&["diff", "-f", "objects.yaml", "-o", "json"]).await;
    let told: Value = serde_json::from_str(&told.out).expect("JSON");
    assert_eq!((told[0]["action"].as_str(), told[0]["name"].as_str()), (Some("updated"), Some("daily")));
    let alone = setting.run(&["diff", "-f", "objects.yaml", "--control", "http://127.0.0.1:1"]).await;
    assert_eq!(alone.code, Some(125));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_listed_in_every_form() {
    let setting = Setting::applied().await;
    let mut tables = String::new();
    for kind in ["policies", "Budget", "toolcatalogs", "UPSTREAMS"] {
        tables.push_str(&setting.out(&["get", kind]).await);
    }
    assert_snapshot!("get_objects", tables);
    assert_snapshot!("get_wide", setting.out(&["get", "budgets", "-o", "wide"]).await);
    assert_snapshot!(
        "get_json",
        setting.out(&["get", "policy", "deletes", "--tenant", "acme", "-o", "json"]).await
    );
    assert_snapshot!(
        "get_yaml",
        setting.out(&["get", "budgets", "-l", "app=crm,team=data", "-o", "yaml"]).await
    );
    assert_eq!(setting.json(&["get", "budgets", "-l", "app=other"]).await, json!({ "items": [] }));
    let none = setting.run(&["get", "policy", "nonsense"]).await;
    assert_eq!((none.code, none.out.as_str()), (Some(1), ""));
    assert_eq!(
        none.err,
        "sideguard: there is no Policy `nonsense`\nhint: `sideguard get policy` shows all of them\n"
    );
    let usage = setting.run(&["get", "nonsense"]).await;
    assert!(usage.code == Some(2) && usage.err.contains("there are policies, budgets"), "{}", usage.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_shown_with_the_worst_standing_of_their_sidecars() {
    let setting = Setting::applied().await;
    setting.control.set_sidecars(vec![
        sidecar(&json!({ "id": "sc-1", "agents": ["reader"] })),
        sidecar(&json!({ "id": "sc-2", "agents": ["reader", "writer"], "standing": "refused", "generation": 0,
            "refused": { "generation": 1, "reason": "rule `x`: \u{1b}[2Jbad" }, "breakers": ["openai: tripped"] })),
        sidecar(&json!({ "id": "sc-3", "tenant": "other", "agents": ["reader"], "standing": "lost" })),
    ]);
    assert_snapshot!("get_agents", setting.out(&["get", "agents"]).await);
    assert_snapshot!("get_sidecars", setting.out(&["get", "sidecars", "-o", "wide"]).await);
    assert_snapshot!(
        "describe_agent",
        setting.out(&["describe", "agent", "reader", "--tenant", "acme"]).await
    );
    assert_snapshot!("describe_sidecar", setting.out(&["describe", "sidecar", "sc-2"]).await);
    let status = &setting.json(&["get", "agent", "reader", "--tenant", "acme"]).await["status"];
    assert_eq!(*status, json!({ "standing": "refused", "generation": 0, "sidecars": ["sc-1", "sc-2"] }));
    let other = setting.json(&["get", "sidecars", "--tenant", "other"]).await;
    assert_eq!(other["items"][0]["id"], "sc-3");
    let missing = setting.run(&["describe", "agent", "reader"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.err.contains("hint: looked for in tenant `default`"), "{}", missing.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_comes_back_by_a_rollback_and_history_tells() {
    let setting = Setting::applied().await;
    let out = setting.out(&["delete", "policy", "deletes", "--tenant", "acme"]).await;
    assert!(out.contains("policy/acme/deletes deleted\n"), "{out}");
    setting.file("agent.yaml", OBJECTS.split("---\n").nth(2).expect("an agent"));
    assert!(setting.out(&["delete", "-f", "agent.yaml"]).await.contains("agent/acme/reader deleted"));
    assert_eq!(setting.json(&["get", "agents"]).await, json!({ "items": [] }));
    assert!(setting.out(&["rollback", "--to", "1"]).await.contains("generation 4 "));
    assert_eq!(setting.json(&["get", "agents"]).await["items"].as_array().map(Vec::len), Some(1));
    assert!(setting.out(&["rollback"]).await.contains("generation 5 "), "back to the generation before");
    assert_snapshot!("history", setting.out(&["history", "--limit", "4"]).await);
    assert_snapshot!("get_generations", setting.out(&["get", "generations"]).await);
    assert_snapshot!("describe_generation", setting.out(&["describe", "generation", "1"]).await);
    for missing in [
        &["delete", "policy", "nonsense"][..],
        &["rollback", "--to", "99"],
        &["describe", "generation", "99"],
        &["describe", "generation", "x"],
    ] {
        assert_eq!(setting.run(missing).await.code, Some(1), "{missing:?}");
    }
    for usage in [
        &["delete"][..],
        &["delete", "policy"],
        &["delete", "kills", "x"],
        &["delete", "policy", "x", "-f", "y"],
    ] {
        assert_eq!(setting.run(usage).await.code, Some(2), "{usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_killed_and_goes_on() {
    let setting = Setting::new().await;
    let killed = setting.out(&["kill", "agent/acme/reader", "--reason", "runs away"]).await;
    assert_eq!(killed, "agent/acme/reader killed\n");
    assert_eq!(setting.json(&["kill", "fleet"]).await["scope"], "fleet");
    assert_snapshot!("get_kills", setting.out(&["get", "kills"]).await);
    assert!(setting.out(&["describe", "kill", "agent/acme/reader"]).await.contains("Reason:  runs away"));
    assert_eq!(setting.out(&["unkill", "agent/acme/reader"]).await, "agent/acme/reader may go on\n");
    assert_eq!(setting.control.kills().len(), 1);
    assert_eq!(setting.run(&["unkill", "agent/acme/reader"]).await.code, Some(1));
    let usage = setting.run(&["kill", "everything"]).await;
    assert!(usage.code == Some(2) && usage.err.contains("`agent/TENANT/NAME`"), "{}", usage.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_alone_on_standard_output() {
    let setting = Setting::new().await;
    let ran = setting.run(&["token", "--tenant", "acme", "--agent", "reader", "--for", "10m"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "sgt_acme_reader\n"));
    assert_eq!(ran.err, "sideguard: good for one enrolment until 2026-11-27T10:10:00Z\n");
    assert_eq!(setting.json(&["token"]).await["token"], "sgt_default_any");
    assert_eq!(setting.run(&["token", "--for", "never"]).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_explained_without_a_control_service() {
    let state = tempfile::tempdir().expect("a directory");
    for (name, what) in [
        ("explain_policy", "policy"),
        ("explain_rules", "policy.rules"),
        ("explain_limits", "Budgets.spec.limits"),
        ("explain_decision", "policy.rules.decision"),
    ] {
        let ran = sideguard(state.path(), &["explain", what]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert_snapshot!(name, ran.out);
    }
    let none = sideguard(state.path(), &["explain", "policy.rules.nonsense"]).await;
    assert_eq!(none.code, Some(1));
    assert!(
        none.err.contains("hint: `sideguard explain policy.spec.rules` lists the fields"),
        "{}",
        none.err
    );
    assert_eq!(sideguard(state.path(), &["explain", "nonsense"]).await.code, Some(2));
    let schema = sideguard(state.path(), &["explain", "agent", "-o", "json"]).await;
    let schema: Value = serde_json::from_str(&schema.out).expect("JSON");
    assert_eq!(schema["properties"]["kind"]["const"], "Agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_what_changes() {
    let setting = Setting::new().await;
    setting.control.set_sidecars(vec![sidecar(&json!({ "id": "sc-1" }))]);
    let mut child = command(setting.state.path(), &["get", "sidecars", "-w"]).spawn().expect("a start");
    let mut lines = BufReader::new(child.stdout.take().expect("an output")).lines();
    let next = tokio::time::timeout(Duration::from_secs(10), async {
        let head = lines.next_line().await.expect("a line").expect("a heading");
        assert!(head.starts_with("TENANT   ID     AGENTS   STANDING"), "{head}");
        let first = lines.next_line().await.expect("a line").expect("a sidecar");
        assert!(first.contains("sc-1") && first.contains("current"), "{first}");
        // A sidecar that only counts on has not changed.
        setting
            .control
            .set_sidecars(vec![sidecar(&json!({ "id": "sc-1", "calls": 99, "standing": "stale" }))]);
        let second = lines.next_line().await.expect("a line").expect("a change");
        setting.control.set_sidecars(Vec::new());
        (second, lines.next_line().await.expect("a line").expect("an end"))
    });
    let (changed, gone) = next.await.expect("changes within 10 s");
    assert!(changed.contains("stale") && changed.contains("99"), "{changed}");
    assert!(gone.contains("sc-1") && gone.ends_with("(gone)"), "{gone}");
    child.kill().await.expect("an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_help_of_every_verb_has_an_example() {
    let state = tempfile::tempdir().expect("a directory");
    for verb in [
        "apply", "diff", "get", "describe", "delete", "explain", "history", "rollback", "kill", "unkill",
        "token",
    ] {
        let ran = sideguard(state.path(), &[verb, "--help"]).await;
        assert!(
            ran.code == Some(0) && ran.out.contains(&format!("  sideguard {verb}")),
            "{verb}: {}",
            ran.out
        );
    }
}
