//! The work: looks at the cluster when something changes, and brings the generation in force and the cluster's conditions into
//! line with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sideguard_kubernetes::mirror::Mirror;
use sideguard_kubernetes::{DynamicObject, agentic};
use sideguard_runtime::clock;
use sideguard_store::Store;
use sideguard_types::resource::KubernetesSpec;
use tokio::sync::{Notify, watch};

use super::given::{Given, Id, Refusal, Tenants, given};
use super::plan::{Plan, plan};
use super::told::{Standing, Told};
use crate::desired::{self, Entry, Wish};
use crate::error::Failure;
use crate::feed::Waiting;
use crate::keys::{Principal, Role};

/// Changes that come so close to each other are taken in together.
const TOGETHER: Duration = Duration::from_millis(100);
/// How often everything is looked at without a change in the cluster: what people apply may have made room for an object.
const LOOK: Duration = Duration::from_secs(15);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(2);
/// Most tries of one look.
const TRIES: usize = 20;

/// All that the work is done with.
pub(super) struct Sync {
    pub(super) held: watch::Receiver<bool>,
    pub(super) told: Told,
    pub(super) spec: KubernetesSpec,
    pub(super) namespaces: Mirror,
    /// Copies by kind.
    pub(super) mirrors: Vec<(String, Mirror)>,
    pub(super) store: Store,
    pub(super) waiting: Arc<Waiting>,
}

/// The cluster as it is seen at one moment.
struct Seen {
    labels: HashMap<String, BTreeMap<String, String>>,
    objects: Vec<(String, Arc<DynamicObject>)>,
    listed: HashSet<String>,
}

impl Seen {
    /// Specs of XBackend objects by namespace and name.
    fn backends(&self) -> HashMap<(String, String), serde_json::Value> {
        let backends = self.objects.iter().filter(|(kind, _)| kind == agentic::BACKEND);
        let place = |object: &DynamicObject| {
            let metadata = &object.metadata;
            (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
        };
        backends.map(|(_, object)| (place(object), object.data["spec"].clone())).collect()
    }
}

impl Sync {
    /// Works until the task is dropped.
    pub(super) async fn run(mut self, changed: Arc<Notify>) {
        loop {
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(TOGETHER).await,
                _ = self.held.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if !*self.held.borrow_and_update() {
                continue;
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "what stands in the cluster cannot be put in force now");
                tokio::time::sleep(PAUSE).await;
                changed.notify_one();
            }
        }
    }

