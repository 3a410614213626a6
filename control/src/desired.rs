//! The desired state: a sequence of generations, each a whole set of objects that was validated before it came into force.
//!
//! The texts of objects are kept by their hash, a generation lists them by name, and `head` says which one is in force. A new
//! generation and the new head are written together, and only when the head is still the one that was read: two writers at
//! once cannot lose each other's work.

mod generations;
mod shelf;
#[cfg(test)]
mod tests;
mod texts;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sideguard_policy::compile;
use sideguard_policy::source::{self, Finding, Severity, Source};
use sideguard_store::documents::{Edit, Expect, Revision};
use sideguard_store::{Store, StoreError};
use sideguard_types::control::{Action, Applied, Apply, Change, Generation, Name, Object, Signed, Text};
use sideguard_types::resource::CONTROL_KINDS;
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::{Principal, own_key};
use crate::signer::hex;
use crate::sinks;

pub(crate) use generations::told;

/// Most objects of one set.
const MOST: usize = 20_000;
/// Texts that are read at once.
const AT_ONCE: usize = 64;
/// Most lines of a generation's summary.
const LINES: usize = 200;
/// Edits in one write of texts.
const BATCH: usize = 200;

/// One object of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it names no tenant, and so holds for all.
    pub(crate) shared: bool,
    /// Hash of its text.
    pub(crate) text: String,
    /// The generation that it came with in this form.
    pub(crate) since: u64,
}

impl Entry {
    /// Whether a principal may see it: its tenant's objects and those of all tenants, but not where the record of all tenants
    /// is passed on to.
    pub(crate) fn seen_by(&self, who: &Principal) -> bool {
        let whole = who.tenant.is_none();
        whole || if self.shared { self.name.kind != sinks::KIND } else { who.reaches(&self.name.tenant) }
    }
}

/// A generation as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    pub(crate) told: Generation,
    pub(crate) entries: Vec<Entry>,
    parts: generations::Parts,
}

/// The generation in force.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) kept: Kept,
    /// Revision of the head's document; none before the first generation.
    revision: Option<Revision>,
}

/// What a change asks for.
pub(crate) enum Wish {
    /// Objects in place of those with their names.
    Apply(Apply),
    /// Objects in place of those with their names, and others that go, where this generation is in force.
    Sync {
        /// The objects.
        documents: Vec<Text>,
        /// Those that go.
        gone: BTreeSet<Name>,
        /// The generation.
        expect: u64,
    },
    /// Objects that go.
    Delete(Vec<Name>),
    /// An earlier generation's objects.
    Rollback(u64),
}

fn broken(at: &impl ToString) -> Failure {
    Failure::Broken(at.to_string())
}

fn text_key(hash: &str) -> Result<sideguard_store::key::Key, Failure> {
    own_key(&format!("texts/{hash}"))
}

/// Number of the generation in force; zero before the first.
pub(crate) async fn number(store: &Store, now: Timestamp) -> Result<u64, Failure> {
    Ok(at_head(store, now).await?.map_or(0, |(number, _)| number))
}

async fn at_head(store: &Store, now: Timestamp) -> Result<Option<(u64, Revision)>, Failure> {
    let at = own_key("head")?;
    let Some(document) = store.documents.get(now, &at).await? else { return Ok(None) };
    let number = std::str::from_utf8(&document.value).ok().and_then(|text| text.parse().ok());
    Ok(Some((number.ok_or_else(|| broken(&at))?, document.revision)))
}

/// The generation in force; an empty one, number zero, before the first.
pub(crate) async fn head(store: &Store, now: Timestamp) -> Result<Head, Failure> {
    let Some((number, revision)) = at_head(store, now).await? else {
        let told = Generation {
            number: 0,
            digest: digest(&[]),
            time: Timestamp(0),
            by: String::new(),
            verb: String::new(),
            objects: 0,
            summary: Vec::new(),
        };
        return Ok(Head {
            kept: Kept { told, entries: Vec::new(), parts: generations::Parts::new() },
            revision: None,
        });
    };
    Ok(Head { kept: generations::whole(store, now, number).await?, revision: Some(revision) })
}

/// The texts of objects, in order.
pub(crate) async fn texts(store: &Store, now: Timestamp, entries: &[Entry]) -> Result<Vec<String>, Failure> {
    let one = |entry: &Entry| {
        let (known, hash) = (shelf::take(&entry.text), entry.text.clone());
        async move {
            if let Some(known) = known {
                return Ok(known.to_string());
            }
            let at = text_key(&hash)?;
            let document = store.documents.get(now, &at).await?.ok_or_else(|| broken(&at))?;
            let text = String::from_utf8(document.value.to_vec()).map_err(|_| broken(&at))?;
            if hex(&Sha256::digest(text.as_bytes())) != hash {
                return Err(broken(&at));
            }
            shelf::put(&hash, &text);
            Ok(text)
        }
    };
    stream::iter(entries.iter().map(one)).buffered(AT_ONCE).try_collect().await
}

