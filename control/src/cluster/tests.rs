use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use proptest::prelude::*;
use sideguard_types::control::Name;

use super::given::{CLUSTER, Given, Id, Made, Refusal, SOURCE};
use super::plan::{Plan, plan};
use crate::desired::Entry;

fn id(namespace: &str, name: &str) -> Id {
    Id { kind: "Policy".to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
}

fn name(tenant: &str, name: &str) -> Name {
    Name { tenant: tenant.to_owned(), kind: "Policy".to_owned(), name: name.to_owned() }
}

fn given(id: Id, created: &str, made: Result<&[(&str, &str, &str)], &str>) -> Given {
    let made = made
        .map(|all| {
            let one = |(tenant, called, text): &(&str, &str, &str)| Made {
                name: name(tenant, called),
                text: (*text).to_owned(),
                hash: (*text).to_owned(),
            };
            all.iter().map(one).collect()
        })
        .map_err(|message| Refusal::new("Invalid", message));
    Given { id, created: created.to_owned(), made }
}

fn entry(name: Name, source: Option<&Id>, text: &str) -> Entry {
    let mut labels = BTreeMap::new();
    if let Some(id) = source {
        labels.insert(CLUSTER.to_owned(), "local".to_owned());
        labels.insert(SOURCE.to_owned(), id.to_string());
    }
    Entry { name, labels, shared: false, text: text.to_owned(), since: 1 }
}

fn planned(before: &[Entry], all: Vec<Given>, listed: bool) -> Plan {
    let listed = if listed { HashSet::from(["Policy".to_owned()]) } else { HashSet::new() };
    plan("local", before, all, &listed, &BTreeMap::new())
}

/// The set after a plan.
fn after(before: &[Entry], plan: &Plan) -> BTreeMap<String, String> {
    let mut set: BTreeMap<String, String> = before
        .iter()
        .filter(|entry| !plan.gone.contains(&entry.name))
        .map(|entry| (crate::desired::file(&entry.name), entry.text.clone()))
        .collect();
    set.extend(plan.changed.iter().map(|text| (text.name.clone(), text.text.clone())));
    set
}

#[test]
fn what_was_good_stays_while_what_is_given_is_not() {
    let own = id("team", "p");
    let before = [entry(name("acme", "p"), Some(&own), "old")];
    let plan = planned(&before, vec![given(own.clone(), "1", Err("wrong"))], true);
    assert!(plan.is_nothing());
    assert_eq!(plan.refused[&own].reason, "Invalid");
    let gone = planned(&before, Vec::new(), true);
    assert_eq!(gone.gone, BTreeSet::from([name("acme", "p")]));
    let unknown = planned(&before, Vec::new(), false);
    assert!(unknown.is_nothing(), "what could not be listed is not gone");
}

#[test]
fn a_name_is_the_older_objects_and_never_taken_from_people() {
    let (first, second) = (id("a", "p"), id("b", "p"));
    let all = || {
        vec![
            given(second.clone(), "2", Ok(&[("acme", "p", "second")])),
            given(first.clone(), "1", Ok(&[("acme", "p", "first")])),
        ]
    };
    let plan = planned(&[], all(), true);
    assert_eq!((plan.changed.len(), plan.changed[0].text.as_str()), (1, "first"));
    assert_eq!(plan.refused[&second].reason, "Conflict");
    let peoples = [entry(name("acme", "p"), None, "peoples")];
    let plan = planned(&peoples, all(), true);
    assert!(plan.is_nothing());
    assert_eq!(plan.refused.len(), 2);
}

#[test]
fn a_namespace_that_changes_hands_takes_its_objects_along() {
    let own = id("team", "p");
    let before = [entry(name("acme", "p"), Some(&own), "text of acme")];
    let plan = planned(&before, vec![given(own, "1", Ok(&[("umbrella", "p", "text of umbrella")]))], true);
    assert_eq!(plan.gone, BTreeSet::from([name("acme", "p")]));
    assert_eq!(plan.changed.len(), 1);
}

#[test]
fn one_namespace_takes_no_more_than_its_share() {
    let all = (0..1_100).map(|at| {
        let called = format!("p{at}");
        given(id("team", &called), &format!("{at:05}"), Ok(&[("acme", called.as_str(), "text")]))
    });
    let mut all: Vec<Given> = all.collect();
    all.push(given(id("other", "p"), "9", Ok(&[("other", "p", "text")])));
    let plan = planned(&[], all, true);
    assert_eq!(plan.refused.len(), 100);
    assert!(plan.accepted.contains_key(&id("other", "p")));
}

fn objects() -> impl Strategy<Value = HashMap<(String, String), (u8, Option<u8>)>> {
    prop::collection::hash_map(("[ab]", "[pq]"), (0..3_u8, prop::option::of(0..3_u8)), 0..4)
}

fn all_given(objects: &HashMap<(String, String), (u8, Option<u8>)>) -> Vec<Given> {
    let one = |((namespace, called), (created, text)): (&(String, String), &(u8, Option<u8>))| {
        let text = text.map(|text| text.to_string());
        // Both namespaces are of one tenant: their names meet.
        let made = [("acme", called.as_str(), text.as_deref().unwrap_or_default())];
        let made = if text.is_some() { Ok(made.as_slice()) } else { Err("wrong") };
        given(id(namespace, called), &created.to_string(), made)
    };
    objects.iter().map(one).collect()
}

proptest! {
    /// Whatever the order of things: a second look at the same cluster changes nothing, people's objects stay as they are,
    /// and what is in force is what somebody has asked for.
    #[test]
    fn a_plan_that_is_carried_out_leaves_nothing_to_do(first in objects(), second in objects()) {
        let peoples = entry(name("acme", "q"), None, "peoples");
        let mut before = vec![peoples.clone()];
        for objects in [&first, &second, &second] {
            let plan = planned(&before, all_given(objects), true);
            let set = after(&before, &plan);
            prop_assert_eq!(set.get("acme/policy/q.yaml").map(String::as_str), Some("peoples"));
            let mut next: Vec<Entry> = before.iter().filter(|one| !plan.gone.contains(&one.name)).cloned().collect();
            for (owner, names) in &plan.accepted {
                for name in names {
                    let text = set[&crate::desired::file(name)].clone();
                    next.retain(|one| one.name != *name);
                    next.push(entry(name.clone(), Some(owner), &text));
                }
            }
            before = next;
            prop_assert!(planned(&before, all_given(objects), true).is_nothing());
        }
        prop_assert!(before.contains(&peoples));
    }
}