    /// One look: everything, whatever has changed.
    async fn look(&mut self) -> Result<(), Failure> {
        let Some(seen) = self.seen() else { return Ok(()) };
        let seen = Arc::new(seen);
        let mut refused = BTreeMap::new();
        for _ in 0..TRIES {
            let head = desired::head(&self.store, clock::now()).await?.kept;
            let plan = self.planned(&seen, &head.entries, &refused).await?;
            if !*self.held.borrow() {
                return Ok(());
            }
            if plan.is_nothing() {
                self.told.tell(standings(&seen, &plan, &head.entries)).await;
                return Ok(());
            }
            match self.put_in_force(&plan, head.told.number).await {
                Ok(()) => {}
                // Somebody else was faster.
                Err(Failure::Conflict(_)) => {}
                Err(Failure::Findings(findings)) => blame(&plan, &findings, &mut refused)?,
                Err(Failure::Invalid(reason)) => {
                    let all = plan.files.values();
                    refused.extend(all.map(|id| (id.clone(), Refusal::new("Invalid", reason.clone()))));
                    if plan.files.is_empty() {
                        return Err(Failure::Invalid(reason));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Failure::Conflict("others change the desired state all the time".to_owned()))
    }

    fn seen(&self) -> Option<Seen> {
        let labels = self.namespaces.objects()?.into_iter().map(|namespace| {
            let metadata = &namespace.metadata;
            (metadata.name.clone().unwrap_or_default(), metadata.labels.clone().unwrap_or_default())
        });
        let mut seen = Seen { labels: labels.collect(), objects: Vec::new(), listed: HashSet::new() };
        for (kind, mirror) in &self.mirrors {
            let Some(objects) = mirror.objects() else { continue };
            seen.listed.insert(kind.clone());
            seen.objects.extend(objects.into_iter().map(|object| (kind.clone(), object)));
        }
        Some(seen)
    }

    /// Reads every object and plans, on a thread that serves nobody else.
    async fn planned(
        &self,
        seen: &Arc<Seen>,
        before: &[Entry],
        refused: &BTreeMap<Id, Refusal>,
    ) -> Result<Plan, Failure> {
        let (seen, before, refused) = (Arc::clone(seen), before.to_vec(), refused.clone());
        let spec = self.spec.clone();
        let planned = move || {
            let tenants = Tenants { spec: &spec, labels: seen.labels.clone(), backends: seen.backends() };
            let in_force: HashMap<_, _> = before.iter().map(|entry| (&entry.name, &entry.text)).collect();
            let known = |name: &_, hash: &str| in_force.get(name).is_some_and(|text| *text == hash);
            let all: Vec<Given> =
                seen.objects.iter().map(|(kind, object)| given(kind, object, &tenants, &known)).collect();
            plan(&spec.cluster, &before, all, &seen.listed, &refused)
        };
        tokio::task::spawn_blocking(planned)
            .await
            .map_err(|error| Failure::Invalid(format!("the cluster's objects cannot be read: {error}")))
    }

    async fn put_in_force(&self, plan: &Plan, expect: u64) -> Result<(), Failure> {
        let by = Principal::new(format!("kubernetes-{}", self.spec.cluster), Role::Operator, None);
        let wish = Wish::Sync { documents: plan.changed.clone(), gone: plan.gone.clone(), expect };
        let applied = desired::change(&self.store, clock::now(), &by, wish).await?;
        tracing::info!(generation = applied.generation, "objects of the cluster are in force");
        self.waiting.look_after(&self.store).await;
        Ok(())
    }
}

/// Finds whose fault it is that a set is not valid: the changed objects that findings name; all of them when they name none.
fn blame(plan: &Plan, findings: &[String], refused: &mut BTreeMap<Id, Refusal>) -> Result<(), Failure> {
    if plan.files.is_empty() {
        // What goes would leave a set that is not valid.
        return Err(Failure::Findings(findings.to_vec()));
    }
    let before = refused.len();
    for finding in findings {
        let (place, told) = finding.split_once(": ").unwrap_or(("", finding));
        let file = place.split(':').next().unwrap_or_default();
        if let Some(id) = plan.files.get(file) {
            let told = told.lines().next().unwrap_or_default().trim_start_matches("error: ");
            refused.entry(id.clone()).or_insert_with(|| Refusal::new("Invalid", told));
        }
    }
    if refused.len() == before {
        let message = format!("with it the set is not valid: {}", findings.join("; "));
        let all = plan.files.values();
        refused.extend(all.map(|id| (id.clone(), Refusal::new("Invalid", message.clone()))));
    }
    Ok(())
}

/// How each object of the cluster stands, now that the plan is carried out.
fn standings(seen: &Seen, plan: &Plan, in_force: &[Entry]) -> Vec<Standing> {
    let mut by_source: HashMap<&str, Vec<&Entry>> = HashMap::new();
    for entry in in_force {
        if let Some(source) = entry.labels.get(super::given::SOURCE) {
            by_source.entry(source).or_default().push(entry);
        }
    }
    let none = Vec::new();
    let standing = |(kind, object): &(String, Arc<DynamicObject>)| {
        let metadata = &object.metadata;
        let id = Id {
            kind: kind.clone(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        };
        let entries = by_source.get(id.to_string().as_str()).unwrap_or(&none);
        Standing::new(Arc::clone(object), plan.refused.get(&id).cloned(), id, entries)
    };
    seen.objects.iter().map(standing).collect()
}