/// An object with its text.
pub(crate) async fn object(store: &Store, now: Timestamp, entry: &Entry) -> Result<Object, Failure> {
    let text = texts(store, now, std::slice::from_ref(entry)).await?.pop().unwrap_or_default();
    Ok(Object { name: entry.name.clone(), labels: entry.labels.clone(), generation: entry.since, text })
}

/// The objects that bear on a tenant, not signed yet.
pub(crate) async fn for_tenant(
    store: &Store,
    now: Timestamp,
    kept: &Kept,
    tenant: &str,
) -> Result<Signed, Failure> {
    let own = kept.entries.iter().filter(|entry| !CONTROL_KINDS.contains(&entry.name.kind.as_str()));
    let own = own.filter(|entry| entry.shared || entry.name.tenant == tenant);
    let own: Vec<Entry> = own.cloned().collect();
    let texts = texts(store, now, &own).await?;
    let documents =
        own.iter().zip(texts).map(|(entry, text)| Text { name: file(&entry.name), text }).collect();
    let signature = String::new();
    Ok(Signed {
        tenant: tenant.to_owned(),
        number: kept.told.number,
        time: kept.told.time,
        documents,
        signature,
    })
}

/// The texts of all objects that bear on a tenant, those that sidecars are not told of included.
pub(crate) async fn sources(
    store: &Store,
    now: Timestamp,
    kept: &Kept,
    tenant: &str,
) -> Result<Vec<Source>, Failure> {
    let own = kept.entries.iter().filter(|entry| entry.shared || entry.name.tenant == tenant);
    let own: Vec<Entry> = own.cloned().collect();
    let texts = texts(store, now, &own).await?;
    Ok(own.iter().zip(texts).map(|(entry, text)| Source::new(file(&entry.name), text)).collect())
}

/// The name under which findings speak of an object, and from which a safety.yaml document takes its own.
pub(crate) fn file(name: &Name) -> String {
    format!("{}/{}/{}.yaml", name.tenant, name.kind.to_lowercase(), name.name)
}

/// Changes the desired state, or tells what would change.
pub(crate) async fn change(
    store: &Store,
    now: Timestamp,
    by: &Principal,
    wish: Wish,
) -> Result<Applied, Failure> {
    let head = head(store, now).await?;
    let before = &head.kept;
    let (verb, dry, expect) = match &wish {
        Wish::Apply(apply) => ("apply", apply.dry_run, apply.expect),
        Wish::Sync { expect, .. } => ("sync", false, Some(*expect)),
        Wish::Delete(_) => ("delete", false, None),
        Wish::Rollback(_) => ("rollback", false, None),
    };
    if let Some(expect) = expect.filter(|expect| *expect != before.told.number) {
        return Err(Failure::Conflict(format!(
            "generation {} is in force, and the change builds on {expect}: look at what changed, then apply again",
            before.told.number
        )));
    }
    let number = before.told.number.saturating_add(1);
    let mut fresh: BTreeMap<String, String> = BTreeMap::new();
    let mut warnings = Vec::new();
    let entries = match wish {
        Wish::Apply(apply) => {
            let given = texts::split(&apply.documents)?;
            warnings = given.warnings;
            may_apply(before, by, &given.objects)?;
            applied(before, number, by, given.objects, apply.prune.as_ref(), &mut fresh)
        }
        Wish::Sync { documents, gone, .. } => {
            let given = texts::split(&documents)?.objects;
            may_apply(before, by, &given)?;
            let mut entries = applied(before, number, by, given, None, &mut fresh);
            entries.retain(|entry| !gone.contains(&entry.name));
            entries
        }
        Wish::Delete(names) => {
            for name in &names {
                let there = before.entries.iter().find(|entry| entry.name == *name);
                if there.is_some_and(|entry| entry.shared && !by.changes(&name.tenant, true)) {
                    return Err(beyond(name, true));
                }
                if there.is_none() || !by.reaches(&name.tenant) {
                    return Err(Failure::Missing(format!(
                        "{} `{}` in tenant `{}`",
                        name.kind, name.name, name.tenant
                    )));
                }
            }
            before.entries.iter().filter(|entry| !names.contains(&entry.name)).cloned().collect()
        }
        Wish::Rollback(to) => generations::whole(store, now, to).await?.entries,
    };
    if entries.len() > MOST {
        return Err(Failure::Invalid(format!("more than {MOST} objects")));
    }
    let changes = compared(store, now, &before.entries, &entries, &fresh).await?;
    for tenant in affected(before, &entries, &changes) {
        validate(store, now, tenant.as_deref(), &entries, &fresh).await?;
    }
    let sink = |change: &&Change| change.action != Action::Unchanged && change.name.kind == sinks::KIND;
    if by.tenant.is_some() && changes.iter().any(|change| sink(&change)) {
        // It names files, secrets and addresses of control's own machine and network.
        return Err(Failure::Forbidden("change sinks: that takes an operator's of all tenants"));
    }
    let told = Generation {
        number,
        digest: digest(&entries),
        time: now,
        by: by.name.clone(),
        verb: verb.to_owned(),
        objects: entries.len() as u64,
        summary: summary(&changes),
    };
    if told.summary.is_empty() || dry {
        let generation = before.told.number;
        let digest = if dry { told.digest } else { before.told.digest.clone() };
        return Ok(Applied { generation, digest, changes, warnings });
    }
    let answer = Applied { generation: number, digest: told.digest.clone(), changes, warnings };
    write(store, now, &head, &told, &entries, &fresh).await?;
    Ok(answer)
}

