//! What becomes of pods, case by case: `cases/` says what is asked, `golden/` what is answered. After a change that is meant,
//! `SIDEGUARD_GOLDEN=write cargo test -p sideguard-injector golden` writes the answers anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Verdict, ask, known, review};
use serde_json::{Value, json};
use sideguard_injector::known::Known;
use sideguard_injector::review::Webhook;
use sideguard_injector::settings::Settings;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn cases() -> Vec<Value> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder("cases")).expect("cases").map(|file| file.expect("a file").path()).collect();
    files.sort();
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).expect("a file");
        serde_saphyr::from_multiple::<Value>(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    files.into_iter().flat_map(read).collect()
}

struct Asked {
    review: Value,
    known: Known,
    settings: Settings,
}

fn asked(case: &Value) -> Asked {
    let spec = case.get("settings").cloned().unwrap_or(json!({}));
    let spec = serde_json::from_value(spec).expect("a configuration");
    let namespace = case["in"].as_str().unwrap_or("team");
    let mut review = review(&case["pod"], namespace);
    let request = &mut review["request"];
    if let Some(user) = case.get("user") {
        request["userInfo"] = user.clone();
    }
    if let Some(part) = case.get("part") {
        request["subResource"] = part.clone();
        request["operation"] = json!("UPDATE");
        request["oldObject"] = case.get("old").cloned().unwrap_or(json!({"metadata": {}, "spec": {}}));
    }
    let profile = case.get("profile").cloned().unwrap_or(json!({}));
    Asked {
        review,
        known: known(&case["namespace"], &profile),
        settings: Settings::new(spec).expect("settings"),
    }
}

impl Asked {
    fn ask(&self, webhook: Webhook) -> Verdict {
        ask(webhook, &self.review, &self.known, &self.settings)
    }

    /// The same with another pod.
    fn with(&self, pod: &Value) -> Self {
        let mut review = self.review.clone();
        review["request"]["object"] = pod.clone();
        Self { review, known: self.known.clone(), settings: self.settings.clone() }
    }
}

fn told(verdict: Verdict) -> Value {
    match verdict {
        Verdict::Refused(status, message) => json!({"status": status, "refusal": message}),
        Verdict::Allowed(patch, _, warnings) if patch.is_empty() => {
            json!({"untouched": true, "warnings": warnings})
        }
        Verdict::Allowed(patch, pod, warnings) => json!({"patch": patch, "pod": pod, "warnings": warnings}),
    }
}

#[test]
fn every_case_is_answered_as_its_golden_file_says() {
    let write = sideguard_runtime::environment::variable("SIDEGUARD_GOLDEN").as_deref() == Some("write");
    let mut names = BTreeSet::new();
    for case in cases() {
        let name = case["name"].as_str().expect("a name").to_owned();
        let path = folder("golden").join(format!("{name}.json"));
        let mut now = told(asked(&case).ask(Webhook::Mutate));
        if case.get("schema").is_some() {
            now["schema"] = case["schema"].clone();
        }
        let now = format!("{now:#}\n");
        if write {
            fs::write(&path, &now).expect("a file");
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == now, "`{name}` is answered otherwise than {} says:\n{now}", path.display());
        assert!(names.insert(format!("{name}.json")), "two cases `{name}`");
    }
    for file in fs::read_dir(folder("golden")).expect("golden files") {
        let file = file.expect("a file").file_name().into_string().expect("a name");
        assert!(names.contains(&file), "golden/{file} has no case");
    }
}

#[test]
fn a_pod_that_was_injected_is_not_changed_again_and_passes_the_last_word() {
    let mut injected = 0;
    for case in cases() {
        let asked = asked(&case);
        let Verdict::Allowed(patch, pod, _) = asked.ask(Webhook::Mutate) else { continue };
        let again = asked.with(&pod);
        let Verdict::Allowed(second, _, _) = again.ask(Webhook::Mutate) else {
            panic!("{}: refused", case["name"])
        };
        assert_eq!(second, Vec::<Value>::new(), "{}", case["name"]);
        if let Verdict::Refused(_, message) = again.ask(Webhook::Validate) {
            panic!("{}: {message}", case["name"]);
        }
        injected += usize::from(!patch.is_empty());
    }
    assert!(injected > 20);
}

