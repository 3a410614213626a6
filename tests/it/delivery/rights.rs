//! What the chart's service accounts may do.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{all_rendered, called, deploy, manifest, objects};

/// Everything that control may.
const CONTROL: [&str; 6] = [
    "ClusterRole authentication.k8s.io/tokenreviews: create",
    "ClusterRole core/namespaces: list watch",
    "ClusterRole sideguard.dev/agents,budgets,policies,toolcatalogs,upstreams,workerpools: list watch",
    "ClusterRole sideguard.dev/agents/status,budgets/status,policies/status,toolcatalogs/status,upstreams/status,workerpools/status: patch",
    "Role coordination.k8s.io/leases [sideguard-control]: get patch",
    "Role coordination.k8s.io/leases: create",
];
/// What else it may when values ask for that.
const ASKED: [(&str, &str); 5] = [
    ("configMaps=true", "ClusterRole core/configmaps: list watch"),
    ("configMaps=true", "ClusterRole events.k8s.io/events: create"),
    ("agents=profile", "ClusterRole core/pods: get"),
    (
        "agenticNetworking=true",
        "ClusterRole agentic.networking.x-k8s.io/xaccesspolicies,xbackends: list watch",
    ),
    (
        "agenticNetworking=true",
        "ClusterRole agentic.networking.x-k8s.io/xaccesspolicies/status,xbackends/status: patch",
    ),
];
/// Everything that the injector may.
const INJECTOR: [&str; 4] = [
    "ClusterRole admissionregistration.k8s.io/mutatingwebhookconfigurations,validatingwebhookconfigurations \
     [sideguard-injector]: list watch patch",
    "ClusterRole core/namespaces: list watch",
    "ClusterRole sideguard.dev/agents: list watch",
    "Role core/secrets [sideguard-injector]: list watch patch",
];

fn words(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Each rule of a role in a line.
fn lines(role: &Value) -> Vec<String> {
    let kind = role["kind"].as_str().unwrap_or_default();
    let line = |rule: &Value| {
        let group = words(&rule["apiGroups"]).join(",");
        let group = if group.is_empty() { "core".to_owned() } else { group };
        let names = words(&rule["resourceNames"]).join(",");
        let names = if names.is_empty() { String::new() } else { format!(" [{names}]") };
        let (resources, verbs) = (words(&rule["resources"]).join(","), words(&rule["verbs"]).join(" "));
        format!("{kind} {group}/{resources}{names}: {verbs}")
    };
    role["rules"].as_array().into_iter().flatten().map(line).collect()
}

#[test]
fn rights_are_these_and_no_others() {
    let all = objects(&manifest(&[]));
    for (account, expected) in [("sideguard-control", &CONTROL[..]), ("sideguard-injector", &INJECTOR[..])] {
        let roles = ["ClusterRole", "Role"].map(|kind| format!("{kind}/{account}"));
        let mut found: Vec<String> =
            all.iter().filter(|object| roles.contains(&called(object))).flat_map(lines).collect();
        found.sort();
        assert_eq!(found, expected, "{account}");
    }
}

#[test]
fn further_rights_come_with_what_needs_them() {
    for (value, _) in ASKED {
        let all = objects(&manifest(&["--set", &format!("control.kubernetes.{value}")]));
        let role =
            all.iter().find(|object| called(object) == "ClusterRole/sideguard-control").expect("a role");
        let more: Vec<String> =
            lines(role).into_iter().filter(|line| !CONTROL.contains(&line.as_str())).collect();
        let expected: Vec<&str> =
            ASKED.iter().filter(|(asked, _)| *asked == value).map(|(_, line)| *line).collect();
        assert_eq!(more, expected, "{value}");
    }
}

#[test]
fn each_binding_is_of_one_role_to_the_account_of_the_same_name() {
    let all = objects(&manifest(&[]));
    let bindings =
        all.iter().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")));
    let mut count = 0;
    for binding in bindings {
        count += 1;
        let name = &binding["metadata"]["name"];
        assert_eq!(&binding["roleRef"]["name"], name);
        let subjects =
            serde_json::json!([{"kind": "ServiceAccount", "name": name, "namespace": "sideguard-system"}]);
        assert_eq!(binding["subjects"], subjects);
    }
    assert_eq!(count, 4);
}

#[test]
fn no_set_of_values_gives_more() {
    let known: BTreeSet<String> = CONTROL.into_iter().chain(INJECTOR).map(str::to_owned).collect();
    for (set, text) in all_rendered() {
        for role in objects(&text) {
            if matches!(role["kind"].as_str(), Some("Role" | "ClusterRole")) {
                for line in lines(&role) {
                    assert!(known.contains(&line), "{set}: {line}");
                }
            }
        }
    }
}

#[test]
fn control_reads_every_kind_that_is_defined() {
    let crds = deploy("helm/sideguard/crds");
    let mut plurals: Vec<String> = super::files(&crds, ".yaml")
        .iter()
        .flat_map(|path| objects(&super::read(path)))
        .map(|definition| definition["spec"]["names"]["plural"].as_str().expect("a plural").to_owned())
        .collect();
    plurals.sort();
    let line = format!("ClusterRole sideguard.dev/{}: list watch", plurals.join(","));
    assert!(CONTROL.contains(&line.as_str()), "{line}");
}