/// Whether a key may put these objects in place of what stands there.
fn may_apply(before: &Kept, by: &Principal, given: &[texts::Given]) -> Result<(), Failure> {
    let shared: HashSet<&Name> =
        before.entries.iter().filter(|entry| entry.shared).map(|entry| &entry.name).collect();
    for texts::Given { name, shared: for_all, .. } in given {
        // One that is narrower may not take the place of one that holds for all.
        let for_all = *for_all || shared.contains(name);
        if !by.changes(&name.tenant, for_all) {
            return Err(beyond(name, for_all));
        }
    }
    Ok(())
}

/// The error for an object that a key may not change. Whether it is there is not this key's to know.
fn beyond(name: &Name, shared: bool) -> Failure {
    if shared {
        return Failure::Forbidden("change what holds for all tenants: name a tenant in `metadata.tenant`");
    }
    Failure::Missing(format!("tenant `{}`", name.tenant))
}

/// The tenants whose sets a change makes others; none stands for one that has no objects of its own.
fn affected(before: &Kept, after: &[Entry], changes: &[Change]) -> BTreeSet<Option<String>> {
    let changed: HashSet<&Name> = changes
        .iter()
        .filter(|change| change.action != Action::Unchanged)
        .map(|change| &change.name)
        .collect();
    let both = || before.entries.iter().chain(after);
    if both().any(|entry| entry.shared && changed.contains(&entry.name)) {
        let own = after.iter().filter(|entry| !entry.shared).map(|entry| Some(entry.name.tenant.clone()));
        return own.chain([None]).collect();
    }
    changed.into_iter().map(|name| Some(name.tenant.clone())).collect()
}