#[test]
fn a_pod_that_was_not_injected_does_not_pass_the_last_word() {
    for case in cases() {
        let asked = asked(&case);
        match (asked.ask(Webhook::Mutate), asked.ask(Webhook::Validate)) {
            (Verdict::Allowed(patch, ..), Verdict::Allowed(..)) => {
                assert!(patch.is_empty(), "{}", case["name"]);
            }
            (_, Verdict::Refused(status, _)) => assert!(matches!(status, 400 | 403 | 503), "{status}"),
            (Verdict::Refused(..), Verdict::Allowed(..)) => {
                panic!("{}: refused, then let through", case["name"])
            }
        }
    }
}

#[test]
fn a_dry_run_is_answered_no_differently() {
    for case in cases() {
        let mut asked = asked(&case);
        let wet = told(asked.ask(Webhook::Mutate));
        asked.review["request"]["dryRun"] = json!(true);
        assert_eq!(told(asked.ask(Webhook::Mutate)), wet, "{}", case["name"]);
    }
}

/// What Pod Security `restricted` forbids of one container in a pod (Kubernetes, Pod Security Standards).
fn restricted(pod: &Value, container: &Value) -> Result<(), String> {
    let (own, around) = (&container["securityContext"], &pod["spec"]["securityContext"]);
    let either = |key: &str| if own[key].is_null() { &around[key] } else { &own[key] };
    let holds = [
        ("privileged", own["privileged"] != true),
        ("allowPrivilegeEscalation", own["allowPrivilegeEscalation"] == false),
        ("runAsNonRoot", *either("runAsNonRoot") == true),
        ("runAsUser", *either("runAsUser") != 0),
        ("drop", own["capabilities"]["drop"] == json!(["ALL"])),
        ("add", own["capabilities"].get("add").is_none_or(|add| *add == json!(["NET_BIND_SERVICE"]))),
        (
            "seccomp",
            matches!(either("seccompProfile")["type"].as_str(), Some("RuntimeDefault" | "Localhost")),
        ),
        (
            "hostPort",
            container["ports"].as_array().into_iter().flatten().all(|port| port.get("hostPort").is_none()),
        ),
    ];
    holds
        .into_iter()
        .find(|(_, holds)| !holds)
        .map_or(Ok(()), |(what, _)| Err(format!("{}: {what}", container["name"])))
}

#[test]
fn only_the_init_step_needs_more_than_pod_security_restricted() {
    let (mut ours, mut whole) = (0, 0);
    for case in cases() {
        let asked = asked(&case);
        let Verdict::Allowed(patch, pod, _) = asked.ask(Webhook::Mutate) else { continue };
        let everything =
            case["name"].as_str().is_some_and(|name| name.starts_with("pod-security-restricted"));
        for list in ["initContainers", "containers"] {
            for container in pod["spec"][list].as_array().into_iter().flatten().filter(|_| !patch.is_empty())
            {
                let name = container["name"].as_str().expect("a name");
                let one_of_ours = name.starts_with("sideguard-");
                if everything || (one_of_ours && name != "sideguard-init") {
                    restricted(&pod, container).unwrap_or_else(|what| panic!("{}: {what}", case["name"]));
                    ours += usize::from(one_of_ours);
                    whole += usize::from(everything && !one_of_ours);
                }
            }
        }
        // Volumes of the kinds that are permitted.
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let permitted =
                ["emptyDir", "configMap", "projected"].into_iter().any(|kind| volume.get(kind).is_some());
            let name = volume["name"].as_str().expect("a name");
            assert!(permitted || !name.starts_with("sideguard-"), "{volume}");
        }
    }
    assert!(ours > 20 && whole > 1, "{ours} {whole}");
}
