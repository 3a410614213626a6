//! What the cluster makes of the generation in force: pure, so that it can be tried with any of both.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sideguard_types::control::{Name, Text};

use super::given::{CLUSTER, Given, Id, Made, Refusal, SOURCE};
use crate::desired::{Entry, file};

/// Most objects of one namespace that are put in force.
const MOST: usize = 1_000;

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Texts that are new or others than those in force.
    pub(super) changed: Vec<Text>,
    /// Objects that go.
    pub(super) gone: BTreeSet<Name>,
    /// Objects of the cluster that are in force once this is done, with what they are there.
    pub(super) accepted: BTreeMap<Id, Vec<Name>>,
    /// Objects of the cluster that are not; what was in force of them before stays.
    pub(super) refused: BTreeMap<Id, Refusal>,
    /// Whose the changed objects are, by the name that findings speak of them by.
    pub(super) files: HashMap<String, Id>,
}

impl Plan {
    /// Whether the generation stays as it is.
    pub(super) fn is_nothing(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }
}

/// Plans. `listed` are the kinds of the cluster that are known as they are; what came from others stays. `refused` are objects
/// that a try has shown not to fit.
pub(super) fn plan(
    cluster: &str,
    before: &[Entry],
    mut given: Vec<Given>,
    listed: &HashSet<String>,
    refused: &BTreeMap<Id, Refusal>,
) -> Plan {
    given.sort_by(|one, other| (&one.created, &one.id).cmp(&(&other.created, &other.id)));
    let in_force: HashMap<&Name, &Entry> = before.iter().map(|entry| (&entry.name, entry)).collect();
    let mut plan = Plan::default();
    let mut taken: HashMap<Name, Id> = HashMap::new();
    let mut counts: HashMap<String, usize> = HashMap::new();
    for Given { id, made, .. } in given {
        let made = made.and_then(|made| match refused.get(&id) {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(made),
        });
        let fits = made.and_then(|made| {
            let count = counts.entry(id.namespace.clone()).or_default();
            *count += made.len();
            if *count > MOST {
                let message = format!("the namespace has more than {MOST} objects");
                return Err(Refusal::new("TooMany", message));
            }
            free(cluster, &id, &made, &in_force, &taken).map(|()| made)
        });
        match fits {
            Ok(made) => take(&mut plan, id, made, &in_force, &mut taken),
            Err(refusal) => {
                plan.refused.insert(id, refusal);
            }
        }
    }
    for entry in before {
        let Some(source) = owner(cluster, entry) else { continue };
        let stays = source.is_some_and(|id| !listed.contains(&id.kind) || plan.refused.contains_key(&id));
        if !stays && !taken.contains_key(&entry.name) {
            plan.gone.insert(entry.name.clone());
        }
    }
    plan
}

/// Whether an entry comes from the cluster, and if so what it was made of.
fn owner(cluster: &str, entry: &Entry) -> Option<Option<Id>> {
    let own = entry.labels.get(CLUSTER).is_some_and(|name| name == cluster);
    own.then(|| entry.labels.get(SOURCE).and_then(|source| Id::parse(source)))
}

/// Refuses names that are somebody else's.
fn free(
    cluster: &str,
    id: &Id,
    made: &[Made],
    in_force: &HashMap<&Name, &Entry>,
    taken: &HashMap<Name, Id>,
) -> Result<(), Refusal> {
    let mut own = HashSet::new();
    for Made { name, .. } in made {
        let Name { tenant, kind, name: called } = name;
        let what = format!("{kind} `{called}` of tenant `{tenant}`");
        if let Some(other) = taken.get(name).filter(|other| *other != id) {
            return Err(Refusal::new("Conflict", format!("{what} is made by {other} already")));
        }
        if !own.insert(name) {
            return Err(Refusal::new("Invalid", format!("{what} stands there twice")));
        }
        if in_force.get(name).is_some_and(|entry| owner(cluster, entry).is_none()) {
            let message =
                format!("{what} was applied by somebody else than this cluster: delete it there first");
            return Err(Refusal::new("Conflict", message));
        }
    }
    Ok(())
}

fn take(
    plan: &mut Plan,
    id: Id,
    made: Vec<Made>,
    in_force: &HashMap<&Name, &Entry>,
    taken: &mut HashMap<Name, Id>,
) {
    let mut names = Vec::new();
    for Made { name, text, hash } in made {
        if in_force.get(&name).is_none_or(|entry| entry.text != hash) {
            plan.files.insert(file(&name), id.clone());
            plan.changed.push(Text { name: file(&name), text });
        }
        taken.insert(name.clone(), id.clone());
        names.push(name);
    }
    plan.accepted.insert(id, names);
}