/// A line for each change, the first ones of many.
fn summary(changes: &[Change]) -> Vec<String> {
    let mut changed = changes.iter().filter(|change| change.action != Action::Unchanged).map(line);
    let mut lines: Vec<String> = changed.by_ref().take(LINES).collect();
    let more = changed.count();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

fn line(change: &Change) -> String {
    let Name { tenant, kind, name } = &change.name;
    format!("{} {}/{tenant}/{name}", change.action.as_str(), kind.to_lowercase())
}

/// The set with the given objects in it.
fn applied(
    before: &Kept,
    number: u64,
    by: &Principal,
    given: Vec<texts::Given>,
    prune: Option<&BTreeMap<String, String>>,
    fresh: &mut BTreeMap<String, String>,
) -> Vec<Entry> {
    let mut entries: BTreeMap<Name, Entry> =
        before.entries.iter().map(|entry| (entry.name.clone(), entry.clone())).collect();
    if let Some(labels) = prune.filter(|labels| !labels.is_empty()) {
        let kept: HashSet<&Name> = given.iter().map(|given| &given.name).collect();
        entries.retain(|name, entry| {
            let gone = by.changes(&name.tenant, entry.shared)
                && labels.iter().all(|(key, value)| entry.labels.get(key) == Some(value));
            kept.contains(name) || !gone
        });
    }
    for texts::Given { name, labels, shared, text } in given {
        let hash = hex(&Sha256::digest(text.as_bytes()));
        let same = entries.get(&name).filter(|entry| entry.text == hash);
        let since = same.map_or(number, |entry| entry.since);
        fresh.insert(hash.clone(), text);
        entries.insert(name.clone(), Entry { name, labels, shared, text: hash, since });
    }
    entries.into_values().collect()
}

async fn compared(
    store: &Store,
    now: Timestamp,
    before: &[Entry],
    after: &[Entry],
    fresh: &BTreeMap<String, String>,
) -> Result<Vec<Change>, Failure> {
    let old: BTreeMap<&Name, &Entry> = before.iter().map(|entry| (&entry.name, entry)).collect();
    let new: BTreeMap<&Name, &Entry> = after.iter().map(|entry| (&entry.name, entry)).collect();
    let mut changes = Vec::new();
    for name in old.keys().chain(new.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (old, new) = (old.get(*name), new.get(*name));
        let action = match (old, new) {
            (None, _) => Action::Created,
            (_, None) => Action::Deleted,
            (Some(old), Some(new)) if old.text == new.text => Action::Unchanged,
            _ => Action::Updated,
        };
        let mut change = Change { action, name: (*name).clone(), before: None, after: None };
        if action == Action::Unchanged {
            // Objects that nobody named are not part of the answer.
            if new.is_some_and(|new| fresh.contains_key(&new.text)) {
                changes.push(change);
            }
            continue;
        }
        if let Some(old) = old {
            change.before = texts(store, now, std::slice::from_ref(*old)).await?.pop();
        }
        if let Some(new) = new {
            change.after = match fresh.get(&new.text) {
                Some(text) => Some(text.clone()),
                None => texts(store, now, std::slice::from_ref(*new)).await?.pop(),
            };
        }
        changes.push(change);
    }
    Ok(changes)
}

/// Compiles a tenant's set as its sidecars will.
async fn validate(
    store: &Store,
    now: Timestamp,
    tenant: Option<&str>,
    entries: &[Entry],
    fresh: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let own = |entry: &&Entry| entry.shared || Some(entry.name.tenant.as_str()) == tenant;
    let (given, kept): (Vec<_>, Vec<_>) =
        entries.iter().filter(own).cloned().partition(|entry| fresh.contains_key(&entry.text));
    let mut known: HashMap<&Name, String> = HashMap::new();
    known.extend(kept.iter().map(|entry| &entry.name).zip(texts(store, now, &kept).await?));
    known.extend(given.iter().filter_map(|entry| Some((&entry.name, fresh.get(&entry.text)?.clone()))));
    // In the order of the set, whichever texts are new.
    let sources: Vec<Source> = entries
        .iter()
        .filter_map(|entry| Some(Source::new(file(&entry.name), known.remove(&entry.name)?)))
        .collect();
    // Thousands of rules take a while: not on a thread that serves others.
    let checked = tokio::task::spawn_blocking(move || {
        let loaded = source::load(&sources);
        let wrong = |finding: &Finding| finding.severity == Severity::Error;
        let errors: Vec<Finding> = loaded.findings.iter().filter(|one| wrong(one)).cloned().collect();
        if errors.is_empty() { compile(&loaded).map(drop) } else { Err(errors) }
    });
    match checked.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(findings)) => Err(Failure::Findings(findings.iter().map(ToString::to_string).collect())),
        Err(error) => Err(Failure::Invalid(format!("the set cannot be checked: {error}"))),
    }
}

/// What changed between two generations, oldest first; both texts of each object.
pub(crate) async fn between(
    store: &Store,
    now: Timestamp,
    from: u64,
    to: u64,
) -> Result<Vec<Change>, Failure> {
    let none = Vec::new();
    let (before, after) = match from {
        0 => (None, generations::whole(store, now, to).await?),
        from => {
            (Some(generations::whole(store, now, from).await?), generations::whole(store, now, to).await?)
        }
    };
    compared(
        store,
        now,
        before.as_ref().map_or(&none, |kept| &kept.entries),
        &after.entries,
        &BTreeMap::new(),
    )
    .await
}

async fn write(
    store: &Store,
    now: Timestamp,
    before: &Head,
    told: &Generation,
    entries: &[Entry],
    fresh: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let mut edits = Vec::new();
    for (hash, text) in fresh {
        edits.push(Edit::put(text_key(hash)?, text.clone().into_bytes().into(), Expect::Any));
    }
    // Texts and parts without a generation harm nobody; a generation without them would.
    for batch in edits.chunks(BATCH) {
        store.documents.put_all(now, batch.to_vec()).await?;
    }
    let head = Edit::put(
        own_key("head")?,
        told.number.to_string().into_bytes().into(),
        before.revision.map_or(Expect::Absent, Expect::Revision),
    );
    let generation = generations::write(store, now, &before.kept, told, entries).await?;
    let written = store.documents.put_all(now, vec![generation, head]).await;
    match written {
        Ok(_) => Ok(()),
        Err(StoreError::Conflict { .. }) => Err(Failure::Conflict(
            "somebody else changed the desired state meanwhile: apply again".to_owned(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Digest over the objects, whatever their order and the generation that they came with.
fn digest(entries: &[Entry]) -> String {
    let mut lines: Vec<String> = entries
        .iter()
        .map(|entry| {
            format!("{} {} {} {}\n", entry.name.tenant, entry.name.kind, entry.name.name, entry.text)
        })
        .collect();
    lines.sort_unstable();
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.as_bytes());
    }
    format!("sha256:{}", hex(&hash.finalize()))
}
